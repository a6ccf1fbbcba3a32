"""The Inception network of FID: keys of the official file, and pooling as a float64 loop computes it."""

import pytest
import torch

from hdtalk.models.fid_inception import FIDInception


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FIDInception().eval()


def test_keys_are_those_of_the_official_file(network):
    state = network.state_dict()
    assert state["fc.weight"].shape == (1008, 2048)
    assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert state["Mixed_7c.branch_pool.bn.running_var"].shape == (192,)
    assert not any("AuxLogits" in key for key in state)
    assert sum(key.endswith("conv.weight") for key in state) == 94


def test_pool_branches_ignore_the_padding_and_the_last_takes_the_maximum(network):
    x = torch.rand(1, 2048, 4, 5)
    for block, reduce in ((network.Mixed_7b, torch.mean), (network.Mixed_7c, torch.amax)):
        image = x[:, : block.branch_pool.conv.in_channels]
        pooled = torch.empty_like(image)
        for i in range(4):
            for j in range(5):
                window = image[..., max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                pooled[..., i, j] = reduce(window, dim=(-2, -1))
        with torch.inference_mode():
            torch.testing.assert_close(block(image)[:, -192:], block.branch_pool(pooled))


def test_any_size_gives_2048_features_and_resizing_comes_first(network):
    images = torch.rand(1, 3, 40, 56)
    resized = torch.nn.functional.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        features = network(images)
        assert features.shape == (1, 2048)
        torch.testing.assert_close(network(resized), features)
