"""What PyTorch moves for the same step when it runs one operator after the other, with autocast; no card is needed.

Every operator reads its operands and writes its results once: those that a TorchDispatchMode sees forward and backward
on the meta device, which has shapes and no memory.  Views move nothing.  The optimizer is left out.  cuDNN's work space
and caches are not in it, as in `program.py`.

PyTorch has no autocast for that device, so its rule for CUDA is written out here, as far as this model goes: in 16 bits
the convolutions and the linear layer, in float32 norms and losses, everything else in the type that it is given
(https://docs.pytorch.org/docs/stable/amp.html, "Autocast Op Reference").
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from imginav_jax.pytorch import twin
from imginav_jax.runs.experiment import Experiment
from imginav_jax.system.errors import UserError

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STEPS = ("train_step", "encode")


class _Autocast(TorchFunctionMode):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        functional = torch.nn.functional
        narrow = functional.conv2d, functional.conv_transpose2d, functional.linear
        wide = functional.group_norm, functional.mse_loss, functional.cross_entropy
        self._types = dict.fromkeys(narrow, dtype) | dict.fromkeys(wide, torch.float32)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if dtype := self._types.get(func):
            args, kwargs = _pytree.tree_map(lambda leaf: _cast(leaf, dtype), (args, kwargs))
        return func(*args, **(kwargs or {}))


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.moved += sum(_size(leaf) for leaf in _pytree.tree_leaves((args, kwargs, result)))
        return result


def count(experiment: Experiment, name: str) -> int:
    """Returns the bytes of one of STEPS on the experiment's batch; UserError for another step."""
    if name not in STEPS:
        raise UserError(f"--against-torch counts {' and '.join(STEPS)}, not {name}; add --only={STEPS[0]}")
    fields, model = experiment.config, experiment.model
    size, count_ = fields.data.image_size, fields.batch_size
    with torch.device("meta"):
        net = twin.Twin(
            model.latent_channels,
            model.stage_channels[0],
            model.downsampling_steps,
            model.activation,
            model.norm_groups,
            shortcuts=model.shortcuts,
            variational=model.variational,
        )
        images = torch.empty((count_, 3, size, size)).to(memory_format=torch.channels_last)
        classes = torch.empty((count_, size, size), dtype=torch.int64)
        types = torch.empty((count_,), dtype=torch.int64)
    with _Counter() as counter, _Autocast(_TYPES[fields.precision]):
        if name == "encode":
            with torch.no_grad():
                net.encoder(images)
        else:
            twin.compute_loss(net(images, net.draw_noise(images)), images, classes, types).backward()
    return counter.moved


def _size(leaf: Any) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, torch.Tensor) else 0


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf
