"""SyncNet: the official file's keys, shapes and parameter count."""

import pytest
import torch

from hdtalk.models.syncnet import SyncNet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SyncNet().eval()


def test_keys_and_shapes_are_those_of_the_official_file(network):
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes["netcnnaud.4.weight"] == (192, 64, 3, 3)
    assert shapes["netcnnaud.18.weight"] == (512, 256, 5, 4)
    assert shapes["netcnnlip.0.weight"] == (96, 3, 5, 7, 7)
    assert shapes["netcnnlip.18.weight"] == (512, 256, 1, 6, 6)
    assert shapes["netfclip.3.weight"] == (1024, 512) and shapes["netfcaud.3.bias"] == (1024,)
    convolutions = {int(k.split(".")[1]) for k, s in shapes.items() if k.startswith("netcnnaud") and len(s) == 4}
    assert convolutions == {0, 4, 8, 11, 14, 18}
    convolutions = {int(k.split(".")[1]) for k, s in shapes.items() if k.startswith("netcnnlip") and len(s) == 5}
    assert convolutions == {0, 4, 8, 11, 14, 18}


def test_one_window_gives_one_embedding_that_depends_on_every_frame(network):
    frames = torch.rand(1, 3, 5, 224, 224) * 255
    with torch.inference_mode():
        embedding = network.lips(frames)
        changed = frames.clone()
        changed[:, :, 4] = 0
        assert embedding.shape == (1, 1024)
        assert not torch.allclose(network.lips(changed), embedding)
        assert network.audio(torch.randn(2, 1, 13, 20)).shape == (2, 1024)
