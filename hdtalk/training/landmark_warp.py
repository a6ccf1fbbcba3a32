"""Warps that take the expression out of landmarks and leave the pose: what keeps the alignment network honest."""

import numpy as np

_BROWS, _EYES, _MOUTH = (range(17, 22), range(22, 27)), (range(36, 42), range(42, 48)), range(48, 68)
_JAW_FOLLOWS = np.zeros(68, np.float32)
_JAW_FOLLOWS[3:14] = np.sin(np.linspace(0.15, np.pi - 0.15, 11))
_LOWER = [54, 55, 56, 57, 58, 59, 48, 64, 65, 66, 67, 60]


def warp_expression(local: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Face units `[N,68,2]` -> the same heads with another, random expression: mouth stretched, opened, closed, moved,
    with the jaw; brows and lids up or down. What cannot change by expression (nose, eye corners, pose) stays."""
    out = np.array(local, np.float32)
    n = len(out)
    mouth = out[:, _MOUTH]
    centre = mouth.mean(1, keepdims=True)
    # The lips' gap is replaced: first closed to a line, then opened by a random amount with the lower lip and the jaw.
    upper, lower = out[:, [61, 62, 63]], out[:, [67, 66, 65]]
    middle = (upper + lower) / 2
    keep = rng.uniform(-0.2, 1.0, (n, 1, 1)) * (rng.random((n, 1, 1)) < 0.5)
    shift_up, shift_down = (middle - upper) * (1 - keep), (middle - lower) * (1 - keep)
    out[:, [61, 62, 63]] += shift_up
    out[:, [67, 66, 65]] += shift_down
    out[:, [50, 51, 52]] += shift_up
    out[:, [58, 57, 56]] += shift_down
    opening = np.abs(rng.normal(0, 0.12, (n, 1))) * (rng.random((n, 1)) < 0.8)
    share = np.zeros(68, np.float32)
    share[_LOWER] = (0.15, 0.6, 1, 1, 1, 0.6, 0.15, 0.15, 1, 1, 1, 0.15)
    out[..., 1] += opening * (share + 0.6 * _JAW_FOLLOWS)
    scale = np.stack([rng.uniform(0.75, 1.25, n), rng.uniform(0.8, 1.2, n)], -1)[:, None]
    out[:, _MOUTH] = centre + (out[:, _MOUTH] - centre) * scale + rng.normal(0, 0.03, (n, 1, 2))
    corners = rng.normal(0, 0.04, (n, 2))
    for corner, points in enumerate(([48, 60, 49, 59], [54, 64, 53, 55])):
        out[:, points, 1] += corners[:, corner, None] * np.array([1, 0.9, 0.4, 0.4], np.float32)
    out[..., 1] += rng.normal(0, 0.04, (n, 1)) * _JAW_FOLLOWS
    for brow in _BROWS:
        out[:, brow, 1] += rng.normal(0, 0.05, (n, 1)) + rng.normal(0, 0.02, (n, 1)) * np.linspace(-1, 1, 5)
    for eye in _EYES:
        lids = [eye[1], eye[2], eye[4], eye[5]]
        middle = out[:, [eye[0], eye[3]]].mean(1, keepdims=True)
        out[:, lids, 1] = (middle + (out[:, lids] - middle) * rng.uniform(0, 1.6, (n, 1, 1)))[..., 1]
    return out


def distort(local: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small errors as of a landmark detector: the whole face stretched a little, every point moved a little."""
    n = len(local)
    stretch = 1 + rng.normal(0, 0.02, (n, 1, 2))
    return (local * stretch + rng.normal(0, 0.006, local.shape)).astype(np.float32)
