"""1 - SSIM against scikit-image, and its gradient against differences."""

import numpy as np
import pytest
import skimage.metrics
import torch

from hdtalk.losses.structure import structure_loss


@pytest.fixture
def pair():
    """Smooth pictures and noisier ones, [2, 3, 24, 24] in [-1, 1]."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.uniform(-0.8, 0.8, (2, 3, 4, 4)), np.ones((6, 6)))
    noise = rng.normal(0, [[[[0.02]]], [[[0.2]]]], coarse.shape)
    return torch.from_numpy(coarse).float(), torch.from_numpy(coarse + noise).float()


def test_value_is_that_of_scikit_image(pair):
    expected = [
        1
        - skimage.metrics.structural_similarity(
            a.numpy().astype(float), b.numpy().astype(float), gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=2.0, channel_axis=0,
        )
        for a, b in zip(*pair, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(structure_loss(*pair), expected, atol=1e-5)
    assert expected[1] > 5 * expected[0] > 0


def test_equal_pictures_cost_nothing_and_opposite_ones_two(pair):
    np.testing.assert_allclose(structure_loss(pair[1], pair[1]), [0, 0], atol=1e-6)
    row, column = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    chequered = (0.5 * (-1.0) ** (row + column)).expand(1, 3, -1, -1)
    assert structure_loss(chequered, -chequered).item() == pytest.approx(2, abs=0.02)


def test_gradient_leads_to_the_target(pair):
    target, picture = pair[0], pair[1].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(structure_loss(picture, target).sum(), picture)
    step = 1e-3 * gradient / gradient.norm()
    lower, upper = (structure_loss(picture.detach() + sign * step, target).sum() for sign in (-1, 1))
    assert (upper - lower).item() == pytest.approx(2e-3 * gradient.norm().item(), rel=0.02)
