"""A second landmark network of another kind than FAN, which only ever measures: coordinates by integral regression.

What a generator was optimised against cannot judge it; this one shares neither architecture, loss nor seed with
FAN. No map is ever compared with a target: each is turned into its centre of mass (Sun et al., "Integral Human Pose
Regression", ECCV 2018), and only that coordinate is learned. One network reads the whole face, a second one looks at
the mouth from near: a pass over the whole face sees it too coarsely to tell how far the lips are apart.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.fan import SIDE_PX
from hdtalk.models.pointwise import StridedPointwise

MOUTH_FROM = 48  # of the 68 points of iBUG; the mouth's are the last
CELL_PX = 4  # of the maps whose centres of mass are the landmarks
WINDOW_SHARE = 0.5  # side of the window about the mouth, of the longer side of the face's points
WINDOW_PX = 128  # the side it is brought to


@dataclass(frozen=True)
class Windows:
    """Upright squares in N pictures: centres float32 `[N, 2]` and half sides `[N]`, in pixels of the picture."""

    centres_px: torch.Tensor
    half_sides_px: torch.Tensor

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """What they show of `images` `[N, C, S, S]`, as `[N, C, WINDOW_PX, WINDOW_PX]`; what is beyond is smeared."""
        half = images.shape[-1] / 2
        theta = torch.zeros(len(images), 2, 3, device=images.device)
        theta[:, 0, 0] = theta[:, 1, 1] = self.half_sides_px / half
        theta[:, :, 2] = self.centres_px / half - 1
        with torch.autocast(images.device.type, enabled=False):  # places in bfloat16 would be a quarter of a pixel off
            grid = F.affine_grid(theta, [len(images), 1, WINDOW_PX, WINDOW_PX], align_corners=False)
            return F.grid_sample(images.float(), grid, "bilinear", "border", align_corners=False)

    def from_picture(self, points_px: torch.Tensor) -> torch.Tensor:
        """Points `[N, K, 2]` of the pictures, in pixels of the windows as they are cut."""
        return (points_px - self._corners) * (WINDOW_PX / 2 / self.half_sides_px)[:, None, None]

    def to_picture(self, points_px: torch.Tensor) -> torch.Tensor:
        """Points `[N, K, 2]` of the windows, in pixels of the pictures."""
        return points_px * (self.half_sides_px * 2 / WINDOW_PX)[:, None, None] + self._corners

    @property
    def _corners(self) -> torch.Tensor:
        return (self.centres_px - self.half_sides_px[:, None])[:, None]


def mouth_windows(landmarks_px: torch.Tensor) -> Windows:
    """About the middle of the mouth's points, as large as the face of `landmarks_px` `[N, 68, 2]` asks for."""
    extent = (landmarks_px.amax(1) - landmarks_px.amin(1)).amax(-1)
    return Windows(landmarks_px[:, MOUTH_FROM:].mean(1), extent * (WINDOW_SHARE / 2))


class CloseRegressor(nn.Module):
    """68 landmarks: those of `face`, and in place of its mouth the 20 that `mouth` reads in a window about it.

    `width`, `mouth_width`: those of the two networks.
    """

    def __init__(self, width: int = 32, mouth_width: int = 24):
        super().__init__()
        self.face = IntegralRegressor(width)
        self.mouth = IntegralRegressor(mouth_width, 68 - MOUTH_FROM)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: RGB `[N, 3, 256, 256]` in [-1, 1] -> landmarks float32 `[N, 68, 2]`, (x, y) pixels of the image.

        Pixel centres lie at whole numbers plus one half. Raises ValueError for another image size.
        """
        if list(images.shape[1:]) != [3, SIDE_PX, SIDE_PX]:
            raise ValueError(f"images must have shape [N, 3, {SIDE_PX}, {SIDE_PX}], got {list(images.shape)}")
        return look_closer(images, self.face, self.mouth)


def look_closer(images: torch.Tensor, face: nn.Module, mouth: nn.Module) -> torch.Tensor:
    """Landmarks float32 `[N, 68, 2]` (px) by two networks, as `CloseRegressor` has them."""
    landmarks_px = face(images)
    windows = mouth_windows(landmarks_px)
    mouth_px = windows.to_picture(mouth(windows.cut(images)))
    return torch.cat([landmarks_px[:, :MOUTH_FROM], mouth_px], 1)


class IntegralRegressor(nn.Module):
    """Residual network down to a 32nd of the side, back up to a quarter over lateral connections, one centre of mass a
    landmark.

    `width`: channels of the first stage; the four stages have 1, 2, 4 and 6 times as many, the way up 2 times.
    """

    def __init__(self, width: int = 32, num_landmarks: int = 68):
        super().__init__()
        widths = [width * k for k in (1, 2, 4, 6)]
        self.stem = _conv(3, width, 5, stride=2)
        pairs = zip([width, *widths], widths, strict=False)
        self.stages = nn.ModuleList(nn.Sequential(_Residual(a, b, stride=2), _Residual(b, b)) for a, b in pairs)
        self.lateral = nn.ModuleList(_conv(w, 2 * width, 1) for w in widths)
        self.merge = nn.ModuleList(_Residual(2 * width, 2 * width) for _ in widths[1:])
        self.maps = nn.Conv2d(2 * width, num_landmarks, 1)
        nn.init.zeros_(self.maps.weight)  # even maps: everything in the middle

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: RGB `[N, 3, S, S]` in [-1, 1], S a multiple of 32 -> float32 `[N, num_landmarks, 2]`, (x, y) px.

        Raises ValueError for another shape.
        """
        if images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[2] % 32:
            raise ValueError(f"images must have shape [N, 3, S, S], S a multiple of 32, got {list(images.shape)}")
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        x = self.lateral[-1](features[-1])
        for k in range(len(self.merge) - 1, -1, -1):
            x = self.merge[k](self.lateral[k](features[k]) + F.interpolate(x, scale_factor=2, mode="nearest"))
        share = self.maps(x).float().flatten(2).softmax(-1).unflatten(2, x.shape[2:])  # [N, num_landmarks, S/4, S/4]
        cells = torch.arange(x.shape[-1], device=x.device) + 0.5
        centre = torch.stack([(share.sum(2) * cells).sum(-1), (share.sum(3) * cells).sum(-1)], -1)
        return centre * CELL_PX


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
