"""S3FD against the module of the face-alignment package, and its boxes against their definition."""

import numpy as np
import pytest
import torch

from hdtalk.models.s3fd import S3FD, _decode


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return S3FD().eval()


def test_same_network_as_in_face_alignment(network):
    from face_alignment.detection.sfd.net_s3fd import s3fd

    reference = s3fd().eval()
    reference.load_state_dict(network.state_dict())
    assert len(network.state_dict()) == 65
    images = torch.rand(1, 3, 96, 128) * 255
    mean = torch.tensor([104.0, 117.0, 123.0])[:, None, None]
    with torch.no_grad():
        expected = reference(images.flip(1) - mean)
        actual = [answer for pair in network(images) for answer in pair]
    assert len(actual) == len(expected) == 12
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_boxes_of_known_offsets():
    answers = []
    for level in range(6):
        side = max(1, 8 >> level)
        logits, box = torch.zeros(2, side, side), torch.zeros(4, side, side)
        logits[0] = 20
        answers.append((logits, box))
    answers[1][0][1, 2, 3] = 40  # stride 8, row 2, column 3: centre (28, 20), anchor 32
    answers[1][1][:, 2, 3] = torch.tensor([10.0, -5.0, 5 * np.log(2), 0.0])
    boxes, scores = _decode(answers, 0.5)
    assert scores.tolist() == [1.0]
    centre = np.array([28 + 32, 20 - 16])  # offsets count tenths of the anchor
    np.testing.assert_allclose(boxes.numpy(), [[*(centre - [32, 16]), *(centre + [32, 16])]], rtol=1e-5)


def test_detect_returns_frame_pixels_best_first_without_doubles(network, monkeypatch):
    def answers(images):
        batch, _, height, width = images.shape
        found = []
        for level in range(6):
            shape = (batch, max(1, height >> (level + 2)), max(1, width >> (level + 2)))
            logits = torch.stack([torch.full(shape, 9.0), torch.zeros(shape)], 1)
            if level == 3 and height > 64:  # stride 32, anchor 128
                logits[:, 1, 2, 3], logits[:, 1, 2, 4], logits[:, 1, 2, 15] = 12, 11, 14
            found.append((logits, torch.zeros(batch, 4, *shape[1:])))
        return found

    monkeypatch.setattr(network, "forward", answers)
    found = network.detect(np.zeros((3, 720, 1280, 3), np.uint8), batch_size=2, overlap=0.3)
    assert len(found) == 3 and found[0].dtype == np.float32
    # centres (496, 80) and (112, 80) of the 640x360 picture; the box at column 4 overlaps its neighbour
    np.testing.assert_allclose(found[2][:, :4], [[864, 32, 1120, 288], [96, 32, 352, 288]])
    assert found[2][0, 4] > found[2][1, 4] > 0.9
    assert network.detect(np.zeros((1, 50, 40, 3), np.uint8))[0].shape == (0, 5)


def test_shapes_are_checked(network):
    with pytest.raises(ValueError, match="uint8"):
        network.detect(np.zeros((1, 8, 8, 3), np.float32))
