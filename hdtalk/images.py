"""Pictures between disk and networks: uint8 crops and float images in [-1, 1], and the sizes that losses look at."""

import numpy as np
import torch
import torch.nn.functional as F


def to_images(crops: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 `[n, 3, R, R]` -> float32 in [-1, 1], channels-last."""
    images = torch.from_numpy(np.ascontiguousarray(crops)).to(device)
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def to_crops(images: torch.Tensor) -> np.ndarray:
    """The inverse of `to_images`: rounded and clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte().cpu().contiguous().numpy()


def shrink(images: torch.Tensor, side: int) -> torch.Tensor:
    """Averaged down to `side` pixels when larger; 0 keeps the size."""
    return F.adaptive_avg_pool2d(images, side) if 0 < side < images.shape[-1] else images


def resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """To exactly `side` pixels: averaged down or bilinear up."""
    if images.shape[-1] >= side:
        return shrink(images, side)
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
