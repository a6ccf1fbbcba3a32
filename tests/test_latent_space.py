"""Latent spaces: round trips, unit variances, and the shot's own codes."""

import dataclasses

import numpy as np
import pytest
import torch

from hdtalk.config import OptimiseConfig
from hdtalk.latent_space import LatentSpace, latent_space

CONFIG = OptimiseConfig(components=16, latent_space="whitened")


@pytest.mark.parametrize("groups", ["shared", "thirds", "per-layer", "coarse"])
def test_whitened_space_round_trip(tiny_networks, groups):
    space = latent_space(tiny_networks.generator, dataclasses.replace(CONFIG, layer_groups=groups))
    coordinates = torch.randn_like(space.zeros(3, torch.device("cpu")))
    offsets = space.decode(coordinates)
    assert offsets.shape == (3, tiny_networks.generator.num_ws, 512)
    torch.testing.assert_close(space.encode(offsets), coordinates, rtol=1e-3, atol=1e-4)
    alike = groups in ("shared", "coarse")  # a generator of so few layers has coarse ones only
    assert torch.equal(offsets[:, 0], offsets[:, -1]) == alike


def test_whitening_gives_the_mapping_s_samples_unit_variance(tiny_networks):
    generator = tiny_networks.generator
    space = latent_space(generator, CONFIG)
    z = torch.randn(4000, 512, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        w = generator.mapping(z)
    centred = (w - w.mean(0))[:, None].expand(-1, generator.num_ws, -1)
    coordinates = space.encode(centred)
    np.testing.assert_allclose(coordinates.std(0), np.ones(16), atol=0.12)
    correlation = np.corrcoef(coordinates.T.numpy())
    assert abs(correlation - np.eye(16)).max() < 0.15
    spread = centred[:, 0].double()
    leading = np.linalg.svd(np.cov(spread.T), compute_uv=False)[:16]
    np.testing.assert_allclose(space.basis[:, 3].square().sum(1), leading, rtol=0.15)


@pytest.mark.parametrize(("num_frames", "width"), [(12, 3), (400, 3), (5, 40)])
def test_shot_space_holds_the_shot_s_own_codes(tiny_networks, num_frames, width):
    rng = np.random.default_rng(0)
    mixing, num_ws = rng.normal(size=(width, 8 * 512)), tiny_networks.generator.num_ws
    codes = rng.normal(size=(num_frames, width)) @ mixing + rng.normal(size=8 * 512)
    pivots = torch.from_numpy(codes.reshape(num_frames, num_ws, 512).astype(np.float32))
    config = dataclasses.replace(CONFIG, latent_space="shot", components=16)
    space = latent_space(tiny_networks.generator, config, pivots)
    assert len(space.basis) == min(16, num_frames - 1)
    differences = pivots - pivots.mean(0)
    coordinates = space.encode(differences)
    if width == 3 or num_frames == 5:
        torch.testing.assert_close(space.decode(coordinates), differences, atol=2e-2, rtol=0)
    spread = coordinates.std(0)[: min(width, num_frames - 1)]
    np.testing.assert_allclose(spread, np.ones(len(spread)), atol=1e-2)


def test_mahalanobis_is_the_squared_length_in_standard_deviations(tiny_networks):
    space = latent_space(tiny_networks.generator, CONFIG)
    coordinates = torch.tensor(np.random.default_rng(0).normal(size=(2, 16)), dtype=torch.float32)
    np.testing.assert_allclose(space.mahalanobis(coordinates), (coordinates.numpy() ** 2).sum(1), rtol=1e-5)
    assert not LatentSpace("w+", 8, None).mahalanobis(torch.ones(2, 8, 512)).any()
