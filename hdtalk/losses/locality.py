"""The locality term L_R of equation (4): away from the pivots the tuned generator stays what it was (PTI paper)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def locality_codes(w: torch.Tensor, pivots: torch.Tensor, alpha: float = 30.0) -> torch.Tensor:
    """Codes at distance `alpha` from the pivots, in the direction of random codes (PTI paper, section on locality).

    `w`: float `[N, 512]`, samples of the mapping network; `pivots`: `[N, num_ws, 512]`. The distance is the norm over
    the whole `[num_ws, 512]` code. Returns float `[N, num_ws, 512]`.
    """
    direction = w[:, None] - pivots
    return pivots + alpha * direction / direction.flatten(1).norm(dim=1).clamp_min(1e-8)[:, None, None]


def locality_loss(
    tuned: torch.Tensor,
    original: torch.Tensor,
    perceptual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    lambda_l2: float = 0.1,
    lambda_lpips: float = 0.1,
) -> torch.Tensor:
    """Difference between the tuned and the original generator's images of the same codes, `[N, 3, R, R]` -> `[N]`."""
    l2 = F.mse_loss(tuned.float(), original.float(), reduction="none").mean((1, 2, 3))
    return lambda_l2 * l2 + lambda_lpips * perceptual(tuned, original)
