"""The encoder's training goes on from a trained encoder, on pictures that a tiny generator made."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hdtalk.training.encoder import EncoderTask
from hdtalk.training.loop import TrainConfig, train

SIZES = {"units": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "input_size": 32}


class MadeStills:
    """What DeviceStills gives, of pictures that a generator made."""

    def __init__(self, generator, count=24):
        z = torch.from_numpy(np.random.default_rng(3).standard_normal((count, generator.z_dim), np.float32))
        with torch.no_grad():
            self._images = generator.synthesise(generator.mapping(z))
        self.table = SimpleNamespace(description="made")

    def __len__(self):
        return len(self._images)

    def draw(self, rng, count):
        return rng.integers(len(self), size=count)

    def images(self, indices):
        return self._images[indices]

    def labels(self, indices):
        return torch.full((len(indices), *self._images.shape[2:]), 12, dtype=torch.uint8)


@pytest.fixture
def going_on(tiny_networks):
    generator, teacher = copy.deepcopy((tiny_networks.generator, tiny_networks.encoder))
    config = TrainConfig(steps=24, minutes=60, batch_size=8, learning_rate=2e-3, ema_images=20, warm_up=0)
    stills = MadeStills(generator)
    return EncoderTask(config, stills, stills, SIZES, generator, teacher)


def test_a_trained_encoder_goes_on(going_on, tiny_networks, tmp_path):
    encoder, teacher = going_on.networks["encoder"], tiny_networks.encoder
    with torch.no_grad():
        before, expected = (going_on.validate({"encoder": network})[0] for network in (encoder, teacher))
    assert before == expected
    after = train(going_on, tmp_path)
    assert after["psnr_db"] > before["psnr_db"] + 0.5
    for name, value in encoder.named_parameters():
        spared = name.startswith(("input_layer.", "body.0."))
        assert torch.equal(value, teacher.get_parameter(name)) == spared, name
    pictures = going_on.data.images(np.arange(8))
    with torch.no_grad():
        moved = (encoder(pictures) - teacher(pictures)).square().mean().sqrt().item()
    assert moved < going_on.spread
