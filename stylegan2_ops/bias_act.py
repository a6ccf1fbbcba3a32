"""Bias, activation, gain and clamp in one operator."""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F

from stylegan2_ops import build


class Activation(NamedTuple):
    """One activation: `function(x, alpha)`, default `alpha` and `gain`, and its number in the CUDA sources."""

    function: Callable[[torch.Tensor, float], torch.Tensor]
    alpha: float
    gain: float
    cuda_index: int


ACTIVATIONS = {
    "linear": Activation(lambda x, alpha: x, 0.0, 1.0, 0),
    "relu": Activation(lambda x, alpha: F.relu(x), 0.0, sqrt(2), 1),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), 0.2, sqrt(2), 2),
    "tanh": Activation(lambda x, alpha: torch.tanh(x), 0.0, 1.0, 3),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x), 0.0, 1.0, 4),
    "elu": Activation(lambda x, alpha: F.elu(x), 0.0, 1.0, 5),
    "selu": Activation(lambda x, alpha: F.selu(x), 0.0, 1.0, 6),
    "softplus": Activation(lambda x, alpha: F.softplus(x), 0.0, 1.0, 7),
    "swish": Activation(lambda x, alpha: torch.sigmoid(x) * x, 0.0, sqrt(2), 8),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """`clamp(gain * act(x + b))`, elementwise, with `b` broadcast along all dimensions but `dim`.

    `x`: floating, any shape; the result has its shape, dtype and memory format.
    `b`: `[x.shape[dim]]`, cast to the dtype of `x`, or None for no bias.
    `act`: a key of `ACTIVATIONS`.
    `alpha`: slope of the negative side for "lrelu" (default 0.2); the other activations have none.
    `gain`: factor after the activation; default sqrt(2) for "relu", "lrelu" and "swish", else 1.
    `clamp`: limit of the magnitude after the gain, or None.
    `impl`: "auto" (kernels on CUDA tensors if they compile, else the reference), "ref" or "cuda".

    Twice differentiable in `x` and `b`.
    Raises ValueError for shapes or arguments that do not fit, RuntimeError for `impl="cuda"` without kernels.
    """
    alpha, gain = _check(x, b, dim, act, alpha, gain, clamp)
    build.extension_for(x, impl)
    return _bias_act_ref(x, b, dim, act, alpha, gain, clamp)


def _bias_act_ref(x, b, dim, act, alpha, gain, clamp):
    """Plain PyTorch, any order of differentiation."""
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.to(x.dtype).reshape(shape)
    y = ACTIVATIONS[act].function(x, alpha)
    if gain != 1:
        y = y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _check(x, b, dim, act, alpha, gain, clamp):
    """Alpha and gain with their defaults filled in."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dim must be a dimension of x with shape {list(x.shape)}, got {dim}")
        if not isinstance(b, torch.Tensor) or list(b.shape) != [x.shape[dim]]:
            actual = list(b.shape) if isinstance(b, torch.Tensor) else type(b).__name__
            raise ValueError(f"b must have shape [{x.shape[dim]}], the size of x along dimension {dim}, got {actual}")
        if b.device != x.device:
            raise ValueError(f"b must be on the device of x, {x.device}, got {b.device}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp must be None or at least 0, got {clamp}")
    default = ACTIVATIONS[act]
    return float(default.alpha if alpha is None else alpha), float(default.gain if gain is None else gain)
