"""The autoencoder from uint8 images to what its heads say, for everything but training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from imginav_jax.models import architecture, network


class Reconstruction(NamedTuple):
    """What the decoder's heads make of latents; None for a head that is missing."""

    images: UInt8[Any, "b h w 3"] | None
    classes: UInt8[Any, "b h w"] | None  # the most likely one, an index into the palette
    room_scene_probabilities: Float[Any, "b 2"] | None  # of room and of scene


def scale_images(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns pixels in [-1, 1], float32."""
    return images.astype(jnp.float32) / 127.5 - 1


def unscale_images(images: Float[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """Returns pixels in [0, 255], to the nearest value; what lies outside [-1, 1] is cut off."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def encode(
    params: network.Params, images: UInt8[Array, "b h w 3"], *, config: architecture.AutoencoderConfig
) -> Float[Array, "b h/f w/f latent"]:
    """Returns the images' latents, float32; f is `config.compression`."""
    return network.encode(config, params, scale_images(images))


def decode(
    params: network.Params, latents: Float[Array, "b h w latent"], *, config: architecture.AutoencoderConfig
) -> Reconstruction:
    """Returns what the decoder's heads make of latents, `config.compression` times as high and wide."""
    rgb, segmentation, room_scene = network.decode(config, params, latents)
    return Reconstruction(
        None if rgb is None else unscale_images(rgb),
        None if segmentation is None else segmentation.argmax(-1).astype(jnp.uint8),
        None if room_scene is None else jax.nn.softmax(room_scene),
    )


def reconstruct(
    params: network.Params, images: UInt8[Array, "b h w 3"], *, config: architecture.AutoencoderConfig
) -> Reconstruction:
    """Returns what the decoder's heads make of the images' latents."""
    return decode(params, encode(params, images, config=config), config=config)
