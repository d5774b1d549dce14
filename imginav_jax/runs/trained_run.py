"""What became of a run: its best weights, the size of its images, and its data set."""

import dataclasses
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from imginav_jax.datasets import preparation
from imginav_jax.datasets.preparation import DataSpec, PreparedData
from imginav_jax.runs import experiment, weights
from imginav_jax.runs.experiment import Experiment
from imginav_jax.runs.weights import Weights
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import expand_user, own_config, read_json

_IMPORTED_IMAGE_SIZE = 512  # pixels; of the original's layouts


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A workdir, or an imported checkpoint, which has no experiment and no data."""

    directory: Path
    weights: Weights
    experiment: Experiment | None
    data: dict[str, Any]  # as the run described its data set; empty without one
    image_size: int  # pixels, height and width

    def prepare_data(self, manifest: str | None, root: str | None, cache_dir: str | None) -> PreparedData:
        """Prepares the run's data set, or that of another manifest, and returns it; None keeps the run's own value.

        Raises:
          UserError: there is none, it cannot be prepared, or it is the run's manifest and has changed since.
        """
        cache = expand_user(cache_dir or (self.experiment.cache_dir if self.experiment else _usual_data().cache_dir))
        prepared = preparation.prepare(self._spec(manifest, root), cache)
        if manifest is None and prepared.key != self.data.get("key"):
            raise UserError(
                f"{prepared.manifest} has changed since {self.directory} was trained on it, and so would its split; "
                f"name the old layouts, or these on purpose, by --manifest"
            )
        return prepared

    def find_data(self) -> Path:
        """Returns the folder of the prepared data set that the run was trained on.

        It is the one in the cache, or is made anew from the run's manifest.

        Raises:
          UserError: there is none, or the manifest cannot be used or has changed.
        """
        if self.experiment is not None:
            cache = self.experiment.cache_dir
            if preparation.is_prepared(cache, self.data["key"]):
                return preparation.prepared_directory(cache, self.data["key"])
            prepared = preparation.prepare(self._spec(None, None), cache)
            if prepared.key == self.data["key"]:
                return prepared.directory
        raise UserError(
            f"the layouts that {self.directory} was trained on are gone: its data set is no more in the cache, and "
            "its manifest is missing or has changed"
        )

    def _spec(self, manifest: str | None, root: str | None) -> DataSpec:
        if self.experiment is None:
            if manifest is None:
                raise UserError(f"{self.directory} is an imported checkpoint, which has no data: give --manifest")
            usual = _usual_data()
            return DataSpec(manifest, root, self.image_size, 1, usual.validation_fraction, usual.seed)
        spec = dataclasses.replace(self.experiment.data, image_size=self.image_size)
        if manifest is not None:
            return dataclasses.replace(spec, manifest=manifest, root=root)
        if spec.manifest is None:
            return spec
        # Where it was when the run was started, in whatever folder that was.
        return dataclasses.replace(spec, manifest=self.data["manifest"], root=root or spec.root)


def load(
    directory: Path,
    image_size: int | None = None,
    description: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> TrainedRun:
    """Returns a run with its weights.

    Args:
      directory: its workdir, or an imported checkpoint.
      image_size: pixels; default: what the run was trained on, 512 for an imported checkpoint.
      description: what the workdir's `{name}_experiment.json` holds; None: it is read.
      step: of the checkpoint; default: the best.

    Raises:
      UserError: there is no such checkpoint, the description of the experiment cannot be read, or the image size
        does not fit the model.
    """
    loaded = weights.load(directory, step)
    found = sorted(directory.glob("*_experiment.json"))
    if found:
        exp, data = _read_experiment(found[0], description if description is not None else read_json(found[0]))
        size = image_size if image_size is not None else exp.data.image_size
    else:
        exp, data, size = None, {}, image_size if image_size is not None else _IMPORTED_IMAGE_SIZE
    if size < 1 or size % loaded.config.compression:
        raise UserError(f"--image_size is {size}, expected a multiple of {loaded.config.compression} for {directory}")
    return TrainedRun(directory, loaded, exp, data, size)


def _read_experiment(path: Path, description: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]]:
    try:
        config = ConfigDict({"accumulate_steps": 1, **description["config"]})  # older runs do not say it
        return experiment.from_config(config), description["data"]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} does not describe an experiment of this program") from None


def _usual_data() -> Any:
    """Returns how configs/phase1_2.py splits a data set, and where it keeps it."""
    return runpy.run_path(str(own_config("phase1_2.py")))["get_config"]("R1").data
