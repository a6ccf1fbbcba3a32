"""Peak signal-to-noise ratio: how far the pixels are from the ground truth, in decibels."""

import numpy as np

DEFINITION = (
    "10 log10(255^2 / MSE) in dB, MSE over the pixels and RGB channels of one frame (uint8, data range 255); "
    "mean over frames. Frames equal to the ground truth bit for bit (infinite PSNR) are left out of the mean and "
    "counted in a note; when all are equal the PSNR is inf."
)


def psnr(prediction: np.ndarray, ground_truth: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame, float64 [N]; inf where the two are equal. Both uint8 RGB [N,H,W,3]."""
    error = prediction.astype(np.float64) - ground_truth.astype(np.float64)
    mean_squared = (error**2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / mean_squared)


def mean_psnr(values_db: np.ndarray) -> float:
    """Mean over the frames that differ, so that one untouched frame does not make a whole clip infinite."""
    finite = values_db[np.isfinite(values_db)]
    return float(finite.mean()) if finite.size else float("inf")
