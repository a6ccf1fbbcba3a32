"""One minus structural similarity (Wang et al. 2004), as the metric of that name measures it, with a gradient."""

import torch
import torch.nn.functional as F

WINDOW_PX = 11
SIGMA_PX = 1.5
DATA_RANGE = 2.0
C1, C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2


def structure_loss(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - SSIM of each picture, float32 `[N]` in [0, 2], over all whole windows.

    `images`, `targets`: `[N, 3, R, R]` in [-1, 1], R at least 11.
    """
    a, b = images.float(), targets.float()
    means = _window_mean(torch.cat([a, b, a * a, b * b, a * b])).split(len(a))
    mean_a, mean_b = means[:2]
    variances = means[2] - mean_a.square() + means[3] - mean_b.square()
    covariance = means[4] - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return 1 - (likeness / ((mean_a.square() + mean_b.square() + C1) * (variances + C2))).mean((1, 2, 3))


def _window_mean(images: torch.Tensor) -> torch.Tensor:
    position = torch.arange(WINDOW_PX, device=images.device, dtype=torch.float32) - WINDOW_PX // 2
    taps = torch.exp(-position.square() / (2 * SIGMA_PX**2))
    channels = images.shape[1]
    taps = (taps / taps.sum()).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(images, taps, groups=channels), taps.transpose(2, 3), groups=channels)
