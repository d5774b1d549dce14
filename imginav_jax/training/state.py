"""All that a training step reads and writes: parameters, the optimizer's state, the loss scale, the moving average."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from imginav_jax.models import network
from imginav_jax.models.architecture import AutoencoderConfig
from imginav_jax.runs.experiment import Experiment, OptimizerFields

INITIAL_SCALE = 2.0**15
GROWTH_INTERVAL = 2000  # steps without overflow before the scale doubles
_LARGEST_SCALE = 2.0**24


class LossScale(NamedTuple):
    """Dynamic, for float16, whose gradients would underflow (Micikevicius et al. 2018, arXiv:1710.03740)."""

    scale: Float[Any, ""]
    good_steps: Int32[Any, ""]  # since the scale last changed


class TrainState(NamedTuple):
    step: Int32[Array, ""]  # optimizer steps done
    params: network.Params
    opt_state: Any
    loss_scale: LossScale | None = None  # with float16 only
    ema: network.Params | None = None  # the parameters' exponential moving average; with an ema_decay only

    @property
    def evaluated(self) -> network.Params:
        """The weights that are evaluated, drawn and taken from a run: the moving average where there is one."""
        return self.params if self.ema is None else self.ema

    def to_save(self) -> dict[str, Any]:
        """Returns what a checkpoint holds; no word of a moving average where there is none, as before there were."""
        return {name: value for name, value in self._asdict().items() if name != "ema" or value is not None}


def create_state(
    key: Array, config: AutoencoderConfig, optimizer: optax.GradientTransformation, has_ema: bool = False
) -> TrainState:
    """Returns a fresh state; run it under jit so that it is born on its devices."""
    params = network.init(config, key)
    scale = create_loss_scale() if config.compute_dtype == "float16" else None
    ema = jax.tree.map(jnp.copy, params) if has_ema else None  # a copy: a step donates both
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), scale, ema)


def make_optimizer(
    learning_rate: float | optax.Schedule, weight_decay: float, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """Returns AdamW as PyTorch defines it: decoupled weight decay on every parameter.

    Betas 0.9 and 0.999, eps 1e-8 outside the root; norms and biases decay too, as in torch.optim.AdamW.  Above 0,
    `clip_norm` is the largest norm of all gradients together that AdamW gets to see.
    """
    adamw = optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw) if clip_norm else adamw


def make_schedule(fields: OptimizerFields, num_steps: int) -> float | optax.Schedule:
    """Returns the learning rate: a number, or a function of the updates done, for a run of so many steps."""
    rate, warmup = fields.learning_rate, fields.warmup_steps
    if fields.schedule == "cosine":
        # At least a step of cosine, for what only asks for shapes and costs and knows of no run.
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(num_steps, warmup + 1))
    return optax.warmup_constant_schedule(0.0, rate, warmup) if warmup else rate


def of_experiment(
    experiment: Experiment, num_steps: int = 0
) -> tuple[optax.GradientTransformation, Callable[[Array], TrainState]]:
    """Returns the experiment's optimizer, and what makes a fresh state from a key.

    `num_steps` of the run decide the values of its schedule; shapes and costs are the same without.
    """
    config, fields = experiment.config, experiment.config.optimizer
    optimizer = make_optimizer(make_schedule(fields, num_steps), fields.weight_decay, fields.clip_norm)
    has_ema = config.ema_decay > 0
    return optimizer, functools.partial(create_state, config=experiment.model, optimizer=optimizer, has_ema=has_ema)


def create_loss_scale() -> LossScale:
    return LossScale(jnp.float32(INITIAL_SCALE), jnp.int32(0))


def update_loss_scale(current: LossScale, is_finite: Bool[Array, ""]) -> LossScale:
    """Halves the scale after an overflow, doubles it after `GROWTH_INTERVAL` steps without one."""
    good_steps = jnp.where(is_finite, current.good_steps + 1, 0)
    grows = good_steps == GROWTH_INTERVAL
    grown = jnp.minimum(jnp.where(grows, 2 * current.scale, current.scale), _LARGEST_SCALE)
    scale = jnp.where(is_finite, grown, jnp.maximum(current.scale / 2, 1))
    return LossScale(scale, jnp.where(grows, 0, good_steps))
