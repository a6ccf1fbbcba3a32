"""Cameras for rendered heads: the frame, and the FFHQ-aligned crop."""

from typing import NamedTuple

import numpy as np


class Camera(NamedTuple):
    """A pinhole at `distance` cm from LOOK_AT; `frame` [2,3] takes the picture's plane (landmarks.py: cm, y down) to
    the image, in image widths from its left upper corner."""

    distance: float = 80.0
    frame: tuple = ((0.030, 0.0, 0.5), (0.0, 0.030, 0.51))


def whole_frame(zoom: float = 1.0, offset=(0.0, 0.01), aspect: float = 1.0) -> tuple:
    """An upright frame; zoom 1: it is 33 cm wide at LOOK_AT, which lies `offset` (in widths) from the image's centre.
    aspect: width / height."""
    return ((0.030 * zoom, 0.0, 0.5 + offset[0]), (0.0, 0.030 * zoom, 0.5 / aspect + offset[1]))


def aligned_frame(landmarks_plane: np.ndarray, jitter=(0.0, 0.0, 0.0, 0.0)) -> tuple:
    """The frame whose image is the FFHQ-aligned crop of a face with these landmarks [68,2].

    jitter: shift right and down in crop widths, log of a scale, rotation in radians; stands for tracking error."""
    centre, x, y = ffhq_square(landmarks_plane)
    cos, sin = np.cos(jitter[3]), np.sin(jitter[3])
    centre = centre + 2 * (jitter[0] * x + jitter[1] * y)
    x, y = (np.exp(jitter[2]) * v for v in (cos * x + sin * y, cos * y - sin * x))
    linear = np.linalg.inv(np.stack([x, y], 1)) / 2  # plane offsets -> image widths
    shift = 0.5 - linear @ centre
    return tuple((*map(float, row), float(t)) for row, t in zip(linear, shift, strict=True))


def ffhq_square(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and half sides (to the right, down) of the FFHQ crop; FFHQ data set's alignment."""
    eye_l, eye_r = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    eyes, mouth = (eye_l + eye_r) / 2, (landmarks[48] + landmarks[54]) / 2
    across, down = (eye_r - eye_l).astype(np.float64), (mouth - eyes).astype(np.float64)
    x = across + np.array([down[1], -down[0]])
    x *= max(2.0 * np.linalg.norm(across), 1.8 * np.linalg.norm(down)) / np.linalg.norm(x)
    return eyes + 0.1 * down, x, np.array([-x[1], x[0]])
