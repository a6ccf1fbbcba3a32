"""The locality term of equation (4)."""

import numpy as np
import torch

from hdtalk.losses.locality import locality_codes, locality_loss


def test_codes_lie_at_the_distance_on_the_line_to_the_sample():
    rng = np.random.default_rng(0)
    w, pivots = rng.normal(size=(3, 16)).astype(np.float32), rng.normal(size=(3, 5, 16)).astype(np.float32)
    codes = locality_codes(torch.from_numpy(w), torch.from_numpy(pivots), alpha=30.0).numpy()
    for n in range(3):
        direction = np.tile(w[n], (5, 1)) - pivots[n]
        np.testing.assert_allclose(codes[n], pivots[n] + 30 * direction / np.sqrt((direction**2).sum()), rtol=1e-4)


def test_sample_equal_to_the_pivot_stays_finite():
    pivots = torch.ones(1, 4, 8)
    assert torch.equal(locality_codes(torch.ones(1, 8), pivots), pivots)


def test_loss_weighs_pixels_and_perception():
    tuned, original = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    got = locality_loss(tuned, original, lambda a, b: torch.tensor([1.0, 2.0]), lambda_l2=0.2, lambda_lpips=0.3)
    torch.testing.assert_close(got, torch.tensor([0.2 * 0.25 + 0.3, 0.2 * 0.25 + 0.6]))
