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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import tensorflow_datasets as tfds

from imginav_jax.datasets import file_list, imginav_layouts, layout_file, palette, read_errors, split, synthetic
from imginav_jax.datasets.imginav_layouts import ImginavLayouts, Layout
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
        """The word that stamps every output."""
        return "synthetic" if self.synthetic else "manifest"

    def describe(self) -> dict[str, Any]:
        """For the outputs of a run."""
        return {"kind": self.kind, "manifest": str(self.manifest.absolute()), **self.facts}


def prepare(spec: DataSpec, cache_dir: Path) -> PreparedData:
    """The data set of `spec` under `cache_dir`, built there unless it is there already.

    Raises:
      UserError: the manifest or a layout cannot be used, or the cache cannot be written.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        path = _draw_synthetic(spec, cache_dir) if spec.manifest is None else Path(spec.manifest)
        manifest = read_manifest(path, spec.root if spec.manifest else None)
        layouts = _read_layouts(manifest, spec.image_size)
        fingerprint = _fingerprint(spec, layouts)
        key = _digest(fingerprint)
        _build_once(_folder(cache_dir, key), lambda folder: _build(spec, manifest, layouts, key, folder), _is_whole)
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
    """UserError where the files that describe a prepared data set cannot be read."""
    try:
        return dict(tfds.builder_from_directory(directory).info.metadata or {})
    except Exception as error:  # TFDS and protobuf have their own
        raise read_errors.explain(directory, error) from None


def prepared_directory(cache_dir: Path, key: str) -> Path:
    """Where a data set of this key is once it is prepared, for tfds.builder_from_directory."""
    return _inside(_folder(cache_dir, key))


def is_prepared(cache_dir: Path, key: str) -> bool:
    """Whether all files of the data set are there.

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
    """Packed another way, the same data set is another folder beside it."""
    return cache_dir / f"{key}-v{imginav_layouts.VERSION}"


def _draw_synthetic(spec: DataSpec, cache_dir: Path) -> Path:
    name = f"synthetic-v{synthetic.VERSION}-{spec.synthetic_size}x{spec.image_size}px-seed{spec.seed}"

    def draw(folder: Path) -> None:
        with Progress("Drawing synthetic layouts", spec.synthetic_size, "layouts") as progress:
            synthetic.write_manifest(folder, spec.synthetic_size, spec.image_size, spec.seed, progress.advance)

        file_list.write(folder)

    return _build_once(cache_dir / name, draw, functools.partial(_is_drawn, count=spec.synthetic_size)) / "layouts.csv"


def _is_drawn(folder: Path, count: int) -> bool:
    """Whether all synthetic layouts are there; earlier versions left no list of the files."""
    missing = file_list.find_missing(folder)
    if missing is not None or not folder.exists():
        return missing == []
    try:
        rows = read_manifest(folder / "layouts.csv").rows
    except UserError:  # it is gone or cut off
        return False
    return len(rows) == count and all(file_list.size_of(row.path) for row in rows)


def _is_whole(folder: Path) -> bool:
    """Whether all files of a prepared data set are there; earlier versions left no list of them."""
    missing = file_list.find_missing(folder)
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
    return all(file_list.size_of(directory / name) for name in (*names, "features.json", "metadata.json"))


def _read_layouts(manifest: Manifest, image_size: int) -> list[Layout]:
    """Every usable row with its content's digest; all bad rows are reported together."""

    def digest(row: ManifestRow) -> str:
        return hashlib.sha256(layout_file.read_layout(row.path, image_size)).hexdigest()

    digests = _for_each_row(manifest, manifest.rows, digest, "Reading layouts")
    if manifest.problems:
        # Damaged pixels are found by decoding only: look for them now, so that one run reports every bad row.
        good = [row for row, value in zip(manifest.rows, digests, strict=True) if value is not None]
        _for_each_row(manifest, good, lambda row: _inspect(row, image_size), "Checking layouts")
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
        layouts.append(Layout(name if seen[name] == 1 else f"{name}#{seen[name]}", row, content or ""))
    return layouts


def _for_each_row(
    manifest: Manifest, rows: Sequence[ManifestRow], work: Callable[[ManifestRow], _T], what: str
) -> list[_T | None]:
    """`work` on every row, over all cores; a row that fails gives None and a problem in the manifest."""

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


def _inspect(row: ManifestRow, image_size: int) -> layout_file.Pixels:
    return layout_file.inspect_layout(row.path, layout_file.read_layout(row.path, image_size))


def _fingerprint(spec: DataSpec, layouts: Sequence[Layout]) -> dict[str, Any]:
    """Changes whenever pixels, split or facts would; paths and how pixels are packed are not part of it."""
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
    """Sixteen hex digits."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _build_once(directory: Path, build: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.exists) -> Path:
    """`directory`, filled by `build` unless it is whole; it appears whole or not at all, whoever else wants it."""
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


def _build(spec: DataSpec, manifest: Manifest, layouts: Sequence[Layout], key: str, folder: Path) -> None:
    found = _for_each_row(manifest, manifest.rows, lambda row: _inspect(row, spec.image_size), "Checking layouts")
    manifest.raise_problems()
    pixels = [each for each in found if each is not None]
    digests = [each.digest for each in pixels]
    held_out = split.validation_mask(
        [layout.row.scene_id for layout in layouts], digests, spec.validation_fraction, spec.seed
    )
    splits = {
        TRAIN: [layout for layout, held in zip(layouts, held_out, strict=True) if not held],
        VALIDATION: [layout for layout, held in zip(layouts, held_out, strict=True) if held],
    }
    facts = {
        "key": key,
        "scenes": len({layout.row.scene_id for layout in layouts}),
        "duplicates": len(digests) - len(set(digests)),
        "off_palette_pixels": _count_off_palette(manifest, pixels, spec.image_size),
    }
    with Progress("Writing the data set", len(layouts), "layouts") as progress:
        counted = {name: _Counted(each, progress) for name, each in splits.items()}
        builder = ImginavLayouts(counted, spec.image_size, facts, folder)
        tfds.disable_progress_bar()  # ours counts layouts
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads, and there are none
            builder.download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)
    file_list.write(folder)


class _Counted(Sequence[Layout]):
    """Layouts that report to a progress bar as they are taken."""

    def __init__(self, layouts: Sequence[Layout], progress: Progress):
        self._layouts, self._progress = layouts, progress

    def __len__(self) -> int:
        return len(self._layouts)

    def __getitem__(self, index: Any) -> Any:
        return self._layouts[index]

    def __iter__(self) -> Iterator[Layout]:
        for layout in self._layouts:
            yield layout
            self._progress.advance()


def _count_off_palette(manifest: Manifest, pixels: Sequence[layout_file.Pixels], image_size: int) -> int:
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
