"""Bias, activation, gain and clamp in one operator."""

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

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
    kernels = build.extension_for(x, impl)
    if kernels is None:
        return _bias_act_ref(x, b, dim, act, alpha, gain, clamp)
    return _BiasAct.apply(x, b, kernels, Setting(dim % max(x.ndim, 1), act, alpha, gain, clamp))


class Setting(NamedTuple):
    """The constants of one call."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float | None

    @property
    def output_tells_slope(self) -> bool:
        """The gradient needs no more than the sign of the output, which the next layer keeps anyway."""
        return self.act in ("linear", "relu", "lrelu") and self.gain > 0 and self.alpha >= 0

    def run(self, kernels: Any, x, b, saved=None, dy=None, order=0):
        index = ACTIVATIONS[self.act].cuda_index
        numbers = (self.alpha, self.gain, self.clamp)
        return kernels.bias_act(x, b, saved, dy, self.dim, order, index, self.output_tells_slope, *numbers)

    def bias_gradient(self, dx, b):
        """Sum over all dimensions but `dim`."""
        others = [d for d in range(dx.ndim) if d != self.dim]
        dtype = torch.promote_types(dx.dtype, torch.float32)
        return (dx.sum(others, dtype=dtype) if others else dx).to(b.dtype)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, b, kernels, setting):
        y = setting.run(kernels, x, b)
        ctx.save_for_backward(y if setting.output_tells_slope else x, b)
        ctx.kernels, ctx.setting = kernels, setting
        return y

    @staticmethod
    def backward(ctx: Any, dy):  # type: ignore[override]
        saved, b = ctx.saved_tensors
        dx = BiasActGradient.apply(dy, saved, b, ctx.kernels, ctx.setting)
        db = ctx.setting.bias_gradient(dx, b) if b is not None and ctx.needs_input_grad[1] else None
        return dx, db, None, None


class BiasActGradient(torch.autograd.Function):
    """`dy` times the slope at `saved`: the output, or the input without its bias."""

    @staticmethod
    def forward(ctx: Any, dy, saved, b, kernels, setting):
        ctx.save_for_backward(dy, saved, b)
        ctx.kernels, ctx.setting = kernels, setting
        return setting.run(kernels, dy, b, saved, order=1)

    @staticmethod
    def backward(ctx: Any, ddx):  # type: ignore[override]
        dy, saved, b = ctx.saved_tensors
        d_dy = d_saved = d_b = None
        if ctx.needs_input_grad[0]:
            d_dy = BiasActGradient.apply(ddx, saved, b, ctx.kernels, ctx.setting)
        if not ctx.setting.output_tells_slope and any(ctx.needs_input_grad[1:3]):
            d_saved = _BiasActCurvature.apply(ddx, dy, saved, b, ctx.kernels, ctx.setting)
            d_b = ctx.setting.bias_gradient(d_saved, b) if b is not None and ctx.needs_input_grad[2] else None
        return d_dy, d_saved, d_b, None, None


class _BiasActCurvature(torch.autograd.Function):
    """`ddx * dy` times the second derivative at `saved`."""

    @staticmethod
    def forward(ctx: Any, ddx, dy, saved, b, kernels, setting):
        return setting.run(kernels, ddx, b, saved, dy, order=2)

    @staticmethod
    def backward(ctx: Any, *_):  # type: ignore[override]
        raise RuntimeError("the kernels of bias_act go up to the second derivative; use impl='ref' for more")


def _bias_act_ref(x, b, dim, act, alpha, gain, clamp):
    """Plain PyTorch, any order of differentiation."""
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        b = b.to(x.dtype).reshape(shape)
    if act in ("relu", "lrelu") and gain > 0:  # positive factors commute: one pass less over x
        x = x * gain if b is None else torch.add(b * gain, x, alpha=gain)
        gain = 1.0
    elif b is not None:
        x = x + b
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
