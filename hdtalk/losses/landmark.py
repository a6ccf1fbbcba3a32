"""Equation (6): distance between the landmark heat maps of the generated frame and the target's, mouth and eyes up."""

import torch

HEATMAP_SIDE = 64

# iBUG order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67
EYES = slice(36, 48)
MOUTH = slice(48, 68)


def landmark_loss(heatmaps: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Weighted sum over landmarks of the Euclidean distance between two heat maps (HDTalk paper, eq. 6).

    `heatmaps`, `target`: float `[N, 68, 64, 64]`; `weights`: float `[68]`, the paper's a_i (ones when None).
    Returns float `[N]`. The gradient is zero, not NaN, where two heat maps are equal.
    """
    squared = (heatmaps.float() - target.float()).square().flatten(2).sum(2)  # [N, 68]
    positive = squared > 0
    distance = torch.where(positive, squared, 1.0).sqrt() * positive
    return (distance if weights is None else distance * weights).sum(1)


def landmark_weights(mouth: float = 3.0, eyes: float = 2.0, other: float = 1.0) -> torch.Tensor:
    """The weights a_i, float `[68]`, scaled to mean 1 so that the paper's lambda_fan keeps its meaning."""
    weights = torch.full((68,), float(other))
    weights[EYES] = eyes
    weights[MOUTH] = mouth
    return weights / weights.mean()


def gaussian_heatmaps(landmarks_px: torch.Tensor, image_side_px: float, sigma_cells: float = 1.0) -> torch.Tensor:
    """What a landmark net is trained to answer for these landmarks: Gaussians of height 1 on the 64 x 64 grid.

    `landmarks_px`: float `[N, 68, 2]`, (x, y) pixels of an image of this side, whose pixel centres lie at whole numbers
    plus one half, as do the cells' (the convention of FAN's decoder: cell j covers pixels 4 j to 4 j + 4 of 256).
    `sigma_cells`: standard deviation in grid cells. Returns float `[N, 68, 64, 64]` in [0, 1]; a landmark outside
    the image leaves only the part of its Gaussian that reaches inside.
    """
    cells = landmarks_px.float() * (HEATMAP_SIDE / image_side_px) - 0.5  # [N, 68, 2]
    grid = torch.arange(HEATMAP_SIDE, device=cells.device, dtype=torch.float32)
    exponent = (grid - cells[..., None]).square() / (-2.0 * sigma_cells**2)  # [N, 68, 2, 64]
    profile_x, profile_y = exponent.exp().unbind(2)
    return profile_y[..., :, None] * profile_x[..., None, :]
