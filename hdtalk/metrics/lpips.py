"""Learned perceptual image patch similarity (Zhang et al. 2018) over frames."""

from collections.abc import Callable

import numpy as np
import torch

DEFINITION = (
    "Version 0.1 of Zhang et al. 2018, AlexNet backbone, linear layers of the lpips package, RGB in [-1,1], "
    "no resizing; mean over frames."
)
DEMO_DEFINITION = (
    "Not the LPIPS of the literature: the same formula on the demo bundle's own perceptual network, because the "
    "official AlexNet weights are not installed."
)


def lpips(
    prediction: np.ndarray,
    ground_truth: np.ndarray,
    perceptual_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Distance of each frame, float64 [N], 0 = the same. Both uint8 RGB [N,H,W,3];
    `perceptual_loss` takes two float tensors [N,3,H,W] in [-1,1] and returns [N]."""
    with torch.inference_mode():
        distances = perceptual_loss(_to_network(prediction, device), _to_network(ground_truth, device))
    return distances.double().cpu().numpy()


def _to_network(frames: np.ndarray, device: str | torch.device) -> torch.Tensor:
    images = torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1
