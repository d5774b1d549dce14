"""Encoder and decoder as programs that JAX alone runs: StableHLO of `jax.export`, with the weights inside."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from imginav_jax.devices import target
from imginav_jax.models import inference
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.network import Params
from imginav_jax.runs import trained_run, weights
from imginav_jax.runs.weights import Weights
from imginav_jax.system import versions
from imginav_jax.system.errors import UserError
from imginav_jax.system.files import check_is_new, new_directory, write_json

PLATFORMS = ("cpu", "cuda")
DESCRIPTION = "model.json"


def export_programs(directory: Path, out: Path, step: int | None = None, image_size: int | None = None) -> Weights:
    """Writes a folder of `encode.stablehlo`, `decode.stablehlo` and what they are of, `model.json`, in one step.

    The programs take any number of images at once.  A variational model's latents are the means.

    Args:
      directory: a workdir, or an imported checkpoint.
      out: the folder to make.
      step: of the checkpoint; default: the best.
      image_size: pixels, height and width; default: what the run was trained on, 512 for an imported checkpoint.

    Raises:
      UserError: the directory holds no weights or a model without an RGB head, the image size does not fit the model,
        or `out` exists or cannot be written.
    """
    check_is_new(out)
    run = trained_run.load(directory, image_size, step=step)
    config, size = run.weights.config, run.image_size
    if config.head("rgb") is None:
        raise UserError(f"{directory}: the model has no RGB head, expected one for images of latents")
    params = jax.device_get(run.weights.params)
    encode = functools.partial(inference.encode, params, config=config)
    shapes = {"encode": ("uint8", (size, size, 3)), "decode": ("float32", config.latent_shape(size))}
    programs = {"encode": encode, "decode": _decoder(params, config)}
    made = {name: _export(program, *shapes[name]) for name, program in programs.items()}
    with new_directory(out) as temporary:
        for name, exported in made.items():
            (temporary / f"{name}.stablehlo").write_bytes(exported.serialize())
        described = {name: _describe(exported) for name, exported in made.items()}
        write_json(temporary / DESCRIPTION, {**described, **_origin(run.weights, size)})
    return run.weights


def _decoder(params: Params, config: AutoencoderConfig) -> Callable[[Any], Any]:
    def decode(latents: Any) -> Any:
        return inference.decode(params, latents, config=config).images

    return decode


def _export(program: Callable[[Any], Any], dtype: str, shape: tuple[int, ...]) -> export.Exported:
    (batch,) = export.symbolic_shape("b")
    example = jax.ShapeDtypeStruct((batch, *shape), jnp.dtype(dtype))
    # XLA's own convolutions: the forms for CPUs depend on the number of images, and are slow on cards.
    with target.compile_for("gpu"):
        return export.export(jax.jit(program), platforms=PLATFORMS)(example)


def _describe(exported: export.Exported) -> dict[str, str]:
    (given,), (made,) = exported.in_avals, exported.out_avals
    return {"input": _show(given), "output": _show(made)}


def _show(aval: Any) -> str:
    return f"{aval.dtype} [{', '.join(map(str, aval.shape))}]"


def _origin(loaded: Weights, image_size: int) -> dict[str, Any]:
    return {
        "image_size": image_size,
        "platforms": PLATFORMS,
        "architecture": loaded.config.architecture(),
        "step": loaded.step,
        "weights_sha256": weights.digest(loaded),
        "program": versions.stamp(),
    }
