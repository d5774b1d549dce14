"""How long latents are trained on, so that none gets more than another."""

from collections.abc import Mapping

StepFlops = tuple[float, float]  # of a step of the U-Net, and of the ControlNet


def equal_flops_steps(flops: Mapping[str, StepFlops], label: str, steps: tuple[int, int]) -> tuple[int, int]:
    """Returns the steps of U-Net and ControlNet on one latent that take as many FLOPs as `steps` of the costliest.

    Args:
      flops: by latent; each model's costliest latent is looked for by itself.
      label: of the latent.
      steps: of the U-Net and of the ControlNet, at equal steps.
    """
    of_unet, of_controlnet = (
        int(steps[place] * max(each[place] for each in flops.values()) // flops[label][place]) for place in (0, 1)
    )
    return of_unet, of_controlnet
