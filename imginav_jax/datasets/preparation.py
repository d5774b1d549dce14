"""From a manifest to a prepared data set on disk: checked once, built once, reused while nothing changes."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tensorflow_datasets as tfds

from imginav_jax.datasets import imginav_layouts, layout_file, packing, palette, prepared_files, split, synthetic
from imginav_jax.datasets.imginav_layouts import ImginavLayouts, LayoutExample
from imginav_jax.datasets.manifest import Manifest, ManifestRow, read_manifest
from imginav_jax.system import ownership
from imginav_jax.system.errors import UserError
from imginav_jax.system.progress import Progress, logger

OFF_PALETTE_LIMIT = 0.02  # share of all pixels
TRAIN, VALIDATION = "train", "validation"

_T = TypeVar("_T")
_VERSION = "2.0.0"  # to be raised when the same layouts would give other pixels, another split or other facts


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What decides the content of a prepared data set.

    Attributes:
      manifest: path of a layouts.csv; None for synthetic layouts.
      root: folder that no layout path may leave; None for the manifest's folder, unbounded.
      image_size: height and width that every layout must have, in pixels.
      synthetic_size: how many synthetic layouts to draw where there is no manifest.
      validation_fraction: share of the layouts to validate on, in (0, 1).
      seed: of the split, and of the synthetic layouts.
    """

    manifest: str | None
    root: str | None
    image_size: int
    synthetic_size: int
    validation_fraction: float
    seed: int


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """A data set that is complete on disk."""

    directory: Path  # for tfds.builder_from_directory
    key: str  # changes with the fingerprint
    fingerprint: dict[str, Any]  # what decides pixels, split and facts: layouts, palette, size, seed
    manifest: Path
    synthetic: bool
    skipped_empty: int
    skipped_without_path: int
    facts: dict[str, Any]  # as stored with the data set

    @property
    def kind(self) -> str:
        """Returns the word that stamps every output: synthetic or manifest."""
        return "synthetic" if self.synthetic else "manifest"

    def describe(self) -> dict[str, Any]:
        """Returns what a run's outputs say of its data, as JSON: kind, manifest and facts."""
        return {"kind": self.kind, "manifest": str(self.manifest.absolute()), **self.facts}


def prepare(spec: DataSpec, cache_dir: Path) -> PreparedData:
    """Builds the data set of `spec` under `cache_dir`, unless it is there already, and returns where and what it is.

    Raises:
      UserError: the manifest or a layout cannot be used, or the cache cannot be written.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        path = _draw_synthetic(spec, cache_dir) if spec.manifest is None else Path(spec.manifest)
        manifest = read_manifest(path, spec.root if spec.manifest else None)
        files = packing.LayoutFiles(spec.image_size)
        layouts = _read_layouts(manifest, files)
        fingerprint = _fingerprint(spec, layouts)
        key = _digest(fingerprint)
        _build_once(
            _folder(cache_dir, key), lambda folder: _build(spec, manifest, layouts, files, key, folder), _is_whole
        )
    except OSError as error:
        raise UserError(f"cannot prepare the data set in {cache_dir} (data.cache_dir): {error}") from None
    builder_dir = prepared_directory(cache_dir, key)
    return PreparedData(
        builder_dir,
        key,
        fingerprint,
        manifest.path,
        spec.manifest is None,
        manifest.skipped_empty,
        manifest.skipped_without_path,
        _read_facts(builder_dir),
    )


def _read_facts(directory: Path) -> dict[str, Any]:
    """Reads the facts that are stored with a prepared data set.

    Raises:
      UserError: the files that describe it cannot be read.
    """
    try:
        return dict(tfds.builder_from_directory(directory).info.metadata or {})
    except Exception as error:  # TFDS and protobuf have their own
        raise prepared_files.explain(directory, error) from None


def prepared_directory(cache_dir: Path, key: str) -> Path:
    """Returns the folder of the data set with this key, prepared or not, for tfds.builder_from_directory."""
    return _inside(_folder(cache_dir, key))


def is_prepared(cache_dir: Path, key: str) -> bool:
    """Returns whether all files of the data set with this key are there.

    Raises:
      UserError: the cache cannot be read.
    """
    try:
        return _is_whole(_folder(cache_dir, key))
    except OSError as error:
        raise UserError(f"cannot read the data set in {cache_dir} (data.cache_dir): {error}") from None


def _inside(folder: Path) -> Path:
    return folder / imginav_layouts.NAME / imginav_layouts.VERSION


def _folder(cache_dir: Path, key: str) -> Path:
    """Returns the data set's folder; packed another way, the same data set has another beside it."""
    return cache_dir / f"{key}-v{imginav_layouts.VERSION}"


def _draw_synthetic(spec: DataSpec, cache_dir: Path) -> Path:
    name = f"synthetic-v{synthetic.VERSION}-{spec.synthetic_size}x{spec.image_size}px-seed{spec.seed}"

    def draw(folder: Path) -> None:
        with Progress("Drawing synthetic layouts", spec.synthetic_size, "layouts") as progress:
            synthetic.write_manifest(folder, spec.synthetic_size, spec.image_size, spec.seed, progress.advance)

        prepared_files.write_list(folder)

    return _build_once(cache_dir / name, draw, functools.partial(_is_drawn, count=spec.synthetic_size)) / "layouts.csv"


def _is_drawn(folder: Path, count: int) -> bool:
    """Returns whether all synthetic layouts are there; earlier versions left no list of the files."""
    missing = prepared_files.find_missing(folder)
    if missing is not None or not folder.exists():
        return missing == []
    try:
        rows = read_manifest(folder / "layouts.csv").rows
    except UserError:  # it is gone or cut off
        return False
    return len(rows) == count and all(prepared_files.size_of(row.path) for row in rows)


def _is_whole(folder: Path) -> bool:
    """Returns whether all files of a prepared data set are there; earlier versions left no list of them."""
    missing = prepared_files.find_missing(folder)
    if missing is not None or not folder.exists():
        return missing == []
    directory = _inside(folder)
    try:
        splits = json.loads((directory / "dataset_info.json").read_bytes())["splits"]
        names = [
            f"{imginav_layouts.NAME}-{each['name']}.array_record-{index:05d}-of-{len(each['shardLengths']):05d}"
            for each in splits
            for index in range(len(each["shardLengths"]))
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return all(prepared_files.size_of(directory / name) for name in (*names, "features.json", "metadata.json"))


class _Layout(NamedTuple):
    layout_id: str
    row: ManifestRow
    digest: str  # SHA-256 of the file


def _read_layouts(manifest: Manifest, files: packing.LayoutFiles) -> list[_Layout]:
    """Returns every usable row with its content's digest; all bad rows are reported together."""
    digests = _for_each_row(manifest, manifest.rows, files.digest, "Reading layouts")
    if manifest.problems:
        # Damaged pixels are found by decoding only: look for them now, so that one run reports every bad row.
        good = [row for row, value in zip(manifest.rows, digests, strict=True) if value is not None]
        _for_each_row(manifest, good, files.inspect, "Checking layouts")
        manifest.raise_problems()
    if not manifest.rows:
        raise UserError(
            f"{manifest.path} leaves no layout: {manifest.skipped_empty} rows have is_empty true, "
            f"{manifest.skipped_without_path} have no layout_path"
        )
    seen: Counter[str] = Counter()
    layouts = []
    for row, content in zip(manifest.rows, digests, strict=True):
        name = f"{row.scene_id}/{row.type}/{row.room_id}"
        seen[name] += 1
        layouts.append(_Layout(name if seen[name] == 1 else f"{name}#{seen[name]}", row, content or ""))
    return layouts


def _for_each_row(
    manifest: Manifest, rows: Sequence[ManifestRow], work: Callable[[ManifestRow], _T], what: str
) -> list[_T | None]:
    """Does `work` on every row, on all cores; returns what came of each, None where it has become a problem."""

    def guarded(row: ManifestRow) -> _T | UserError:
        try:
            return work(row)
        except UserError as error:
            return error

    results: list[_T | None] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, Progress(what, len(rows), "layouts") as progress:
        for row, result in zip(rows, pool.map(guarded, rows), strict=True):
            if isinstance(result, UserError):
                manifest.problems.append((row.line, str(result)))
            results.append(None if isinstance(result, UserError) else result)
            progress.advance()
    return results


def _fingerprint(spec: DataSpec, layouts: Sequence[_Layout]) -> dict[str, Any]:
    """Returns what decides pixels, split and facts; paths and how pixels are packed are not part of it."""
    rows = [(layout.row.scene_id, layout.row.type, layout.row.room_id, layout.digest) for layout in layouts]
    return {
        "data.kind": "synthetic" if spec.manifest is None else "manifest",
        "data.layouts": f"{len(rows)} layouts {_digest(rows)}",
        "data.palette": _digest(palette.COLORS.tolist()),
        "data.image_size": spec.image_size,
        "data.validation_fraction": spec.validation_fraction,
        "data.seed": spec.seed,
        "data.version": _VERSION,
    }


def _digest(content: Any) -> str:
    """Returns the first 16 hex digits of the SHA-256 of `content` as JSON."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _build_once(directory: Path, build: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.exists) -> Path:
    """Fills `directory` by `build`, unless it is whole, and returns it; it appears whole or not at all to everyone."""
    if is_whole(directory):
        return directory
    with ownership.own(Path(f"{directory}.lock"), f"data set {directory}", wait=True) as owner:
        if not is_whole(directory):
            incomplete = directory.with_name(directory.name + ".incomplete")
            shutil.rmtree(incomplete, ignore_errors=True)  # of a job that was killed: the lock says none is at work
            incomplete.mkdir()
            try:
                build(incomplete)
                owner.check()
                _replace(directory, incomplete)
            except BaseException:
                shutil.rmtree(incomplete, ignore_errors=True)
                raise
    return directory


def _replace(directory: Path, whole: Path) -> None:
    """Gives `whole` the name of a folder of which files are gone, if there is one; for those who hold its lock."""
    gone = directory.with_name(f"{directory.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)  # of a job that was killed here
    if directory.exists():
        logger.info("Files of %s were gone; it has been made anew", directory)
        directory.rename(gone)
    whole.rename(directory)
    shutil.rmtree(gone, ignore_errors=True)


def _build(
    spec: DataSpec,
    manifest: Manifest,
    layouts: Sequence[_Layout],
    files: packing.LayoutFiles,
    key: str,
    folder: Path,
) -> None:
    with packing.open_store(folder) as records:
        packed = _pack(manifest, files, records)
        pixels = [each.pixels for each in packed]
        digests = [each.digest for each in pixels]
        held_out = split.validation_mask(
            [layout.row.scene_id for layout in layouts], digests, spec.validation_fraction, spec.seed
        )
        facts = {
            "key": key,
            "scenes": len({layout.row.scene_id for layout in layouts}),
            "duplicates": len(digests) - len(set(digests)),
            "off_palette_pixels": _count_off_palette(manifest, pixels, spec.image_size),
        }
        files.raise_changes()
        with Progress("Writing the data set", len(layouts), "layouts") as progress:

            def read(is_validation: bool) -> Iterator[LayoutExample]:
                for layout, place, held in zip(layouts, packed, held_out, strict=True):
                    if held == is_validation:
                        yield LayoutExample(layout.layout_id, layout.row, records.read(place))
                        progress.advance()

            _write({TRAIN: read(False), VALIDATION: read(True)}, facts, folder)
    prepared_files.write_list(folder)


def _write(splits: Mapping[str, Iterable[LayoutExample]], facts: Mapping[str, Any], folder: Path) -> None:
    builder = ImginavLayouts(splits, facts, folder)
    tfds.disable_progress_bar()  # ours counts layouts
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads, and there are none
        builder.download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)


def _pack(manifest: Manifest, files: packing.LayoutFiles, records: packing.RecordStore) -> list[packing.PackedLayout]:
    """Decodes and packs every layout; returns where its record is. All damaged ones are reported together."""

    def pack(row: ManifestRow) -> packing.PackedLayout:
        return records.pack(row, files.take(row))

    packed = _for_each_row(manifest, manifest.rows, pack, "Checking layouts")
    manifest.raise_problems()
    return [each for each in packed if each is not None]


def _count_off_palette(manifest: Manifest, pixels: Sequence[layout_file.Pixels], image_size: int) -> int:
    """Returns the number of pixels off the palette in all layouts.

    Raises:
      UserError: they are more than OFF_PALETTE_LIMIT of all pixels.
    """
    count = sum(each.off_palette for each in pixels)
    share = count / (len(pixels) * image_size**2)
    if share > OFF_PALETTE_LIMIT:
        worst, row = max(
            zip((each.off_palette for each in pixels), manifest.rows, strict=True), key=lambda pair: pair[0]
        )
        raise UserError(
            f"{manifest.path}: {share:.1%} of the pixels are off the palette, at most {OFF_PALETTE_LIMIT:.0%} may be; "
            f"most in row {row.line}, {row.path} ({worst / image_size**2:.1%})"
        )
    return count
