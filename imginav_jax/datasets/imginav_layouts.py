"""The TFDS data set `imginav_layouts`: layouts, packed exactly, in ArrayRecord files."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from imginav_jax.datasets import manifest

NAME, VERSION = "imginav_layouts", "3.0.0"


class LayoutExample(NamedTuple):
    """One layout, ready to be written."""

    layout_id: str
    row: manifest.ManifestRow
    image: bytes  # as `layout_record` packs it


class ImginavLayouts(tfds.core.GeneratorBasedBuilder):
    """Builds from layouts that have been checked already; see `preparation`."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, splits: Mapping[str, Iterable[LayoutExample]], facts: Mapping[str, Any], data_dir: Path):
        """Takes the layouts of each split, in order and once; `facts` become the data set's metadata."""
        self._splits, self._facts = splits, facts
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
        return {name: self._generate_examples(examples) for name, examples in self._splits.items()}

    def _generate_examples(self, examples: Iterable[LayoutExample]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (layout_id, row, image) in enumerate(examples):
            yield (
                number,
                {
                    "image": image,
                    "type": row.type,
                    "scene_id": row.scene_id,
                    "room_id": row.room_id,
                    "layout_id": layout_id,
                },
            )
