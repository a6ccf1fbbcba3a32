"""What follows a StyleGAN2 convolution, in one pass: filter, demodulation, noise, bias, leaky ReLU, gain, clamp."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from stylegan2_ops import build
from stylegan2_ops.bias_act import BiasActGradient, Setting
from stylegan2_ops.upfirdn2d import adjoint, checked, memory_format_of, merge_short, upfirdn2d


def upfirdn2d_bias_act(
    x: torch.Tensor,
    f: torch.Tensor | None,
    b: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    filter_gain: float = 1.0,
    negative_slope: float = 0.2,
    gain: float = 2**0.5,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """`clamp(gain * leaky_relu(scale * upfirdn2d(x, f) + noise + b))`.

    `x`, `f`, `up`, `down`, `padding`, `flip_filter`, `filter_gain`: as in `upfirdn2d`; f None filters nothing.
    `scale`: `[N, C]`, the demodulation, or None. `noise`: `[1 or N, 1, out_h, out_w]`, with its strength, or None.
    `b`: `[C]` or None. `negative_slope`, `gain`, `clamp`: as `alpha`, `gain`, `clamp` of `bias_act` with "lrelu".
    `impl`: as in `upfirdn2d`. The kernels read `x` once and write the result once, where the separate operators
    move the image eight times; the reference is those separate operators.

    The result has dtype and memory format of `x`. Twice differentiable in `x`, `b`, `scale` and `noise`.
    Raises ValueError for shapes or arguments that do not fit, RuntimeError for `impl="cuda"` without kernels.
    """
    x, taps, ups, downs, sides = checked(x, f, up, down, padding)
    _check(x, taps, b, scale, noise, ups, downs, sides, clamp)
    kernels = build.extension_for(x, impl)
    setting = Setting(1, "lrelu", float(negative_slope), float(gain), clamp)
    if kernels is not None and setting.output_tells_slope and taps.shape[0] <= 8:
        filtering = (ups, downs, sides, bool(flip_filter), float(filter_gain), impl)
        return _Fused.apply(x, scale, noise, b, merge_short(taps, longest=8), filtering, kernels, setting)
    y = x
    if f is not None or (ups, downs, sides) != ((1, 1), (1, 1), (0, 0, 0, 0)):
        y = upfirdn2d(x, taps, ups, downs, sides, flip_filter, filter_gain, impl)
    elif filter_gain != 1:
        y = y * filter_gain
    return _finish_ref(y, b, scale, noise, float(negative_slope), float(gain), clamp)


def _finish_ref(y, b, scale, noise, negative_slope, gain, clamp):
    """What follows the filter. Positive factors commute with leaky ReLU: the gain goes into the small tensors."""
    commuting, gain = (gain, 1.0) if gain > 0 else (1.0, gain)
    channels, pixels = y.shape[1], _pixels_per_row(y)

    def row(parameter):
        return (parameter * commuting).to(y.dtype).repeat(1, pixels)[:, :, None, None]

    y = _fold(y, channels * pixels)
    factor = y.new_full((), commuting) if scale is None else row(scale)
    y = y * factor if b is None else torch.addcmul(row(b[None]), y, factor)
    if noise is not None:
        noise = (noise * commuting).to(y.dtype)
        if pixels > 1:
            noise = noise.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)
            noise = _fold(noise, channels * pixels)
        y += noise
    y = _fold(F.leaky_relu(y, negative_slope), channels)
    if gain != 1:
        y = y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _pixels_per_row(x):
    """Neighbouring channels-last pixels to take for one: PyTorch's 16-bit elementwise kernels lose up to ten times
    their speed on the CPU when there are fewer channels than lanes in a vector register."""
    slow = x.device.type == "cpu" and x.element_size() == 2 and x.shape[1] < 32 and x.numel() > 0
    if not slow or memory_format_of(x) is not torch.channels_last:
        return 1
    return max(k for k in range(1, 128 // x.shape[1] + 1) if x.shape[3] % k == 0)


def _fold(x, channels):
    """The same memory, channels-last, with another number of channels."""
    if channels == x.shape[1]:
        return x
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2], -1, channels).permute(0, 3, 1, 2)


class _Fused(torch.autograd.Function):
    """The slope comes from the sign of the result; every gradient is made of twice differentiable operators."""

    @staticmethod
    def forward(ctx: Any, x, scale, noise, b, f, filtering, kernels, setting):
        up, down, padding, flip_filter, filter_gain, _ = filtering
        activation = (setting.alpha, setting.gain, setting.clamp)
        y = kernels.upfirdn2d(x, f, scale, noise, b, up, down, padding, flip_filter, filter_gain, True, *activation)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, scale, y, f)
        ctx.in_size, ctx.memory_format = x.shape[2:], memory_format_of(x)
        ctx.noise = None if noise is None else (noise.shape[0], noise.dtype)
        ctx.bias_dtype = None if b is None else b.dtype
        ctx.filtering, ctx.kernels, ctx.setting = filtering, kernels, setting
        return y

    @staticmethod
    def backward(ctx: Any, dy):  # type: ignore[override]
        x, scale, y, f = ctx.saved_tensors
        dy = dy.contiguous(memory_format=ctx.memory_format)
        dz = BiasActGradient.apply(dy, y, None, ctx.kernels, ctx.setting)
        dx = dscale = dnoise = db = None
        if any(ctx.needs_input_grad[:2]):
            dx = filtered = adjoint(dz, f, ctx.in_size, *ctx.filtering)
            if scale is not None:
                dx = filtered * scale.to(filtered.dtype)[:, :, None, None]
            if ctx.needs_input_grad[1]:  # <dz, filter(x)> = <adjoint(dz), x>: no need to filter x again
                dscale = _sum(filtered * x, [2, 3]).to(scale.dtype)
        if ctx.needs_input_grad[2]:
            batch, dtype = ctx.noise
            dnoise = _sum(dz, [1] if batch == dz.shape[0] else [0, 1], keepdim=True).to(dtype)
        if ctx.needs_input_grad[3]:
            db = _sum(dz, [0, 2, 3]).to(ctx.bias_dtype)
        return dx, dscale, dnoise, db, None, None, None, None


def _sum(x, dims, keepdim=False):
    return x.sum(dims, keepdim=keepdim, dtype=torch.promote_types(x.dtype, torch.float32))


def _check(x, taps, b, scale, noise, up, down, padding, clamp):
    batch, channels = x.shape[:2]
    sides = []
    for axis in (1, 0):
        padded = x.shape[3 - axis] * up[axis] + padding[2 * axis] + padding[2 * axis + 1]
        sides.append((padded - taps.shape[0 if axis else -1]) // down[axis] + 1)
    expected = {"b": (b, [[channels]]), "scale": (scale, [[batch, channels]])}
    expected["noise"] = (noise, [[1, 1, *sides], [batch, 1, *sides]])
    for name, (tensor, shapes) in expected.items():
        if tensor is not None and list(tensor.shape) not in shapes:
            raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {list(tensor.shape)}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {tensor.device}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp must be None or at least 0, got {clamp}")
