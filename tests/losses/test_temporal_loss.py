"""Equation (7) and its feature-space variant against plain numpy."""

import numpy as np
import torch

from hdtalk.losses.temporal import feature_distances, smoothness_loss

RNG = np.random.default_rng(0)


def test_equation_7_counts_each_pair_once():
    ws = RNG.normal(size=(5, 4, 8)).astype(np.float32)
    expected = sum(((ws[i] - ws[i - 1]) ** 2).sum() for i in range(1, 5))
    whole = smoothness_loss(torch.from_numpy(ws))
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    inner = smoothness_loss(*(torch.from_numpy(part) for part in (ws[1:4], ws[0], ws[4])))
    np.testing.assert_allclose(inner, expected, rtol=1e-5)


def test_single_frame_without_neighbours_costs_nothing():
    assert smoothness_loss(torch.randn(1, 4, 8)) == 0


def test_feature_variant():
    taps = [RNG.normal(size=(3, c, s, s)).astype(np.float32) for c, s in ((4, 8), (6, 4))]
    expected = sum(((t[1:] - t[:-1]) ** 2).sum(1).mean((1, 2)) for t in taps)
    np.testing.assert_allclose(feature_distances([torch.from_numpy(t) for t in taps]), expected, rtol=1e-5)
    later = [torch.from_numpy(t[1:]) for t in taps]
    first = [torch.from_numpy(t[:1]) for t in taps]
    np.testing.assert_allclose(feature_distances(later, first), expected, rtol=1e-5)
