"""The original's model in PyTorch, written anew from the experiment's description; what imginav_jax is compared with.

Module names make the state dict's keys those of the original's checkpoints.  Its model with shortcuts has the same
keys; the original has no such model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Heads = Sequence[tuple[str, int]]  # kind, which is also the name, and outputs

HEADS: Heads = (("rgb", 3), ("segmentation", 10), ("classification", 2))
LOSS_WEIGHTS = (1.0, 0.05, 0.01, 0.0)  # in the order of the heads, then the KL divergence's


class Encoder(nn.Module):
    """Images to latents; a variational one has two layers to the latent, and returns the mean."""

    def __init__(
        self,
        latent: int,
        base: int,
        steps: int,
        activation: type[nn.Module],
        groups: int,
        shortcuts: bool = False,
        variational: bool = False,
    ):
        super().__init__()
        self.shortcuts = shortcuts
        layers, cin = [], 3
        for step in range(steps):
            c = base * 2**step
            layers += [nn.Conv2d(cin, c, 3, padding=1), nn.GroupNorm(groups, c), activation()]
            layers += [nn.Conv2d(c, c, 4, stride=2, padding=1), nn.GroupNorm(groups, c), activation()]
            cin = c
        layers += [nn.Conv2d(cin, cin, 3, padding=1), nn.GroupNorm(groups, cin), activation()]
        self.variational = variational
        if variational:
            self.feature_extractor = nn.Sequential(*layers)
            self.mu_head, self.logvar_head = nn.Conv2d(cin, latent, 1), nn.Conv2d(cin, latent, 1)
        else:
            self.encoder = nn.Sequential(*layers, nn.Conv2d(cin, latent, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.posterior(images)[0]

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns means and, of a variational encoder, log-variances."""
        layers: Any = self.feature_extractor if self.variational else self.encoder[:-1]
        to_latent: Any = self.mu_head if self.variational else self.encoder[-1]
        x = images
        if self.shortcuts:
            for start in range(0, len(layers) - 3, 6):
                y = layers[start : start + 6](x)
                pixels = torch.cat([x[:, :, row::2, column::2] for row in range(2) for column in range(2)], 1)
                x = y + resize_channels(pixels, y.shape[1])
            layers = layers[-3:]
        features = layers(x)
        mean = to_latent(features)
        if self.shortcuts:
            mean = mean + resize_channels(x, mean.shape[1])
        return mean, self.logvar_head(features) if self.variational else None


class PictureHead(nn.Module):
    """Logits: the tanh or softmax behind the last layer has no weights and is left to the caller."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        hidden = nn.Conv2d(cin, cin, 3, padding=1)
        groups = next(groups for groups in range(8, 0, -1) if cin % groups == 0)
        self.head = nn.Sequential(hidden, nn.GroupNorm(groups, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features)


class LogitsHead(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.fc = nn.Linear(cin, cout)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features.mean((2, 3)))


class Decoder(nn.Module):
    def __init__(
        self,
        latent: int,
        base: int,
        steps: int,
        activation: type[nn.Module],
        groups: int,
        heads: Heads,
        shortcuts: bool = False,
    ):
        super().__init__()
        self.shortcuts = shortcuts
        c = base * 2 ** (steps - 1)
        layers = [nn.Conv2d(latent, c, 3, padding=1), nn.GroupNorm(groups, c), activation()]
        for _ in range(steps):
            up = nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1)
            layers += [up, nn.GroupNorm(groups, c // 2), activation()]
            c //= 2
        self.shared_decoder = nn.Sequential(*layers)
        make = {"rgb": PictureHead, "segmentation": PictureHead, "classification": LogitsHead}
        self.heads = nn.ModuleDict({kind: make[kind](c, outputs) for kind, outputs in heads})

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        features = self._decode_with_shortcuts(latents) if self.shortcuts else self.shared_decoder(latents)
        outputs = {kind: head(features) for kind, head in self.heads.items()}
        return {**outputs, "rgb": torch.tanh(outputs["rgb"])} if "rgb" in outputs else outputs

    def _decode_with_shortcuts(self, latents: Tensor) -> Tensor:
        first, *stages = (self.shared_decoder[start : start + 3] for start in range(0, len(self.shared_decoder), 3))
        y = first(latents)
        x = y + resize_channels(latents, y.shape[1])
        for stage in stages:
            y = stage(x)
            pixels = resize_channels(x, 4 * y.shape[1]).unflatten(1, (4, y.shape[1]))
            x = y + nn.functional.pixel_shuffle(pixels.transpose(1, 2).flatten(1, 2), 2)
        return x


def resize_channels(x: Tensor, channels: int) -> Tensor:
    """Averages or repeats neighbouring channels, so that there are `channels`."""
    count = x.shape[1]
    if channels % count == 0:  # the same as below, in the faster form
        return x.repeat_interleave(channels // count, 1)
    if count % channels == 0:
        return x.unflatten(1, (channels, count // channels)).mean(2)
    pixels = x.movedim(1, -1).flatten(0, 2)
    pooled = nn.functional.adaptive_avg_pool1d(pixels, channels)
    return pooled.unflatten(0, (x.shape[0], *x.shape[2:])).movedim(-1, 1)


class Twin(nn.Module):
    """Images [batch, 3, height, width] in [-1, 1] to the heads' outputs by name."""

    def __init__(
        self,
        latent: int = 16,
        base: int = 32,
        steps: int = 3,
        activation: str = "SiLU",
        groups: int = 8,
        heads: Heads = HEADS,
        shortcuts: bool = False,
        variational: bool = False,
    ):
        super().__init__()
        kind = getattr(nn, activation)
        self.shortcuts = shortcuts  # of which `config`, the original's, says nothing
        self.compression = 2**steps
        self.encoder = Encoder(latent, base, steps, kind, groups, shortcuts, variational)
        self.decoder = Decoder(latent, base, steps, kind, groups, heads, shortcuts)
        shared = {"latent_channels": latent, "base_channels": base, "activation": activation, "norm_groups": groups}
        self.config = {
            "type": "Autoencoder",
            "encoder": {"in_channels": 3, **shared, "downsampling_steps": steps, "variational": variational},
            "decoder": {**shared, "upsampling_steps": steps, "heads": [_head_config(*head) for head in heads]},
        }

    def forward(self, images: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Decodes the means, or what `noise`, standard normal, draws; a variational model's outputs have both heads."""
        mean, log_variance = self.encoder.posterior(images)
        if log_variance is None:
            return self.decoder(mean)
        latents = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return {**self.decoder(latents), "mu": mean, "logvar": log_variance}

    def draw_noise(self, images: Tensor) -> Tensor | None:
        """Returns what `forward` draws latents by; None where the model is deterministic."""
        if not self.encoder.variational:
            return None
        height, width = (side // self.compression for side in images.shape[2:])
        return torch.randn((len(images), self.encoder.mu_head.out_channels, height, width), device=images.device)

    def checkpoint(self) -> dict[str, Any]:
        """As the original saves it."""
        return {"state_dict": self.state_dict(), "config": self.config, "epoch": 7}


def compute_loss(
    outputs: Mapping[str, Tensor],
    images: Tensor,
    classes: Tensor,
    types: Tensor,
    weights: Sequence[float] = LOSS_WEIGHTS,
) -> Tensor:
    """Returns the experiment's loss; every pixel has a class."""
    terms = (
        nn.functional.mse_loss(outputs["rgb"], images),
        nn.functional.cross_entropy(outputs["segmentation"], classes),
        nn.functional.cross_entropy(outputs["classification"], types),
    )
    *of_heads, of_kl = weights
    mse, segmentation, classification = (weight * term for weight, term in zip(of_heads, terms, strict=True))
    total = mse + segmentation + classification
    if "mu" not in outputs:
        return total
    mean, log_variance = outputs["mu"], outputs["logvar"]
    return total - 0.5 * of_kl * (1 + log_variance - mean**2 - log_variance.exp()).mean()


def make_optimizer(
    twin: Twin, learning_rate: float = 1e-4, weight_decay: float = 0.01, *, fused: bool = False
) -> torch.optim.AdamW:
    """Returns AdamW; `fused`: one kernel for all parameters, the fastest form; the same result up to rounding."""
    return torch.optim.AdamW(
        twin.parameters(), learning_rate, (0.9, 0.999), 1e-8, weight_decay, fused=True if fused else None
    )


def to_torch(images: np.ndarray) -> Tensor:
    """Turns uint8 [batch, height, width, 3] into float32 [batch, 3, height, width] in [-1, 1], channels last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _head_config(kind: str, outputs: int) -> dict[str, Any]:
    if kind == "rgb":
        return {"type": "RGBHead", "name": kind, "out_channels": outputs, "final_activation": "tanh"}
    name = "SegmentationHead" if kind == "segmentation" else "ClassificationHead"
    return {"type": name, "name": kind, "num_classes": outputs}
