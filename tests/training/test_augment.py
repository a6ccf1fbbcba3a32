"""Augmentation of whole batches: pictures, points and labels stay together, and faults are what they claim to be."""

import cv2
import numpy as np
import pytest
import torch

from hdtalk.training.augment import (
    MIRRORED_68,
    UNKNOWN,
    Placement,
    camera_faults,
    jpeg,
    occlude,
    place_images,
    place_labels,
    place_points,
    random_placement,
    sampling_grid,
)

SIDE = 96


def spot(x_px, y_px, side=SIDE):
    """A bright spot on black, [1,3,side,side] in [-1,1]; pixel centres at +0.5."""
    places = torch.arange(side) + 0.5
    bump = (-((places - x_px) ** 2 + (places[:, None] - y_px) ** 2) / 18).exp()
    return (2 * bump - 1).expand(1, 3, side, side)


def centre_of(image):
    """Centre of mass of what is brighter than the background, (x, y) px."""
    weight = (image[0] + 0.9).clamp(min=0).double()
    places = torch.arange(weight.shape[-1]) + 0.5
    return np.array([(weight.sum(axis) @ places.double()).item() for axis in (0, 1)]) / weight.sum().item()


def test_a_landmark_moves_with_what_it_lies_on():
    rng = np.random.default_rng(0)
    placement = random_placement(rng, 8, (0.7, 1.3), 14.0, 0.05)
    assert 0 < placement.mirrored.sum() < 8
    points = rng.uniform(36, 60, (8, 68, 2)).astype(np.float32)
    images = torch.cat([spot(*p[33]) for p in points])
    moved = place_images(images, sampling_grid(placement, SIDE, "cpu"), borders=False)
    placed = place_points(points, SIDE, placement)
    for n in range(8):
        name = list(MIRRORED_68).index(33) if placement.mirrored[n] else 33  # 33 lies on the axis: the same
        np.testing.assert_allclose(centre_of(moved[n]), placed[n, name], atol=0.1)


def test_mirroring_swaps_the_names_of_left_and_right():
    still = Placement(np.eye(2, dtype=np.float32)[None], np.zeros((1, 2), np.float32), np.array([True]))
    points = np.full((1, 68, 2), 40, np.float32)
    points[0, 36] = 10, 20  # outer corner of the right eye, at the picture's left
    placed = place_points(points, SIDE, still)
    np.testing.assert_allclose(placed[0, 45], [SIDE - 10, 20], atol=1e-4)  # now the left eye's, at the right
    labels = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    labels[0, 20, 10] = 4
    moved = place_labels(labels, sampling_grid(still, SIDE, "cpu"), still)
    assert moved[0, 20, SIDE - 11] == 5 and int((moved > 0).sum()) == 1


def test_what_comes_from_outside_has_no_label():
    half = Placement(np.eye(2, dtype=np.float32)[None] * 0.5, np.zeros((1, 2), np.float32), np.array([False]))
    moved = place_labels(torch.ones(1, SIDE, SIDE, dtype=torch.uint8), sampling_grid(half, SIDE, "cpu"), half)
    assert (moved[0, 24:72, 24:72] == 1).all()
    moved[0, 24:72, 24:72] = UNKNOWN
    assert (moved == UNKNOWN).all()


def test_covered_pixels_change_and_lose_their_label():
    images, labels = torch.zeros(40, 3, SIDE, SIDE), torch.ones(40, SIDE, SIDE, dtype=torch.uint8)
    covered, left = occlude(images, labels, np.random.default_rng(0), 0.5)
    touched = (covered != 0).any(1)
    assert torch.equal(touched, left == UNKNOWN)
    assert 10 < int(touched.flatten(1).any(1).sum()) < 30


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_errs_as_a_real_encoder_does(quality):
    rng = np.random.default_rng(1)
    smooth = cv2.GaussianBlur(rng.uniform(0, 255, (64, 64, 3)), (0, 0), 3)
    image = np.clip((smooth - 128) * 6 + 128, 0, 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    real = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    ours = jpeg(x, np.array([quality]))[0].permute(1, 2, 0).numpy() * 255
    error = np.abs(real - image).mean()
    assert np.abs(ours - real).mean() < 0.7 * error
    assert np.abs(ours - image).mean() == pytest.approx(error, rel=0.15)


def test_faults_follow_the_seed_and_touch_the_share_asked_for():
    images = torch.rand(10, 3, SIDE, SIDE) * 2 - 1

    def spoil(seed, share=1.0):
        torch.manual_seed(5)
        return camera_faults(images, np.random.default_rng(seed), 1.0, share)

    assert torch.equal(spoil(3), spoil(3)) and not torch.equal(spoil(3), spoil(4))
    assert int((spoil(3, 0.6) != images).flatten(1).any(1).sum()) == 6
    assert spoil(3).abs().max() <= 1
    assert torch.equal(spoil(3, 0.0), images)
