"""The generator against a float64 re-computation in NumPy and SciPy, written from the published formulas."""

from math import sqrt

import numpy as np
import pytest
import torch
from official_keys import rosinality
from scipy.signal import convolve2d, correlate2d
from torch.utils.flop_counter import FlopCounterMode

from hdtalk.generators.base import ImageGenerator
from hdtalk.generators.stylegan2 import Generator

W_DIM = 512


def make(resolution=16, channels=6, **options) -> Generator:
    """A small generator, none of whose parameters is left at a value that hides a mistake."""
    sizes = {"channel_base": channels * resolution // 2, "channel_max": channels, "num_mapping_layers": 3}
    generator = Generator(resolution, **sizes, **options)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "noise" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        generator.mean_latent.normal_()
    return generator


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mapping_by_hand(state, z):
    x = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    for k in range(1, 4):
        x = x @ (state[f"style.{k}.weight"] * 0.01 / sqrt(W_DIM)).T + state[f"style.{k}.bias"] * 0.01
        x = np.where(x > 0, x, 0.2 * x) * sqrt(2)
    return x


def modulated_by_hand(state, prefix, x, w, demodulate=True, up=False):
    """One sample `[C, H, W]`: weights scaled by the style, normalised, correlated; or spread, to upsample."""
    style = state[f"{prefix}.modulation.weight"] @ w / sqrt(W_DIM) + state[f"{prefix}.modulation.bias"]
    weight = state[f"{prefix}.weight"][0]
    weight = weight / sqrt(weight[0].size) * style[None, :, None, None]
    if demodulate:
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    if not up:
        return np.array(
            [sum(correlate2d(c, k, mode="same") for c, k in zip(x, kernels, strict=True)) for kernels in weight]
        )
    spread = np.zeros((x.shape[0], 2 * x.shape[1] - 1, 2 * x.shape[2] - 1))
    spread[:, ::2, ::2] = x
    full = np.array(
        [sum(convolve2d(c, k, mode="full") for c, k in zip(spread, kernels, strict=True)) for kernels in weight]
    )
    padded = np.pad(full, ((0, 0), (1, 1), (1, 1)))
    return np.array([convolve2d(c, state[f"{prefix}.blur.kernel"], mode="valid") for c in padded])


def styled_by_hand(state, prefix, x, w, noise, up=False):
    x = modulated_by_hand(state, f"{prefix}.conv", x, w, up=up)
    x = x + state[f"{prefix}.noise.weight"] * noise + state[f"{prefix}.activate.bias"][:, None, None]
    return np.where(x > 0, x, 0.2 * x) * sqrt(2)


def colours_by_hand(state, prefix, x, w, before):
    y = modulated_by_hand(state, f"{prefix}.conv", x, w, demodulate=False) + state[f"{prefix}.bias"][0]
    if before is None:
        return y
    spread = np.zeros((3, 2 * before.shape[1], 2 * before.shape[2]))
    spread[:, ::2, ::2] = before
    padded = np.pad(spread, ((0, 0), (2, 1), (2, 1)))
    return y + np.array([convolve2d(c, state[f"{prefix}.upsample.kernel"], mode="valid") for c in padded])


def image_by_hand(state, ws, noisy=True):
    """One image `[3, 16, 16]` from `ws` `[6, 512]`."""
    noises = [state[f"noises.noise_{k}"][0, 0] * noisy for k in range(5)]
    x = styled_by_hand(state, "conv1", state["input.input"][0], ws[0], noises[0])
    image = colours_by_hand(state, "to_rgb1", x, ws[1], None)
    for i in range(2):
        x = styled_by_hand(state, f"convs.{2 * i}", x, ws[2 * i + 1], noises[2 * i + 1], up=True)
        x = styled_by_hand(state, f"convs.{2 * i + 1}", x, ws[2 * i + 2], noises[2 * i + 2])
        image = colours_by_hand(state, f"to_rgbs.{i}", x, ws[2 * i + 3], image)
    return image


def numbers(generator):
    return {key: value.double().numpy() for key, value in generator.state_dict().items()}


def test_mapping_follows_the_formula():
    generator, z = make(), torch.randn(3, W_DIM)
    expected = mapping_by_hand(numbers(generator), z.double().numpy())
    assert np.abs(generator.mapping(z).detach().numpy() - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("form", ["shared", "grouped"])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_images_follow_the_formulas(form, noise):
    generator, ws = make(form=form), torch.randn(2, 6, W_DIM)
    expected = np.array([image_by_hand(numbers(generator), one, noise == "const") for one in ws.double().numpy()])
    with torch.no_grad():
        images = generator.synthesise(ws, noise=noise)
    assert np.abs(images.numpy() - expected).max() <= 1e-4 * expected.std()


def test_gradient_follows_the_formulas():
    generator, ws = make(), torch.randn(1, 6, W_DIM, requires_grad=True)
    direction, weighting = torch.randn(6, W_DIM).double().numpy(), torch.randn(3, 16, 16).double().numpy()
    state, here, step = numbers(generator), ws[0].detach().double().numpy(), 1e-5
    ahead, behind = (image_by_hand(state, here + sign * step * direction) for sign in (1, -1))
    expected = ((ahead - behind) * weighting).sum() / (2 * step)
    (generator.synthesise(ws)[0] * torch.from_numpy(weighting)).sum().backward()
    assert (ws.grad[0].double().numpy() * direction).sum() == pytest.approx(expected, rel=1e-3)


def test_forms_agree_in_value_and_in_every_gradient():
    generator = make(32).double()
    ws = torch.randn(2, generator.num_ws, W_DIM, dtype=torch.float64, requires_grad=True)
    weighting, results = torch.randn(2, 3, 32, 32, dtype=torch.float64), {}
    for form in ("shared", "grouped"):
        generator.form = form
        inputs = {"ws": ws} | {k: p for k, p in generator.named_parameters() if not k.startswith("style.")}
        image = generator.synthesise(ws)
        gradients = torch.autograd.grad((image * weighting).sum(), list(inputs.values()))
        results[form] = {"image": image} | dict(zip(inputs, gradients, strict=True))
    for name, value in results["shared"].items():
        torch.testing.assert_close(value, results["grouped"][name], rtol=1e-7, atol=1e-8, msg=name)


def test_second_derivative_exists():
    generator = make(channels=2).double().requires_grad_(False)
    latent = torch.randn(1, 1, W_DIM, dtype=torch.float64)
    weighting = torch.randn(1, 3, 16, 16, dtype=torch.float64)

    def along(step):
        return (generator.synthesise((latent + step * weighting.mean()).expand(1, 6, W_DIM)) * weighting).sum()[None]

    step = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, step) and torch.autograd.gradgradcheck(along, step)


@pytest.mark.parametrize(("resolution", "multiplier"), [(1024, 2), (256, 2), (512, 1)])
def test_keys_and_shapes_are_the_official_ones(resolution, multiplier):
    with torch.device("meta"):
        generator = Generator(resolution, channel_base=16384 * multiplier)
    state = generator.state_dict()
    assert state.pop("mean_latent").shape == (512,)
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(
        rosinality(resolution, multiplier).items()
    )
    if (resolution, multiplier) == (1024, 2):
        assert (len(state), sum(value.numel() for value in state.values())) == (171, 33_166_492)
        assert generator.num_ws == 18


@pytest.mark.parametrize("noise", ["const", "none"])
def test_stopping_early_is_the_smaller_generator(noise):
    large = make(32)
    small = Generator(16, channel_base=96, channel_max=6, num_mapping_layers=3)
    small.load_state_dict({key: large.state_dict()[key] for key in small.state_dict()})
    ws = torch.randn(2, large.num_ws, W_DIM)
    with torch.no_grad():
        early = large.synthesise(ws, noise=noise, resolution=16)
        assert torch.equal(early, small.synthesise(ws[:, : small.num_ws], noise=noise))
        assert large.synthesise(ws, resolution=8).shape == (2, 3, 8, 8)


def test_noise_modes():
    generator, ws = make(), torch.randn(2, 6, W_DIM)
    with torch.no_grad():
        assert torch.equal(generator.synthesise(ws), generator.synthesise(ws))
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(generator.synthesise(ws[:1].expand(2, -1, -1), noise="random"))
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
        assert not torch.equal(draws[0][0], draws[0][1])  # every sample has noise of its own
        without = generator.synthesise(ws, noise="none")
        for name, stored in generator.noises.named_buffers():
            stored.fill_(9 + len(name))
        assert torch.equal(generator.synthesise(ws, noise="none"), without)
        assert not torch.allclose(generator.synthesise(ws), without)


def test_frozen_weights_cost_no_weight_gradients_in_the_shared_form_only():
    ratio = {}
    for form in ("shared", "grouped"):
        generator = make(32, form=form).requires_grad_(False)
        ws = torch.randn(2, generator.num_ws, W_DIM, requires_grad=True)
        with FlopCounterMode(display=False) as forward:
            loss = generator.synthesise(ws).square().mean()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        counts = [counter.get_flop_counts()["Global"] for counter in (forward, backward)]
        before, after = (sum(v for k, v in count.items() if "conv" in str(k)) for count in counts)
        ratio[form] = after / before
    assert ratio["shared"] < 1.1
    assert ratio["grouped"] > 1.5


@pytest.mark.parametrize("way", ["autocast", "cast"])
def test_bfloat16_from_end_to_end(way):
    generator, ws = make(32), torch.randn(2, 8, W_DIM)
    with torch.no_grad():
        expected = generator.synthesise(ws)
    if way == "cast":
        generator.to(torch.bfloat16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
            images = generator.synthesise(ws.requires_grad_())
    assert images.dtype == torch.bfloat16
    assert images.is_contiguous(memory_format=torch.channels_last)
    error = (images.float() - expected).square().mean().sqrt() / expected.std()
    assert error < 0.03
    assert {t.dtype for t in saved if t.numel() >= 2 * 3 * 32 * 32} == {torch.bfloat16}  # no islands of float32


def test_float16_survives_large_styles():
    generator = make(channels=64)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("modulation.bias") and not name.startswith("to_rgb"):
                parameter.mul_(3e4)
    generator.to(torch.float16)
    with torch.no_grad():
        assert generator.synthesise(torch.randn(1, 6, W_DIM), noise="none").isfinite().all()


@pytest.mark.parametrize("form", ["shared", "grouped"])
def test_clamp_limits_every_layer(form):
    generator = make(conv_clamp=0.25, form=form)
    seen = []
    for layer in [generator.conv1, *generator.convs, generator.to_rgb1]:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.abs().max().item()))
    with torch.no_grad():
        generator.synthesise(torch.randn(2, 6, W_DIM) * 5)
    assert max(seen) == pytest.approx(0.25)


def test_w_is_every_row_of_w_plus():
    generator, w = make(), torch.randn(2, W_DIM)
    with torch.no_grad():
        assert torch.equal(generator.synthesise(w), generator.synthesise(w[:, None].repeat(1, 6, 1)))


def test_truncation_pulls_towards_the_mean():
    generator, ws = make(), torch.randn(2, 6, W_DIM)
    mean = generator.mean_latent
    torch.testing.assert_close(generator.truncate(ws, 0.3), mean + 0.3 * (ws - mean))
    part = generator.truncate(ws, 0.3, num_rows=2)
    assert torch.equal(part[:, 2:], ws[:, 2:])
    torch.testing.assert_close(part[:, :2], mean + 0.3 * (ws[:, :2] - mean))
    torch.testing.assert_close(generator.truncate(ws[:, 0], 0.0), mean.expand(2, -1))


def test_mean_latent_is_the_average_of_mapped_codes():
    generator = make()
    z = torch.randn(2000, W_DIM)
    with torch.no_grad():
        w = generator.mapping(z)
        standard_error = w.std(0) / sqrt(2000)
        assert ((generator.estimate_mean_latent(4000, seed=5) - w.mean(0)).abs() / standard_error).max() < 6


def test_refuses_what_does_not_fit():
    generator = make()
    for resolution in (8, 48, 2048):
        with pytest.raises(ValueError, match="power of two from 16 to 1024"):
            Generator(resolution)
    with pytest.raises(ValueError, match=r"\[N, 6, 512\]"):
        generator.synthesise(torch.randn(1, 7, W_DIM))
    with pytest.raises(ValueError, match="noise"):
        generator.synthesise(torch.randn(1, 6, W_DIM), noise="some")
    with pytest.raises(ValueError, match="resolution"):
        generator.synthesise(torch.randn(1, 6, W_DIM), resolution=32)


def test_is_an_image_generator_and_takes_any_memory_format():
    generator = make().to("cpu", memory_format=torch.channels_last)
    assert isinstance(generator, ImageGenerator)
    assert generator.to(torch.float64).mapping(torch.randn(1, W_DIM)).dtype == torch.float64
