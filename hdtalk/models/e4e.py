"""e4e: encodes an aligned face into W+ as one w and a small delta per layer (Tov et al., SIGGRAPH 2021)."""

from collections.abc import Sequence
from math import log2, sqrt

import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.irse import CHANNELS_50, UNITS_50, IRSEBackbone

COARSE_STYLES, MIDDLE_STYLES = 3, 4  # rows of W+ that read the coarsest and the middle feature map


class Encoder4Editing(IRSEBackbone):
    """Feature pyramid over an IR-SE network, one small head per row of W+. The official sizes are the defaults.

    `resolution`: of the generator, which has `2 * log2(resolution) - 2` rows. `style_dim`: length of w.
    `units`, `channels`: of the IR-SE network, four stages; the heads are as wide as its last stage.
    `input_size`: side in pixels at which it looks, a power of two.
    Buffer `mean_latent` `[num_ws, style_dim]` is added to every answer; beside it the keys are the official ones.
    """

    mean_latent: torch.Tensor

    def __init__(
        self,
        resolution: int = 1024,
        units: Sequence[int] = UNITS_50,
        channels: Sequence[int] = CHANNELS_50,
        style_dim: int = 512,
        input_size: int = 256,
    ):
        if len(channels) != 4:
            raise ValueError(f"channels must be four stages, got {channels}")
        if input_size < 32 or input_size & (input_size - 1):
            raise ValueError(f"input_size must be a power of two from 32, got {input_size}")
        super().__init__(units, channels)
        self.input_size = input_size
        self.num_ws = 2 * int(log2(resolution)) - 2
        halvings = int(log2(input_size)) - 4  # from the coarsest map, 1/16 of the side, to a single cell
        self.styles = nn.ModuleList(_Head(channels[3], style_dim, halvings + _level(i)) for i in range(self.num_ws))
        self.latlayer1 = nn.Conv2d(channels[2], channels[3], 1)
        self.latlayer2 = nn.Conv2d(channels[1], channels[3], 1)
        self.register_buffer("mean_latent", torch.zeros(self.num_ws, style_dim))

    def forward(self, images: torch.Tensor, stage: int | None = None) -> torch.Tensor:
        """`images`: RGB `[N, 3, H, W]` in [-1, 1], aligned as FFHQ -> ws `[N, num_ws, style_dim]`, the average added.

        Images of another side than `input_size` are resized to it (averaged down, or bilinearly up).
        `stage`: only rows up to this one get a delta of their own (progressive training); default all.
        """
        fine, middle, coarse = self.stages(self._resize(images))[1:]
        last = self.num_ws - 1 if stage is None else min(stage, self.num_ws - 1)
        maps = [coarse]
        if last >= COARSE_STYLES:
            maps.append(_enlarge(coarse, middle) + self.latlayer1(middle))
        if last >= COARSE_STYLES + MIDDLE_STYLES:
            maps.append(_enlarge(maps[1], fine) + self.latlayer2(fine))
        base = self.styles[0](coarse)
        rows = [base, *(base + self.styles[i](maps[_level(i)]) for i in range(1, last + 1))]
        rows += [base] * (self.num_ws - 1 - last)
        return torch.stack(rows, dim=1) + self.mean_latent.to(base.dtype)

    def _resize(self, images):
        size = (self.input_size, self.input_size)
        if tuple(images.shape[-2:]) == size:
            return images
        if min(images.shape[-2:]) >= self.input_size:
            return F.adaptive_avg_pool2d(images, size)
        return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _level(row):
    """Which feature map a row reads: 0 coarse, 1 middle, 2 fine."""
    return (row >= COARSE_STYLES) + (row >= COARSE_STYLES + MIDDLE_STYLES)


def _enlarge(x, like):
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


class _Head(nn.Module):
    """Halves a feature map down to one cell, then one linear layer of unit-variance weights."""

    def __init__(self, channels, style_dim, halvings):
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU()]
        for _ in range(halvings - 1):
            layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = _EqualLinear(channels, style_dim)

    def forward(self, x):
        return self.linear(self.convs(x).flatten(1))


class _EqualLinear(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x):
        return F.linear(x / sqrt(self.weight.shape[1]), self.weight, self.bias)
