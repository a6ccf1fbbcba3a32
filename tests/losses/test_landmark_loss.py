"""Equation (6) and its targets against plain numpy."""

import numpy as np
import torch

from hdtalk.losses.landmark import gaussian_heatmaps, landmark_loss, landmark_weights


def test_equation_6_against_numpy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 68, 64, 64)).astype(np.float32)
    weights = rng.uniform(0.5, 4, 68).astype(np.float32)
    expected = [
        sum(weights[i] * np.sqrt(((first[n, i] - second[n, i]).astype(float) ** 2).sum()) for i in range(68))
        for n in range(3)
    ]
    got = landmark_loss(*map(torch.from_numpy, (first, second, weights)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_gradient_is_zero_where_maps_are_equal_and_points_downhill_elsewhere():
    target = gaussian_heatmaps(torch.full((1, 68, 2), 100.0), 256)
    heatmaps = target.clone()
    heatmaps[:, 3] = 0
    heatmaps.requires_grad_()
    landmark_loss(heatmaps, target).sum().backward()
    assert torch.isfinite(heatmaps.grad).all()
    assert heatmaps.grad[:, :3].abs().max() == 0
    assert heatmaps.grad[0, 3].sum() < 0


def test_weights_raise_mouth_and_eyes_and_average_one():
    weights = landmark_weights(mouth=3, eyes=2, other=1)
    assert torch.isclose(weights.mean(), torch.tensor(1.0))
    ratio = weights / weights[0]
    np.testing.assert_allclose(ratio[[8, 20, 30, 36, 47, 48, 67]], [1, 1, 1, 2, 2, 3, 3], rtol=1e-6)


def test_gaussian_peaks_at_its_landmark_and_has_the_given_spread():
    landmarks_px = torch.rand(2, 68, 2) * 120 + 60
    maps = gaussian_heatmaps(landmarks_px, 256, sigma_cells=1.5).double()
    assert maps.shape == (2, 68, 64, 64) and maps.max() <= 1
    mass = maps.sum((2, 3))
    grid = (torch.arange(64, dtype=torch.float64) + 0.5) * 4
    x = (maps.sum(2) * grid).sum(-1) / mass
    y = (maps.sum(3) * grid).sum(-1) / mass
    np.testing.assert_allclose(torch.stack([x, y], -1), landmarks_px, atol=1e-3)
    variance_x = (maps.sum(2) * (grid - x[..., None]) ** 2).sum(-1) / mass
    np.testing.assert_allclose(variance_x.sqrt(), 1.5 * 4, rtol=1e-3)


def test_gaussian_scales_with_the_image():
    landmarks_px = torch.rand(1, 68, 2) * 256
    torch.testing.assert_close(gaussian_heatmaps(landmarks_px, 256), gaussian_heatmaps(landmarks_px * 4, 1024))
