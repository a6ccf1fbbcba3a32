"""The demo bundle's own face detector: a small fully convolutional network that marks centres and sizes of faces.

After CenterNet (Zhou et al., "Objects as Points", 2019): one heat map of centres, one map of box sides and offsets.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LONG_SIDE_PX = 320  # pictures are shrunk to this before the network looks
STRIDE_PX = 8  # of a cell of the maps
GRAIN_PX = 32  # sides that the network takes are multiples of it


class Detections(NamedTuple):
    """`centre`: logits `[N, 1, h, w]`. `box`: `[N, 4, h, w]`, distances from the cell's centre to the left, top, right
    and bottom side, as logarithm of their ratio to the cell."""

    centre: torch.Tensor
    box: torch.Tensor


class FaceDetector(nn.Module):
    """`width`: channels at half of the side; deeper stages have 2, 4, 6 and 8 times as many."""

    def __init__(self, width: int = 16):
        super().__init__()
        widths = [width * k for k in (1, 2, 4, 6, 8)]
        self.stem = _conv(3, widths[0], 5, 2)  # 1/2
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(a, b, 3, 2), _Residual(b)) for a, b in zip(widths, widths[1:], strict=False)
        )  # 1/4, 1/8, 1/16, 1/32
        self.lateral = nn.ModuleList(_conv(w, widths[2], 1) for w in widths[2:])
        self.smooth = nn.ModuleList(_conv(widths[2], widths[2], 3) for _ in range(2))
        self.centre, self.box = (
            nn.Sequential(_conv(widths[2], widths[2], 3), nn.Conv2d(widths[2], n, 1)) for n in (1, 4)
        )
        last: Any = self.centre[-1]
        nn.init.constant_(last.bias, -4.0)  # faces are rare: start from "none"

    def forward(self, images: torch.Tensor) -> Detections:
        """`images`: RGB `[N, 3, H, W]` in [-1, 1], sides multiples of 32 -> maps at 1/8 of the side."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        x = self.lateral[2](features[3])
        for k in (1, 0):
            x = self.smooth[k](self.lateral[k](features[k + 1]) + F.interpolate(x, scale_factor=2, mode="nearest"))
        return Detections(self.centre(x), self.box(x))

    @torch.no_grad()
    def detect(
        self, frames: np.ndarray, threshold: float = 0.35, overlap: float = 0.4, batch_size: int = 8
    ) -> list[np.ndarray]:
        """`frames`: uint8 RGB `[T, H, W, 3]` -> per frame float32 `[K, 5]`: x0, y0, x1, y1 in pixels, score in [0, 1].

        Best first. `threshold`: lowest score kept; of boxes that share more than `overlap` of their union, the best is.
        """
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        parameter = next(self.parameters())
        found = []
        for start in range(0, len(frames), batch_size):
            some = np.require(frames[start : start + batch_size], requirements=["C", "W"])
            part = torch.from_numpy(some).to(parameter.device)
            images, scale = _letterbox(part.permute(0, 3, 1, 2).to(parameter.dtype))
            maps = self(images)
            for centre, box in zip(maps.centre.float(), maps.box.float(), strict=True):
                found.append(_boxes(centre[0], box, threshold, overlap, frames.shape[1:3], scale))
        return found


def detection_loss(maps: Detections, boxes_px: Sequence[torch.Tensor]) -> torch.Tensor:
    """Focal loss of the centres (CornerNet's, eq. 1) plus the GIoU loss of the boxes around them.

    `boxes_px`: per image float `[K, 4]`, x0, y0, x1, y1 in pixels of the network's input.
    """
    centre, box = maps.centre.float()[:, 0], maps.box.float()  # [N, h, w], [N, 4, h, w]
    targets = [_targets(boxes.to(centre.device).float().reshape(-1, 4), *centre.shape[1:]) for boxes in boxes_px]
    heat, truth, weight = (torch.stack(parts) for parts in zip(*targets, strict=True))
    probability = centre.sigmoid()
    is_centre = (heat == 1).float()
    positive = is_centre * (1 - probability).square() * F.logsigmoid(centre)
    negative = (1 - is_centre) * (1 - heat).pow(4) * probability.square() * F.logsigmoid(-centre)
    focal = -(positive + negative).sum() / is_centre.sum().clamp(min=1)
    height, width = centre.shape[1:]
    grid = _grid(height, width, centre.device)
    predicted = _corners(grid, box.permute(0, 2, 3, 1))
    misfit = (1 - _generalised_iou(predicted, truth)) * weight
    return focal + 2 * misfit.sum() / weight.sum().clamp(min=1e-6)


def _targets(boxes, height, width):
    """Heat map `[h, w]` with 1 at each centre, box `[h, w, 4]` of the nearest face, and its weight `[h, w]`."""
    grid = _grid(height, width, boxes.device)
    if not len(boxes):
        zeros = grid.new_zeros(height, width)
        return zeros, torch.cat([grid, grid + 1], -1), zeros
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    cell = (middle / STRIDE_PX).floor().clamp(min=0)
    cell = torch.minimum(cell, cell.new_tensor([width - 1, height - 1]))
    spread = (size / 8).clamp(min=STRIDE_PX / 2)
    anchors = (cell + 0.5) * STRIDE_PX
    gaussian = (-((grid[:, :, None] - anchors) / spread).square().sum(-1) / 2).exp()  # [h, w, K]
    heat, nearest = gaussian.max(-1)
    heat = heat.clone()
    heat[cell[:, 1].long(), cell[:, 0].long()] = 1
    return heat, boxes[nearest], heat * (heat > 0.2)


def _letterbox(images):
    """Pictures 0..255 shrunk to the long side and padded with grey, in [-1, 1]; and the scale that was applied."""
    height, width = images.shape[-2:]
    scale = LONG_SIDE_PX / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    images = F.interpolate(images.float(), size, mode="bilinear", antialias=True).to(images.dtype) / 127.5 - 1
    return F.pad(images, (0, -size[1] % GRAIN_PX, 0, -size[0] % GRAIN_PX)), (size[1] / width, size[0] / height)


def _boxes(centre, box, threshold, overlap, frame_size, scale):
    """Peaks of one image's maps as boxes in frame pixels, overlapping ones dropped, best first."""
    score = centre.sigmoid()
    peak = (F.max_pool2d(score[None, None], 3, 1, 1)[0, 0] == score) & (score >= threshold)
    rows, columns = peak.nonzero(as_tuple=True)
    score = score[rows, columns]
    corners = _corners(_grid(*centre.shape, centre.device)[rows, columns], box[:, rows, columns].t())
    order = score.argsort(descending=True)
    corners, score = corners[order].cpu().numpy(), score[order].cpu().numpy()
    corners = corners / np.array([*scale, *scale], np.float32)
    corners = corners.clip(0, np.array([*frame_size[::-1], *frame_size[::-1]], np.float32))
    kept: list[int] = []
    for k in range(len(corners)):
        if all(box_overlap(corners[k], corners[j]) <= overlap for j in kept):
            kept.append(k)
    return np.concatenate([corners[kept], score[kept, None]], 1).astype(np.float32).reshape(-1, 5)


def box_overlap(a, b) -> float:
    """Intersection over union of two boxes `[4]`."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return shared / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared, 1e-9)


def _generalised_iou(a, b):
    """GIoU of boxes `[..., 4]` (Rezatofighi et al., CVPR 2019)."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def _grid(height, width, device):
    """Centres of the cells in pixels, `[h, w, 2]`."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return (torch.stack([x, y], -1) + 0.5) * STRIDE_PX


def _corners(centres, logarithms):
    reach = logarithms.clamp(-6, 6).exp() * STRIDE_PX
    return torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], -1)


class _Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = _conv(channels, channels, 3)
        self.second = _conv(channels, channels, 3, activate=False)

    def forward(self, x):
        return F.relu(x + self.second(self.first(x)))


def _conv(in_channels, out_channels, kernel_size, stride=1, activate=True):
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else []))
