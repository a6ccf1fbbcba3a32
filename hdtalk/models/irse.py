"""The improved residual network with squeeze-and-excitation (IR-SE) of ArcFace, which e4e and the identity loss share.

Written here on the official checkpoint keys: facexlib has ArcFace variants of other layout, not this one.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.pointwise import StridedPointwise

UNITS_50 = (3, 4, 14, 3)
CHANNELS_50 = (64, 128, 256, 512)


class IRSEBackbone(nn.Module):
    """Input layer and body. `units`: residual units of each stage; each stage halves the side. `channels`: theirs."""

    def __init__(self, units: Sequence[int] = UNITS_50, channels: Sequence[int] = CHANNELS_50):
        super().__init__()
        if len(units) != len(channels) or len(units) < 3 or min(units) < 1:
            raise ValueError(f"units and channels must be at least three stages alike, got {units} and {channels}")
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]), nn.PReLU(channels[0])
        )
        inputs = [channels[0], *channels]
        self.body = nn.Sequential(
            *(
                _Unit(inputs[stage] if unit == 0 else channels[stage], channels[stage], 2 if unit == 0 else 1)
                for stage, count in enumerate(units)
                for unit in range(count)
            )
        )
        self.stage_ends = [sum(units[: stage + 1]) for stage in range(len(units))]

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Features after each stage: sides 1/2, 1/4, 1/8, ... of the images'."""
        x = self.input_layer(images.contiguous(memory_format=torch.channels_last))
        features = []
        for start, end in zip([0, *self.stage_ends], self.stage_ends, strict=False):
            x = self.body[start:end](x)
            features.append(x)
        return features


class _Unit(nn.Module):
    """Pre-normalised residual unit; the second convolution carries the stride."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if in_channels != out_channels:
            self.shortcut_layer = nn.Sequential(
                StridedPointwise(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            _SqueezeExcitation(out_channels),
        )

    def forward(self, x):
        return self.shortcut_layer(x) + self.res_layer(x)


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(1, channels // 16), 1, bias=False)
        self.fc2 = nn.Conv2d(max(1, channels // 16), channels, 1, bias=False)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
