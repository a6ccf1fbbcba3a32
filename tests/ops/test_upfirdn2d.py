import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ops import setup_filter, upfirdn2d

# up, down, padding, as (x, y), (x, y), (x0, x1, y0, y1)
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 2, 2, 1)),
    ((2, 2), (1, 1), (2, 1, 2, 1)),
    ((1, 1), (2, 2), (1, 1, 1, 1)),
    ((2, 1), (1, 2), (3, -1, 2, 2)),
    ((3, 2), (2, 3), (-1, 4, 5, -2)),
]
FILTERS = {"separable": (4,), "long separable": (9,), "square": (3, 3), "oblong": (2, 5)}


def slow(x, f, up, down, padding, flip_filter=False, gain=1.0):
    """Zero-insertion, padding and scipy's convolution in float64."""
    f = f.double().numpy()
    f = np.outer(f, f) if f.ndim == 1 else f
    f = f[::-1, ::-1] if flip_filter else f
    x0, x1, y0, y1 = padding
    images = []
    for image in x.double().flatten(0, 1).numpy():
        grid = np.zeros((image.shape[0] * up[1], image.shape[1] * up[0]))
        grid[:: up[1], :: up[0]] = image
        grid = np.pad(grid, ((max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))))
        grid = grid[max(-y0, 0) : grid.shape[0] - max(-y1, 0), max(-x0, 0) : grid.shape[1] - max(-x1, 0)]
        images.append(gain * convolve2d(grid, f, mode="valid")[:: down[1], :: down[0]])
    return torch.from_numpy(np.stack(images)).unflatten(0, x.shape[:2])


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("taps", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("flip_filter", [False, True])
def test_equals_scipy(taps, geometry, flip_filter, random):
    x = torch.randn(2, 3, 8, 7, generator=random, dtype=torch.float64)
    f = torch.randn(taps, generator=random)
    expected = slow(x, f, *geometry, flip_filter, 1.7)
    actual = upfirdn2d(x, f, *geometry, flip_filter, 1.7)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    single = upfirdn2d(x.float(), f, *geometry, flip_filter, 1.7)
    assert single.dtype == torch.float32
    assert (single - expected).abs().max() <= 1e-5 * expected.std()


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
def test_a_negative_gain_is_no_other_for_a_separable_filter(up, down, random):
    x = torch.randn(1, 2, 12, 11, generator=random, dtype=torch.float64)
    f = torch.randn(9, generator=random, dtype=torch.float64)
    separable, square = (upfirdn2d(x, taps, up, down, 4, gain=-1) for taps in (f, torch.outer(f, f)))
    torch.testing.assert_close(separable, square)


def test_a_delta_gives_the_filter_not_its_mirror_image():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    f = torch.arange(9.0).reshape(3, 3)
    torch.testing.assert_close(upfirdn2d(x, f, padding=1)[0, 0, 1:4, 1:4], f)
    torch.testing.assert_close(upfirdn2d(x, f, padding=1, flip_filter=True)[0, 0, 1:4, 1:4], f.flip(0, 1))


def test_upsampling_a_constant_keeps_it_inside():
    y = upfirdn2d(torch.ones(1, 1, 6, 6), setup_filter([1, 3, 3, 1]), up=2, padding=(2, 1, 2, 1), gain=4)
    assert y.shape == (1, 1, 12, 12)
    torch.testing.assert_close(y[..., 1:-2, 1:-2], torch.ones(1, 1, 9, 9))


def test_padding_forms_and_scalar_factors_mean_the_same(random):
    x = torch.randn(1, 2, 6, 6, generator=random)
    f = torch.randn(3, 3, generator=random)
    assert torch.equal(upfirdn2d(x, f, 2, 2, 1), upfirdn2d(x, f, (2, 2), [2, 2], (1, 1, 1, 1)))
    assert torch.equal(upfirdn2d(x, f, padding=(2, 1)), upfirdn2d(x, f, padding=(2, 2, 1, 1)))


def test_negative_padding_crops(random):
    x = torch.randn(1, 2, 6, 7, generator=random)
    assert torch.equal(upfirdn2d(x, None, padding=(-1, -2, -3, 0)), x[:, :, 3:, 1:-2])
    assert upfirdn2d(torch.ones(1, 1, 3, 3), None, padding=(0, 2, -1, 0)).sum() == 6


def test_no_filter_resamples_only(random):
    x = torch.randn(1, 2, 4, 4, generator=random)
    assert torch.equal(upfirdn2d(x, None, down=2, gain=3), 3 * x[:, :, ::2, ::2])
    assert torch.equal(upfirdn2d(x, None, up=3)[:, :, ::3, ::3], x)


@pytest.mark.parametrize("taps", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("geometry", GEOMETRIES[1:], ids=str)
def test_first_and_second_derivative(taps, geometry, random):
    x = torch.randn(1, 1, 8, 7, generator=random, dtype=torch.float64, requires_grad=True)
    f = torch.randn(taps, generator=random, dtype=torch.float64)

    def run(x):
        return upfirdn2d(x, f, *geometry, gain=0.7)

    assert gradcheck(run, x) and gradgradcheck(lambda x: run(x).square(), x)


def test_gradient_is_the_adjoint_in_single_precision(random):
    x = torch.randn(2, 3, 9, 8, generator=random, requires_grad=True)
    f = torch.randn(4, generator=random)
    y = upfirdn2d(x, f, up=2, down=3, padding=(1, 2))
    dy = torch.randn(y.shape, generator=random)
    (dx,) = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close((y * dy).sum(), (x * dx).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, random):
    x = torch.randn(1, 4, 8, 8, generator=random).to(dtype).requires_grad_()
    f = setup_filter([1, 3, 3, 1])
    y = upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4)
    expected = slow(x.detach(), f, (2, 2), (1, 1), (2, 1, 2, 1), gain=4)
    assert y.dtype == dtype and torch.autograd.grad(y.sum(), x)[0].dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("taps", [(4,), (9,), (4, 4)])
def test_keeps_the_memory_format_forward_and_backward(memory_format, taps, random):
    x = torch.randn(2, 4, 10, 9, generator=random).contiguous(memory_format=memory_format).requires_grad_()
    f = torch.randn(taps, generator=random)
    y = upfirdn2d(x, f, up=2, padding=(3, 2, 3, 2))
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.is_contiguous(memory_format=memory_format) and dx.is_contiguous(memory_format=memory_format)
    expected = slow(x.detach(), f, (2, 2), (1, 1), (3, 2, 3, 2))
    torch.testing.assert_close(y.detach().double(), expected, rtol=1e-5, atol=1e-4)


def test_autocast_leaves_the_dtype_alone():
    x = torch.randn(1, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = upfirdn2d(x, torch.ones(3), padding=1)
    assert torch.equal(y, upfirdn2d(x, torch.ones(3), padding=1))


def test_strided_and_empty_batches():
    x = torch.arange(72.0).reshape(1, 2, 6, 6).transpose(2, 3)
    f = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.testing.assert_close(upfirdn2d(x, f), upfirdn2d(x.contiguous(), f))
    assert upfirdn2d(torch.zeros(0, 3, 4, 4), f).shape == (0, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3, 4, 4)}, r"\[N, C, H, W\], got \[3, 4, 4\]"),
        ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.int32)}, "floating-point, got torch.int32"),
        ({"f": torch.zeros(2, 2, 2)}, r"\[k\] or \[kh, kw\], or None, got \[2, 2, 2\]"),
        ({"f": torch.zeros(0)}, r"got \[0\]"),
        ({"f": torch.ones(2, requires_grad=True)}, "requires_grad=True"),
        ({"up": 0}, "up must be a positive integer .* got 0"),
        ({"up": 1.5}, "got 1.5"),
        ({"down": (1, 2, 3)}, r"down .* got \(1, 2, 3\)"),
        ({"padding": (1, 2, 3)}, r"padding .* got \(1, 2, 3\)"),
        ({"padding": "1"}, "padding"),
        ({"padding": -2}, "width after upsampling and padding is 0, expected at least 3"),
        ({"padding": (0, 0, -2, 0)}, "height after upsampling and padding is 2, expected at least 3"),
        ({"impl": "fast"}, "impl must be one of auto, ref, cuda, got 'fast'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**{"x": torch.zeros(1, 1, 4, 4), "f": torch.ones(3), **arguments})


def test_setup_filter_sums_to_gain():
    assert torch.equal(setup_filter([1, 3, 3, 1]), torch.tensor([0.125, 0.375, 0.375, 0.125]))
    f = setup_filter([1, 3, 3, 1], gain=4)
    assert torch.outer(f, f).sum() == pytest.approx(4)
    assert setup_filter([[1, 1], [1, 1]], gain=4).sum() == pytest.approx(4)
    with pytest.raises(ValueError, match="filter taps"):
        setup_filter([])
