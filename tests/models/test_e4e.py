"""The e4e encoder against a float64 re-computation in NumPy and SciPy, and the official key list."""

from math import sqrt

import numpy as np
import pytest
import torch
from official_keys import e4e_encoder
from scipy.signal import correlate2d

from hdtalk.models.e4e import Encoder4Editing

SIZES = {"resolution": 64, "units": (2, 1, 2, 1), "channels": (4, 6, 8, 10), "style_dim": 12, "input_size": 32}
NUM_WS = 10


@pytest.fixture()
def encoder():
    torch.manual_seed(0)
    network = Encoder4Editing(**SIZES).double().eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or ".4.weight" in name or ".0.weight" in name and value.ndim == 1:
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.ndim == 1:
                value.normal_(0, 0.3)
        network.mean_latent.normal_()
    return network


def convolve(x, weight, stride=1, bias=None):
    pad = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    y = np.array([sum(correlate2d(c, k, mode="valid") for c, k in zip(x, kernels, strict=True)) for kernels in weight])
    y = y[:, ::stride, ::stride]
    return y if bias is None else y + bias[:, None, None]


def normalise(state, prefix, x):
    mean, variance, weight, bias = (
        state[f"{prefix}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def prelu(x, slope):
    return np.where(x > 0, x, x * slope[:, None, None])


def unit(state, prefix, x, out, stride):
    if x.shape[0] == out:
        shortcut = x[:, ::stride, ::stride]
    else:
        shortcut = convolve(x, state[f"{prefix}.shortcut_layer.0.weight"], stride)
        shortcut = normalise(state, f"{prefix}.shortcut_layer.1", shortcut)
    y = normalise(state, f"{prefix}.res_layer.0", x)
    y = prelu(convolve(y, state[f"{prefix}.res_layer.1.weight"]), state[f"{prefix}.res_layer.2.weight"])
    y = normalise(state, f"{prefix}.res_layer.4", convolve(y, state[f"{prefix}.res_layer.3.weight"], stride))
    squeeze = state[f"{prefix}.res_layer.5.fc1.weight"][:, :, 0, 0] @ y.mean((1, 2))
    excite = state[f"{prefix}.res_layer.5.fc2.weight"][:, :, 0, 0] @ np.maximum(squeeze, 0)
    return shortcut + y / (1 + np.exp(-excite))[:, None, None]


def enlarge(x):
    """Twice the side, bilinear, corners aligned, pixel by pixel."""
    side = 2 * x.shape[1]
    y = np.zeros((x.shape[0], side, side))
    at = np.arange(side) * (x.shape[1] - 1) / (side - 1)
    for i, v in enumerate(at):
        for j, u in enumerate(at):
            a, b = min(int(v), x.shape[1] - 2), min(int(u), x.shape[1] - 2)
            p, q = v - a, u - b
            y[:, i, j] = (1 - p) * ((1 - q) * x[:, a, b] + q * x[:, a, b + 1])
            y[:, i, j] += p * ((1 - q) * x[:, a + 1, b] + q * x[:, a + 1, b + 1])
    return y


def head(state, k, x):
    layer = 0
    while x.shape[1] > 1:
        weight, bias = (state[f"styles.{k}.convs.{layer}.{name}"] for name in ("weight", "bias"))
        x = convolve(x, weight, 2, bias)
        x, layer = np.where(x > 0, x, 0.01 * x), layer + 2
    weight = state[f"styles.{k}.linear.weight"]
    return weight @ x[:, 0, 0] / sqrt(weight.shape[1]) + state[f"styles.{k}.linear.bias"]


def encode(state, image, stage=NUM_WS - 1):
    x = convolve(image, state["input_layer.0.weight"])
    x = prelu(normalise(state, "input_layer.1", x), state["input_layer.2.weight"])
    maps, index = [], 0
    for count, width in zip(SIZES["units"], SIZES["channels"], strict=True):
        for k in range(count):
            x, index = unit(state, f"body.{index}", x, width, 2 if k == 0 else 1), index + 1
        maps.append(x)
    _, fine, middle, coarse = maps
    p2 = enlarge(coarse) + convolve(middle, state["latlayer1.weight"], bias=state["latlayer1.bias"])
    p1 = enlarge(p2) + convolve(fine, state["latlayer2.weight"], bias=state["latlayer2.bias"])
    base = head(state, 0, coarse)
    rows = [base] * NUM_WS
    for k in range(1, stage + 1):
        rows[k] = base + head(state, k, coarse if k < 3 else p2 if k < 7 else p1)
    return np.array(rows) + state["mean_latent"]


@pytest.mark.parametrize("stage", [0, 2, 5, 7, 9])
def test_codes_follow_the_formulas(encoder, stage):
    state = {key: value.numpy() for key, value in encoder.state_dict().items()}
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        ws = encoder(images, stage=stage)
        if stage == 9:
            assert torch.equal(encoder(images), ws)
    np.testing.assert_allclose(ws[0].numpy(), encode(state, images[0].numpy(), stage), rtol=1e-6, atol=1e-8)


def test_keys_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        state = Encoder4Editing().state_dict()
    assert state.pop("mean_latent").shape == (18, 512)
    assert {key: tuple(value.shape) for key, value in state.items()} == e4e_encoder()
    assert (len(state), sum(value.numel() for value in state.values())) == (621, 267_161_076)


def test_other_sizes_of_image_are_resized(encoder):
    small = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    with torch.no_grad():
        torch.testing.assert_close(encoder(large), encoder(small))
        assert encoder(small[..., ::2, ::2]).shape == (1, NUM_WS, 12)


def test_gradients_agree_with_differences(encoder):
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    weighting = torch.randn(1, NUM_WS, 12, dtype=torch.float64)
    direction, step = torch.randn_like(images), 1e-6
    (gradient,) = torch.autograd.grad((encoder(images) * weighting).sum(), images)
    with torch.no_grad():
        ahead, behind = ((encoder(images + sign * step * direction) * weighting).sum() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-3)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="four stages"):
        Encoder4Editing(channels=(8, 8, 8), units=(1, 1, 1))
    with pytest.raises(ValueError, match="power of two"):
        Encoder4Editing(input_size=100)
