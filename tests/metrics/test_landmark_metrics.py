"""Landmark distances and jitter: hand-made tracks whose values follow from the formulas."""

import numpy as np
import pytest

from hdtalk.metrics.jitter import background_jitter, landmark_jitter
from hdtalk.metrics.landmark_distance import face_landmark_distance, mouth_landmark_distance


@pytest.fixture(scope="module")
def track():
    random = np.random.default_rng(0)
    return random.uniform(40, 200, (1, 68, 2)) + np.cumsum(random.normal(size=(30, 68, 2)), axis=0)


def test_a_shift_is_its_length_everywhere(track):
    shifted = track + [3, -4]
    np.testing.assert_allclose(face_landmark_distance(shifted, track), 5)
    np.testing.assert_allclose(mouth_landmark_distance(shifted, track), 5)


def test_the_mouth_is_twenty_of_the_sixty_eight_points(track):
    moved = track.copy()
    moved[:, 48:68, 1] += 6.8
    np.testing.assert_allclose(mouth_landmark_distance(moved, track), 6.8)
    np.testing.assert_allclose(face_landmark_distance(moved, track), 2.0)
    moved = track.copy()
    moved[:, :48] += 1
    np.testing.assert_allclose(mouth_landmark_distance(moved, track), 0, atol=1e-12)


def test_jitter_ignores_true_motion_offset_and_drift(track):
    drift = 0.3 * np.arange(30)[:, None, None]
    assert landmark_jitter(track, track) == 0
    assert landmark_jitter(track + 7 + drift, track) == pytest.approx(0, abs=1e-9)


def test_jitter_of_white_noise_has_its_closed_form():
    """Second difference of noise sigma: variance 6 sigma^2 per axis, so a Rayleigh length of mean sigma sqrt(3 pi)."""
    noise = np.random.default_rng(3).normal(0, 0.5, (400, 68, 2))
    assert landmark_jitter(noise, np.zeros_like(noise)) == pytest.approx(0.5 * np.sqrt(3 * np.pi), rel=0.01)


def test_jitter_of_an_alternating_point(track):
    shaking = track.copy()
    shaking[::2, :, 0] += 1  # e = 1, 0, 1, 0: second differences are 2 in size
    assert landmark_jitter(shaking, track) == pytest.approx(2)


def test_jitter_needs_three_frames_in_a_row(track):
    assert np.isnan(landmark_jitter(track[:2], track[:2]))
    holed = track + np.where(np.arange(30) % 3 == 1, np.nan, 0)[:, None, None]
    assert np.isnan(landmark_jitter(holed, track))
    holed = track.copy()
    holed[10] = np.nan
    holed[20, :, 1] += 5  # second differences 5, 10, 5 in 3 of the 25 runs that are whole
    assert landmark_jitter(holed, track) == pytest.approx(20 / 25)


def test_background_jitter_sees_only_outside_pixels_and_only_change():
    outside = np.zeros((4, 5), bool)
    outside[0] = True
    before, after = np.full((4, 5, 3), 9, np.int16), np.full((4, 5, 3), 9, np.int16)
    after[1:] = 200
    assert background_jitter(before, after, outside) == 0
    after[0] += np.array([3, -3, 0], np.int16)
    assert background_jitter(before, after, outside) == pytest.approx(2)
    assert np.isnan(background_jitter(before, after, np.zeros((4, 5), bool)))
