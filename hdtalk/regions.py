"""Parts of an aligned face as masks drawn from its landmarks."""

import cv2
import numpy as np

LOWER_FACE = [*range(3, 14), *range(31, 36), *range(48, 60)]  # iBUG: jaw below the ears, nose's lower edge, mouth
MOUTH = list(range(48, 60))
UPPER_FACE = slice(17, 48)  # brows, nose, eyes


def lower_face_mask(source_px: np.ndarray, target_px: np.ndarray, side: int, margin: float = 0.03) -> np.ndarray:
    """Mouth, jaw and chin of source and target together: float32 `[n, 1, side, side]`, 1 inside, soft border.

    Landmarks `[n, 68, 2]` in pixels of a crop of this side. Reaches from the nose down; grown by `margin` sides."""
    return _hulls([source_px[:, LOWER_FACE], target_px[:, LOWER_FACE]], side, margin)


def upper_face_moves(source_px: np.ndarray, target_px: np.ndarray, side: int) -> float:
    """How far brows, nose and eyes move at most, but for one point in twenty, as a share of the crop's side."""
    return float(np.quantile(np.linalg.norm((target_px - source_px)[:, UPPER_FACE], axis=2), 0.95) / side)


def mouth_mask(landmarks_px: np.ndarray, side: int, margin: float = 0.03) -> np.ndarray:
    """Mouth and lips, as `lower_face_mask`."""
    return _hulls([landmarks_px[:, MOUTH]], side, margin)


def _hulls(outlines_px: list[np.ndarray], side: int, margin: float) -> np.ndarray:
    grow = max(1, round(margin * side))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
    masks = np.zeros((len(outlines_px[0]), 1, side, side), np.float32)
    for mask, *outlines in zip(masks, *outlines_px, strict=True):
        for points in outlines:
            hull = cv2.convexHull(points.astype(np.float32)).round().astype(np.int32)
            cv2.fillConvexPoly(mask[0], hull, 1.0)
        mask[0] = cv2.blur(cv2.dilate(mask[0], kernel), (grow, grow))
    return masks
