"""Muon: orthogonal directions by an independent decomposition, steps of the size asked for, and what it is good for."""

import math

import pytest
import torch

from hdtalk.muon import Muon, orthogonal


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 90), (90, 24), (1, 7), (33, 33)])
def test_singular_vectors_stay_and_singular_values_become_alike(shape):
    matrix = drawn(*shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    got = left.T @ orthogonal(matrix) @ right.T
    seen = values > 0.01 * values.norm()
    assert got.diagonal()[seen].min() > 0.65 and got.diagonal()[seen].max() < 1.25
    torch.testing.assert_close(got - torch.diag(got.diagonal()), torch.zeros_like(got), rtol=0, atol=2e-3)


def test_agrees_with_the_rounds_written_plainly_in_double_precision():
    matrix = drawn(20, 64).double() @ torch.diag(torch.logspace(0, -4, 64).double())
    expected = matrix / matrix.norm()
    for _ in range(5):
        square = expected @ expected.T
        expected = 3.4445 * expected - 4.7750 * square @ expected + 2.0315 * square @ square @ expected
    torch.testing.assert_close(orthogonal(matrix.float()).double(), expected, rtol=0, atol=1e-3)


def test_a_step_has_the_size_of_the_rate_whatever_the_gradient_s():
    for factor in (1e-6, 1.0, 1e6):
        weight = torch.nn.Parameter(torch.zeros(1, 8, 4, 3, 3))
        weight.grad = factor * drawn(*weight.shape)
        Muon([weight], lr=0.03).step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.03, rel=1e-4)
        assert (weight.detach() * weight.grad).sum() < 0


def test_no_gradient_and_a_zero_gradient_leave_the_weights_where_they_are():
    still, without = (torch.nn.Parameter(drawn(1, 4, 4, 3, 3)) for _ in range(2))
    before = still.detach().clone()
    still.grad = torch.zeros_like(still)
    optimiser = Muon([still, without], lr=0.1)
    optimiser.step()
    assert torch.equal(still.detach(), before) and torch.equal(without.detach(), before)
    assert without not in optimiser.state


def test_flat_directions_are_learned_as_fast_as_steep_ones():
    """A linear layer whose inputs differ a hundredfold: descent along gradients would need 10,000 times the steps."""
    scales = torch.logspace(0, -2, 16)
    wanted = drawn(12, 16, 1, 1, seed=1)
    weight = torch.nn.Parameter(torch.zeros_like(wanted))
    optimiser, steps = Muon([weight], lr=0.05), 200
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        (((weight - wanted) * scales[None, :, None, None]).square().sum()).backward()
        optimiser.step()
    assert (weight.detach() - wanted).norm() < 0.1 * wanted.norm()
