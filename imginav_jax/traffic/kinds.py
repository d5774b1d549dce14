"""What a kernel is for, by the library that it calls and the places where its operations were written."""

from imginav_jax.traffic.program import Frame, Kernel

FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = "convolutions", "input gradients", "kernel gradients"
PRODUCTS, NORMS, HEADS = "matrix products", "norms and activations", "heads and losses"
OPTIMIZER, COPIES, OTHERS = "optimizer", "copies and conversions", "others"
KINDS = (FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT, PRODUCTS, NORMS, HEADS, OPTIMIZER, COPIES, OTHERS)

_HEADS = ("PictureHead", "LogitsHead", "compute_losses", "Conv.__call__")  # the latter: a bias without a norm
_HEAD_FILES = ("models/losses.py", "models/metrics.py")
_NORMS = ("conv_norm_act", "silu", "relu", "gelu")
_OPTIMIZER = ("train_step", "train_step.<locals>.<lambda>", "_update", "_update.<locals>.<lambda>", "update_loss_scale")
_COPIES = frozenset({
    *("parameter", "constant", "bitcast", "tuple", "get-tuple-element", "iota"),
    *("copy", "transpose", "convert", "pad", "slice", "reshape", "broadcast", "concatenate", "reverse"),
})  # fmt: skip


def kind_of(kernel: Kernel) -> str:
    """Returns one of KINDS.

    A kernel that does several things belongs to the first of norms, heads and optimizer that any of its operations is
    of: XLA joins what follows to what reads the image.
    """
    if "conv" in kernel.operation.lower() and kernel.operation.startswith("__cudnn"):
        return _of_convolution(kernel)
    if kernel.operation.startswith(("__cublas", "__triton_gemm")) or "dot" in kernel.operations:
        return PRODUCTS
    if any(_is_norm(frame) for frame in kernel.frames):
        return NORMS
    if any(_is_head(frame) for frame in kernel.frames):
        return HEADS
    if any("/optax/" in frame.file or frame.file.endswith("training/norms.py") for frame in kernel.frames):
        return OPTIMIZER
    if kernel.operations <= _COPIES or any(frame.function == "scale_images" for frame in kernel.frames):
        return COPIES
    return OPTIMIZER if kernel.source is not None and kernel.source.function in _OPTIMIZER else OTHERS


def _of_convolution(kernel: Kernel) -> str:
    """A transposed convolution is given to cuDNN as a gradient, and its gradient as a convolution."""
    if kernel.operation == "__cudnn$convBackwardFilter":
        return KERNEL_GRADIENT
    return INPUT_GRADIENT if "transpose(jvp" in kernel.op_name else FORWARD


def _is_norm(frame: Frame) -> bool:
    return frame.file.endswith("/normalization.py") or frame.function.split(".")[0] in _NORMS


def _is_head(frame: Frame) -> bool:
    return frame.file.endswith(_HEAD_FILES) or frame.function.startswith(_HEADS)
