"""The mapping network in closed form: known distribution in, the same distribution out."""

import pytest
import torch

from hdtalk.generators.stylegan2 import Generator
from hdtalk.training.latents import set_mapping


def small_generator(**sizes):
    return Generator(16, channel_base=128, channel_max=8, **({"w_dim": 24, "z_dim": 24} | sizes))


def test_z_gives_the_codes_own_mean_and_covariance():
    torch.manual_seed(0)
    mixing, shift = torch.randn(24, 24) / 24**0.5, torch.randn(24)
    codes = torch.randn(4000, 24) @ mixing.T + shift
    generator = small_generator()
    set_mapping(generator, codes)
    with torch.no_grad():
        w = generator.mapping(torch.randn(20000, 24)).double()
    mean, covariance = codes.double().mean(0), torch.cov(codes.double().T)
    assert torch.allclose(generator.mean_latent.double(), mean, atol=1e-5)
    assert (w.mean(0) - mean).abs().max() < 0.04
    assert (torch.cov(w.T) - covariance).norm() / covariance.norm() < 0.06


def test_the_map_is_linear_on_the_sphere_that_z_is_normalised_to():
    torch.manual_seed(1)
    generator = small_generator()
    set_mapping(generator, torch.randn(500, 24) * 3 + 1)
    z = torch.randn(2, 24)
    z = z / z.square().mean(1, keepdim=True).sqrt()
    middle = (z[0] * 0.6 + z[1] * 0.8)[None]
    scale = middle.square().mean().sqrt()
    with torch.no_grad():
        ends = generator.mapping(z) - generator.mean_latent
        between = generator.mapping(middle) - generator.mean_latent
    torch.testing.assert_close(between[0] * scale, 0.6 * ends[0] + 0.8 * ends[1], atol=2e-3, rtol=1e-3)


def test_survives_half_precision():
    torch.manual_seed(2)
    codes = torch.randn(600, 24)
    generator = small_generator()
    set_mapping(generator, codes)
    z = torch.randn(50, 24)
    with torch.no_grad():
        exact = generator.mapping(z)
        for parameter in generator.style.parameters():
            parameter.copy_(parameter.half())
        assert (generator.mapping(z) - exact).abs().max() < 0.05  # standard deviations


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one size"):
        set_mapping(small_generator(z_dim=8), torch.randn(50, 24))
