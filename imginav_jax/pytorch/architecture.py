"""The architecture as the original's checkpoints name it: their `config`."""

from collections.abc import Mapping
from typing import Any

from imginav_jax.models.architecture import (
    ACTIVATIONS,
    MAX_DOWNSAMPLING_STEPS,
    NORM_GROUPS,
    AutoencoderConfig,
    HeadConfig,
)
from imginav_jax.pytorch.torch_pickle import shorten
from imginav_jax.system.errors import UserError

_IN_CHANNELS = 3

# What the original's modules take where their config is silent.
_SHARED_DEFAULTS = {"latent_channels": 4, "base_channels": 64, "activation": "SiLU", "norm_groups": 8}
_ENCODER_DEFAULTS = {**_SHARED_DEFAULTS, "in_channels": 3, "downsampling_steps": 4, "variational": False}
_DECODER_DEFAULTS = {**_SHARED_DEFAULTS, "upsampling_steps": 4, "heads": []}
_HEAD_KINDS = {"RGBHead": "rgb", "SegmentationHead": "segmentation", "ClassificationHead": "classification"}
_HEAD_TYPES = {kind: name for name, kind in _HEAD_KINDS.items()}
_HEAD_OUTPUTS = {
    "rgb": ("out_channels", 3),
    "segmentation": ("num_classes", 21),
    "classification": ("num_classes", 1000),
}


def parse_config(config: Any) -> AutoencoderConfig:
    """Returns the architecture that a checkpoint's `config` names.

    Raises:
      UserError: a part of it is missing, out of range, or not built here; names the field.
    """
    _require(isinstance(config, Mapping), "config", type(config).__name__, "a dict")
    encoder, decoder = _part(config, "encoder", _ENCODER_DEFAULTS), _part(config, "decoder", _DECODER_DEFAULTS)
    variational = encoder["variational"]
    _require(isinstance(variational, bool), "config.encoder.variational", variational, "true or false")
    _require(encoder["in_channels"] == _IN_CHANNELS, "config.encoder.in_channels", encoder["in_channels"], "3")
    steps = encoder["downsampling_steps"]
    _require_count("config.encoder.downsampling_steps", steps, MAX_DOWNSAMPLING_STEPS)
    for key in _SHARED_DEFAULTS:
        _require(decoder[key] == encoder[key], f"config.decoder.{key}", decoder[key], f"the encoder's {encoder[key]}")
    _require(decoder["upsampling_steps"] == steps, "config.decoder.upsampling_steps", decoder["upsampling_steps"],
             f"the encoder's downsampling_steps, {steps}")  # fmt: skip
    for key in ("latent_channels", "base_channels", "norm_groups"):
        _require_count(f"config.encoder.{key}", encoder[key])
    base, groups = encoder["base_channels"], encoder["norm_groups"]
    _require(base % (2 * groups) == 0, "config.encoder.base_channels", base, f"a multiple of 2 x {groups} norm_groups")
    _require_activation("config.encoder.activation", encoder["activation"])
    return AutoencoderConfig(
        encoder["latent_channels"],
        base,
        steps,
        encoder["activation"],
        groups,
        _parse_heads(decoder["heads"], base // 2),
        variational=variational,
    )


def make_config(config: AutoencoderConfig) -> dict[str, Any]:
    """Returns a checkpoint's `config` as the original's `to_config` writes it: the inverse of `parse_config`.

    Raises:
      UserError: the architecture has shortcuts.
    """
    if config.shortcuts:
        raise UserError("the model has shortcuts, which the original's model does not have and its format cannot name")
    shared = {
        "latent_channels": config.latent_channels,
        "base_channels": config.base_channels,
        "activation": config.activation,
        "norm_groups": config.norm_groups,
    }
    steps = config.downsampling_steps
    heads = [_make_head(head, config.base_channels // 2) for head in config.heads]
    return {
        "type": "Autoencoder",
        "encoder": {
            "type": "Encoder",
            "in_channels": _IN_CHANNELS,
            **shared,
            "downsampling_steps": steps,
            "variational": config.variational,
        },
        "decoder": {"type": "Decoder", **shared, "upsampling_steps": steps, "heads": heads},
    }


def _part(config: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    part = config.get(key)
    if not isinstance(part, Mapping):
        raise UserError(f"config.{key} is {shorten(part)}, expected a dict")
    for name in _SHARED_DEFAULTS:  # compared below, which lists that share others make endless
        is_plain = not isinstance(part.get(name), (Mapping, list, tuple))
        _require(is_plain, f"config.{key}.{name}", part.get(name), "a number or a name")
    return {**defaults, **part}


def _parse_heads(heads: Any, channels: int) -> tuple[HeadConfig, ...]:
    _require(isinstance(heads, (list, tuple)), "config.decoder.heads", heads, "a list")
    parsed = tuple(_parse_head(head, f"config.decoder.heads[{index}]", channels) for index, head in enumerate(heads))
    for field in ("kind", "name"):
        values = [getattr(head, field) for head in parsed]
        _require(len(set(values)) == len(values), "config.decoder.heads", values, f"heads that differ in {field}")
    return parsed


def _parse_head(head: Any, place: str, channels: int) -> HeadConfig:
    _require(isinstance(head, Mapping), place, head, "a dict")
    kind = _HEAD_KINDS.get(head["type"]) if isinstance(head.get("type"), str) else None
    if kind is None:
        raise UserError(f"{place}.type is {shorten(head.get('type'))}, expected {', '.join(_HEAD_KINDS)}")
    key, default = _HEAD_OUTPUTS[kind]
    outputs, name, cin = (
        head.get(key, default),
        head.get("name", head["type"].lower()),
        head.get("in_channels", channels),
    )
    _require_count(f"{place}.{key}", outputs)
    _require(isinstance(name, str) and name != "" and "." not in name, f"{place}.name", name, "a name without a dot")
    _require(cin == channels, f"{place}.in_channels", cin, str(channels))
    if kind == "classification":
        return HeadConfig(kind, outputs, name)
    activation, groups = head.get("activation", "SiLU"), head.get("norm_groups", NORM_GROUPS)
    _require_activation(f"{place}.activation", activation)
    _require_count(f"{place}.norm_groups", groups)
    if kind == "rgb":
        final = head.get("final_activation", "tanh")
        _require(outputs == default, f"{place}.{key}", outputs, str(default))
        _require(final == "tanh", f"{place}.final_activation", final, "tanh")
    return HeadConfig(kind, outputs, name, activation, groups)


def _make_head(head: HeadConfig, channels: int) -> dict[str, Any]:
    made = {"type": _HEAD_TYPES[head.kind], "name": head.name, "in_channels": channels}
    made[_HEAD_OUTPUTS[head.kind][0]] = head.outputs
    if head.kind == "classification":
        return made
    final = "tanh" if head.kind == "rgb" else "softmax"
    return {
        **made,
        "out_channels": head.outputs,
        "activation": head.activation,
        "norm_groups": head.norm_groups,
        "final_activation": final,
    }


def _require(condition: bool, field: str, value: object, expected: str) -> None:
    if not condition:
        raise UserError(f"{field} is {shorten(value)}, expected {expected}")


def _require_count(field: str, value: Any, most: int | None = None) -> None:
    expected = "a whole number above 0" if most is None else f"a whole number from 1 to {most}"
    _require(type(value) is int and 0 < value <= (most or value), field, value, expected)


def _require_activation(field: str, name: Any) -> None:
    _require(isinstance(name, str) and name in ACTIVATIONS, field, name, "one of " + ", ".join(ACTIVATIONS))
