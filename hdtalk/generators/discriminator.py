"""The residual discriminator of StyleGAN2, on rosinality's checkpoint keys; only training needs it."""

from math import log2, sqrt

import torch
import torch.nn.functional as F
from torch import nn

from stylegan2_ops import bias_act, upfirdn2d


class Discriminator(nn.Module):
    """Images `[N, 3, R, R]`, nominal range [-1, 1] -> realness logits `[N, 1]` (StyleGAN2 paper, "residual" variant).

    `resolution`, `channel_base`, `channel_max`: as in `Generator`.
    `group_size`: images that share one minibatch standard deviation; the largest divisor of N up to it is taken.
    """

    def __init__(self, resolution: int, channel_base: int = 32768, channel_max: int = 512, group_size: int = 4):
        super().__init__()
        sides = [2**k for k in range(int(log2(resolution)), 1, -1)]
        channels = {side: min(channel_base // side, channel_max) for side in sides}
        self.group_size = group_size
        self.convs = nn.Sequential(
            _layer(3, channels[resolution], 1),
            *(_Block(channels[side], channels[side // 2]) for side in sides[:-1]),
        )
        self.final_conv = _layer(channels[4] + 1, channels[4], 3)
        self.final_linear = nn.Sequential(
            _EqualLinear(channels[4] * 16, channels[4], activate=True), _EqualLinear(channels[4], 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.convs(images.contiguous(memory_format=torch.channels_last))
        x = self.final_conv(torch.cat([x, self._minibatch_deviation(x)], dim=1))
        return self.final_linear(x.flatten(1))

    def _minibatch_deviation(self, x):
        """Mean standard deviation over groups of images, as one constant plane `[N, 1, H, W]`."""
        batch, channels, height, width = x.shape
        group = max(size for size in range(1, min(self.group_size, batch) + 1) if batch % size == 0)
        deviation = x.float().reshape(group, -1, channels, height, width)
        deviation = (deviation.var(0, unbiased=False) + 1e-8).sqrt().mean([1, 2, 3])  # [N / group]
        return deviation.to(x.dtype).repeat(group)[:, None, None, None].expand(batch, 1, height, width)


class _Block(nn.Module):
    """Two convolutions and a skip path, both halving the side."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = _layer(in_channels, in_channels, 3)
        self.conv2 = _layer(in_channels, out_channels, 3, down=True)
        self.skip = _layer(in_channels, out_channels, 1, down=True, activate=False)

    def forward(self, x):
        return (self.conv2(self.conv1(x)) + self.skip(x)) / sqrt(2)


def _layer(in_channels, out_channels, kernel_size, down=False, activate=True):
    """(filter), convolution, (bias and activation): at indices 0.. of a Sequential, as the checkpoint keys count."""
    layers = [_Filter(kernel_size)] if down else []
    layers.append(_EqualConv(in_channels, out_channels, kernel_size, down))
    return nn.Sequential(*layers, *([_Activate(out_channels)] if activate else []))


class _Filter(nn.Module):
    """Blur before a stride of 2, or with it."""

    def __init__(self, kernel_size):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps) / 64)
        self.padding = (kernel_size + 2) // 2, (kernel_size + 1) // 2
        self.down = 2 if kernel_size == 1 else 1  # a 1x1 convolution needs only the pixels that its stride keeps

    def forward(self, x):
        return upfirdn2d(x, self.kernel.to(x.dtype), down=self.down, padding=self.padding * 2)


class _EqualConv(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, down):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.gain = 1 / sqrt(in_channels * kernel_size**2)
        self.padding = 0 if down else kernel_size // 2
        self.stride = 2 if down and kernel_size > 1 else 1  # 1x1: the filter before has taken every second pixel

    def forward(self, x):
        weight = (self.weight * self.gain).to(x.dtype)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class _Activate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return bias_act(x, self.bias, act="lrelu")


class _EqualLinear(nn.Module):
    def __init__(self, in_features, out_features, activate=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.gain, self.activate = 1 / sqrt(in_features), activate

    def forward(self, x):
        x = F.linear(x.to(self.weight.dtype) * self.gain, self.weight)
        return bias_act(x, self.bias, act="lrelu") if self.activate else x + self.bias.to(x.dtype)
