"""Equation (8) against plain numpy."""

import numpy as np
import torch

from hdtalk.losses.stitching import masked_l1, stitching_loss


def test_equation_8_against_numpy():
    rng = np.random.default_rng(0)
    images, source, edited = rng.normal(size=(3, 2, 3, 6, 6)).astype(np.float32)
    boundary = np.zeros((2, 1, 6, 6), np.float32)
    boundary[:, :, 0] = 1
    inside = (1 - boundary) * rng.uniform(0, 1, (2, 1, 6, 6)).astype(np.float32)

    def part(a, b, mask, n):
        return (abs(a - b)[n] * mask[n]).sum() / mask[n].sum()

    total, border = stitching_loss(*map(torch.from_numpy, (images, source, edited, boundary, inside)), lambda_mask=0.2)
    for n in range(2):
        np.testing.assert_allclose(border[n], part(images, source, boundary, n), rtol=1e-5)
        np.testing.assert_allclose(total[n], border[n] + 0.2 * part(images, edited, inside, n), rtol=1e-5)


def test_pixels_outside_both_masks_do_not_count_and_empty_masks_give_zero():
    images = torch.randn(1, 3, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 1, 4, 4)
    assert masked_l1(images, torch.zeros(1, 3, 4, 4), mask).item() == 0
    mask[..., 0, 0] = 1
    masked_l1(images, torch.zeros(1, 3, 4, 4), mask).sum().backward()
    assert images.grad[..., 1:, 1:].abs().max() == 0
