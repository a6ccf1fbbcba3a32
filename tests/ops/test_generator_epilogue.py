"""The generator on the CUDA path, its kernels looped on the CPU: the same pictures and gradients as without them."""

import pytest
import torch

from hdtalk.generators.stylegan2 import Generator


def pictures_and_gradients(generator, ws, noise):
    ws = ws.clone().requires_grad_(True)
    images = generator.synthesise(ws, noise)
    weights = [p for name, p in generator.named_parameters() if not name.startswith("style.")]
    loss = (images * torch.linspace(-1, 1, images.shape[-1])).square().sum()
    return [images.detach(), *torch.autograd.grad(loss, [ws, *weights], allow_unused=noise == "none")]


@pytest.mark.parametrize(("noise", "clamp"), [("const", None), ("none", 0.8)])
def test_one_kernel_after_each_convolution_changes_nothing(request, noise, clamp):
    torch.manual_seed(0)
    generator = Generator(32, channel_base=512, channel_max=16, num_mapping_layers=1, conv_clamp=clamp)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "noise" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    ws = torch.randn(2, generator.num_ws, 512)
    expected = pictures_and_gradients(generator, ws, noise)
    request.getfixturevalue("kernels_on_cpu")
    for got, wanted in zip(pictures_and_gradients(generator, ws, noise), expected, strict=True):
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-4 * float(wanted.abs().max()))
