"""Pictures of a face bent to other landmarks: fields of displacements, and their use."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist

from hdtalk.losses.landmark import MOUTH
from hdtalk.regions import lower_face_mask

GRID = 64  # nodes along a side of a field
NODES = np.stack(np.meshgrid(*2 * [(np.arange(GRID) + 0.5) / GRID]), -1).reshape(-1, 2)
HELD = np.r_[0:17, 27:48]  # jaw, nose and eyes stay where they are, and so does the crop's edge
EDGE = np.array([(x, y) for x in np.linspace(0, 1, 7) for y in np.linspace(0, 1, 7) if {x, y} & {0.0, 1.0}])
STEADY = slice(27, 48)  # nose and eyes, by which mouths are compared
SMOOTHING = 8e-5  # of the thin plate, for lengths in sides: landmarks that contradict each other are not torn apart


def warp_fields(
    shown_px: np.ndarray, target_px: np.ndarray, side: int, reach: float, beyond: float = 0.0
) -> np.ndarray:
    """Fields that move the mouth from where a picture shows it to where it shall be: float32 `[n, 2, 64, 64]`, (x, y)
    in sides of the crop, by thin plates.

    `shown_px`, `target_px`: landmarks `[n, 68, 2]`, pixels of a crop of `side` (pixel centres at whole numbers).
    `reach`: no landmark is moved by more than this, in sides; where one would be, all of its frame are moved less.
    `beyond`: moves m of less than this, in sides, count as noise, and of longer ones m (1 - (beyond / |m|)^2) is left.
    Outside the lower face the field is zero.
    """
    fields = np.zeros((len(shown_px), 2, GRID, GRID), np.float32)
    for field, shown, target in zip(fields, (shown_px + 0.5) / side, (target_px + 0.5) / side, strict=True):
        moves = (target - shown)[MOUTH].astype(np.float64)
        moves *= (1 - (beyond / np.linalg.norm(moves, axis=1, keepdims=True).clip(1e-9)) ** 2).clip(0)
        moves *= min(1.0, reach / np.linalg.norm(moves, axis=1).max().clip(1e-9))
        if not moves.any():
            continue
        held = np.concatenate([shown[HELD], EDGE])
        field[:] = _thin_plate(np.concatenate([shown[MOUTH] + moves, held]), np.r_[moves, np.zeros_like(held)])
    scale = GRID / side
    return fields * lower_face_mask((shown_px + 0.5) * scale - 0.5, (target_px + 0.5) * scale - 0.5, GRID)


def carrying_fields(from_px: np.ndarray, to_px: np.ndarray, side: int) -> np.ndarray:
    """Fields that carry a face's picture from one set of landmarks `[n, 68, 2]`, pixels of a crop of `side`, to
    another, the crop's edge held: float32 `[n, 2, 64, 64]`, as `warp_fields`."""
    pairs = zip((from_px + 0.5) / side, (to_px + 0.5) / side, strict=True)
    fields = [_thin_plate(np.concatenate([b, EDGE]), np.concatenate([b - a, np.zeros_like(EDGE)])) for a, b in pairs]
    return np.stack(fields).astype(np.float32)


def closest_mouths(shot_px: np.ndarray, target_px: np.ndarray) -> np.ndarray:
    """Which of the shot's frames, `[N, 68, 2]`, has the mouth that is most like each target's, `[n, 68, 2]`, as seen
    from nose and eyes: int64 `[n]`."""
    known, wanted = ((px - px[:, STEADY].mean(1, keepdims=True))[:, MOUTH] for px in (shot_px, target_px))
    return cdist(wanted.reshape(len(wanted), -1), known.reshape(len(known), -1)).argmin(1)


def warp(images: torch.Tensor, fields: torch.Tensor) -> torch.Tensor:
    """Float pictures `[n, C, R, R]` with what lies at x - field(x) shown at x; `fields` as above. Has a gradient; where
    a field is zero, nothing changes."""
    side = images.shape[-1]
    position = (torch.arange(side, device=images.device, dtype=torch.float32) * 2 + 1) / side - 1
    here = torch.stack(torch.meshgrid(position, position, indexing="xy"), -1)
    dense = F.interpolate(fields, size=(side, side), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    bent = F.grid_sample(images, here - 2 * dense, mode="bicubic", padding_mode="border", align_corners=False)
    return torch.where((dense != 0).any(-1)[:, None], bent, images)


def _thin_plate(places: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The field, float64 `[2, 64, 64]`, that has about these moves at these places, both `[k, 2]` in sides."""
    plate = RBFInterpolator(places, moves, smoothing=SMOOTHING, kernel="thin_plate_spline")
    return plate(NODES).reshape(GRID, GRID, 2).transpose(2, 0, 1)
