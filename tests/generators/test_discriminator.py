"""The discriminator against a float64 re-computation, its keys, and the derivatives that its penalty needs."""

from math import sqrt

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d, correlate2d

from hdtalk.generators.discriminator import Discriminator


def activate(x, bias):
    x = x + bias.reshape(-1, *[1] * (x.ndim - 1))
    return np.where(x > 0, x, 0.2 * x) * sqrt(2)


def convolve(x, weight, padding):
    """One sample `[C, H, W]`, equalised weights."""
    weight = weight / sqrt(weight[0].size)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    return np.array(
        [sum(correlate2d(c, k, mode="valid") for c, k in zip(x, kernels, strict=True)) for kernels in weight]
    )


def halve(x, kernel, weight, before, after):
    """Blur, then every second sample of a convolution without padding."""
    x = np.pad(x, ((0, 0), (before, after), (before, after)))
    x = np.array([convolve2d(c, kernel, mode="valid") for c in x])
    return convolve(x, weight, 0)[:, ::2, ::2]


def score_by_hand(state, images, group):
    features = []
    for image in images:
        x = activate(convolve(image, state["convs.0.0.weight"], 0), state["convs.0.1.bias"])
        y = activate(convolve(x, state["convs.1.conv1.0.weight"], 1), state["convs.1.conv1.1.bias"])
        y = halve(y, state["convs.1.conv2.0.kernel"], state["convs.1.conv2.1.weight"], 2, 2)
        y = activate(y, state["convs.1.conv2.2.bias"])
        skip = halve(x, state["convs.1.skip.0.kernel"], state["convs.1.skip.1.weight"], 1, 1)
        features.append((y + skip) / sqrt(2))
    features = np.array(features)
    groups = features.reshape(group, -1, *features.shape[1:])
    deviation = np.sqrt(groups.var(0) + 1e-8).mean((1, 2, 3))
    scores = []
    for n, x in enumerate(features):
        x = np.concatenate([x, np.full((1, 4, 4), deviation[n % len(deviation)])])
        x = activate(convolve(x, state["final_conv.0.weight"], 1), state["final_conv.1.bias"]).ravel()
        weight = state["final_linear.0.weight"]
        x = activate(weight @ x / sqrt(len(x)), state["final_linear.0.bias"])
        scores.append(state["final_linear.1.weight"] @ x / sqrt(len(x)) + state["final_linear.1.bias"])
    return np.array(scores)


def test_scores_follow_the_formulas():
    torch.manual_seed(0)
    discriminator = Discriminator(8, channel_base=32, channel_max=5, group_size=2).double()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        scores = discriminator(images)
    state = {key: value.numpy() for key, value in discriminator.state_dict().items()}
    np.testing.assert_allclose(scores.numpy(), score_by_hand(state, images.numpy(), 2), rtol=1e-6)


def test_official_size():
    with torch.device("meta"):
        state = Discriminator(1024).state_dict()
    filters = sum(value.numel() for key, value in state.items() if key.endswith("kernel"))
    assert sum(value.numel() for value in state.values()) - filters == 29_012_513  # parameters of StyleGAN2's D
    assert state["convs.8.skip.1.weight"].shape == (512, 512, 1, 1)
    assert state["final_conv.0.weight"].shape == (512, 513, 3, 3)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_gradient_penalty_trains_under_autocast(batch):
    torch.manual_seed(0)
    discriminator = Discriminator(16, channel_base=64, channel_max=8)
    images = torch.randn(batch, 3, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        score = discriminator(images)
    (gradient,) = torch.autograd.grad(score.float().sum(), images, create_graph=True)
    gradient.square().sum().backward()
    used = [p for name, p in discriminator.named_parameters() if name != "final_linear.1.bias"]
    assert all(p.grad is None or p.grad.isfinite().all() for p in used)
    assert discriminator.convs[0][0].weight.grad.abs().max() > 0
