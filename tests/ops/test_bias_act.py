from math import exp, expm1, log1p, sqrt, tanh

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ops import ACTIVATIONS, bias_act, fused_leaky_relu

SIGMOID = {t: 1 / (1 + exp(-t)) for t in (-1.5, 0.75)}
# At -1.5 and at 0.75, with default alpha and gain, from the definitions.
VALUES = {
    "linear": (-1.5, 0.75),
    "relu": (0.0, 0.75 * sqrt(2)),
    "lrelu": (-0.3 * sqrt(2), 0.75 * sqrt(2)),
    "tanh": (tanh(-1.5), tanh(0.75)),
    "sigmoid": (SIGMOID[-1.5], SIGMOID[0.75]),
    "elu": (expm1(-1.5), 0.75),
    "selu": (1.0507009873554805 * 1.6732632423543772 * expm1(-1.5), 1.0507009873554805 * 0.75),
    "softplus": (log1p(exp(-1.5)), log1p(exp(0.75))),
    "swish": (-1.5 * SIGMOID[-1.5] * sqrt(2), 0.75 * SIGMOID[0.75] * sqrt(2)),
}


def test_every_activation_has_a_known_value():
    assert VALUES.keys() == ACTIVATIONS.keys()
    assert [a.cuda_index for a in ACTIVATIONS.values()] == list(range(9))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_known_values(act):
    x = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    y = bias_act(x, torch.tensor([-0.5, -0.25]).double(), act=act)
    torch.testing.assert_close(y, torch.tensor([VALUES[act]], dtype=torch.float64), rtol=1e-12, atol=0)


def test_alpha_gain_and_clamp():
    x = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0]).double()
    assert bias_act(x, act="lrelu", alpha=0.5, gain=2).tolist() == [-4, -1, 0, 2, 8]
    assert bias_act(x, act="lrelu", alpha=0.5, gain=2, clamp=3).tolist() == [-3, -1, 0, 2, 3]
    assert bias_act(x, act="lrelu", alpha=0.5, gain=-2).tolist() == [4, 1, 0, -2, -8]
    assert bias_act(x, act="relu", gain=0).abs().max() == 0
    assert bias_act(x, clamp=0).abs().max() == 0


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 1), ((4,), 0), ((2, 3, 4), -1), ((2, 4, 3, 3, 2), 1), ((4, 2), 0)])
def test_bias_runs_along_dim(shape, dim):
    b = torch.arange(4.0)
    y = bias_act(torch.zeros(shape), b, dim=dim)
    assert torch.equal(y.movedim(dim, -1).reshape(-1, 4), b.expand(y.numel() // 4, 4))


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_first_and_second_derivative(act, clamp):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, generator=random, dtype=torch.float64, requires_grad=True)

    def run(x, b):
        return bias_act(x, b, act=act, clamp=clamp)

    assert gradcheck(run, (x, b)) and gradgradcheck(lambda x, b: run(x, b).square(), (x, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_half_precision_with_a_float32_bias(act, dtype):
    x = torch.linspace(-2, 2, 16).reshape(1, 2, 2, 4).to(dtype)
    b = torch.tensor([0.5, -0.5])
    y = bias_act(x, b, act=act)
    assert y.dtype == dtype
    expected = bias_act(x.double(), b.double(), act=act)
    torch.testing.assert_close(y.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(memory_format):
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=memory_format)
    assert bias_act(x, torch.zeros(4), act="lrelu", clamp=1).is_contiguous(memory_format=memory_format)


def test_the_input_is_left_alone():
    x = torch.full((1, 2, 2, 2), -1.0)
    bias_act(x, torch.ones(2), act="relu")
    assert (x == -1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "floating-point tensor, got torch.int64"),
        ({"b": torch.zeros(4)}, r"shape \[3\].* got \[4\]"),
        ({"b": torch.zeros(3, 1)}, r"got \[3, 1\]"),
        ({"b": 1.0}, "got float"),
        ({"b": torch.zeros(3), "dim": 2}, r"dimension of x with shape \[2, 3\], got 2"),
        ({"act": "gelu"}, "one of linear, relu, .* got 'gelu'"),
        ({"clamp": -1}, "at least 0, got -1"),
        ({"clamp": float("nan")}, "got nan"),
        ({"impl": None}, "impl"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bias_act(**{"x": torch.zeros(2, 3), **arguments})


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5), (2, 4, 3, 3)])
def test_fused_leaky_relu_by_hand(shape):
    random = torch.Generator().manual_seed(2)
    x = torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, generator=random, dtype=torch.float64, requires_grad=True)
    moved = (x + b.reshape(1, 4, *[1] * (x.ndim - 2))).detach()
    for slope in (0.2, 0.5):  # rosinality's CPU path ignores the slope; this one must not
        expected = torch.where(moved > 0, moved, slope * moved) * 3.0
        torch.testing.assert_close(fused_leaky_relu(x, b, slope, 3.0).detach(), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(fused_leaky_relu, (x, b))
    assert gradgradcheck(lambda x, b: fused_leaky_relu(x, b).square(), (x, b))


def test_fused_leaky_relu_defaults():
    torch.testing.assert_close(fused_leaky_relu(torch.tensor([[-1.0, 1.0]])), torch.tensor([[-0.2, 1.0]]) * sqrt(2))
