"""The demo bundle's own perceptual backbone: a small VGG-like network, taught to read what the renderer was told."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class DemoBackbone(nn.Module):
    """Plain convolutions and ReLU, so that taps are non-negative and derivatives of any order exist almost everywhere.

    `width`: channels of the first tap; the five taps have 1, 2, 4, 6 and 6 times as many (`channels`), at 1/2, 1/4,
    1/8, 1/16 and 1/16 of the side.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.channels = [width * k for k in (1, 2, 4, 6, 6)]
        self.stages: Any = nn.ModuleList()  # of lists of convolutions
        previous, convolutions = 3, []
        for channels, stride in zip(self.channels, (2, 2, 2, 2, 1), strict=True):
            layers = [nn.Conv2d(previous, channels, 3, stride, 1)]
            if stride == 2:
                layers.append(nn.Conv2d(channels, channels, 3, 1, 1))
            self.stages.append(nn.ModuleList(layers))
            convolutions += layers
            previous = channels
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.get_parameter("bias"))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`images`: RGB `[N, 3, H, W]` in [-1, 1] -> five taps `[N, channels[k], ...]`, non-negative."""
        x, taps = images.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            for convolution in stage:
                x = F.relu(convolution(x))
            taps.append(x)
        return taps
