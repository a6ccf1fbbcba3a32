"""FAN against face-alignment's own module, and its decoders against planted landmarks and the official rule."""

import numpy as np
import pytest
import torch
from official_keys import fan as official_keys

from hdtalk.losses.landmark import gaussian_heatmaps
from hdtalk.models.fan import FAN, centroids, heatmaps_to_landmarks


@pytest.mark.parametrize("num_modules", [1, 2, 4])
def test_keys_and_shapes_are_the_official_ones(num_modules):
    with torch.device("meta"):
        state = FAN(num_modules).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == official_keys(num_modules)
    if num_modules == 4:
        assert len(state) == 1129


def test_forward_is_that_of_face_alignment():
    theirs = pytest.importorskip("face_alignment.models.fan").FAN(2).eval()
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    ours = FAN(2).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for mine, reference in zip(ours(images), theirs(images), strict=True):
            assert (mine - reference).abs().max() <= 1e-4 * reference.std()
        assert torch.equal(ours.heatmaps(images * 2 - 1), ours((images * 2 - 1 + 1) / 2)[-1])


def test_width_scales_every_layer():
    small, official = FAN(2, channels=32), FAN
    with torch.device("meta"):
        official = FAN(2)
    shapes = {key: tuple(value.shape) for key, value in official.state_dict().items()}
    for key, value in small.state_dict().items():
        expected = tuple(side // 8 if side % 32 == 0 else side for side in shapes[key])
        assert tuple(value.shape) == expected, key
    assert [tuple(stack.shape) for stack in small(torch.rand(1, 3, 256, 256))] == [(1, 68, 64, 64)] * 2


def test_first_and_second_derivatives_are_finite():
    torch.manual_seed(0)
    network = FAN(1, channels=16).eval()
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.heatmaps(images).square().sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)
    assert gradient.isfinite().all() and second.isfinite().all() and gradient.abs().max() > 0


def test_centroid_finds_planted_landmarks():
    torch.manual_seed(0)
    landmarks_px = torch.rand(4, 68, 2) * 230 + 13
    found = heatmaps_to_landmarks(gaussian_heatmaps(landmarks_px, 256))
    assert (found - landmarks_px).abs().max() < 0.05
    noisy = gaussian_heatmaps(landmarks_px, 256) + 0.02 * torch.randn(4, 68, 64, 64)
    assert (heatmaps_to_landmarks(noisy) - landmarks_px).abs().mean() < 0.15


def test_centroid_stays_inside_at_the_border():
    corners_px = torch.tensor([[1.0, 1.0], [255.0, 1.0], [1.0, 255.0], [255.0, 255.0]])
    found = heatmaps_to_landmarks(gaussian_heatmaps(corners_px[None], 256))[0]
    assert (found - corners_px).abs().max() < 3
    assert found.min() > 0 and found.max() < 256


def test_centroids_pull_maps_towards_where_they_should_be():
    torch.manual_seed(0)
    wanted_px = torch.rand(2, 68, 2) * 200 + 28
    heatmaps = gaussian_heatmaps(wanted_px + 2.0, 256).requires_grad_()
    cells = (wanted_px / 4).floor().long()

    def error_px() -> torch.Tensor:
        return (centroids(heatmaps, cells, 1e-3) - wanted_px).abs().mean()

    before = error_px()
    (gradient,) = torch.autograd.grad(before, heatmaps)
    heatmaps = heatmaps.detach() - 20 * gradient
    assert 1.7 < before < 2.1 and error_px() < 0.7 * before
    heatmaps = torch.zeros(1, 68, 64, 64)
    torch.testing.assert_close(centroids(heatmaps, cells[:1], 1e-3), (cells[:1] + 0.5) * 4)


def test_quarter_is_the_official_rule():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 68, 64, 64)).astype(np.float32)
    maps[0, 0] = 0
    maps[0, 0, 0, 30] = 9  # at the border: no step
    expected = np.zeros((2, 68, 2), np.float32)
    for n in range(2):
        for k in range(68):
            y, x = np.unravel_index(maps[n, k].argmax(), (64, 64))
            expected[n, k] = x + 1, y + 1
            if 0 < x < 63 and 0 < y < 63:
                expected[n, k, 0] += 0.25 * np.sign(maps[n, k, y, x + 1] - maps[n, k, y, x - 1])
                expected[n, k, 1] += 0.25 * np.sign(maps[n, k, y + 1, x] - maps[n, k, y - 1, x])
    expected = (expected - 0.5) * 4
    np.testing.assert_allclose(heatmaps_to_landmarks(torch.from_numpy(maps), "quarter").numpy(), expected)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="num_modules"):
        FAN(5)
    with pytest.raises(ValueError, match="multiple of 8"):
        FAN(1, channels=12)
    with pytest.raises(ValueError, match="decode"):
        heatmaps_to_landmarks(torch.zeros(1, 68, 64, 64), "nearest")
