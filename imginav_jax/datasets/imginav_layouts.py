"""The TFDS data set `imginav_layouts`: layouts, packed exactly, in ArrayRecord files."""

import collections
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from imginav_jax.datasets import layout_file, layout_record, manifest
from imginav_jax.system.errors import UserError

NAME, VERSION = "imginav_layouts", "3.0.0"
_AHEAD = 32  # layouts that are packed before their turn to be written


class Layout(NamedTuple):
    """One example before its pixels are read."""

    layout_id: str
    row: manifest.ManifestRow
    digest: str  # SHA-256 of the file


class ImginavLayouts(tfds.core.GeneratorBasedBuilder):
    """Builds from layouts that have been checked already; see `preparation`."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self, splits: Mapping[str, Sequence[Layout]], image_size: int, facts: Mapping[str, Any], data_dir: Path
    ):
        """The layouts of each split, in order; `facts` become the data set's metadata."""
        self._splits, self._image_size, self._facts = splits, image_size, facts
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Colour-coded floor-plan layouts of rooms and scenes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(), dtype=np.object_),  # as `layout_record` packs it
                    "type": tfds.features.ClassLabel(names=list(manifest.TYPES)),
                    "scene_id": tfds.features.Text(),
                    "room_id": tfds.features.Text(),
                    "layout_id": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,  # records stand in the manifest's order; the input pipeline shuffles
            metadata=tfds.core.MetadataDict(self._facts),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(layouts) for name, layouts in self._splits.items()}

    def _generate_examples(self, layouts: Sequence[Layout]) -> Iterator[tuple[int, dict[str, Any]]]:
        waiting: collections.deque[Future[dict[str, Any]]] = collections.deque()
        done = 0
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for layout in layouts:
                waiting.append(pool.submit(self._example, layout))
                if len(waiting) > _AHEAD:
                    yield done, waiting.popleft().result()
                    done += 1
            for number, future in enumerate(waiting, done):
                yield number, future.result()

    def _example(self, layout: Layout) -> dict[str, Any]:
        layout_id, row, digest = layout
        content = layout_file.read_layout(row.path, self._image_size)
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"row {row.line}: {row.path} changed while the data set was being prepared")
        return {
            "image": layout_record.encode(layout_file.decode_layout(content)),
            "type": row.type,
            "scene_id": row.scene_id,
            "room_id": row.room_id,
            "layout_id": layout_id,
        }
