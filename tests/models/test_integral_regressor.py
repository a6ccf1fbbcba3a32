"""The measuring net: units of its answer, and that it can learn where something is."""

import pytest
import torch

from hdtalk.models.integral_regressor import IntegralRegressor
from hdtalk.models.pointwise import StridedPointwise


def test_untrained_answers_the_middle_of_the_image():
    answer = IntegralRegressor(8).eval()(torch.rand(2, 3, 256, 256) * 2 - 1)
    assert answer.dtype == torch.float32
    assert torch.equal(answer, torch.full((2, 68, 2), 128.0))


def test_learns_where_a_spot_is():
    torch.manual_seed(0)
    network = IntegralRegressor(2, num_landmarks=1)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    spots_px = torch.tensor([[[60.0, 70.0]], [[200.0, 80.0]], [[90.0, 190.0]], [[180.0, 170.0]]])
    x, y = ((torch.arange(256) + 0.5 - spots_px[:, 0, axis, None]) / 20 for axis in (0, 1))
    images = (-(x.square()[:, None, :] + y.square()[:, :, None])).exp() * 2 - 1
    images = images[:, None].repeat(1, 3, 1, 1)
    for _ in range(25):
        loss = (network(images) - spots_px).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 5  # px; 52 at first


def test_strided_pointwise_is_a_strided_convolution():
    torch.manual_seed(0)
    layer, x = StridedPointwise(5, 7, 2), torch.randn(2, 5, 9, 8)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, layer.weight, stride=2))
    assert list(layer.state_dict()) == ["weight"]


def test_refuses_another_size():
    with pytest.raises(ValueError, match="256"):
        IntegralRegressor(8)(torch.zeros(1, 3, 128, 128))
