import numpy as np
from heads.camera import aligned_frame

RNG = np.random.default_rng(3)
FACE = RNG.normal(size=(68, 2)) * 0.3
FACE[36:42] += [-3, -2]
FACE[42:48] += [3, -2.4]
FACE[48] += [-2, 4]
FACE[54] += [2, 4.2]


def ffhq_quad(lm):
    """The published alignment, written as in the FFHQ data set: left upper, left lower, right lower, right upper."""
    eye_left, eye_right = lm[36:42].mean(0), lm[42:48].mean(0)
    eye_to_eye, eye_avg = eye_right - eye_left, (eye_left + eye_right) / 2
    eye_to_mouth = (lm[48] + lm[54]) / 2 - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def through(frame, points):
    frame = np.asarray(frame)
    return points @ frame[:, :2].T + frame[:, 2]


def test_aligned_frame_shows_exactly_the_ffhq_quad():
    np.testing.assert_allclose(
        through(aligned_frame(FACE), ffhq_quad(FACE)), [[0, 0], [0, 1], [1, 1], [1, 0]], atol=1e-6
    )


def test_jitter_moves_scales_and_turns_the_crop():
    corners = through(aligned_frame(FACE, (0.04, 0, 0, 0)), ffhq_quad(FACE))
    np.testing.assert_allclose(corners[0], [-0.04, 0], atol=1e-6)
    corners = through(aligned_frame(FACE, (0, 0, np.log(1.25), 0)), ffhq_quad(FACE))
    np.testing.assert_allclose(corners, [[0.1, 0.1], [0.1, 0.9], [0.9, 0.9], [0.9, 0.1]], atol=1e-6)
    corners = through(aligned_frame(FACE, (0, 0, 0, 0.05)), ffhq_quad(FACE))
    edge = corners[3] - corners[0]
    np.testing.assert_allclose(np.hypot(*edge), 1, atol=1e-6)
    np.testing.assert_allclose(np.arctan2(edge[1], edge[0]), -0.05, atol=1e-6)
