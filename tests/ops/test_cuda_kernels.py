"""The CUDA path, its kernels looped on the CPU; and on a GPU where there is one."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ops import ACTIVATIONS, bias_act, build, setup_filter, upfirdn2d, upfirdn2d_bias_act
from stylegan2_ops.selfcheck import disagreements

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def images(*shape, memory_format=torch.contiguous_format, dtype=torch.float64):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=memory_format)


def test_selfcheck_finds_nothing(host_kernels):
    assert disagreements(host_kernels, torch.device("cpu")) == []


def test_selfcheck_does_not_mind_where_the_first_use_happens(host_kernels):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert build.trusted(host_kernels, torch.device("cpu")) is host_kernels


def test_kernels_that_do_not_run_are_not_trusted():
    class Absent:
        def __getattr__(self, name):
            raise RuntimeError("no kernel image is available")

    with pytest.raises(build.BuildError, match="do not run: no kernel image"):
        build.trusted(Absent(), torch.device("cpu"))


def test_selfcheck_notices_a_wrong_kernel(host_kernels):
    class Wrong:
        upfirdn2d = host_kernels.upfirdn2d

        @staticmethod
        def bias_act(*arguments):
            return host_kernels.bias_act(*arguments) * (1.01 if arguments[6] == ACTIVATIONS["swish"].cuda_index else 1)

    with pytest.raises(build.BuildError, match="disagree with the reference in bias_act swish"):
        build.trusted(Wrong, torch.device("cpu"))
    wrong = disagreements(Wrong, torch.device("cpu"))
    assert "bias_act swish contiguous float32" in wrong
    assert all("swish" in name for name in wrong)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("channels", [1, 3, 4, 16])
@pytest.mark.parametrize("taps", [(1,), (4,), (3, 2), (5, 5), (11,)], ids=str)
def test_upfirdn2d_over_sizes_and_factors(kernels_on_cpu, taps, channels, memory_format):
    f = torch.randn(taps, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for height, width in ((1, 1), (3, 8), (9, 5)):
        x = images(2, channels, height, width, memory_format=memory_format)
        for up, down, padding in (
            (1, 1, (5, 6, 6, 5)),
            (1, 1, (11, 11, 11, 11)),
            (2, 1, (12, 9, 10, 11)),
            (1, 2, (6, 5, 5, 6)),
            ((3, 2), (2, 3), (-1, 13, 14, -1)),
        ):
            for flip_filter in (False, True):
                actual = upfirdn2d(x, f, up, down, padding, flip_filter, 1.3)
                expected = upfirdn2d(x, f, up, down, padding, flip_filter, 1.3, impl="ref")
                torch.testing.assert_close(actual, expected)
                assert actual.stride() == expected.stride() or channels == 1 or 1 in actual.shape[2:]


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("taps", [(1, 1), (2, 2), (1, 3), (3, 2), (3, 3), (4, 4), (4, 1)], ids=str)
def test_a_pixel_that_overflowed_reaches_no_more_than_its_taps(kernels_on_cpu, taps, memory_format):
    x = torch.zeros(1, 8, 9, 7, dtype=torch.float16).contiguous(memory_format=memory_format)
    x[0, 2, 4, 3] = torch.inf
    f = torch.ones(taps)
    reached = upfirdn2d(x.isinf().double(), f, padding=1, impl="ref") > 0
    expected = torch.zeros(reached.shape, dtype=torch.float16).masked_fill(reached, torch.inf)
    assert reached.sum() == f.numel()
    assert torch.equal(upfirdn2d(x, f, padding=1), expected)
    assert torch.equal(upfirdn2d_bias_act(x, f, padding=1), expected)


def test_selfcheck_notices_that_a_pixel_reaches_too_far(host_kernels):
    class Wrong:
        bias_act = host_kernels.bias_act

        @staticmethod
        def upfirdn2d(x, f, *rest):
            y = host_kernels.upfirdn2d(x, f, *rest)
            return y + 0 * y[:, :, :1, :1] if f.numel() > 1 else y + 0 * y.amax((2, 3), keepdim=True)

    wrong = disagreements(Wrong, torch.device("cpu"))
    assert wrong and all(name.startswith("upfirdn2d 1 x 1 of infinity") for name in wrong)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_upfirdn2d_derivatives(kernels_on_cpu, memory_format):
    f = setup_filter([1.0, 2.0, 4.0, 1.0]).double()
    x = images(1, 2, 5, 4, memory_format=memory_format).requires_grad_()
    for factors in ((1, 1, (2, 1, -1, 3)), (2, 1, (2, 1, 2, 1)), (1, 2, 1)):
        assert gradcheck(lambda x, a=factors: upfirdn2d(x, f, *a), x)
        assert gradgradcheck(lambda x, a=factors: upfirdn2d(x, f, *a).square(), x, fast_mode=True)


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("gain", [None, -1.5])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_derivatives(kernels_on_cpu, act, gain, clamp):
    x = images(2, 3, 2, 3, memory_format=torch.channels_last).requires_grad_()
    b = images(3).requires_grad_()

    def run(x, b):
        return bias_act(x, b, act=act, gain=gain, clamp=clamp)

    torch.testing.assert_close(run(x, b), bias_act(x, b, act=act, gain=gain, clamp=clamp, impl="ref"))
    assert gradcheck(run, (x, b)) and gradgradcheck(lambda x, b: run(x, b).square(), (x, b), fast_mode=True)


def test_third_derivative_of_a_curved_activation_is_refused(kernels_on_cpu):
    x = images(4).requires_grad_()
    (first,) = torch.autograd.grad(bias_act(x, act="tanh").sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="impl='ref'"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("shape", "dim"), [((5,), 0), ((3, 7), 1), ((3, 7), 0), ((2, 8, 3, 5), 1), ((2, 3, 4, 2, 3), 3)]
)
def test_bias_act_over_shapes(kernels_on_cpu, shape, dim, dtype):
    x = images(*shape, dtype=dtype)
    b = images(shape[dim], dtype=torch.float32)
    layouts = [x, x.transpose(0, -1).contiguous().transpose(0, -1), x[..., ::2]]
    for x in layouts:
        size = x.shape[dim]
        actual = bias_act(x, b[:size], dim=dim, act="swish")
        expected = bias_act(x.double(), b[:size].double(), dim=dim, act="swish", impl="ref")
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("clamp", [1.3, 1.5])
def test_no_gradient_passes_a_clamp_that_the_type_rounds(kernels_on_cpu, clamp):
    x = torch.full((1, 4, 2, 2), 9.0, dtype=torch.bfloat16, requires_grad=True)
    bias_act(x, torch.zeros(4), act="lrelu", clamp=clamp).sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("noises", [1, 2])
@pytest.mark.parametrize("up", [1, 2])
def test_fused_values_and_derivatives(kernels_on_cpu, up, noises, memory_format):
    f = setup_filter([1.0, 2.0, 4.0, 1.0]).double()
    x = images(2, 2, 3, 4, memory_format=memory_format).requires_grad_()
    scale, b = images(2, 2).requires_grad_(), images(2).requires_grad_()
    padding = 1 if up == 1 else (2, 1, 2, 1)
    noise = images(noises, 1, *upfirdn2d(x, f, up, 1, padding).shape[2:]).requires_grad_()

    def run(x, scale, noise, b, impl="auto"):
        return upfirdn2d_bias_act(x, f, b, scale=scale, noise=noise, up=up, padding=padding, clamp=1.5, impl=impl)

    leaves = (x, scale, noise, b)
    torch.testing.assert_close(run(*leaves), run(*leaves, impl="ref"))
    assert run(*leaves).is_contiguous(memory_format=memory_format)
    assert gradcheck(run, leaves) and gradgradcheck(run, leaves, fast_mode=True)
    without = upfirdn2d_bias_act(x, f, up=up, padding=padding)
    torch.testing.assert_close(without, upfirdn2d_bias_act(x, f, up=up, padding=padding, impl="ref"))


def test_binding_refuses_what_would_read_past_the_end(host_kernels):
    x, f = images(1, 3, 4, 4), torch.ones(2, 2)
    rest = ((1, 1), (1, 1), (0, 0, 0, 0), False, 1.0, True, 0.2, 1.0, None)
    for arguments in (
        (torch.ones(1, 2), None, None),
        (None, torch.ones(1, 1, 4, 4), None),
        (None, None, torch.ones(2)),
    ):
        with pytest.raises(RuntimeError, match="must have shape"):
            host_kernels.upfirdn2d(x, f, *arguments, *rest)
    with pytest.raises(RuntimeError, match="would be empty"):
        host_kernels.upfirdn2d(x, torch.ones(5, 5), None, None, None, *rest)
    with pytest.raises(RuntimeError, match="dtype must be"):
        host_kernels.upfirdn2d(x.int(), f, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="saved must have shape|x must have shape"):
        host_kernels.bias_act(x, None, x[:, :2], None, 1, 1, 2, True, 0.2, 1.0, None)
    with pytest.raises(RuntimeError, match="order must be"):
        host_kernels.bias_act(x, None, None, None, 1, 1, 2, True, 0.2, 1.0, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    build.compile_now()
    assert disagreements(torch.ops.stylegan2_ops, torch.device("cuda")) == []
    x = images(1, 4, 6, 6).cuda().requires_grad_()
    f = setup_filter([1.0, 3.0, 3.0, 1.0]).double().cuda()
    scale, b = torch.ones(1, 4).double().cuda().requires_grad_(), torch.zeros(4).double().cuda().requires_grad_()

    def run(x, scale, b):
        return upfirdn2d_bias_act(x, f, b, scale=scale, padding=1, impl="cuda")

    assert gradcheck(run, (x, scale, b)) and gradgradcheck(run, (x, scale, b))
