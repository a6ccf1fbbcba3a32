import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ops import bias_act, setup_filter, upfirdn2d, upfirdn2d_bias_act

FILTER = setup_filter([1.0, 3.0, 2.0, 1.0]).double()
GEOMETRIES = {
    "blur": {"f": FILTER, "padding": 1},
    "up": {"f": FILTER, "up": 2, "padding": (2, 1), "filter_gain": 4.0},
    "no filter": {"f": None},
}


def make(geometry, memory_format=torch.contiguous_format, noises=1):
    """Inputs in float64: x, b, scale, noise that fit `geometry`."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 6, generator=random, dtype=torch.float64).contiguous(memory_format=memory_format)
    b = torch.randn(3, generator=random, dtype=torch.float64)
    scale = torch.randn(2, 3, generator=random, dtype=torch.float64)
    size = upfirdn2d(x, geometry["f"], geometry.get("up", 1), 1, geometry.get("padding", 0)).shape[2:]
    return x, b, scale, torch.randn(noises, 1, *size, generator=random, dtype=torch.float64)


def composed(x, b, scale, noise, f, up=1, padding=0, filter_gain=1.0, **activation):
    y = upfirdn2d(x, f, up, 1, padding, gain=filter_gain)
    y = y if scale is None else y * scale[:, :, None, None]
    y = y if noise is None else y + noise
    return bias_act(y, b, act="lrelu", **activation)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("activation", [{}, {"gain": 1.7, "clamp": 0.8}, {"gain": -1.0}, {"gain": 0.0}], ids=str)
@pytest.mark.parametrize("given", ["all", "scale", "noise", "bias", "none"])
def test_equals_the_separate_operators(geometry, activation, given):
    x, b, scale, noise = make(geometry)
    b = b if given in ("all", "bias") else None
    scale = scale if given in ("all", "scale") else None
    noise = noise if given in ("all", "noise") else None
    actual = upfirdn2d_bias_act(x, b=b, scale=scale, noise=noise, **geometry, **activation)
    torch.testing.assert_close(actual, composed(x, b, scale, noise, **geometry, **activation))


@pytest.mark.parametrize("noises", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_first_and_second_derivative(geometry, noises):
    leaves = [t[:, :2].clone().requires_grad_() if t.ndim > 1 else t[:2].requires_grad_() for t in make(geometry)]
    leaves[3] = leaves[3].detach().expand(noises, -1, -1, -1).clone().requires_grad_()

    def run(x, b, scale, noise):
        return upfirdn2d_bias_act(x, b=b, scale=scale, noise=noise, **geometry)

    assert gradcheck(run, leaves, fast_mode=True) and gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("noises", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_dtype_and_memory_format(dtype, noises, geometry, memory_format):
    leaves = [t.requires_grad_() for t in make(geometry, memory_format, noises)]
    halves = [leaves[0].detach().to(dtype).requires_grad_(), *(t.detach().float().requires_grad_() for t in leaves[1:])]
    results = []
    for x, b, scale, noise in (halves, leaves):
        y = upfirdn2d_bias_act(x, b=b, scale=scale, noise=noise, **geometry)
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, b, scale, noise))])
    y = results[0][0]
    assert y.dtype == dtype and y.is_contiguous(memory_format=memory_format)
    expected = composed(*(t.detach() for t in leaves), **geometry)
    assert (y.double() - expected).abs().max() < 20 * torch.finfo(dtype).eps
    for actual, expected in zip(*results, strict=True):
        assert (actual.double() - expected).norm() < 4 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b": torch.zeros(2)}, r"b must have shape \[3\], got \[2\]"),
        ({"scale": torch.zeros(1, 3)}, r"scale must have shape \[2, 3\], got \[1, 3\]"),
        ({"noise": torch.zeros(1, 1, 5, 6)}, r"noise must have shape \[1, 1, 4, 5\] or \[2, 1, 4, 5\], got"),
        ({"noise": torch.zeros(4, 5)}, r"got \[4, 5\]"),
        ({"clamp": -1}, "clamp"),
        ({"x": torch.zeros(3)}, r"\[N, C, H, W\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        upfirdn2d_bias_act(**{"x": torch.zeros(2, 3, 5, 6), "f": FILTER, "padding": 1, **arguments})
