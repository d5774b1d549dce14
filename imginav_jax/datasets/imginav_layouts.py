"""The TFDS data set `imginav_layouts`: layouts as the PNG bytes they came in, in ArrayRecord files."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from imginav_jax.datasets import layout_file, manifest
from imginav_jax.errors import UserError

VERSION = "1.0.0"


class Layout(NamedTuple):
    """One example before its pixels are read."""

    layout_id: str
    row: manifest.Row
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
        side = self._image_size
        return tfds.core.DatasetInfo(
            builder=self,
            description="Colour-coded floor-plan layouts of rooms and scenes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), dtype=np.uint8, encoding_format="png"),
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
        for index, (layout_id, row, digest) in enumerate(layouts):
            content = layout_file.read_layout(row.path, self._image_size)
            if hashlib.sha256(content).hexdigest() != digest:
                raise UserError(f"row {row.line}: {row.path} changed while the data set was being prepared")
            yield (
                index,
                {
                    "image": io.BytesIO(content),  # bytes in, the same bytes out: nothing is encoded again
                    "type": row.type,
                    "scene_id": row.scene_id,
                    "room_id": row.room_id,
                    "layout_id": layout_id,
                },
            )
