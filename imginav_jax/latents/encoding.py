"""Encodes both splits of a data set into a folder, shard by shard; an interruption loses one shard at most.

The folder appears when it is complete; until then the work is in {out}.partial.
"""

import contextlib
import dataclasses
import errno
import functools
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imginav_jax.datasets.manifest import TYPES
from imginav_jax.datasets.preparation import TRAIN, PreparedData
from imginav_jax.devices import target
from imginav_jax.devices.mesh import batch_sharding
from imginav_jax.input_pipeline import pipeline
from imginav_jax.input_pipeline.batch import Batch
from imginav_jax.input_pipeline.source import LayoutSource
from imginav_jax.latents import storage
from imginav_jax.latents.storage import Description, Example, Shard
from imginav_jax.models import inference, latent_statistics
from imginav_jax.models.latent_statistics import LatentStatistics, Summary
from imginav_jax.runs import outputs, trained_run, weights
from imginav_jax.runs.trained_run import TrainedRun
from imginav_jax.system import files, ownership
from imginav_jax.system.errors import RunError, UserError
from imginav_jax.system.ownership import InUseError, Ownership, own_output
from imginav_jax.system.progress import Progress, logger

IMAGES_PER_DEVICE = 4  # in a batch
SHARD_EXAMPLES = 512
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_PROGRESS = "progress"  # folder of the finished shards' records, and of the locks


@dataclasses.dataclass(frozen=True)
class _Job:
    description: Description
    out: Path
    sources: dict[str, LayoutSource]  # a split
    run: TrainedRun
    mesh: Mesh
    batch_size: int
    is_shared: bool  # with other processes

    @property
    def partial(self) -> Path:
        return self.out.with_name(f"{self.out.name}.partial")

    def record(self, shard: Shard) -> Path:
        """Returns the path of the file that says that a shard is whole."""
        return self.partial / _PROGRESS / f"{shard.name}.json"

    def is_done(self, shard: Shard) -> bool:
        return self.record(shard).exists() or self.out.exists()  # in this order: another process may finish meanwhile

    def own_for_all(self) -> contextlib.AbstractContextManager[object]:
        """Returns a context in which one process works for all that share the work; without effect where none does."""
        return own_output(self.out, f"--out {self.out}", wait=True) if self.is_shared else contextlib.nullcontext()

    def own_shard(self, shard: Shard) -> contextlib.AbstractContextManager[Ownership]:
        return ownership.own(self.partial / _PROGRESS / f"{shard.name}.lock", f"{shard.name} of --out {self.out}")


class _Piece(NamedTuple):
    """A batch on its way, and what it belongs to."""

    shard: Shard
    writer: storage.ShardWriter
    claim: contextlib.ExitStack  # the shard is this process's until it is closed
    summaries: list[Summary]  # of the shard so far
    batch: Batch
    made: Any  # latents and summaries, on the device
    is_last: bool


def encode(
    directory: Path,
    out: Path,
    *,
    dtype: str = "float16",
    format: str = "array_record",  # noqa: A002
    images_per_device: int = IMAGES_PER_DEVICE,
    shard_examples: int = SHARD_EXAMPLES,
    manifest: str | None = None,
    root: str | None = None,
    cache_dir: str | None = None,
    image_size: int | None = None,
    share: bool = False,
) -> LatentStatistics | None:
    """Writes the latents of both splits and the statistics of the training split; None if other processes are at it.

    Args:
      directory: a workdir, whose best weights are used, or an imported checkpoint.
      out: the folder to make.
      dtype: float16 or float32, of the stored latents; statistics are those of the float32 ones.
      format: array_record or npy.
      images_per_device: a batch.
      shard_examples: in a file; what an interruption can lose.
      manifest, root, cache_dir, image_size: as of the config's `data`; default: the run's.
      share: the shards with other processes that are told so too; else this process must be the only one.

    Raises:
      InUseError: another process is at it, and the work is not shared.
      UserError: something given cannot be used or written, or `out` holds something else.
      RunError: a latent is not finite.
    """
    with contextlib.nullcontext() if share or out.exists() else own_output(out, f"--out {out}"):
        run = trained_run.load(directory, image_size)
        data = run.prepare_data(manifest, root, cache_dir)
        sources = {split: LayoutSource(data.directory, split) for split in storage.SPLITS}
        description = Description(
            checkpoint=str(directory.absolute()),
            digest=weights.digest(run.weights),
            step=run.weights.step,
            data_kind=data.kind,
            data_key=data.key,
            image_size=run.image_size,
            latent_shape=run.weights.config.latent_shape(run.image_size),
            dtype=dtype,
            format=format,
            examples={split: len(source) for split, source in sources.items()},
            shard_examples=shard_examples,
        )
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        job = _Job(description, out, sources, run, mesh, images_per_device * mesh.size, share)
        try:
            if _is_finished(job):
                logger.info("%s has been encoded already. Nothing was changed.", out)
            else:
                _open(job)
                _encode_shards(job)
                if not _finish(job, data):
                    return None
            return _store_with_checkpoint(job)
        except OSError as error:
            raise UserError(f"{out} cannot be written: {error}") from None


def _is_finished(job: _Job) -> bool:
    """UserError where `out` holds something else."""
    if not job.out.exists():
        return False
    found = Description.load(job.out).fingerprint()
    outputs.compare_fingerprints(f"--out {job.out}", found, job.description.fingerprint())
    return True


def _open(job: _Job) -> None:
    """The folder to work in, new or that of an earlier job with the same settings."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with job.own_for_all():
        if job.out.exists():  # by now
            return
        (job.partial / _PROGRESS).mkdir(parents=True, exist_ok=True)
        if (job.partial / storage.DESCRIPTION).exists():
            found = Description.load(job.partial).fingerprint()
            outputs.compare_fingerprints(str(job.partial), found, job.description.fingerprint())
        else:
            files.write_json(job.partial / storage.DESCRIPTION, job.description.dump())


def _encode_shards(job: _Job) -> None:
    """Whatever no other process encodes; a batch is fetched while the next one runs, and written behind that."""
    shards = storage.plan_shards(job.description)
    done = sum(shard.stop - shard.start for shard in shards if job.is_done(shard))
    total = sum(job.description.examples.values())
    if done:
        logger.info("Continuing with %d of %d layouts done", done, total)
    pending: _Piece | None = None
    writing: Future[None] | None = None
    with (
        contextlib.ExitStack() as held,
        ThreadPoolExecutor(1) as pool,
        Progress("Encoding", total, "layouts", done) as progress,
    ):
        for piece in _dispatch(job, shards, held):
            if pending is not None:
                writing = _hand_over(job, pending, pool, writing, progress)
            pending = piece
        if pending is not None:
            _hand_over(job, pending, pool, writing, progress).result()


def _dispatch(job: _Job, shards: list[Shard], held: contextlib.ExitStack) -> Iterator[_Piece]:
    """The batches of every shard that is free, running on the devices; `held` frees its shards if the job fails."""
    run_batch = _compile(job)
    for shard in shards:
        claim = _claim(job, shard)
        if claim is None:
            continue
        held.callback(claim.close)
        writer = storage.open_shard(job.partial, job.description, shard)
        source = job.sources[shard.split].restrict(range(shard.start, shard.stop))
        dataset = pipeline.eval_dataset(source, job.batch_size)
        summaries: list[Summary] = []
        batches = pipeline.prefetch(dataset, batch_sharding(job.mesh))
        for index, batch in enumerate(batches):
            made = run_batch(batch.image)
            yield _Piece(shard, writer, claim, summaries, batch, made, index == len(dataset) - 1)


def _claim(job: _Job, shard: Shard) -> contextlib.ExitStack | None:
    """What gives the shard back; None where it is whole or another process is at it."""
    if job.is_done(shard):
        return None
    claim = contextlib.ExitStack()
    try:
        claim.enter_context(job.own_shard(shard))
    except InUseError:
        if not job.is_shared:
            raise
        return None
    except UserError:
        if job.out.exists():  # the last process has moved the folder away
            return None
        raise
    if job.is_done(shard):  # by now
        claim.close()
        return None
    return claim


def _compile(job: _Job) -> Any:
    """From a batch's images to latents as they are stored and to summaries of them in float32."""
    config, dtype = job.run.weights.config, jnp.dtype(job.description.dtype)
    params = jax.device_put(job.run.weights.params, NamedSharding(job.mesh, PartitionSpec()))
    encode_batch = jax.jit(
        functools.partial(inference.encode, config=config), compiler_options=target.compiler_options()
    )
    summarize, cast = jax.jit(latent_statistics.summarize), jax.jit(lambda x: x.astype(dtype))

    def run_batch(images: jax.Array) -> tuple[jax.Array, Summary]:
        encoded = encode_batch(params, images)
        with jax.enable_x64(True):
            summary = summarize(encoded)
        return cast(encoded), summary

    return run_batch


def _hand_over(
    job: _Job, piece: _Piece, pool: ThreadPoolExecutor, writing: Future[None] | None, progress: Progress
) -> Future[None]:
    """Fetches a batch and has it written, once the batch before is."""
    batch, (values, summary) = jax.device_get((piece.batch._replace(image=None), piece.made))
    if writing is not None:
        writing.result()
    progress.advance(int(batch.mask.sum()))
    return pool.submit(_write, job, piece, batch, values, summary)


def _write(job: _Job, piece: _Piece, batch: Batch, values: np.ndarray, summary: Summary) -> None:
    source, summary = job.sources[piece.shard.split], latent_statistics.select(summary, batch.mask)
    _check_range(source, batch, summary, job.description.dtype)
    piece.summaries.append(summary)
    for value, index in zip(values[batch.mask], batch.index[batch.mask], strict=True):
        record = source[index]
        texts = (record[key].decode() for key in ("scene_id", "room_id", "layout_id"))
        piece.writer.add(Example(value, TYPES[int(record["type"])], *texts))
    if piece.is_last:
        merged = latent_statistics.merge(latent_statistics.concatenate(piece.summaries))
        stored = {**piece.writer.close(), "summary": latent_statistics.dump_summary(merged)}
        files.write_json(job.record(piece.shard), stored)
        piece.claim.close()


def _check_range(source: LayoutSource, batch: Batch, summary: Summary, dtype: str) -> None:
    largest = np.maximum(np.abs(summary.minimum), np.abs(summary.maximum)).max(1)
    limit = float(np.finfo(dtype).max)
    for index, value in zip(batch.index[batch.mask], largest, strict=True):
        if not np.isfinite(value):
            raise RunError(f"a latent of {source.layout_id(int(index))} is {value}: the weights cannot be used")
        if value > limit:
            raise UserError(f"a latent of {source.layout_id(int(index))} is {value:g}: give --dtype float32")


def _finish(job: _Job, data: PreparedData) -> bool:
    """Makes `out` of the finished shards; False if other processes have not finished theirs."""
    shards = storage.plan_shards(job.description)
    if job.out.exists():
        return True
    with job.own_for_all():
        if job.out.exists():
            return True
        if not all(job.record(shard).exists() for shard in shards):
            logger.info("The other shards are being encoded by other processes; the last one to end makes %s", job.out)
            return False
        stored = {shard: files.read_json(job.record(shard)) for shard in shards}
        storage.write_metadata(job.partial, job.description, stored)
        of_training = [
            latent_statistics.load_summary(each["summary"]) for shard, each in stored.items() if shard.split == TRAIN
        ]
        summary = latent_statistics.merge(latent_statistics.stack(of_training))
        origin = {
            "digest": job.description.digest,
            "step": job.description.step,
            "split": TRAIN,
            "images": job.description.examples[TRAIN],
            "data": data.describe(),
        }
        found = latent_statistics.compute(summary, origin)
        files.write_json(job.partial / latent_statistics.FILE_NAME, found.dump())
        job.partial.rename(job.out)
    shutil.rmtree(job.out / _PROGRESS, ignore_errors=True)
    return True


def _store_with_checkpoint(job: _Job) -> LatentStatistics:
    """Puts the statistics beside the weights too, unless they are of other data than the run's or cannot be put."""
    storage.require_whole(job.out, job.description)
    found = LatentStatistics.load(files.read_json(job.out / latent_statistics.FILE_NAME))
    if job.run.data.get("key", job.description.data_key) != job.description.data_key:
        logger.info("These are not the layouts that the run was trained on: its checkpoint keeps its own statistics")
        return found
    folder = weights.step_folder(job.run.directory, job.description.step)
    try:
        files.write_json(folder / latent_statistics.FILE_NAME, found.dump())
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        logger.info("The statistics are in %s alone: %s cannot be written (%s)", job.out, folder, error.strerror)
    return found
