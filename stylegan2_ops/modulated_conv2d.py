"""Convolution whose weights every sample scales by its own style (StyleGAN2 paper, equations 1 to 3)."""

import torch
import torch.nn.functional as F

from stylegan2_ops import build
from stylegan2_ops.upfirdn2d import upfirdn2d


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    *,
    demodulate: bool = True,
    weight_gain: float = 1.0,
    weight_square_sum: torch.Tensor | None = None,
    up: int = 1,
    resample_filter: torch.Tensor | None = None,
    padding: int | None = None,
    eps: float = 1e-8,
    form: str = "shared",
    impl: str = "auto",
) -> torch.Tensor:
    """Scale `weight` per sample and input channel by `styles`, normalise it per output channel, convolve `x` with it.

    `x`: floating, `[N, Cin, H, W]`; the result `[N, Cout, H * up, W * up]` (odd kernel, default padding) keeps dtype
        (that of autocast inside autocast) and memory format.
    `weight`: `[Cout, Cin, kh, kw]`. `weight_gain`: factor on it, 1 / sqrt(Cin * kh * kw) in the rosinality form.
    `styles`: `[N, Cin]`.
    `demodulate`: divide by sqrt(sum of squared scaled weights + `eps`) per sample and output channel.
    `weight_square_sum`: `[Cout, Cin]`, `weight.square().sum([2, 3])` if at hand (frozen weights), saves recomputing it.
    `up`: integer upsampling factor by transposed convolution (stored weights: true convolution of the zero-inserted
        image, as rosinality's checkpoints expect) followed by the filter `resample_filter`, `[k]` or `[kh, kw]`,
        summing to 1, with gain `up ** 2`. With `up=1` the weights correlate, as in `torch.nn.Conv2d`, no filter.
    `padding`: of the convolution, default half the kernel.
    `form`: "shared" convolves all samples with the same weights between a scaling of input and output, so that
        frozen weights cost no weight gradient; "grouped" is the textbook form with one weight per sample.
    `impl`: that of the filter, see `upfirdn2d`.

    Differentiable to any order in `x`, `weight` and `styles`.
    Raises ValueError for shapes or arguments that do not fit.
    """
    _check(x, weight, styles, weight_square_sum, up, form, impl)
    padding = weight.shape[2] // 2 if padding is None else padding
    styles = styles * weight_gain  # the same as scaling the weights, and small
    if x.dtype == torch.float16 and demodulate:
        # Demodulation cancels any factor per sample: keeps the products inside the range of fp16.
        styles = styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
    run = _shared if form == "shared" else _grouped
    y = run(x, weight, styles, demodulate, weight_square_sum, up, padding, eps)
    if up == 1:
        return y
    return upfirdn2d(
        y, resample_filter, padding=_filter_padding(weight, resample_filter, up, padding), gain=up**2, impl=impl
    )


def _shared(x, weight, styles, demodulate, weight_square_sum, up, padding, eps):
    y = _convolve(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), up, padding, groups=1)
    if not demodulate:
        return y
    return y * _demodulation(weight, styles, weight_square_sum, eps).to(y.dtype)[:, :, None, None]


def _grouped(x, weight, styles, demodulate, weight_square_sum, up, padding, eps):
    batch, channels, height, width = x.shape
    weights = weight[None] * styles[:, None, :, None, None]  # [N, Cout, Cin, kh, kw]
    if demodulate:
        weights = weights * (weights.square().sum([2, 3, 4], keepdim=True) + eps).rsqrt()
    x = x.reshape(1, batch * channels, height, width)
    y = _convolve(x, weights.flatten(0, 1).to(x.dtype), up, padding, groups=batch)
    return y.reshape(batch, -1, *y.shape[2:])


def _demodulation(weight, styles, weight_square_sum, eps):
    """1 / norm of every sample's scaled weights, [N, Cout], at least in float32: sums of squares overflow fp16."""
    with torch.autocast(styles.device.type, enabled=False):
        dtype = torch.promote_types(styles.dtype, torch.float32)
        if weight_square_sum is None:
            weight_square_sum = weight.to(dtype).square().sum([2, 3])
        return (styles.to(dtype).square() @ weight_square_sum.to(dtype).t() + eps).rsqrt()


def _convolve(x, weight, up, padding, groups):
    if up == 1:
        return F.conv2d(x, weight, padding=padding, groups=groups)
    out_channels = weight.shape[0] // groups
    weight = weight.unflatten(0, (groups, out_channels)).transpose(1, 2).flatten(0, 1)  # [groups * Cin, Cout, kh, kw]
    return F.conv_transpose2d(x, weight, stride=up, groups=groups)


def _filter_padding(weight, resample_filter, up, padding):
    """Padding that centres the filter after a transposed convolution without padding, (x0, x1, y0, y1)."""
    sides = []
    for kernel, taps in zip(reversed(weight.shape[2:]), _taps(resample_filter), strict=True):
        sides += [padding + (taps + up - 1) // 2 - (kernel - 1), padding + (taps - up) // 2 - (kernel - up)]
    return sides


def _taps(resample_filter):
    return (1, 1) if resample_filter is None else (resample_filter.shape[-1], resample_filter.shape[0])


def _check(x, weight, styles, weight_square_sum, up, form, impl):
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x must be [N, Cin, H, W] and weight [Cout, Cin, kh, kw], got {list(x.shape)} and {list(weight.shape)}"
        )
    if list(styles.shape) != list(x.shape[:2]):
        raise ValueError(
            f"styles must have shape {list(x.shape[:2])}, one scale per channel of x, got {list(styles.shape)}"
        )
    if weight_square_sum is not None and list(weight_square_sum.shape) != list(weight.shape[:2]):
        raise ValueError(
            f"weight_square_sum must have shape {list(weight.shape[:2])}, got {list(weight_square_sum.shape)}"
        )
    if not isinstance(up, int) or up < 1:
        raise ValueError(f"up must be a positive integer, got {up!r}")
    if form not in ("shared", "grouped"):
        raise ValueError(f"form must be 'shared' or 'grouped', got {form!r}")
    if impl not in build.IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(build.IMPLEMENTATIONS)}, got {impl!r}")
