import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ops import modulated_conv2d, setup_filter

FILTER = setup_filter([1.0, 3.0, 3.0, 1.0])


def slow(x, weight, styles, demodulate=True, weight_gain=1.0, up=1, eps=1e-8):
    """The paper's equations sample by sample; upsampling as zero-insertion and two true convolutions."""
    taps = np.outer(FILTER, FILTER).astype(np.float64) * up**2
    size, samples = weight.shape[2], []
    for image, style in zip(x.numpy(), styles.numpy(), strict=True):
        w = weight.numpy() * weight_gain * style[None, :, None, None]
        if demodulate:
            w = w / np.sqrt((w**2).sum(axis=(1, 2, 3), keepdims=True) + eps)
        out = []
        for w_out in w:
            if up == 1:
                y = sum(correlate2d(np.pad(c, size // 2), k, mode="valid") for c, k in zip(image, w_out, strict=True))
            else:
                grid = np.zeros((image.shape[0], image.shape[1] * up, image.shape[2] * up))
                grid[:, ::up, ::up] = image
                full = sum(
                    correlate2d(np.pad(c, size - 1), k[::-1, ::-1], mode="valid")
                    for c, k in zip(grid, w_out, strict=True)
                )
                blurred = correlate2d(np.pad(full, 3), taps[::-1, ::-1], mode="valid")
                first = (blurred.shape[0] - grid.shape[1]) // 2  # centred: the last inserted zeros count for nothing
                y = blurred[first : first + grid.shape[1], first : first + grid.shape[2]]
            out.append(y)
        samples.append(np.stack(out))
    return torch.from_numpy(np.stack(samples))


@pytest.fixture
def arguments():
    random = torch.Generator().manual_seed(0)

    def make(size=3, dtype=torch.float64):
        x = torch.randn(2, 3, 5, 6, generator=random, dtype=torch.float64)
        weight = torch.randn(4, 3, size, size, generator=random, dtype=torch.float64)
        styles = torch.randn(2, 3, generator=random, dtype=torch.float64) + 1
        return [t.to(dtype) for t in (x, weight, styles)]

    return make


@pytest.mark.parametrize("form", ["shared", "grouped"])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("size", "up"), [(3, 1), (1, 1), (3, 2)])
def test_equals_the_equations(arguments, size, up, demodulate, form):
    x, weight, styles = arguments(size)
    options = {"demodulate": demodulate, "weight_gain": 0.3, "up": up}
    expected = slow(x, weight, styles, **options)
    resample_filter = FILTER.double() if up > 1 else None
    actual = modulated_conv2d(x, weight, styles, **options, resample_filter=resample_filter, form=form)
    assert actual.shape == (2, 4, 5 * up, 6 * up)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)  # the filter's taps are float32


@pytest.mark.parametrize("up", [1, 2])
def test_forms_agree_on_outputs_and_gradients(arguments, up):
    results = []
    leaves = [t.requires_grad_() for t in arguments(dtype=torch.float32)]
    for form in ("shared", "grouped"):
        y = modulated_conv2d(*leaves, up=up, resample_filter=FILTER, form=form)
        results.append([y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)])
    for shared, grouped in zip(*results, strict=True):
        torch.testing.assert_close(shared, grouped, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["shared", "grouped"])
@pytest.mark.parametrize("up", [1, 2])
def test_first_and_second_derivative(form, up):
    random = torch.Generator().manual_seed(3)
    shapes = [(2, 2, 3, 3), (2, 2, 3, 3), (2, 2)]
    leaves = [torch.randn(s, generator=random, dtype=torch.float64, requires_grad=True) for s in shapes]

    def run(x, weight, styles):
        return modulated_conv2d(x, weight, styles, up=up, resample_filter=FILTER, form=form)

    assert gradcheck(run, leaves) and gradgradcheck(run, leaves, fast_mode=True)


def test_known_weight_square_sum_changes_nothing(arguments):
    x, weight, styles = arguments()
    given = modulated_conv2d(x, weight, styles, weight_square_sum=weight.square().sum([2, 3]))
    assert torch.equal(given, modulated_conv2d(x, weight, styles))


def test_demodulation_makes_unit_variance_and_cancels_factors():
    random = torch.Generator().manual_seed(4)
    x = torch.randn(2, 64, 16, 16, generator=random)
    weight = torch.randn(8, 64, 3, 3, generator=random)
    styles = torch.rand(2, 64, generator=random) + 0.5
    y = modulated_conv2d(x, weight, styles)
    assert y[:, :, 1:-1, 1:-1].std() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(modulated_conv2d(x, weight, 100 * styles), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_survives_large_styles(dtype):
    random = torch.Generator().manual_seed(5)
    x = torch.randn(1, 32, 8, 8, generator=random)
    weight = torch.randn(8, 32, 3, 3, generator=random)
    styles = 2000 * torch.rand(1, 32, generator=random)
    expected = modulated_conv2d(x.double(), weight.double(), styles.double(), up=2, resample_filter=FILTER.double())
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    y = modulated_conv2d(x, weight, styles, up=2, resample_filter=FILTER)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert (y.double() - expected).std() < 4 * torch.finfo(dtype).eps * expected.std()


def test_autocast_and_frozen_weights():
    x, weight = torch.randn(1, 8, 8, 8), torch.randn(4, 8, 3, 3)
    styles = torch.ones(1, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = modulated_conv2d(x, weight, styles)
    assert y.dtype == torch.bfloat16
    expected = modulated_conv2d(x, weight, styles)
    assert (y - expected).std() < 0.02 * expected.std()
    assert torch.autograd.grad(y.float().sum(), styles)[0].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.zeros(4, 5, 3, 3)}, r"got \[2, 3, 4, 4\] and \[4, 5, 3, 3\]"),
        ({"styles": torch.zeros(1, 3)}, r"shape \[2, 3\].* got \[1, 3\]"),
        ({"weight_square_sum": torch.zeros(3, 4)}, r"shape \[4, 3\], got \[3, 4\]"),
        ({"up": 0}, "up must be a positive integer, got 0"),
        ({"up": 2, "padding": 0, "weight": torch.zeros(4, 3, 9, 9)}, "after upsampling and padding"),
        ({"form": "fast"}, "'shared' or 'grouped', got 'fast'"),
        ({"impl": "fast"}, "impl must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    given = {"x": torch.zeros(2, 3, 4, 4), "weight": torch.zeros(4, 3, 3, 3), "styles": torch.ones(2, 3), **arguments}
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(**given)
