"""The face recogniser: official keys, its output layer and its crop, re-computed step by step."""

import numpy as np
import torch
from official_keys import ir_se50

from hdtalk.models.irse50 import IRSE50


def test_keys_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        state = IRSE50().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == ir_se50() and len(state) == 397


def test_embedding_follows_the_formulas():
    torch.manual_seed(0)
    network = IRSE50().eval()
    norm, last = network.output_layer[0], network.output_layer[4]
    for module in (norm, last):
        for value in (module.weight, module.bias, module.running_mean):
            value.data.normal_()
        module.running_var.uniform_(0.5, 1.5)
    crops = torch.rand(1, 3, 256, 256) * 2 - 1
    faces = torch.zeros(1, 3, 112, 112)
    for y in range(112):  # the cell of an adaptive average: floor and ceiling of its share
        for x in range(112):
            top, bottom = 35 + y * 188 // 112, 35 - (-(y + 1) * 188 // 112)
            left, right = 32 + x * 188 // 112, 32 - (-(x + 1) * 188 // 112)
            faces[0, :, y, x] = crops[0, :, top:bottom, left:right].mean((1, 2))
    with torch.no_grad():
        features = network.stages(faces)[-1][0].double().numpy()
        embedding = network.embed(crops)[0].numpy()
    parts = {name: value.double().numpy() for name, value in network.output_layer.state_dict().items()}
    x = (features - parts["0.running_mean"][:, None, None]) / np.sqrt(parts["0.running_var"] + 1e-5)[:, None, None]
    x = x * parts["0.weight"][:, None, None] + parts["0.bias"][:, None, None]
    x = parts["3.weight"] @ x.ravel() + parts["3.bias"]
    x = (x - parts["4.running_mean"]) / np.sqrt(parts["4.running_var"] + 1e-5) * parts["4.weight"] + parts["4.bias"]
    np.testing.assert_allclose(embedding, x / np.linalg.norm(x), atol=2e-5)
