"""Structural similarity (Wang et al. 2004): local means, contrasts and correlations of picture and ground truth."""

import cv2
import numpy as np

DEFINITION = (
    "As in Wang et al. 2004: Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, data range 255, population "
    "covariance, on each RGB channel, mean over channels and over all whole windows (a border of 5 px is left out); "
    "mean over frames."
)
WINDOW_PX = 11
SIGMA_PX = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(prediction: np.ndarray, ground_truth: np.ndarray) -> np.ndarray:
    """SSIM of each frame, float64 [N] in [-1,1]. Both uint8 RGB [N,H,W,3], sides of at least 11 px."""
    return np.array([_ssim_of_frame(a, b) for a, b in zip(prediction, ground_truth, strict=True)])


def _ssim_of_frame(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a * a) - mean_a * mean_a
    variance_b = _window_mean(b * b) - mean_b * mean_b
    covariance = _window_mean(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return float((likeness / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))).mean())


def _window_mean(image: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(image, (WINDOW_PX, WINDOW_PX), SIGMA_PX)
    margin = WINDOW_PX // 2
    return blurred[margin:-margin, margin:-margin]
