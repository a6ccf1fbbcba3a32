"""Pad, upsample, filter and downsample a batch of images in one operator."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from stylegan2_ops import build


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> torch.Tensor:
    """Insert `up - 1` zeros after every sample, pad or crop, convolve with `f`, keep every `down`-th sample.

    `x`: floating, `[N, C, H, W]`, contiguous or channels-last; the result keeps dtype and memory format.
    `f`: filter taps, `[kh, kw]`, or `[k]` for the outer product of `f` with itself (cheaper), or None for no filter.
        A constant: no gradient flows to it.
    `up`, `down`: positive integer, or `(x, y)`.
    `padding`: samples of zeros around the upsampled image: `p`, `(x, y)` or `(x0, x1, y0, y1)`. Negative values crop.
    `flip_filter`: False convolves (StyleGAN2 paper, and `scipy.signal.convolve2d`), True correlates.
    `gain`: factor on the result.
    `impl`: "auto" (kernels on CUDA tensors if they compile, else the reference), "ref" or "cuda".

    Returns `[N, C, (H * up_y + y0 + y1 - kh) // down_y + 1, (W * up_x + x0 + x1 - kw) // down_x + 1]`.
    Differentiable to any order: the gradient is itself an upfirdn2d.
    Raises ValueError for shapes or arguments that do not fit, RuntimeError for `impl="cuda"` without kernels.
    """
    x, f, up, down, padding = checked(x, f, up, down, padding)
    return _Upfirdn2d.apply(x, f, up, down, padding, bool(flip_filter), float(gain), impl)


def setup_filter(taps: Sequence[float] | torch.Tensor, normalize: bool = True, gain: float = 1.0) -> torch.Tensor:
    """Filter of float32 taps, summing to `gain` if `normalize`; `[1, 3, 3, 1]` stays separable, `[k]`.

    A one-dimensional filter is applied along both axes, so each axis gets the square root of `gain`.
    """
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"filter taps must have shape [k] or [kh, kw], got {list(f.shape)}")
    if normalize:
        f = f / f.sum()
    return f * gain ** (f.ndim / 2)


class _Upfirdn2d(torch.autograd.Function):
    """Runs either implementation; the backward pass is the forward pass with up and down swapped."""

    @staticmethod
    def forward(ctx: Any, x, f, up, down, padding, flip_filter, gain, impl):
        kernels = build.extension_for(x, impl)
        if kernels is None:
            with torch.autocast(x.device.type, enabled=False):  # which would let convolutions change the dtype
                y = _upfirdn2d_ref(x, f, up, down, padding, flip_filter, gain)
        else:
            y = _upfirdn2d_cuda(kernels, x, f, up, down, padding, flip_filter, gain)
        ctx.save_for_backward(f)
        ctx.arguments = (up, down, padding, flip_filter, gain, impl)
        ctx.in_size, ctx.memory_format = x.shape[2:], memory_format_of(x)
        return y

    @staticmethod
    def backward(ctx: Any, dy):  # type: ignore[override]
        (f,) = ctx.saved_tensors
        dy = dy.contiguous(memory_format=ctx.memory_format)  # sums and crops behind this operator hand in anything
        return adjoint(dy, f, ctx.in_size, *ctx.arguments), None, None, None, None, None, None, None


def adjoint(dy, f, in_size, up, down, padding, flip_filter, gain, impl):
    """Gradient of upfirdn2d with respect to an image of `in_size` (height, width): again an upfirdn2d."""
    (in_h, in_w), (out_h, out_w) = in_size, dy.shape[2:]
    padding = (
        f.shape[-1] - padding[0] - 1,
        in_w * up[0] - out_w * down[0] + padding[0] - up[0] + 1,
        f.shape[0] - padding[2] - 1,
        in_h * up[1] - out_h * down[1] + padding[2] - up[1] + 1,
    )
    return _Upfirdn2d.apply(dy, f, down, up, padding, not flip_filter, gain, impl)


def _upfirdn2d_cuda(kernels, x, f, up, down, padding, flip_filter, gain):
    """One launch, or two for a long separable filter."""

    def run(x, f, up, down, padding, gain):
        rest = (flip_filter, gain, False, 1.0, 1.0, None)
        return kernels.upfirdn2d(x, f, None, None, None, up, down, padding, *rest)

    f = merge_short(f, longest=8)
    if f.ndim == 2:
        return run(x, f, up, down, padding, gain)
    x = run(x, f[None, :], (up[0], 1), (down[0], 1), (*padding[:2], 0, 0), 1.0)
    return run(x, f[:, None], (1, up[1]), (1, down[1]), (0, 0, *padding[2:]), gain)


def merge_short(f: torch.Tensor, longest: int) -> torch.Tensor:
    """`[k, k]` for a separable filter that is short enough for one pass to beat two, else `f`."""
    return torch.outer(f, f) if f.ndim == 1 and f.shape[0] <= longest else f


def _upfirdn2d_ref(x, f, up, down, padding, flip_filter, gain):
    """Plain PyTorch: a depthwise convolution, or one per axis for a long separable filter."""
    memory_format = memory_format_of(x)
    f = merge_short(f.to(torch.promote_types(x.dtype, torch.float32)), longest=6)
    if not flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    last, f = (f * gain).to(x.dtype), f.to(x.dtype)
    x0, x1, y0, y1 = padding
    if f.ndim == 2:
        y = _filter(x, last, up, down, padding)
    elif down[1] > 1 or up[1] == 1:  # rows first: the second pass then sees fewer samples, or as many
        y = _filter(x, f[:, None], (1, up[1]), (1, down[1]), (0, 0, y0, y1))
        y = _filter(y, last[None, :], (up[0], 1), (down[0], 1), (x0, x1, 0, 0))
    else:
        y = _filter(x, f[None, :], (up[0], 1), (down[0], 1), (x0, x1, 0, 0))
        y = _filter(y, last[:, None], (1, up[1]), (1, down[1]), (0, 0, y0, y1))
    return y.contiguous(memory_format=memory_format)


def _filter(x, f, up, down, padding):
    """Correlate every channel of `x`, upsampled and padded, with `f` [kh, kw]."""
    if up != (1, 1):
        x = _insert_zeros(x, up)
    x0, x1, y0, y1 = padding
    symmetric = x0 == x1 >= 0 and y0 == y1 >= 0
    if not symmetric:
        x = F.pad(x, (x0, x1, y0, y1))
    weight = f[None, None].expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, weight, stride=(down[1], down[0]), padding=(y0, x0) if symmetric else 0, groups=x.shape[1])


def _insert_zeros(x, up):
    batch, channels, height, width = x.shape
    y = torch.empty(
        [batch, channels, height * up[1], width * up[0]],
        dtype=x.dtype,
        device=x.device,
        memory_format=memory_format_of(x),
    ).zero_()
    y[:, :, :: up[1], :: up[0]] = x
    return y


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """Channels-last if `x` is laid out so and no other way, else contiguous."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def checked(x, f, up, down, padding):
    """Arguments in canonical form: pairs (x, y), four paddings, a filter on the device of `x`."""
    if not isinstance(x, torch.Tensor) or x.ndim != 4:
        raise ValueError(f"x must be a tensor [N, C, H, W], got {_shape(x)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating-point, got {x.dtype}")
    if f is None:
        f = torch.ones([1], dtype=torch.float32, device=x.device)
    if not isinstance(f, torch.Tensor) or f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"f must be a tensor [k] or [kh, kw], or None, got {_shape(f)}")
    if not f.is_floating_point() or f.requires_grad:
        raise ValueError(f"f must be a floating-point constant, got {f.dtype}, requires_grad={f.requires_grad}")
    if f.device != x.device:
        raise ValueError(f"f must be on the device of x, {x.device}, got {f.device}")
    up, down = _pair(up, "up"), _pair(down, "down")
    padding = _padding(padding)
    for size, axis in ((x.shape[3], 0), (x.shape[2], 1)):
        taps = f.shape[-1 if axis == 0 else 0]
        padded = size * up[axis] + padding[2 * axis] + padding[2 * axis + 1]
        if padded < taps:
            name = "width" if axis == 0 else "height"
            raise ValueError(f"{name} after upsampling and padding is {padded}, expected at least {taps} filter taps")
    return x, f, up, down, padding


def _pair(value, name):
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f"{name} must be a positive integer or a pair (x, y) of them, got {value!r}")
    return pair


def _padding(value):
    sides = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(sides) not in (1, 2, 4) or not all(isinstance(v, int) for v in sides):
        raise ValueError(f"padding must be an integer, (x, y) or (x0, x1, y0, y1), got {value!r}")
    if len(sides) == 1:
        return sides * 4
    return sides if len(sides) == 4 else (sides[0], sides[0], sides[1], sides[1])


def _shape(value):
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
