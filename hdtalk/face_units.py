"""Landmarks in face units: centred between the eyes, eye line level, outer eye corners about 1 apart when frontal.

The similarity that takes a frame there uses only points that speech and expression hardly move.
"""

import math
from collections.abc import Sequence

import numpy as np

OUTER_EYE = (36, 45)
STILL_POINTS = [*range(27, 31), 36, 39, 42, 45]  # nose bridge and eye corners: no expression moves them
LIPS_INNER_UPPER, LIPS_INNER_LOWER = (61, 62, 63), (67, 66, 65)
# How far each point follows when the lips close: the jaw carries the lower lip, the upper lip comes a little down.
_CLOSING = np.zeros(68, np.float32)
_CLOSING[[55, 56, 57, 58, 59, 65, 66, 67]] = -0.8
_CLOSING[[61, 62, 63, 50, 51, 52]] = 0.2
_CLOSING[[49, 53]] = 0.1
_CLOSING[[60, 64, 48, 54]] = -0.15
_CLOSING[5:12] = (-0.35, -0.55, -0.7, -0.75, -0.7, -0.55, -0.35)


def to_face_units(landmarks_px: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """`[T,68,2]` pixels -> `[T,68,2]` face units and the frames' similarities for `from_face_units`."""
    landmarks_px = np.asarray(landmarks_px, np.float64)
    right, left = landmarks_px[:, [36, 39]].mean(1), landmarks_px[:, [42, 45]].mean(1)
    centre = (right + left) / 2
    axis = left - right
    # Turning the head shortens the eye line, nodding shortens the nose: together they keep the scale.
    along = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-6)
    nose = landmarks_px[:, 33] - centre
    height = nose[:, 1] * along[:, 0] - nose[:, 0] * along[:, 1]
    scale = np.sqrt(np.sum((landmarks_px[:, 45] - landmarks_px[:, 36]) ** 2, -1) + height**2) / 1.12
    rotation = np.stack([along, np.stack([-along[:, 1], along[:, 0]], -1)], 1) * scale[:, None, None]  # rows: x, y axis
    local = (landmarks_px - centre[:, None]) @ rotation.transpose(0, 2, 1) / scale[:, None, None] ** 2
    return local.astype(np.float32), (centre, rotation)


def from_face_units(local: np.ndarray, similarity: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The inverse of `to_face_units`: `[T,68,2]` face units -> pixels."""
    centre, rotation = similarity
    return (np.asarray(local, np.float64) @ rotation + centre[:, None]).astype(np.float32)


def lip_gap(local: np.ndarray) -> np.ndarray:
    """Mean vertical distance of the inner lips `[...]`, from `[...,68,2]` landmarks; negative where they overlap."""
    return (local[..., LIPS_INNER_LOWER, 1] - local[..., LIPS_INNER_UPPER, 1]).mean(-1)


def mouth_width(local: np.ndarray) -> np.ndarray:
    return np.linalg.norm(local[..., 54, :] - local[..., 48, :], axis=-1)


def close_lips(local: np.ndarray, amount: np.ndarray | float, rest: float = 0.0) -> np.ndarray:
    """Moves the lips, and the chin with them, until what their gap has above `rest` is (1 - amount) of what it was;
    never parts them."""
    shift = np.maximum(lip_gap(local) - rest, 0) * amount
    closed = local.copy()
    closed[..., 1] += np.asarray(shift)[..., None] * _CLOSING
    return closed


def without_opening(displacement: np.ndarray) -> np.ndarray:
    """A displacement `[68,2]` less what it opens the lips, chin included."""
    shut = displacement.copy()
    shut[:, 1] += lip_gap(displacement) * _CLOSING
    return shut


def neutral_face(local: np.ndarray, share: float = 0.1, within: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
    """The person's neutral face `[68,2]` in face units, and the frames it was taken from: those with the lips closest
    together, as frontal as the shot allows: at most `share` of them, with a gap at most `within` above the least (at
    least half of the share, and three). A gap that remains is closed. Lips pressed together as for
    a p are meant: half-open or resting ones are thicker, and displacements would come on top of that."""
    gap = lip_gap(local)
    turned = np.abs(local[:, 33, 0] - local[:, [36, 45], 0].mean(-1))  # the nose leaves the middle as the head turns
    most, least = (min(len(local), max(3, round(len(local) * part))) for part in (share, share / 2))
    count = int(np.clip((gap <= gap.min() + within).sum(), least, most))
    candidates = np.argsort(gap)[: max(count, min(len(local), 3 * count))]
    frames = candidates[np.argsort(turned[candidates] + 2 * np.maximum(gap[candidates] - gap.min(), 0))[:count]]
    neutral = np.median(local[frames], axis=0).astype(np.float32)
    return close_lips(neutral, 1.0), frames


def ridge(inputs: np.ndarray, outputs: np.ndarray, prior: float | Sequence[float] = 0.0) -> np.ndarray:
    """Coefficients `[K,68,2]` that take `[T,K]` to `[T,68,2]`; `prior`: how many unit inputs say that each is zero."""
    normal = inputs.T @ inputs
    normal[np.diag_indices_from(normal)] += 1e-6 + np.asarray(prior)
    return np.linalg.solve(normal, inputs.T @ outputs.reshape(len(outputs), -1)).reshape(-1, 68, 2)
