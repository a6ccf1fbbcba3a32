"""PSNR and SSIM against scikit-image; LPIPS and identity on networks whose answer is known."""

import numpy as np
import pytest
import skimage.metrics
import torch

from hdtalk.metrics.identity import identity_similarity
from hdtalk.metrics.lpips import lpips
from hdtalk.metrics.psnr import mean_psnr, psnr
from hdtalk.metrics.ssim import ssim


@pytest.fixture(scope="module")
def pair():
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, (3, 9, 12, 3))
    frames = np.clip(np.kron(coarse, np.ones((1, 5, 5, 1))), 0, 255).astype(np.uint8)
    noisy = np.clip(frames + random.normal(0, [[[[3]]], [[[9]]], [[[27]]]], frames.shape), 0, 255).astype(np.uint8)
    return noisy, frames


def test_psnr_is_that_of_scikit_image(pair):
    expected = [skimage.metrics.peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(psnr(*pair), expected, rtol=1e-12)


def test_psnr_of_a_constant_error():
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert psnr(black + 5, black)[0] == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(black, black + 5)[0] == psnr(black + 5, black)[0]  # unsigned differences must not wrap


def test_mean_psnr_leaves_untouched_frames_out():
    assert mean_psnr(np.array([30.0, np.inf, 40.0])) == 35.0
    assert mean_psnr(np.array([np.inf, np.inf])) == np.inf


def test_ssim_is_that_of_scikit_image(pair):
    expected = [
        skimage.metrics.structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
        )
        for a, b in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(ssim(*pair), expected, atol=1e-10)


def test_ssim_of_a_frame_with_itself_is_exactly_one(pair):
    assert (ssim(pair[0], pair[0]) == 1).all()


def test_lpips_hands_the_network_images_in_plus_minus_one():
    white, black = np.full((2, 4, 4, 3), 255, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    black[1, ..., 0] = 255

    def mean_square(a, b):
        return ((a - b) ** 2).mean(dim=(1, 2, 3))

    np.testing.assert_allclose(lpips(white, black, mean_square), [4, 8 / 3], rtol=1e-6)


def test_identity_similarity_is_a_cosine_per_frame():
    embeddings = {10: [3.0, 4.0], 20: [-4.0, 3.0], 30: [6.0, 8.0]}

    def embed(frames):
        return torch.tensor([embeddings[int(frame[0, 0, 0])] for frame in frames])

    def frames(*values):
        return np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])

    np.testing.assert_allclose(identity_similarity(frames(10, 10), frames(30, 20), embed), [1, 0], atol=1e-12)
