"""FAN: 68 facial landmarks as heat maps, by a stack of hourglass networks (Bulat and Tzimiropoulos, ICCV 2017).

Written here on the official checkpoint keys: face-alignment's own module has one width, 256, and importing it pulls in
its detectors, numba and scikit-image.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

SIDE_PX = 256  # of the image
STRIDE_PX = 4  # of a heat map cell


class FAN(nn.Module):
    """Images to one stack of heat maps per hourglass; each hourglass corrects the one before.

    `num_modules`: hourglasses, 1 to 4 (official: 4). `channels`: width of the hourglasses, a multiple of 8 (official:
    256); the stem scales with it. `num_landmarks`: maps per stack.
    """

    def __init__(self, num_modules: int = 4, channels: int = 256, num_landmarks: int = 68):
        super().__init__()
        if not 1 <= num_modules <= 4:
            raise ValueError(f"num_modules must be 1 to 4, got {num_modules}")
        if channels < 8 or channels % 8:
            raise ValueError(f"channels must be a positive multiple of 8, got {channels}")
        self.num_modules = num_modules
        self.conv1 = nn.Conv2d(3, channels // 4, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(channels // 4)
        self.conv2 = _Block(channels // 4, channels // 2)
        self.conv3 = _Block(channels // 2, channels // 2)
        self.conv4 = _Block(channels // 2, channels)
        for k in range(num_modules):
            self.add_module(f"m{k}", _Hourglass(channels))
            self.add_module(f"top_m_{k}", _Block(channels, channels))
            self.add_module(f"conv_last{k}", nn.Conv2d(channels, channels, 1))
            self.add_module(f"bn_end{k}", nn.BatchNorm2d(channels))
            self.add_module(f"l{k}", nn.Conv2d(channels, num_landmarks, 1))
            if k < num_modules - 1:
                self.add_module(f"bl{k}", nn.Conv2d(channels, channels, 1))
                self.add_module(f"al{k}", nn.Conv2d(num_landmarks, channels, 1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`images`: RGB `[N, 3, 256, 256]` in [0, 1] -> `num_modules` heat maps `[N, num_landmarks, 64, 64]`.

        Any side that is a multiple of 64 works; the maps' side is a quarter of it.
        """
        x = images.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.avg_pool2d(self.conv2(x), 2)
        x = self.conv4(self.conv3(x))
        stacks = []
        for k in range(self.num_modules):
            y = self._part("top_m_", k)(self._part("m", k)(x))
            y = F.relu(self._part("bn_end", k)(self._part("conv_last", k)(y)))
            stacks.append(self._part("l", k)(y))
            if k < self.num_modules - 1:
                x = x + self._part("bl", k)(y) + self._part("al", k)(stacks[-1])
        return stacks

    def heatmaps(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: RGB `[N, 3, 256, 256]` in [-1, 1] -> heat maps of the last stack `[N, num_landmarks, 64, 64]`."""
        return self((images + 1) / 2)[-1]

    def _part(self, name: str, k: int) -> nn.Module:
        return getattr(self, f"{name}{k}")


@torch.no_grad()
def heatmaps_to_landmarks(heatmaps: torch.Tensor, decode: Literal["centroid", "quarter"] = "centroid") -> torch.Tensor:
    """Where the maps peak: float32 `[N, 68, 2]`, (x, y) pixels of the 256 px image, pixel centres at whole + 0.5.

    `heatmaps`: `[N, 68, H, W]`, cells of 4 px.
    `decode`: "centroid" refines the highest cell by the centre of mass of the squared map in the 5 x 5 cells around
        (exact to 0.01 cells for a Gaussian of one cell, whose square is narrow enough for that window);
        "quarter" is the official step of a quarter cell towards the higher neighbour.
    Raises ValueError for another `decode`.
    """
    if decode not in ("centroid", "quarter"):
        raise ValueError(f"decode must be 'centroid' or 'quarter', got {decode!r}")
    heatmaps = heatmaps.float()
    height, width = heatmaps.shape[-2:]
    best = heatmaps.flatten(2).argmax(-1)
    cells = torch.stack([best % width, best // width], dim=-1)  # [N, 68, 2]
    if decode == "centroid":
        return centroids(heatmaps, cells)
    window = _around(heatmaps, cells, 1)  # [N, 68, 3, 3]
    slope = torch.stack([window[..., 1, 2] - window[..., 1, 0], window[..., 2, 1] - window[..., 0, 1]], dim=-1)
    limits = torch.tensor([width - 1, height - 1], device=cells.device)
    inside = ((cells > 0) & (cells < limits)).all(-1, keepdim=True)
    return (cells + 0.25 * slope.sign() * inside + 0.5) * STRIDE_PX


def centroids(heatmaps: torch.Tensor, cells: torch.Tensor, least_mass: float = 1e-12) -> torch.Tensor:
    """Centres of mass of the squared maps in the 5 x 5 cells around given ones: float `[N, 68, 2]`, pixels as above.

    `heatmaps`: float `[N, 68, H, W]`; `cells`: int `[N, 68, 2]`, (x, y). Has a gradient. Windows with no more than
    about `least_mass` in them have their centre at their cell.
    """
    mass = _around(heatmaps, cells, 2).clamp(min=0).square()
    steps = torch.arange(-2, 3, dtype=mass.dtype, device=mass.device)
    moments = torch.stack([(mass.sum(-2) * steps).sum(-1), (mass.sum(-1) * steps).sum(-1)], dim=-1)
    offset = moments / mass.sum((-2, -1)).clamp(min=least_mass)[..., None]
    return (cells + offset + 0.5) * STRIDE_PX


def _around(heatmaps, cells, reach):
    """Values within `reach` cells of `cells`, zero outside the map."""
    padded = F.pad(heatmaps, (reach,) * 4)
    side = torch.arange(2 * reach + 1, device=cells.device)
    rows = cells[..., 1, None, None] + side[:, None]
    columns = cells[..., 0, None, None] + side
    flat = (rows * padded.shape[-1] + columns).flatten(2)
    return padded.flatten(2).gather(2, flat).unflatten(2, (len(side), len(side)))


class _Block(nn.Module):
    """Three pre-activated convolutions whose outputs are concatenated, plus the input."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False)
            )

    def forward(self, x):
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return torch.cat([first, second, third], 1) + (x if self.downsample is None else self.downsample(x))


class _Hourglass(nn.Module):
    """Four halvings of the side and the way back, a residual branch at each; registered in the official order."""

    def __init__(self, channels):
        super().__init__()
        for level in (4, 3, 2, 1):
            self.add_module(f"b1_{level}", _Block(channels, channels))
            self.add_module(f"b2_{level}", _Block(channels, channels))
        self.b2_plus_1 = _Block(channels, channels)
        for level in (1, 2, 3, 4):
            self.add_module(f"b3_{level}", _Block(channels, channels))

    def forward(self, x, level=4):
        low = getattr(self, f"b2_{level}")(F.avg_pool2d(x, 2))
        low = self.b2_plus_1(low) if level == 1 else self(low, level - 1)
        low = getattr(self, f"b3_{level}")(low)
        return getattr(self, f"b1_{level}")(x) + F.interpolate(low, scale_factor=2, mode="nearest")
