"""Random geometry and camera faults, so that nets trained on clean renders also read real footage.

Whole batches of tensors on any device. Numbers per picture are drawn with NumPy, so that a step's geometry is the same
on CPU and GPU; noise per pixel comes from torch's own generator.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# iBUG 68: the point that takes each point's place when the picture is mirrored
MIRRORED_68 = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)
# CelebAMask labels with a left and a right: brows, eyes, ears
MIRRORED_LABELS = np.arange(256, dtype=np.uint8)
MIRRORED_LABELS[[2, 3, 4, 5, 7, 8]] = 3, 2, 5, 4, 8, 7
UNKNOWN = 255  # label of pixels that show nothing the renderer drew

# tables of the JPEG standard, annex K
LUMINANCE = np.array(
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 18 22 37 56 68 "
    "109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99".split(),
    np.float32,
).reshape(8, 8)
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)


@dataclass(frozen=True)
class Placement:
    """Where N pictures move: a point u in [-1,1] (x, y over the side) goes to `matrix @ u + shift`, after mirroring."""

    matrix: np.ndarray  # [N,2,2] float32
    shift: np.ndarray  # [N,2] float32
    mirrored: np.ndarray  # [N] bool

    def __getitem__(self, rows: np.ndarray) -> "Placement":
        return Placement(self.matrix[rows], self.shift[rows], self.mirrored[rows])

    def moved(self, points: np.ndarray) -> np.ndarray:
        """Points [N or 1,K,2] in [-1,1], where mirroring has put them, after turning and shifting: [N,K,2]."""
        return points @ self.matrix.swapaxes(1, 2) + self.shift[:, None]


def random_placement(
    rng: np.random.Generator,
    count: int,
    scale: tuple[float, float],
    rotation_deg: float,
    shift: float,
    mirror: bool = True,
) -> Placement:
    """Scale drawn log-uniformly, rotation and shift (share of the side) drawn normally, clipped at two sigma."""
    factor = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]), count))
    angle = np.radians(np.clip(rng.normal(size=count), -2, 2) * rotation_deg)
    moved = np.clip(rng.normal(size=(count, 2)), -2, 2) * shift * 2
    mirrored = rng.random(count) < (0.5 if mirror else 0.0)
    return Placement(scaled_rotations(factor, angle), moved.astype(np.float32), mirrored)


def scaled_rotations(factor: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """Matrices [N,2,2] float32 that turn by an angle, anticlockwise in the picture, and enlarge by a factor."""
    rows = [[np.cos(angle_rad), np.sin(angle_rad)], [-np.sin(angle_rad), np.cos(angle_rad)]]
    matrices: np.ndarray = np.moveaxis(np.array(rows) * factor, -1, 0)
    return matrices.astype(np.float32)


def place_points(points_px: np.ndarray, side_px: float, placement: Placement) -> np.ndarray:
    """Landmarks float32 [N,68,2] (pixel centres at +0.5) as `place_images` moves the pictures, names kept right."""
    points = points_px.copy()
    points[placement.mirrored] = points[placement.mirrored][:, MIRRORED_68] * [-1, 1] + [side_px, 0]
    return ((placement.moved(points / (side_px / 2) - 1) + 1) * (side_px / 2)).astype(np.float32)


def sampling_grid(placement: Placement, side_px: int, device) -> torch.Tensor:
    """Where each pixel of the moved pictures comes from: [N,side,side,2] for `grid_sample`."""
    inverse = np.linalg.inv(placement.matrix)
    offset = -np.einsum("nij,nj->ni", inverse, placement.shift)
    theta = np.concatenate([inverse, offset[..., None]], -1)
    theta[placement.mirrored, 0] *= -1
    size = [len(theta), 1, side_px, side_px]
    return F.affine_grid(torch.from_numpy(theta.astype(np.float32)).to(device), size, align_corners=False)


def place_images(images: torch.Tensor, grid: torch.Tensor, borders: bool = True) -> torch.Tensor:
    """Float [N,C,H,W] moved. What lies outside is black, mirrored or smeared, by thirds of the batch; `borders` False:
    always smeared."""
    modes = ("zeros", "reflection", "border") if borders else ("border",)
    parts = zip(images.tensor_split(len(modes)), grid.tensor_split(len(modes)), modes, strict=True)
    moved = [F.grid_sample(x, g, "bilinear", mode, align_corners=False) for x, g, mode in parts if len(x)]
    return torch.cat(moved).contiguous(memory_format=torch.channels_last)


def place_labels(labels: torch.Tensor, grid: torch.Tensor, placement: Placement) -> torch.Tensor:
    """uint8 [N,H,W] moved, left and right kept right; UNKNOWN outside."""
    table = torch.from_numpy(MIRRORED_LABELS).to(labels.device)
    mirrored = torch.from_numpy(placement.mirrored).to(labels.device)[:, None, None]
    labels = torch.where(mirrored, table[labels.long()], labels)
    moved = F.grid_sample(labels[:, None].float(), grid, "nearest", "border", align_corners=False)[:, 0]
    return torch.where((grid.abs() <= 1).all(-1), moved, float(UNKNOWN)).byte()


def occlude(
    images: torch.Tensor, labels: torch.Tensor | None, rng: np.random.Generator, share: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Covers a part of some pictures (in [-1,1]) with a flat or noisy ellipse or box; its labels become UNKNOWN."""
    count, device = len(images), images.device
    centre, axes = rng.uniform(-0.9, 0.9, (count, 2)), rng.uniform(0.08, 0.36, (count, 2))
    angle, box = rng.uniform(0, np.pi, count), rng.random(count) < 0.5
    axes[rng.random(count) >= share] = 1e-6
    numbers = np.stack([*centre.T, *axes.T, np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    x0, y0, a, b, cos, sin = torch.from_numpy(numbers).to(device)[..., None, None].unbind(1)
    u = (torch.arange(images.shape[-1], device=device) + 0.5) * (2 / images.shape[-1]) - 1
    x, y = u - x0, u[:, None] - y0
    along, across = (x * cos + y * sin) / a, (y * cos - x * sin) / b
    is_box = torch.from_numpy(box).to(device)[:, None, None]
    mask = torch.where(is_box, torch.maximum(along.abs(), across.abs()), along.square() + across.square()) < 1
    colour = rng.uniform(-1, 1, (count, 3, 1, 1)).astype(np.float32)
    grain = rng.uniform(0, 0.2, (count, 1, 1, 1)).astype(np.float32)
    paint = torch.from_numpy(colour).to(device) + torch.randn_like(images) * torch.from_numpy(grain).to(device)
    images = torch.where(mask[:, None], paint.clamp(-1, 1), images)
    return images, labels if labels is None else labels.masked_fill(mask, UNKNOWN)


def camera_faults(
    images: torch.Tensor, rng: np.random.Generator, strength: float = 1.0, share: float = 1.0
) -> torch.Tensor:
    """Pictures [N,3,H,W] in [-1,1] as a worse camera would have taken them: exposure, contrast, gamma, colour cast,
    saturation, focus and motion blur, low resolution, noise, JPEG. `strength` 0..1 scales how much and how often;
    `share` of the batch is touched at all."""
    order = rng.permutation(len(images))
    count = round(share * len(images))
    if count == 0:
        return images
    touched = torch.from_numpy(np.sort(order[:count])).to(images.device)
    x = (images[touched] + 1) / 2
    x = _exposure(x, rng, strength)
    x = _soften(x, rng, strength)
    sigma = np.where(rng.random(count) < 0.6 * strength, rng.gamma(1.5, 0.012, count), 0.0)
    x = (x + torch.randn_like(x) * _column(sigma, x)).clamp(0, 1)
    coded = np.flatnonzero(rng.random(count) < 0.5 * strength)
    if len(coded):
        rows = torch.from_numpy(coded).to(x.device)
        x = x.index_copy(0, rows, jpeg(x[rows], rng.integers(25, 92, len(coded))))
    return images.index_copy(0, touched, (x * 2 - 1).to(images.dtype))


def _column(numbers: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """Numbers [N] or [N,C] as [N,1 or C,1,1] beside x."""
    column = torch.from_numpy(np.asarray(numbers, np.float32)).to(x.device)
    return column.reshape(len(column), -1, 1, 1)


def _exposure(x, rng, strength):
    count = len(x)
    x = x.clamp(1e-4, 1) ** _column(np.exp(rng.normal(size=count) * 0.22 * strength), x)
    contrast = np.exp(rng.normal(size=count) * 0.15 * strength)
    x = (x - 0.5) * _column(contrast, x) + _column(0.5 + rng.normal(size=count) * 0.06 * strength, x)
    x = x * _column(np.exp(rng.normal(size=(count, 3)) * 0.06 * strength), x)
    grey = x.mean(1, keepdim=True)
    saturation = np.exp(rng.normal(size=count) * 0.3 * strength)
    saturation[rng.random(count) < 0.05 * strength] = 0
    return grey + (x - grey) * _column(saturation, x)


def _soften(x, rng, strength):
    """A quarter out of focus, 15 % of low resolution, 8 % moved."""
    kind = rng.random(len(x)) / max(strength, 1e-3)
    blurred, coarse, moved = (
        np.flatnonzero((kind >= a) & (kind < b)) for a, b in ((0, 0.25), (0.25, 0.4), (0.4, 0.48))
    )
    if len(blurred):
        taps = np.arange(-5, 6) / rng.uniform(0.4, 2.2, (len(blurred), 1))
        taps = np.exp(-0.5 * taps**2)
        taps /= taps.sum(1, keepdims=True)
        x = _filtered(x, blurred, np.einsum("ni,nj->nij", taps, taps))
    for part in np.array_split(coarse, 2):  # two resolutions a batch
        if len(part):
            rows = torch.from_numpy(part).to(x.device)
            small = [max(8, round(side * rng.uniform(0.22, 0.7))) for side in x.shape[-2:]]
            shrunk = F.interpolate(x[rows], small, mode="bilinear", antialias=True)
            mode = ("bilinear", "bicubic")[rng.integers(2)]
            x = x.index_copy(0, rows, F.interpolate(shrunk, x.shape[-2:], mode=mode))
    if len(moved):
        length, angle = rng.uniform(2, 9, (len(moved), 1, 1)), rng.uniform(0, np.pi, (len(moved), 1, 1))
        v, u = np.mgrid[-5:6, -5:6]
        along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
        kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
        x = _filtered(x, moved, kernel / kernel.sum((1, 2), keepdims=True))
    return x


def _filtered(x, chosen, kernels):
    """Pictures `chosen` of x, each through its own kernel [n,11,11]."""
    rows = torch.from_numpy(chosen).to(x.device)
    weight = torch.from_numpy(kernels.astype(np.float32)).to(x.device)
    weight = weight.repeat_interleave(x.shape[1], 0)[:, None]
    part = F.pad(x[rows].contiguous(), (5, 5, 5, 5), mode="reflect").flatten(0, 1)[None]
    part = F.conv2d(part, weight, groups=len(weight))
    return x.index_copy(0, rows, part.unflatten(1, (len(rows), x.shape[1]))[0])


def jpeg(x: torch.Tensor, quality: np.ndarray) -> torch.Tensor:
    """Pictures [N,3,H,W] in [0,1], sides multiples of 16, after JPEG of quality [N] (1..100) with halved chroma."""
    device, height, width = x.device, *x.shape[-2:]
    factor = np.where(quality < 50, 5000 / np.maximum(quality, 1), 200 - 2 * quality) / 100
    colours = torch.from_numpy(YCBCR).to(device)
    y, cb, cr = torch.einsum("cd,ndhw->cnhw", colours, x.float() * 255).unbind(0)
    luma = _coded(y - 128, LUMINANCE, factor) + 128
    chroma = F.avg_pool2d(torch.stack([cb, cr], 1), 2)
    chroma = torch.stack([_coded(part, CHROMINANCE, factor) for part in chroma.unbind(1)], 1)
    chroma = F.interpolate(chroma, (height, width), mode="bilinear")
    whole = torch.cat([luma[:, None], chroma], 1)
    back = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(colours), whole)
    return (back / 255).clamp(0, 1).to(x.dtype)


def _coded(plane, table, factor):
    """Plane [N,H,W] with the cosine coefficients of its 8 x 8 blocks rounded to the table's steps."""
    k, n = np.mgrid[:8, :8]
    basis = np.cos((2 * n + 1) * k * math.pi / 16) * np.where(k == 0, math.sqrt(1 / 8), 0.5)
    basis = torch.from_numpy(basis.astype(np.float32)).to(plane.device)
    steps = np.clip(np.round(table * factor[:, None, None]), 1, 255).astype(np.float32)
    steps = torch.from_numpy(steps).to(plane.device)[:, None, None]
    blocks = plane.unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).transpose(2, 3)  # [N, H/8, W/8, 8, 8]
    coefficients = ((basis @ blocks @ basis.T) / steps).round() * steps
    blocks = basis.T @ coefficients @ basis
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2)
