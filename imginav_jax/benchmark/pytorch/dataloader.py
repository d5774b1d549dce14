"""What the input pipeline is compared with: a PyTorch DataLoader that opens each PNG; PyTorch is all it needs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imginav_jax.benchmark.turn_process import Served
from imginav_jax.datasets import palette


class PngLayouts:
    """A map-style data set: the image as float32 [3, size, size] in [-1, 1], and its classes, int64, -1 for none."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(self._paths[index]) as image:
            pixels = np.asarray(image.convert("RGB"))
        codes, classes = palette.pack(pixels), np.full(pixels.shape[:2], -1, np.int64)
        for number, color in enumerate(palette.pack(palette.COLORS)):
            classes[codes == color] = number
        return np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1)) / np.float32(127.5) - 1, classes


def prepare(folder: str, batch_size: int) -> Served:
    """Returns what finds the rate of a DataLoader of one process and one thread; nothing where PyTorch is missing."""
    try:
        import torch
    except ImportError:
        return None, {"rates": dict}
    torch.set_num_threads(1)
    dataset: Any = PngLayouts(sorted(Path(folder).rglob("*.png")))
    loader = torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, drop_last=True)

    def rates() -> dict[str, float]:
        start, count = time.perf_counter(), 0
        for images, _ in loader:
            count += len(images)
        return {"torch_dataloader": count / (time.perf_counter() - start)}

    return None, {"rates": rates}
