"""Tries freshly compiled kernels against the reference before anyone relies on them."""

from collections.abc import Iterator
from typing import Any

import torch

from stylegan2_ops.bias_act import ACTIVATIONS, BiasActGradient, Setting, bias_act
from stylegan2_ops.upfirdn2d import setup_filter, upfirdn2d
from stylegan2_ops.upfirdn2d_bias_act import upfirdn2d_bias_act

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def disagreements(kernels: Any, device: torch.device) -> list[str]:
    """Names of the cases, operator, dtype and layout, whose kernels miss the float64 reference on the CPU.

    `kernels`: `torch.ops.stylegan2_ops` with its library loaded. Takes some milliseconds; draws no global randomness.
    """
    wrong = []
    for name, actual, expected in _cases(kernels, device):
        found = actual.double().cpu()
        difference = torch.where(found == expected, 0.0, (found - expected).abs()).max().item()  # infinities are equal
        if actual.shape != expected.shape or not difference <= TOLERANCES[actual.dtype]:
            wrong.append(f"{name} {str(actual.dtype).removeprefix('torch.')}")
    return wrong


def _cases(kernels: Any, device: torch.device) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 9, 7, generator=generator, dtype=torch.float64)
    dy, ddx = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    b = torch.randn(16, generator=generator, dtype=torch.float64)
    scale = torch.rand(2, 16, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(1, 1, 8, 6, generator=generator, dtype=torch.float64)
    f = torch.outer(*[setup_filter([1.0, 3.0, 2.0, 1.0]).double()] * 2)
    for dtype in TOLERANCES:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x, dy, ddx = (t.to(dtype).double() for t in (x, dy, ddx))  # the reference sees the rounded input too
            x_device, dy_device, ddx_device = (
                t.to(device, dtype).contiguous(memory_format=memory_format) for t in (x, dy, ddx)
            )
            layout = "channels-last" if memory_format is torch.channels_last else "contiguous"
            for up, down, padding in ((1, 1, (1, 1, 1, 1)), (2, 1, (2, 1, 2, 1)), (1, 2, (-1, 3, 1, 1))):
                factors = ((up, up), (down, down), padding, False, 1.5)
                y = kernels.upfirdn2d(x_device, f.to(device), None, None, None, *factors, False, 1.0, 1.0, None)
                yield (
                    f"upfirdn2d up {up} down {down} {layout}",
                    y,
                    upfirdn2d(x, f, up, down, padding, False, 1.5, "ref"),
                )
            infinite = x.clone()
            infinite[0, 0, 4, 3] = torch.inf  # one pixel that overflowed: only its own outputs may show it
            infinite_device = infinite.to(device, dtype).contiguous(memory_format=memory_format)
            for taps in (f[:1, :1], f[:2, :3], f):
                factors = ((1, 1), (1, 1), (1, 1, 1, 1), False, 1.0)
                y = kernels.upfirdn2d(
                    infinite_device, taps.contiguous().to(device), None, None, None, *factors, False, 1.0, 1.0, None
                )
                size = " x ".join(map(str, taps.shape))
                expected = upfirdn2d(infinite, taps, padding=1, impl="ref")
                yield f"upfirdn2d {size} of infinity {layout}", y, expected
            parameters = [t.to(device) for t in (f, scale, noise, b)]
            factors = ((1, 1), (1, 1), (1, 1, 1, 1), True, 1.0)
            y = kernels.upfirdn2d(x_device, *parameters, *factors, True, 0.2, 1.4, 1.5)
            expected = upfirdn2d_bias_act(
                x, f, b, scale=scale, noise=noise, padding=1, flip_filter=True, gain=1.4, clamp=1.5, impl="ref"
            )
            yield f"upfirdn2d_bias_act {layout}", y, expected
            for act in ACTIVATIONS:
                setting = Setting(1, act, ACTIVATIONS[act].alpha, 1.3, 1.5)
                x_leaf = x.clone().requires_grad_()
                expected = bias_act(x_leaf, b, act=act, gain=1.3, clamp=1.5, impl="ref")
                y = setting.run(kernels, x_device, b.to(device))
                yield f"bias_act {act} {layout}", y, expected.detach()
                away = (expected.detach().abs() - 1.5).abs() > 0.02  # rounding decides about the slope at the clamp
                dy_device, dy = dy_device * away.to(device), dy * away
                saved = y if setting.output_tells_slope else x_device
                (dx,) = torch.autograd.grad(expected, x_leaf, dy, create_graph=True)
                actual = BiasActGradient.apply(dy_device, saved, b.to(device), kernels, setting)
                yield f"gradient of bias_act {act} {layout}", actual, dx.detach()
                if not setting.output_tells_slope:
                    (curvature,) = torch.autograd.grad(dx, x_leaf, ddx)
                    actual = setting.run(kernels, ddx_device, b.to(device), saved, dy_device, order=2)
                    yield f"second derivative of bias_act {act} {layout}", actual, curvature
