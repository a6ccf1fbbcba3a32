import numpy as np
from heads.camera import aligned_frame, degrade, occlude

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


def test_degrade_keeps_size_and_follows_its_generator():
    image = np.full((64, 64, 3), 128, np.uint8)
    image[16:48, 16:48] = [200, 120, 90]
    first, again = (degrade(image, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    others = [np.abs(degrade(image, np.random.default_rng(k)).astype(int) - image).mean() for k in range(20)]
    assert max(others) > 5 and len(set(others)) == 20


def test_an_occluder_hides_labels_where_it_is_painted():
    image, labels = np.full((128, 128, 3), [230, 180, 160], np.uint8), np.ones((128, 128), np.uint8)
    for seed in range(4):  # hands and microphones
        covered, hidden = occlude(image, labels, np.random.default_rng(seed))
        changed = np.abs(covered.astype(int) - image).sum(-1) > 100
        assert 0.01 < (hidden == 0).mean() < 0.6 and changed.any()
        assert (hidden[changed] == 0).mean() > 0.9 and (hidden[:30] == 1).all()
