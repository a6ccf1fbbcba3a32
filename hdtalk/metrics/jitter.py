"""Temporal jitter: trembling of the face's landmarks and of the background that the ground truth does not have."""

import numpy as np

DEFINITION = (
    "Jitter: mean length of the second temporal difference e[t+1] - 2 e[t] + e[t-1] of the landmark error "
    "e = prediction - ground truth, over the 68 points, in pixels of the 256 px FFHQ crop. True motion cancels; a "
    "steady offset or drift costs nothing."
)
BACKGROUND_DEFINITION = (
    "BG-jitter: mean absolute change from one frame to the next of (prediction - ground truth), in grey levels of 255, "
    "over the full frame outside the FFHQ crop of the face; 0 when the background is the ground truth's own."
)


def landmark_jitter(prediction_px: np.ndarray, ground_truth_px: np.ndarray) -> float:
    """Jitter in pixels per frame squared; nan below 3 frames. Both float [T,68,2], consecutive frames, same crop."""
    error = np.asarray(prediction_px, np.float64) - ground_truth_px
    if len(error) < 3:
        return float("nan")
    return float(np.linalg.norm(np.diff(error, n=2, axis=0), axis=-1).mean())


def background_jitter(error_before: np.ndarray, error: np.ndarray, outside: np.ndarray) -> float:
    """BG-jitter of one step, in grey levels; nan when no pixel lies outside.

    `error_before`, `error`: prediction - ground truth of two consecutive frames, int16 or float [H,W,3];
    `outside`: bool [H,W], True where the face's crop is in neither frame.
    """
    if not outside.any():
        return float("nan")
    change = error[outside].astype(np.float64) - error_before[outside]
    return float(np.abs(change).mean())
