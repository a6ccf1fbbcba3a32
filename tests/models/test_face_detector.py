"""The face detector, taught four pictures of bright boxes, answers in pixels of the frame it was given."""

import numpy as np
import pytest
import torch

from hdtalk.models.face_detector import Detections, FaceDetector, detection_loss


def scene(rng, height, width):
    """A dim noisy picture with one bright box, and that box."""
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    w, h = rng.integers(50, 110, 2)
    x, y = rng.integers(0, width - w), rng.integers(0, height - h)
    image[y : y + h, x : x + w] = 230
    return image, np.array([x, y, x + w, y + h], np.float32)


def scenes():
    rng = np.random.default_rng(0)
    return tuple(np.stack(parts) for parts in zip(*(scene(rng, 160, 320) for _ in range(4)), strict=True))


@pytest.fixture(scope="module")
def detector():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, (images, boxes) = FaceDetector(4), scenes()
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        for _ in range(50):
            loss = detection_loss(network(x), list(torch.from_numpy(boxes[:, None])))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def overlap(a, b):
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


@pytest.mark.parametrize("enlargement", [1, 3])
def test_finds_boxes_in_pixels_of_the_frame(detector, enlargement):
    images, boxes = scenes()
    frames = images.repeat(enlargement, 1).repeat(enlargement, 2)
    found = detector.detect(frames, threshold=0.15)
    assert len(found) == 4 and all(answer.dtype == np.float32 and answer.shape[1] == 5 for answer in found)
    overlaps = [overlap(f[0, :4], b * enlargement) if len(f) else 0 for f, b in zip(found, boxes, strict=True)]
    assert min(overlaps) > 0.35
    for detections in found:
        assert (np.diff(detections[:, 4]) <= 0).all()  # best first
        assert (detections[:, :4] >= 0).all() and (detections[:, 2] <= frames.shape[2]).all()


def test_overlapping_answers_are_merged(detector):
    image, _ = scene(np.random.default_rng(3), 160, 320)
    strict, lenient = (detector.detect(image[None], threshold=0.01, overlap=limit)[0] for limit in (0.2, 0.99))
    assert len(strict) < len(lenient)
    pairs = [(a, b) for i, a in enumerate(strict) for b in strict[:i]]
    assert all(overlap(a[:4], b[:4]) <= 0.2 + 1e-6 for a, b in pairs)


def test_nothing_in_an_empty_picture(detector):
    noise = np.random.default_rng(1).integers(0, 60, (1, 160, 320, 3)).astype(np.uint8)
    assert detector.detect(noise, threshold=0.3)[0].shape == (0, 5)


def test_loss_is_least_at_the_truth():
    box = torch.tensor([[40.0, 24, 104, 120]])  # its centre, (72, 72), lies on the corner of a cell
    centre, logarithms = torch.full((1, 1, 20, 20), -12.0), torch.zeros(1, 4, 20, 20)
    for y in range(20):
        for x in range(20):
            px, py = 8 * x + 4, 8 * y + 4
            sides = torch.tensor([px - 40.0, py - 24.0, 104.0 - px, 120.0 - py]).clamp(min=1)
            logarithms[0, :, y, x] = (sides / 8).log()
    centre[0, 0, 9, 9] = 12.0
    truth = detection_loss(Detections(centre, logarithms), [box])
    assert 0 <= truth < 0.05
    assert detection_loss(Detections(centre, logarithms + 0.5), [box]) > truth + 0.3
    assert detection_loss(Detections(centre.roll(2, 3), logarithms), [box]) > truth + 1
    assert detection_loss(Detections(torch.full((1, 1, 20, 20), -12.0), logarithms), [torch.zeros(0, 4)]) < 1e-3


def test_refuses_what_is_not_a_clip(detector):
    with pytest.raises(ValueError, match="uint8"):
        detector.detect(np.zeros((1, 64, 64, 3), np.float32))
