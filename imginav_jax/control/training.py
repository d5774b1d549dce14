"""Trains the U-Net and ControlNets of one latent; what is cut off goes on, bit for bit on the CPU."""

import dataclasses
import functools
import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from imginav_jax.devices import target
from imginav_jax.devices.mesh import batch_sharding
from imginav_jax.models.diffusion import flow_matching, steps, unet
from imginav_jax.models.diffusion.steps import Recipe, State
from imginav_jax.models.diffusion.unet import Demand, DemandShape, Params, Shape
from imginav_jax.runs.results.control_file import Counts, Point
from imginav_jax.system import files
from imginav_jax.system.progress import Progress, logger
from imginav_jax.system.signals import Stop
from imginav_jax.traffic.floor import count_flops

_STEPS_BETWEEN_LOOKS = 10  # at the loss, and for a signal; as many may be on their way to the device
_SECONDS_BETWEEN_SAVES = 300.0

Judge = Callable[[Float[np.ndarray, "n h w c"]], Counts]  # drawn latents, normalised, to counts


class Data(NamedTuple):
    """Training layouts, on the device."""

    latents: Float[Any, "n h w c"]  # normalised
    cells: UInt8[Any, "n h w bytes"] | None
    contents: Float[Any, "n v"] | None


class Asked(NamedTuple):
    """What held-out layouts demand, on the device, and the noise that drawings begin with."""

    noise: Float[Any, "m h w c"]
    cells: UInt8[Any, "m h w bytes"] | None
    contents: Float[Any, "m v"] | None


@dataclasses.dataclass(frozen=True)
class Programs:
    """What runs on the devices for one latent.

    Attributes:
      shape: of the latent.
      demand: of the ControlNet.
      recipe: of both trainings.
      batch_size: layouts a step, over all devices.
      sampling_steps: of Heun's method.
    """

    mesh: Mesh
    shape: Shape
    demand: DemandShape
    recipe: Recipe
    batch_size: int
    sampling_steps: int

    def place(self, tree: Any) -> Any:
        """Puts arrays on every device and returns them."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    @functools.cached_property
    def train_unet(self) -> Callable[..., Any]:
        return self._jit(self._unet_step)

    @functools.cached_property
    def train_controlnet(self) -> Callable[..., Any]:
        return self._jit(self._controlnet_step)

    @functools.cached_property
    def draw(self) -> Callable[[Params, Params, Asked], Array]:
        """From U-Net, ControlNet and what is asked to normalised latents."""

        def draw(frozen: Params, controlnet: Params, asked: Asked) -> Array:
            demand = _demand(asked.cells, asked.contents)
            model = functools.partial(unet.controlled_velocity, frozen, controlnet, demand=demand)
            model = functools.partial(model, dtype=self.recipe.dtype)
            return flow_matching.draw(model, self._divide(asked.noise), self.sampling_steps, self.recipe.shift)

        return jax.jit(draw, compiler_options=target.compiler_options())

    def flops(self, count: int) -> tuple[float, float]:
        """Returns those of a training step of the U-Net and of the ControlNet, with data of `count` layouts."""
        programs = self._abstract_steps(count)
        of_unet, of_controlnet = (float(count_flops(jax.make_jaxpr(step)(*given).jaxpr)) for step, given in programs)
        return of_unet, of_controlnet

    def traffic(self, count: int) -> tuple[float, float]:
        """Returns the bytes that they read and write, as XLA counts for the first device; compiles them."""
        compiled = [self._jit(step).lower(*given).compile() for step, given in self._abstract_steps(count)]
        analyses: list[Any] = [each.cost_analysis() for each in compiled]
        of_unet, of_controlnet = (float(each["bytes accessed"]) for each in analyses)
        return of_unet, of_controlnet

    def _abstract_steps(self, count: int) -> tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...]:
        """Both training steps, and the shapes of what they take."""
        data = jax.eval_shape(lambda: _empty(count, self.shape, self.demand))
        key = jax.eval_shape(lambda: jax.random.key(0))
        frozen = jax.eval_shape(lambda: unet.init_unet(self.shape, jax.random.key(0)))
        controlnet = jax.eval_shape(lambda given: unet.init_controlnet(given, self.shape, self.demand), frozen)
        first, second = (
            jax.eval_shape(lambda given: steps.create_state(given, self.recipe), params)
            for params in (frozen, controlnet)
        )
        return (self._unet_step, (first, data, key)), (self._controlnet_step, (second, frozen, data, key))

    def _unet_step(self, state: State, data: Data, key: Array) -> tuple[State, Array]:
        latents, _ = self._take(data, key, state.step)
        return steps.unet_step(state, latents, key, recipe=self.recipe)

    def _controlnet_step(self, state: State, frozen: Params, data: Data, key: Array) -> tuple[State, Array]:
        latents, demand = self._take(data, key, state.step)
        return steps.controlnet_step(state, frozen, latents, demand, key, recipe=self.recipe)

    def _take(self, data: Data, key: Array, step: Array) -> tuple[Array, Demand]:
        """A random batch, divided among the devices."""
        key = jax.random.fold_in(jax.random.fold_in(key, step), 1)  # not the noise's
        index = jax.random.randint(key, (self.batch_size,), 0, len(data.latents))
        cells, contents = (None if each is None else self._divide(each[index]) for each in data[1:])
        return self._divide(data.latents[index].astype(jnp.float32)), _demand(cells, contents)

    def _divide(self, batch: Array) -> Array:
        return jax.lax.with_sharding_constraint(batch, batch_sharding(self.mesh))

    def _jit(self, step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(step, donate_argnums=0, compiler_options=target.compiler_options())


def _demand(cells: Array | None, contents: Array | None) -> Demand:
    bits = None if cells is None else jnp.unpackbits(cells, axis=-1).astype(jnp.float32)
    return Demand(bits, contents)


def _empty(count: int, shape: Shape, demand: DemandShape) -> Data:
    cells = jnp.zeros((count, *shape[:2], demand.channels // 8), jnp.uint8) if demand.channels else None
    contents = jnp.zeros((count, demand.contents)) if demand.contents else None
    return Data(jnp.zeros((count, *shape), jnp.float16), cells, contents)


@dataclasses.dataclass
class Stage:
    """One model's training, as far as it has come."""

    state: State
    seconds: float  # of training
    points: list[tuple[int, float, Counts]]  # step, seconds of training until then, counts


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains the models of one latent and seed.

    Attributes:
      folder: of what is kept.
      key: decides what is computed; what was kept under another one is not used.
      stop: notices signals.
    """

    programs: Programs
    data: Data
    asked: Asked
    judge: Judge
    seed: int
    folder: Path
    key: str
    stop: Stop

    def train_unet(self, num_steps: int, earlier: int = 0) -> Stage:
        """Trains the U-Net, from where it was after `earlier` steps, and returns it."""
        programs, key = self.programs, jax.random.key(self.seed)
        path, before = (self.folder / f"unet_{each}.npz" for each in (num_steps, earlier))
        if earlier and not path.exists():
            files.write_atomically(path, before.read_bytes())

        def start() -> State:
            return steps.create_state(unet.init_unet(programs.shape, key), programs.recipe)

        return self._train("U-Net", path, start, num_steps, (programs.train_unet, (self.data, key)))

    def train_controlnet(self, frozen: Stage, num_steps: int, num_points: int) -> Stage:
        """Trains a ControlNet on a U-Net's averaged weights, judges it at step 0 and `num_points` times; returns it."""
        programs, key = self.programs, jax.random.fold_in(jax.random.key(self.seed), 1)
        path = self.folder / f"controlnet_{int(frozen.state.step)}_{num_steps}.npz"
        fixed = programs.place(frozen.state.average)

        def start() -> State:
            params = unet.init_controlnet(frozen.state.average, programs.shape, programs.demand)
            return steps.create_state(params, programs.recipe)

        def judge(state: State) -> Counts:
            return self.judge(np.asarray(programs.draw(fixed, state.average, self.asked)))

        at = tuple(round(num_steps * number / num_points) for number in range(num_points + 1))
        program = programs.train_controlnet, (fixed, self.data, key)
        return self._train("ControlNet", path, start, num_steps, program, at, judge)

    def _train(
        self,
        name: str,
        path: Path,
        start: Callable[[], State],
        num_steps: int,
        program: tuple[Callable[..., Any], tuple[Any, ...]],
        at: Sequence[int] = (),
        judge: Callable[[State], Counts] | None = None,
    ) -> Stage:
        """Goes on from what is kept at `path`; saves there at every point, every few minutes, and on a signal."""
        stage = self._open(path, start)
        step, given = program[0], tuple(self.programs.place(each) for each in program[1])
        first, done = int(stage.state.step), {number for number, _, _ in stage.points}
        if first < num_steps:
            step = step.lower(stage.state, *given).compile()  # not in the training's time
        saved = time.monotonic()
        with Progress(name, num_steps, "steps", first) as progress:
            for number in range(first, num_steps + 1):
                if judge is not None and number in at and number not in done:
                    stage.points.append((number, stage.seconds, judge(stage.state)))
                    self._save(path, stage)
                if number == num_steps:
                    break
                begin = time.monotonic()
                stage.state, loss = step(stage.state, *given)
                is_look = (number + 1) % _STEPS_BETWEEN_LOOKS == 0 or number + 1 in (num_steps, *at)
                if is_look:
                    progress.advance(number + 1 - first, f"loss {float(loss):.3f}")
                    first = number + 1
                stage.seconds += time.monotonic() - begin
                if is_look and (self.stop.requested or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES):
                    self._save(path, stage)
                    self.stop.check()
                    saved = time.monotonic()
        self._save(path, stage)
        return stage

    def _open(self, path: Path, start: Callable[[], State]) -> Stage:
        """What is kept, if it is of the same key; else the start."""
        try:
            with np.load(io.BytesIO(path.read_bytes())) as stored:
                said = json.loads(stored["said"].item())
                if said["key"] == self.key:
                    leaves = [stored[f"leaf_{index}"] for index in range(said["leaves"])]
                    points: list[tuple[int, float, Counts]] = [
                        (step, seconds, {name: stored[f"{index}/{name}"] for name in said["counts"]})
                        for index, (step, seconds) in enumerate(said["points"])
                    ]
                    state = jax.tree.unflatten(jax.tree.structure(jax.eval_shape(start)), leaves)
                    return Stage(self.programs.place(state), said["seconds"], points)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            logger.warning("%s is damaged: this training starts again", path)
        return Stage(self.programs.place(start()), 0.0, [])

    def _save(self, path: Path, stage: Stage) -> None:
        leaves = jax.tree.leaves(jax.device_get(stage.state))
        names = list(stage.points[0][2]) if stage.points else []
        said = {
            "key": self.key,
            "leaves": len(leaves),
            "seconds": stage.seconds,
            "points": [(step, seconds) for step, seconds, _ in stage.points],
            "counts": names,
        }
        arrays = {f"leaf_{index}": leaf for index, leaf in enumerate(leaves)}
        arrays |= {
            f"{index}/{name}": counts[name] for index, (_, _, counts) in enumerate(stage.points) for name in names
        }
        content = io.BytesIO()
        np.savez(content, said=json.dumps(said), **arrays)  # pyright: ignore[reportArgumentType]
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content.getvalue())


def make_points(stage: Stage, before: float, seconds: float, flops: float) -> tuple[Point, ...]:
    """Returns the points of a ControlNet's curve.

    Args:
      stage: its training.
      before: FLOPs of the U-Net's training.
      seconds: of the U-Net's training.
      flops: of a step of the ControlNet.
    """
    return tuple(Point(step, before + step * flops, seconds + took, counts) for step, took, counts in stage.points)
