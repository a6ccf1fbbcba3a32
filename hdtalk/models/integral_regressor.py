"""A second landmark network of another kind than FAN, which only ever measures: coordinates by integral regression.

What a generator was optimised against cannot judge it; this one shares neither architecture, loss nor seed with
FAN. No map is ever compared with a target: each is turned into its centre of mass (Sun et al., "Integral Human Pose
Regression", ECCV 2018), and only that coordinate is learned.
"""

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.fan import SIDE_PX
from hdtalk.models.pointwise import StridedPointwise

MAP_SIDE = 64  # cells of the maps whose centres of mass are the landmarks


class IntegralRegressor(nn.Module):
    """Residual network down to 8 x 8 cells, back up to 64 x 64 over lateral connections, one centre of mass a landmark.

    `width`: channels of the first stage; the four stages have 1, 2, 4 and 6 times as many, the way up 2 times.
    """

    def __init__(self, width: int = 32, num_landmarks: int = 68):
        super().__init__()
        self.num_landmarks = num_landmarks
        widths = [width * k for k in (1, 2, 4, 6)]
        self.stem = _conv(3, width, 5, stride=2)
        pairs = zip([width, *widths], widths, strict=False)
        self.stages = nn.ModuleList(nn.Sequential(_Residual(a, b, stride=2), _Residual(b, b)) for a, b in pairs)
        self.lateral = nn.ModuleList(_conv(w, 2 * width, 1) for w in widths)
        self.merge = nn.ModuleList(_Residual(2 * width, 2 * width) for _ in widths[1:])
        self.maps = nn.Conv2d(2 * width, num_landmarks, 1)
        nn.init.zeros_(self.maps.weight)  # even maps: everything in the middle

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: RGB `[N, 3, 256, 256]` in [-1, 1] -> landmarks float32 `[N, 68, 2]`, (x, y) pixels of the image.

        Pixel centres lie at whole numbers plus one half. Raises ValueError for another image size.
        """
        if list(images.shape[1:]) != [3, SIDE_PX, SIDE_PX]:
            raise ValueError(f"images must have shape [N, 3, {SIDE_PX}, {SIDE_PX}], got {list(images.shape)}")
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        x = self.lateral[-1](features[-1])
        for k in range(len(self.merge) - 1, -1, -1):
            x = self.merge[k](self.lateral[k](features[k]) + F.interpolate(x, scale_factor=2, mode="nearest"))
        share = self.maps(x).float().flatten(2).softmax(-1).unflatten(2, (MAP_SIDE, MAP_SIDE))  # [N, 68, 64, 64]
        cells = torch.arange(MAP_SIDE, device=x.device) + 0.5
        centre = torch.stack([(share.sum(2) * cells).sum(-1), (share.sum(3) * cells).sum(-1)], -1)  # [N, 68, 2]
        return centre * (SIDE_PX / MAP_SIDE)


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
