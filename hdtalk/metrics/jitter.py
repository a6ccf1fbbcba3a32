"""Temporal jitter: trembling of the face's landmarks and of the background that the ground truth does not have."""

import numpy as np

DEFINITION = (
    "Mean length of the second temporal difference e[t+1] - 2 e[t] + e[t-1] of the landmark error "
    "e = prediction - ground truth, over the 68 points, in pixels of the 256 px FFHQ crop. True motion cancels; a "
    "steady offset or drift costs nothing."
)
BACKGROUND_DEFINITION = (
    "Mean absolute change from one frame to the next of (prediction - ground truth), in grey levels of 255, "
    "over the full frame outside the FFHQ crop of the face; 0 when the background is the ground truth's own."
)


def landmark_jitter(prediction_px: np.ndarray, ground_truth_px: np.ndarray) -> float:
    """Jitter in pixels per frame squared. Both float [T,68,2], consecutive frames, same crop; frames without a face
    hold nan, and only runs of three frames with one count; nan when there is no such run."""
    error = np.asarray(prediction_px, np.float64) - ground_truth_px
    lengths = np.linalg.norm(np.diff(error, n=2, axis=0), axis=-1)  # [T-2,68]
    lengths = lengths[np.isfinite(lengths).all(axis=-1)] if len(error) > 2 else lengths[:0]
    return float(lengths.mean()) if len(lengths) else float("nan")


def background_jitter(error_before: np.ndarray, error: np.ndarray, outside: np.ndarray) -> float:
    """BG-jitter of one step, in grey levels; nan when no pixel lies outside.

    `error_before`, `error`: prediction - ground truth of two consecutive frames, int16 or float [H,W,3];
    `outside`: bool [H,W], True where the face's crop is in neither frame.
    """
    if not outside.any():
        return float("nan")
    change = error[outside].astype(np.float64) - error_before[outside]
    return float(np.abs(change).mean())
