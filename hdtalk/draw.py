"""Landmarks as a pen would draw them."""

import cv2
import numpy as np

# iBUG 68: first point, last point, closed
STROKES = [(0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False)]
STROKES += [(36, 41, True), (42, 47, True), (48, 59, True), (60, 67, True)]
INK, ACCENT = (205, 215, 225), (255, 176, 64)


def draw_landmarks(picture: np.ndarray, landmarks_px: np.ndarray) -> np.ndarray:
    """A copy of the uint8 RGB picture with the 68 points [68,2] (iBUG) as lines."""
    canvas = np.ascontiguousarray(picture).copy()
    thickness = max(1, round(canvas.shape[0] / 240))
    for first, last, closed in STROKES:
        colour = ACCENT if first >= 48 else INK
        stroke = np.round(np.asarray(landmarks_px[first : last + 1], np.float64) * 16).astype(np.int32)
        cv2.polylines(canvas, [stroke], closed, colour, thickness, cv2.LINE_AA, shift=4)
    return canvas
