"""Face units: an exact inverse, blind to where and how large the face is; lips that close; the neutral face."""

import numpy as np
import pytest

from hdtalk.face_units import close_lips, from_face_units, lip_gap, neutral_face, to_face_units


def face(gap=0.0):
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.3, (68, 2))
    points[[36, 39, 42, 45]] = [(-0.5, 0), (-0.2, 0), (0.2, 0), (0.5, 0)]
    points[33] = (0, 0.5)
    points[[61, 62, 63], :] = [(-0.1, 0.8), (0, 0.8), (0.1, 0.8)]
    points[[67, 66, 65], :] = [(-0.1, 0.8 + gap), (0, 0.8 + gap), (0.1, 0.8 + gap)]
    return points.astype(np.float32)


def moved(points, angle, scale, shift):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T * scale + shift).astype(np.float32)


def test_there_and_back():
    pixels = np.stack([moved(face(0.1), a, 80 + 10 * a, (300, 200)) for a in (-0.4, 0.0, 0.7)])
    local, similarity = to_face_units(pixels)
    np.testing.assert_allclose(from_face_units(local, similarity), pixels, atol=1e-3)


def test_place_size_and_roll_are_taken_out():
    one, two = (to_face_units(moved(face(), *how)[None])[0] for how in ((0.3, 120, (50, 60)), (-0.5, 31, (400, 9))))
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert np.linalg.norm(one[0, 45] - one[0, 36]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.0])
def test_lips_close_by_the_amount_asked_for(amount):
    closed = close_lips(face(0.2), amount)
    assert lip_gap(closed) == pytest.approx(0.2 * (1 - amount), abs=1e-6)


def test_closed_lips_stay_as_they_are():
    np.testing.assert_array_equal(close_lips(face(-0.02), 1.0), face(-0.02))


def test_the_neutral_face_is_the_closed_one():
    shots = np.stack([face(gap) for gap in (0.3, 0.2, 0.01, 0.25, 0.01, 0.3, 0.15, 0.01, 0.2, 0.3)])
    neutral, frames = neutral_face(shots, 0.2)
    assert sorted(frames) == [2, 4, 7]
    assert abs(lip_gap(neutral)) < 1e-6


def test_only_gaps_like_the_least_show_the_neutral_face():
    shots = np.stack([face(0.3)] * 94 + [face(0.02)] * 2 + [face(0.001)] * 4)
    assert sorted(neutral_face(shots, 0.06, within=0.005)[1]) == [96, 97, 98, 99]
    assert sorted(neutral_face(shots, 0.06)[1]) == [94, 95, 96, 97, 98, 99]
    parted = np.stack([face(gap) for gap in np.linspace(0.1, 0.4, 100)])
    assert sorted(neutral_face(parted, 0.06, within=0.0)[1]) == [0, 1, 2]  # three at least
