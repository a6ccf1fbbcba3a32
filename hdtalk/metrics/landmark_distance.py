"""F-LD and M-LD: how far the face and mouth landmarks are from those of the ground truth."""

import numpy as np

F_LD_DEFINITION = (
    "Mean euclidean distance between the 68 landmarks found in the prediction and in the ground truth, in pixels "
    "of the 256 px FFHQ crop. Both videos are cropped by the same quadrilateral, taken from the ground truth's "
    "tracked landmarks smoothed over time, so head position counts; nothing else is aligned away. Mean over points, "
    "then frames."
)
M_LD_DEFINITION = "As F-LD, over the 20 mouth landmarks (iBUG 48 to 67) only."
MOUTH = slice(48, 68)


def face_landmark_distance(prediction_px: np.ndarray, ground_truth_px: np.ndarray) -> np.ndarray:
    """F-LD of each frame, float64 [T] in pixels. Both float [T,68,2], (x, y) in the same crop."""
    return np.linalg.norm(np.asarray(prediction_px, np.float64) - ground_truth_px, axis=-1).mean(axis=-1)


def mouth_landmark_distance(prediction_px: np.ndarray, ground_truth_px: np.ndarray) -> np.ndarray:
    """M-LD of each frame, float64 [T] in pixels. Both float [T,68,2], (x, y) in the same crop."""
    return face_landmark_distance(prediction_px[:, MOUTH], ground_truth_px[:, MOUTH])
