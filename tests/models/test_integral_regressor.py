"""The measuring net: units of its answer, and that it can learn where something is."""

import pytest
import torch

from hdtalk.models.integral_regressor import WINDOW_PX, CloseRegressor, IntegralRegressor, Windows, mouth_windows
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


def test_a_window_shows_its_square_and_its_points_are_there():
    """A picture whose red is x and whose green is y says of each pixel of a window where it came from."""
    centres = torch.arange(256) + 0.5
    picture = torch.stack([centres.expand(256, 256), centres[:, None].expand(256, 256)])[None]
    windows = Windows(torch.tensor([[130.0, 180.0]]), torch.tensor([40.0]))
    shown = windows.cut(picture)
    assert shown.shape == (1, 2, WINDOW_PX, WINDOW_PX)
    inside = torch.tensor([[[10.5, 20.5], [64.5, 64.5], [127.5, 3.5]]])  # centres of pixels of the window
    rows, columns = inside[0, :, 1].long(), inside[0, :, 0].long()
    torch.testing.assert_close(windows.to_picture(inside)[0], shown[0, :, rows, columns].T, atol=1e-3, rtol=0)
    torch.testing.assert_close(windows.from_picture(windows.to_picture(inside)), inside, atol=1e-4, rtol=0)
    torch.testing.assert_close(windows.to_picture(torch.tensor([[[0.0, 128.0]]])), torch.tensor([[[90.0, 220.0]]]))


def test_the_mouth_is_read_from_near():
    """Each point of the mouth is where the second network says in the window that the first one's points ask for."""
    torch.manual_seed(0)
    network = CloseRegressor(4, 4).eval()
    for part in (network.face, network.mouth):
        torch.nn.init.normal_(part.maps.weight, std=5.0)
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        coarse_px, answer_px = network.face(images), network(images)
        windows = mouth_windows(coarse_px)
        near_px = network.mouth(windows.cut(images))
    torch.testing.assert_close(answer_px[:, :48], coarse_px[:, :48])
    torch.testing.assert_close(windows.from_picture(answer_px[:, 48:]), near_px, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(windows.centres_px, coarse_px[:, 48:].mean(1))


def test_refuses_another_size():
    with pytest.raises(ValueError, match="256"):
        CloseRegressor(4, 4)(torch.zeros(1, 3, 128, 128))
    with pytest.raises(ValueError, match="multiple of 32"):
        IntegralRegressor(4)(torch.zeros(1, 3, 256, 240))
