"""PyTorch's side of the comparison, in a process of its own (`turn_process`).

In one process PyTorch's threads and XLA's slow each other down two- to fourfold.  So PyTorch works here, and only when
it is asked to: after a `Ready` it takes a sample of train, eval or encode, and answers with the seconds a call.

PyTorch has what its users can give it: channels last, AdamW in one kernel, mixed precision and torch.compile on a GPU;
the C library's allocator is left as it is, without our own settings.  Images as floats and classes as numbers lie
ready, while our own steps make them of uint8 images every time.  An evaluation finds what ours does: losses, and what
mIoU and accuracies are counted from.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imginav_jax.benchmark.pytorch.job import Job, Ready, load
from imginav_jax.benchmark.sampling import Sampler, Work, make_sampler
from imginav_jax.datasets import palette
from imginav_jax.pytorch import twin
from imginav_jax.system.errors import first_line


def prepare(folder: str) -> tuple[Ready, dict[str, Sampler]]:
    """Loads the job that lies in `folder`, and returns the first answer and what takes samples, by the work's name."""
    job, arrays = load(Path(folder))
    if job.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device, though JAX does; install a build of PyTorch for CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = job.allow_tf32
    torch.backends.cudnn.benchmark = True
    works, form, loss = make_works(job, arrays)
    return Ready(form, loss), {name: make_sampler(work, _waiter(job)) for name, work in works.items()}


def make_works(job: Job, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Work], str, float]:
    """Returns the works, the form that PyTorch runs them in, and the loss of the batch with the weights as given."""
    autocast = job.device == "cuda" and job.precision != "float32"
    form = f"PyTorch {torch.__version__}, channels last, {job.precision if autocast else 'float32'}"
    if job.device == "cuda":
        try:
            works = _make_works(job, arrays, torch.compile)
            loss = float(works["eval"]()[0])  # before training, which changes the weights
            for name in ("encode", "train"):
                works[name]()
            return works, f"{form}, torch.compile", loss
        except Exception as error:  # whatever a missing compiler or an old card provokes
            form = f"{form}, eager (torch.compile: {first_line(error)})"
    else:
        form = f"{form}, eager, {torch.get_num_threads()} threads"
    works = _make_works(job, arrays, lambda function: function)
    return works, form, float(works["eval"]()[0])


def _make_works(job: Job, arrays: Mapping[str, np.ndarray], compiled: Callable[[Any], Any]) -> dict[str, Work]:
    sizes = job.latent_channels, job.base_channels, job.downsampling_steps
    model: Any = twin.Twin(*sizes, shortcuts=job.shortcuts, variational=job.variational)
    model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in model.state_dict()})
    model.to(job.device, memory_format=torch.channels_last)
    classes = torch.from_numpy(palette.one_hot(arrays["images"]).argmax(-1))
    inputs = twin.to_torch(arrays["images"]), classes, torch.from_numpy(arrays["types"]).long()
    images, classes, types = (each.to(job.device) for each in inputs)
    optimizer = twin.make_optimizer(model, job.learning_rate, job.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(job.device, enabled=job.device == "cuda" and job.precision == "float16")
    encoder = compiled(model.encoder)

    @compiled
    def compute_loss(images: Tensor, classes: Tensor, types: Tensor) -> Tensor:
        with _autocast(job):
            outputs = model(images, model.draw_noise(images))
            return twin.compute_loss(outputs, images, classes, types, job.loss_weights)

    @compiled
    def score(images: Tensor, classes: Tensor, types: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss, every pixel's class and predicted one as a number, and where the type is right."""
        with _autocast(job):
            outputs = model(images)
            value = twin.compute_loss(outputs, images, classes, types, job.loss_weights)
        pairs = classes * palette.NUM_CLASSES + outputs["segmentation"].argmax(1)
        return value, pairs.flatten(), outputs["classification"].argmax(1) == types

    def train() -> Tensor:
        optimizer.zero_grad()
        value = compute_loss(images, classes, types)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        return value

    @torch.inference_mode()
    def evaluate() -> tuple[Tensor, Tensor, Tensor]:
        value, pairs, correct = score(images, classes, types)
        return value, torch.bincount(pairs, minlength=palette.NUM_CLASSES**2), correct

    @torch.inference_mode()
    def encode() -> Tensor:
        with _autocast(job):
            return encoder(images)

    return {"train": train, "eval": evaluate, "encode": encode}


def _autocast(job: Job) -> contextlib.AbstractContextManager[Any]:
    if job.device == "cuda" and job.precision != "float32":
        return torch.autocast(job.device, getattr(torch, job.precision))
    return contextlib.nullcontext()


def _waiter(job: Job) -> Callable[[Any], None]:
    return lambda _: torch.cuda.synchronize() if job.device == "cuda" else None
