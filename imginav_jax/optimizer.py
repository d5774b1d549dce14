"""AdamW as PyTorch defines it: decoupled weight decay on every parameter, a constant learning rate."""

import optax


def make_optimizer(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Betas 0.9 and 0.999, eps 1e-8 outside the root; norms and biases decay too, as in torch.optim.AdamW."""
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
