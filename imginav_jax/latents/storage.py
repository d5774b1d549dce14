"""Encoded layouts on disk: latents and what they are of, as ArrayRecord for TFDS and Grain or as .npy files."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from etils import epath
from jaxtyping import Float
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from imginav_jax.datasets import manifest, prepared_files
from imginav_jax.datasets.preparation import TRAIN, VALIDATION
from imginav_jax.system import csv_table
from imginav_jax.system.errors import UserError, first_line
from imginav_jax.system.files import read_json

FORMATS = ("array_record", "npy")
DTYPES = ("float32", "float16")
SPLITS = (TRAIN, VALIDATION)
DESCRIPTION, INDEX = "latents.json", "index.csv"
_INDEX_COLUMNS = ("file", "split", "type", "scene_id", "room_id", "layout_id")
_NAME = "latents"  # of the data set, as TFDS knows it
_REMEDY = "delete the folder, and imginav_jax.encode makes it anew"
_RECORD_OPTIONS = "group_size:1,uncompressed"  # latents hardly compress, and trying takes longer than encoding may


class Example(NamedTuple):
    latent: Float[np.ndarray, "h w c"]
    type: str  # room or scene
    scene_id: str
    room_id: str
    layout_id: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What latents are of, and how they are stored."""

    checkpoint: str  # where the weights were, an absolute path
    digest: str  # of the weights
    step: int
    data_kind: str  # synthetic or manifest
    data_key: str
    image_size: int
    latent_shape: tuple[int, int, int]
    dtype: str
    format: str
    examples: dict[str, int]  # a split
    shard_examples: int

    def fingerprint(self) -> dict[str, Any]:
        """Returns what must not change between a job and its continuation: all but where the weights lie."""
        return {key: value for key, value in self.dump().items() if key != "checkpoint"}

    def dump(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "latent_shape": list(self.latent_shape)}

    @classmethod
    def load(cls, directory: Path) -> "Description":
        """Reads the description of the latents in the folder and returns it; UserError where it holds none."""
        path = directory / DESCRIPTION
        if not path.exists():
            raise UserError(f"{directory} holds no encoded latents: it has no {DESCRIPTION}")
        stored = read_json(path)
        try:
            return cls(**{**stored, "latent_shape": tuple(stored["latent_shape"])})
        except (TypeError, KeyError):
            raise UserError(f"{path} does not describe latents of this program") from None


class Shard(NamedTuple):
    """Rows `start` to `stop` of a split."""

    split: str
    index: int
    of: int  # shards of the split
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"


def plan_shards(description: Description) -> list[Shard]:
    size = description.shard_examples
    return [
        Shard(split, start // size, -(-count // size), start, min(start + size, count))
        for split, count in description.examples.items()
        for start in range(0, count, size)
    ]


def _shard_file(shard: Shard) -> str:
    """As TFDS names it."""
    return f"{_NAME}-{shard.split}.array_record-{shard.index:05d}-of-{shard.of:05d}"


class ShardWriter(Protocol):
    """Writes a shard's examples in order."""

    def add(self, example: Example) -> None: ...

    def close(self) -> dict[str, Any]:
        """Makes the shard whole on disk, or raises OSError; returns JSON about it for `write_metadata`."""
        ...


def open_shard(folder: Path, description: Description, shard: Shard) -> ShardWriter:
    return _WRITERS[description.format](folder, description, shard)


class _ArrayRecordShard:
    def __init__(self, folder: Path, description: Description, shard: Shard):
        self._path = folder / _shard_file(shard)
        self._temporary = self._path.with_name(f".{self._path.name}.tmp")
        self._features = _features(description)
        specification: Any = self._features.get_serialized_info()
        self._serialize = ExampleSerializer(specification).serialize_example
        self._writer = array_record_module.ArrayRecordWriter(str(self._temporary), _RECORD_OPTIONS)
        self._count = self._bytes = 0

    def add(self, example: Example) -> None:
        record = self._serialize(self._features.encode_example(example._asdict()))
        self._writer.write(record)
        self._count += 1
        self._bytes += len(record)

    def close(self) -> dict[str, Any]:
        try:
            self._writer.close()
            found = array_record_module.ArrayRecordReader(str(self._temporary)).num_records()
        except (RuntimeError, ValueError) as error:  # ArrayRecord's own: the disk is full, say
            raise OSError(str(error)) from None
        if found != self._count:
            raise OSError(f"{self._path.name} holds {found} of {self._count} records")
        self._temporary.replace(self._path)
        return {"examples": self._count, "bytes": self._bytes}


class _NpyShard:
    def __init__(self, folder: Path, description: Description, shard: Shard):
        del description
        self._folder, self._shard = folder, shard
        self._rows: list[list[str]] = []
        (folder / shard.split).mkdir(exist_ok=True)

    def add(self, example: Example) -> None:
        name = file_name(self._shard.split, self._shard.start + len(self._rows), "npy")
        np.save(self._folder / name, example.latent)
        self._rows.append(index_row(name, self._shard.split, example))

    def close(self) -> dict[str, Any]:
        return {"rows": self._rows}


_WRITERS = {"array_record": _ArrayRecordShard, "npy": _NpyShard}


def file_name(split: str, index: int, suffix: str) -> str:
    """Returns the name of an example's file, relative to the data set's folder."""
    return f"{split}/{index:06d}.{suffix}"


def index_row(name: str, split: str, example: Example) -> list[str]:
    return [name, split, example.type, example.scene_id, example.room_id, example.layout_id]


def write_index(folder: Path, rows: Sequence[Sequence[str]]) -> None:
    with (folder / INDEX).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_INDEX_COLUMNS, *rows])


def write_metadata(folder: Path, description: Description, shards: Mapping[Shard, Mapping[str, Any]]) -> None:
    """Writes what a reader needs beside the shards, from what `ShardWriter.close` has returned for each."""
    if description.format == "npy":
        write_index(folder, [row for stored in shards.values() for row in stored["rows"]])
        return
    infos = []
    for split in description.examples:
        of_split = [stored for shard, stored in shards.items() if shard.split == split]
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(folder), dataset_name=_NAME, split=split, filetype_suffix="array_record"
        )
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[stored["examples"] for stored in of_split],
                num_bytes=sum(stored["bytes"] for stored in of_split),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=_features(description),
        split_infos=infos,
        check_data=False,  # would read through TensorFlow
        description="Latents of floor-plan layouts, not normalised.",
        metadata=tfds.core.MetadataDict(description.dump()),
    )


def _features(description: Description) -> tfds.features.FeaturesDict:
    dtype, shape = np.dtype(description.dtype), description.latent_shape
    return tfds.features.FeaturesDict(
        {
            "latent": tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES),
            "type": tfds.features.ClassLabel(names=list(manifest.TYPES)),
            "scene_id": tfds.features.Text(),
            "room_id": tfds.features.Text(),
            "layout_id": tfds.features.Text(),
        }
    )


class StoredLatents:
    """Latents that `encode` has written, in either format."""

    def __init__(self, directory: Path):
        """UserError where the folder holds none, or only some."""
        self.directory, self.description = directory, Description.load(directory)
        require_whole(directory, self.description)
        self._sources: dict[str, Any] = {}
        try:
            if self.description.format == "npy":
                self._sources = _read_index(directory)
            else:
                builder: Any = tfds.builder_from_directory(directory)
                self._sources = {split: builder.as_data_source(split) for split in self.description.examples}
            found = {split: len(self._sources.get(split, ())) for split in self.description.examples}
        except UserError:
            raise
        except Exception as error:  # TFDS and protobuf have their own
            raise prepared_files.explain(directory, error, _REMEDY) from None
        if found != self.description.examples:
            raise UserError(f"{directory} holds {found} latents, expected {self.description.examples}; {_REMEDY}")

    def __len__(self) -> int:
        return sum(self.description.examples.values())

    def read(self, split: str, index: int) -> Example:
        """Reads one example and returns it; UserError where it is damaged or missing."""
        try:
            record = self._sources[split][index]
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.directory} cannot be read: {first_line(error)}") from None
        if self.description.format == "array_record":
            texts = (record[key].decode() for key in ("scene_id", "room_id", "layout_id"))
            return Example(record["latent"], manifest.TYPES[int(record["type"])], *texts)
        path = self.directory / record["file"]
        try:
            latent = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if latent.shape != self.description.latent_shape:
            raise UserError(f"{path} is {list(latent.shape)}, expected {list(self.description.latent_shape)}")
        return Example(latent, *(record[column] for column in _INDEX_COLUMNS[2:]))


def require_whole(directory: Path, description: Description) -> None:
    """Raises UserError that names a file of finished latents that is gone, and how many more are."""
    names = _npy_files(directory) if description.format == "npy" else _array_record_files(description)
    gone = [name for name in names if not (directory / name).exists()]
    if gone:
        more = f" and {len(gone) - 1} more of its files" if len(gone) > 1 else ""
        raise UserError(f"{directory} lacks {gone[0]}{more}; {_REMEDY}")


def _array_record_files(description: Description) -> list[str]:
    return [
        *("dataset_info.json", "features.json"),
        *(_shard_file(shard) for shard in plan_shards(description)),
    ]


def _npy_files(directory: Path) -> list[str]:
    if not (directory / INDEX).exists():
        return [INDEX]
    return [row["file"] for rows in _read_index(directory).values() for row in rows]


def _read_index(directory: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each split; UserError that names the first line that cannot be used."""
    table = csv_table.read(directory / INDEX, _INDEX_COLUMNS, str(directory / INDEX))
    places = table.find(_INDEX_COLUMNS)
    short = [(line, "has too few values") for line, values in table.records if len(values) < len(table.columns)]
    for line, problem in (*table.problems, *short):
        raise UserError(f"{directory / INDEX}: line {line}: {problem}")
    rows: dict[str, list[dict[str, str]]] = {}
    for _, values in table.records:
        row = {column: values[place] for column, place in zip(_INDEX_COLUMNS, places, strict=True)}
        rows.setdefault(row["split"], []).append(row)
    return rows
