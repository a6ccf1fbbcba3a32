"""The bias and scaled leaky ReLU behind every StyleGAN2 convolution, under the name rosinality gave it."""

import torch

from stylegan2_ops.bias_act import bias_act


def fused_leaky_relu(
    x: torch.Tensor, bias: torch.Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> torch.Tensor:
    """`scale * leaky_relu(x + bias, negative_slope)` with `bias` along dimension 1.

    `x`: floating, `[N, C, ...]`; the result has its shape, dtype and memory format. `bias`: `[C]` or None.
    Twice differentiable; `negative_slope` counts on every device. Raises ValueError for shapes that do not fit.
    """
    return bias_act(x, bias, dim=1, act="lrelu", alpha=negative_slope, gain=scale)
