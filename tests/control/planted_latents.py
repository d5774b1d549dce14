"""Layouts, and a codec without training whose latents a tiny diffusion model can be trained on."""

import dataclasses
from concurrent.futures import Executor

import jax
import numpy as np
from jax.sharding import Mesh

from imginav_jax.control import demands
from imginav_jax.control.judge import Judge
from imginav_jax.control.latents import Latents
from imginav_jax.control.training import Asked, Data, Programs, Trainer
from imginav_jax.datasets import synthetic
from imginav_jax.models.diffusion.steps import Recipe
from imginav_jax.models.inference import Reconstruction
from imginav_jax.report.measurement import baselines
from imginav_jax.system.signals import Stop

SIZE, FACTOR, CHANNELS = 32, 8, 8


class LinearCodec:
    """Principal components of pixel blocks: an autoencoder whose decoder is a matrix."""

    digest = "linear"

    def __init__(self, images):
        blocks = self._blocks(images).reshape(-1, 3 * FACTOR**2)
        self.mean = blocks.mean(0)
        _, _, components = np.linalg.svd(blocks - self.mean, full_matrices=False)
        self.basis = components[:CHANNELS]

    @staticmethod
    def _blocks(images):
        return baselines.unshuffle(images.astype(np.float64), FACTOR)

    def encode(self, images):
        return (self._blocks(images) - self.mean) @ self.basis.T

    def decode_exactly(self, latents):
        return baselines.shuffle(latents @ self.basis + self.mean, FACTOR)

    def decode_heads(self, latents):
        return Reconstruction(np.clip(np.rint(self.decode_exactly(latents)), 0, 255).astype(np.uint8), None, None)

    def reconstruct(self, images):
        return self.decode_heads(self.encode(images))


@dataclasses.dataclass
class Planted:
    """Everything that a training needs."""

    latents: Latents
    images: np.ndarray  # held out
    scenes: list
    training: demands.Demands
    held_out: demands.Demands
    judge: Judge


def describe(images):
    found = [demands.describe(image, keep_classes=True) for image in images]
    return demands.Demands(*(np.stack(column) for column in zip(*found, strict=True)))


def plant(pool: Executor) -> Planted:
    scenes = [synthetic.generate_scene(0, index, SIZE)[0] for index in range(72)]
    images = np.stack([np.asarray(scene.image) for scene in scenes])
    training, held_out = images[:48], images[48:]
    codec = LinearCodec(training)
    encoded = codec.encode(training)
    mean, scale = encoded.mean((0, 1, 2)), encoded.std((0, 1, 2))
    normalized = [((codec.encode(each) - mean) / scale).astype(np.float16) for each in (training, held_out)]
    shape = normalized[0].shape[1:]
    latents = Latents("R1", "R1", "planted", codec, shape, 1, mean, scale, *normalized)
    of_training, of_held_out = describe(training), describe(held_out)
    names = [f"scene{index}" for index in range(len(held_out))]
    judge = Judge(latents, of_held_out.classes, pool)
    return Planted(latents, held_out, names, of_training, of_held_out, judge)


def make_programs(latents, *, condition="walls", devices=1, shift=1.0):
    grid = latents.shape[:2]
    return Programs(
        Mesh(np.array(jax.devices()[:devices]), ("data",)),
        latents.shape,
        demands.shape_of(condition, grid, SIZE, 2 * len(demands.demand.FURNITURE)),
        Recipe(shift=shift, memory=10),
        batch_size=8,
        sampling_steps=3,
    )


def make_trainer(planted, programs, folder, *, seed=0, stop=None, latents=None):
    latents = planted.latents if latents is None else latents
    grid = latents.shape[:2]
    noise = jax.random.normal(jax.random.key(seed), (len(planted.images), *latents.shape))
    data = Data(latents.training, planted.training.cells(grid), None)
    asked = Asked(noise, planted.held_out.cells(grid), None)
    judge = dataclasses.replace(planted.judge, latents=latents)
    return Trainer(
        programs,
        programs.place(data),
        programs.place(asked),
        judge,
        seed,
        folder,
        "key",
        Stop() if stop is None else stop,
    )
