"""Equation (7): consecutive frames stay close in latent space; beside it the feature-space variant of the ablation."""

from collections.abc import Sequence

import torch


def smoothness_loss(ws: torch.Tensor, before: torch.Tensor | None = None, after: torch.Tensor | None = None):
    """Squared latent distance of every frame to its neighbours (HDTalk paper, eq. 7).

    `ws`: float `[N, num_ws, 512]`, consecutive frames; `before`, `after`: `[num_ws, 512]`, the fixed neighbours of the
    first and of the last frame, or None at an end of the shot. Each pair of frames is counted once.
    Returns a float scalar, the sum over pairs.
    """
    chain = torch.cat([part for part in (_row(before), ws, _row(after)) if part is not None])
    return (chain[1:] - chain[:-1]).square().sum()


def feature_distances(features: Sequence[torch.Tensor], before: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
    """L^F_smooth of the paper's Table II, pair by pair: distance between perceptual features of consecutive pictures.

    `features`: taps `[N, C, H, W]` of consecutive frames; `before`: the same taps `[1, C, H, W]` of the fixed
    frame before the first. Returns float `[N-1]`, with `before` `[N]`: per tap the mean over positions of the squared
    distance, summed over taps.
    """
    chains = features if before is None else [torch.cat(pair) for pair in zip(before, features, strict=True)]
    return torch.stack([(chain[1:] - chain[:-1]).square().sum(1).mean((1, 2)) for chain in chains]).sum(0)


def _row(w: torch.Tensor | None) -> torch.Tensor | None:
    return None if w is None else w[None]
