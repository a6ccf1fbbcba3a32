"""Equation (8): the boundary follows the source frame, the inside follows the edit that the generator made untuned."""

import torch


def masked_l1(images: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Absolute difference inside a mask, per mask pixel: sum over channels and pixels over the sum of the mask.

    `images`, `target`: `[N, 3, R, R]`; `mask`: `[N, 1, R, R]` in [0, 1]. Returns `[N]`; 0 where the mask is empty.
    (The divisor counts a pixel once though it has three channels, as in the STIT paper's code.)
    """
    difference = (images.float() - target.float()).abs() * mask
    return difference.sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1e-6)


def stitching_loss(
    images: torch.Tensor,
    source: torch.Tensor,
    edited: torch.Tensor,
    boundary: torch.Tensor,
    inside: torch.Tensor,
    lambda_mask: float = 0.01,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The region loss L_r (HDTalk paper, eq. 8) and its boundary part alone, each float `[N]`.

    `images`: G(w; theta) being tuned; `source`: the source crops f; `edited`: G(w; theta_orig); all `[N, 3, R, R]` in
    [-1, 1]. `boundary` b and `inside` m: masks `[N, 1, R, R]`.
    """
    border = masked_l1(images, source, boundary)
    return border + lambda_mask * masked_l1(images, edited, inside), border
