"""A second landmark network of another kind than FAN, which only ever measures: coordinates by residual regression.

What a generator was optimised against cannot judge it; this one shares neither architecture nor training seed with FAN.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.fan import SIDE_PX
from hdtalk.models.pointwise import StridedPointwise


class LandmarkRegressor(nn.Module):
    """Residual network with a coordinate head: no heat maps anywhere.

    `width`: channels of the first stage; the five stages have 1, 2, 3, 4 and 6 times as many.
    """

    def __init__(self, width: int = 32, num_landmarks: int = 68):
        super().__init__()
        self.num_landmarks = num_landmarks
        widths = [width * k for k in (1, 2, 3, 4, 6)]
        self.stem = _conv(3, width, 5, stride=2)
        pairs = zip([width, *widths], widths, strict=False)
        self.stages = nn.Sequential(
            *(block for a, b in pairs for block in (_Residual(a, b, stride=2), _Residual(b, b)))
        )
        self.squeeze = _conv(widths[-1], 4 * width, 1)  # 4 x 4 cells
        self.head = nn.Sequential(nn.Linear(4 * width * 16, 512), nn.ReLU(), nn.Linear(512, 2 * num_landmarks))
        last: Any = self.head[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: RGB `[N, 3, 256, 256]` in [-1, 1] -> landmarks float32 `[N, 68, 2]`, (x, y) pixels of the image.

        Pixel centres lie at whole numbers plus one half. Raises ValueError for another image size.
        """
        if list(images.shape[1:]) != [3, SIDE_PX, SIDE_PX]:
            raise ValueError(f"images must have shape [N, 3, {SIDE_PX}, {SIDE_PX}], got {list(images.shape)}")
        x = self.stages(self.stem(images.contiguous(memory_format=torch.channels_last)))
        offsets = self.head(self.squeeze(x).flatten(1)).float().unflatten(1, (self.num_landmarks, 2))
        return (0.5 + offsets) * SIDE_PX


class _Residual(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.first = _conv(in_channels, out_channels, 3, stride)
        self.second = _conv(out_channels, out_channels, 3, activate=False)
        self.skip = None
        if stride > 1 or in_channels != out_channels:
            pointwise = StridedPointwise(in_channels, out_channels, stride)
            self.skip = nn.Sequential(pointwise, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        return F.relu(self.second(self.first(x)) + (x if self.skip is None else self.skip(x)))


def _conv(in_channels, out_channels, kernel_size, stride=1, activate=True):
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else []))
