"""The weights as the original's checkpoints hold them: the names of the tensors and the order of their axes.

NumPy arrays on both sides: `checkpoint_file.py` reads files, and `export/original.py` writes them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from imginav_jax.models import network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.models.network import Params
from imginav_jax.system.errors import UserError

_NAMED = 4  # tensors in a message
_PROJECTION = "encoder.latent_proj"  # last layer of a deterministic encoder in the original's later versions


class _Layer(NamedTuple):
    """A layer's place in both trees, and how its arrays' axes differ."""

    prefix: str  # of PyTorch's keys
    path: tuple[str | int, ...]  # in our parameters
    kind: str  # conv, transposed, norm or linear


def to_params(config: AutoencoderConfig, tensors: Mapping[str, np.ndarray]) -> Params:
    """Returns our parameters, made of a state dict; every tensor is used exactly once.

    A deterministic encoder may be named as the original's later versions name it, its last layer apart.

    Raises:
      UserError: tensors are missing or surplus, or have another shape or dtype, or values that are not finite.
    """
    has_projection = not config.variational and any(name.startswith(f"{_PROJECTION}.") for name in tensors)
    _check_tensors(expected_shapes(config, has_projection), tensors)
    params: Params = {}
    for layer in _layers(config, has_projection):
        place: Any = params
        for key in layer.path:
            place = place.setdefault(key, {})
        weight = tensors[f"{layer.prefix}.weight"]
        place[_weight_name(layer)] = np.ascontiguousarray(_FROM_TORCH[layer.kind](weight))
        place["bias"] = tensors[f"{layer.prefix}.bias"]
    return params


def from_params(config: AutoencoderConfig, params: Params) -> dict[str, np.ndarray]:
    """Returns the state dict that holds the parameters, in the original's order."""
    return {name: np.ascontiguousarray(tensor) for name, tensor in _views(config, params)}


def expected_shapes(config: AutoencoderConfig, has_projection: bool = False) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the state dict, in PyTorch's order of axes; takes no memory.

    `has_projection`: by the later names of a deterministic encoder.
    """
    zero = np.float32(0)
    params = jax.tree.map(lambda leaf: np.broadcast_to(zero, leaf.shape), network.abstract_params(config))
    return {name: tensor.shape for name, tensor in _views(config, params, has_projection)}


def _views(config: AutoencoderConfig, params: Params, has_projection: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    for layer in _layers(config, has_projection):
        place: Any = params
        for key in layer.path:
            place = place[key]
        yield f"{layer.prefix}.weight", _TO_TORCH[layer.kind](np.asarray(place[_weight_name(layer)]))
        yield f"{layer.prefix}.bias", np.asarray(place["bias"])


# PyTorch: OIHW, and IOHW where it is transposed; ours: HWIO, and flipped where it is transposed.
_FROM_TORCH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "conv": lambda weight: weight.transpose(2, 3, 1, 0),
    "transposed": lambda weight: weight.transpose(2, 3, 0, 1)[::-1, ::-1],
    "norm": lambda weight: weight,
    "linear": lambda weight: weight.T,
}
_TO_TORCH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "conv": lambda kernel: kernel.transpose(3, 2, 0, 1),
    "transposed": lambda kernel: kernel[::-1, ::-1].transpose(2, 3, 0, 1),
    "norm": lambda scale: scale,
    "linear": lambda kernel: kernel.T,
}


def _weight_name(layer: _Layer) -> str:
    return "scale" if layer.kind == "norm" else "kernel"


def _layers(config: AutoencoderConfig, has_projection: bool = False) -> Iterator[_Layer]:
    """In the state dict's order; its numbers count convolutions, norms and activations."""
    steps = config.downsampling_steps
    prefix = "encoder.feature_extractor" if config.variational or has_projection else "encoder.encoder"
    for step in range(steps):
        for offset, position, kind in ((0, 0, "conv"), (1, 1, "norm"), (3, 2, "conv"), (4, 3, "norm")):
            yield _Layer(f"{prefix}.{6 * step + offset}", ("encoder", "stages", step, position), kind)
    yield _Layer(f"{prefix}.{6 * steps}", ("encoder", "bottleneck", 0), "conv")
    yield _Layer(f"{prefix}.{6 * steps + 1}", ("encoder", "bottleneck", 1), "norm")
    if config.variational:
        yield _Layer("encoder.mu_head", ("encoder", "to_latent"), "conv")
        yield _Layer("encoder.logvar_head", ("encoder", network.LOG_VARIANCE), "conv")
    else:
        last = _PROJECTION if has_projection else f"{prefix}.{6 * steps + 3}"
        yield _Layer(last, ("encoder", "to_latent"), "conv")
    for stage in range(steps + 1):
        kind = "transposed" if stage else "conv"
        yield _Layer(f"decoder.shared_decoder.{3 * stage}", ("decoder", "stages", stage, 0), kind)
        yield _Layer(f"decoder.shared_decoder.{3 * stage + 1}", ("decoder", "stages", stage, 1), "norm")
    for head in config.heads:
        prefix, path = f"decoder.heads.{head.name}", ("decoder", head.kind)
        if head.kind == "classification":
            yield _Layer(f"{prefix}.fc", path, "linear")
            continue
        for number, position, kind in ((0, 0, "conv"), (1, 1, "norm"), (3, 2, "conv")):
            yield _Layer(f"{prefix}.head.{number}", (*path, "layers", position), kind)


def _check_tensors(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> None:
    present = [name for name in expected if name in tensors]
    complaints = [
        _name_some("missing tensors", [name for name in expected if name not in tensors]),
        _name_some("surplus tensors", [name for name in tensors if name not in expected]),
        _name_some(
            "shapes that the config contradicts",
            [
                f"{name} is {_shape(tensors[name].shape)}, expected {_shape(expected[name])}"
                for name in present
                if tensors[name].shape != expected[name]
            ],
        ),
        _name_some(
            "tensors that are not float32",
            [f"{name} is {tensors[name].dtype}" for name in present if tensors[name].dtype != np.float32],
        ),
        _name_some("values that are not finite", [name for name in present if not np.isfinite(tensors[name]).all()]),
    ]
    if any(complaints):
        raise UserError("; ".join(filter(None, complaints)))


def _name_some(label: str, names: Collection[str]) -> str | None:
    if not names:
        return None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{label}: {', '.join(list(names)[:_NAMED])}{more}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
