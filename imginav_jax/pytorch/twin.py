"""The original's model in PyTorch, written anew from the experiment's description; what imginav_jax is compared with.

Module names make the state dict's keys those of the original's checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Heads = Sequence[tuple[str, int]]  # kind, which is also the name, and outputs

HEADS: Heads = (("rgb", 3), ("segmentation", 10), ("classification", 2))
LOSS_WEIGHTS = (1.0, 0.05, 0.01)  # in the order of the heads


class Encoder(nn.Module):
    def __init__(self, latent: int, base: int, steps: int, activation: type[nn.Module], groups: int):
        super().__init__()
        layers, cin = [], 3
        for step in range(steps):
            c = base * 2**step
            layers += [nn.Conv2d(cin, c, 3, padding=1), nn.GroupNorm(groups, c), activation()]
            layers += [nn.Conv2d(c, c, 4, stride=2, padding=1), nn.GroupNorm(groups, c), activation()]
            cin = c
        layers += [
            nn.Conv2d(cin, cin, 3, padding=1),
            nn.GroupNorm(groups, cin),
            activation(),
            nn.Conv2d(cin, latent, 1),
        ]
        self.encoder = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)


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
    def __init__(self, latent: int, base: int, steps: int, activation: type[nn.Module], groups: int, heads: Heads):
        super().__init__()
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
        features = self.shared_decoder(latents)
        outputs = {kind: head(features) for kind, head in self.heads.items()}
        return {**outputs, "rgb": torch.tanh(outputs["rgb"])} if "rgb" in outputs else outputs


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
    ):
        super().__init__()
        kind = getattr(nn, activation)
        self.encoder = Encoder(latent, base, steps, kind, groups)
        self.decoder = Decoder(latent, base, steps, kind, groups, heads)
        shared = {"latent_channels": latent, "base_channels": base, "activation": activation, "norm_groups": groups}
        self.config = {
            "type": "Autoencoder",
            "encoder": {"in_channels": 3, **shared, "downsampling_steps": steps, "variational": False},
            "decoder": {**shared, "upsampling_steps": steps, "heads": [_head_config(*head) for head in heads]},
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.decoder(self.encoder(images))

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
    """The experiment's loss; every pixel has a class."""
    terms = (
        nn.functional.mse_loss(outputs["rgb"], images),
        nn.functional.cross_entropy(outputs["segmentation"], classes),
        nn.functional.cross_entropy(outputs["classification"], types),
    )
    mse, segmentation, classification = (weight * term for weight, term in zip(weights, terms, strict=True))
    return mse + segmentation + classification


def make_optimizer(
    twin: Twin, learning_rate: float = 1e-4, weight_decay: float = 0.01, *, fused: bool = False
) -> torch.optim.AdamW:
    """`fused`: one kernel for all parameters, the fastest form; the same result up to rounding."""
    return torch.optim.AdamW(
        twin.parameters(), learning_rate, (0.9, 0.999), 1e-8, weight_decay, fused=True if fused else None
    )


def to_torch(images: np.ndarray) -> Tensor:
    """uint8 [batch, height, width, 3] to float32 [batch, 3, height, width] in [-1, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _head_config(kind: str, outputs: int) -> dict[str, Any]:
    if kind == "rgb":
        return {"type": "RGBHead", "name": kind, "out_channels": outputs, "final_activation": "tanh"}
    name = "SegmentationHead" if kind == "segmentation" else "ClassificationHead"
    return {"type": name, "name": kind, "num_classes": outputs}
