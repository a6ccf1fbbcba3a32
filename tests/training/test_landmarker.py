"""The landmark net's training: its loss on places, and how a larger net starts from a smaller one."""

import pytest
import torch

from hdtalk.losses.landmark import gaussian_heatmaps
from hdtalk.models.fan import FAN
from hdtalk.training.landmarker import grown, place_loss


def test_place_loss_is_the_distance_of_the_decoded_landmarks():
    torch.manual_seed(0)
    points_px = torch.rand(3, 68, 2) * 220 + 18
    assert place_loss(gaussian_heatmaps(points_px, 256), points_px) < 1e-3
    off = gaussian_heatmaps(points_px + torch.tensor([2.0, 0.0]), 256)
    assert place_loss(off, points_px).item() == pytest.approx((2 - 0.5) / 2, abs=0.1)  # smooth L1; y has none


def test_place_loss_ignores_landmarks_outside_the_picture_and_forgives_empty_maps():
    points_px = torch.full((1, 68, 2), 130.0)
    points_px[0, 0] = torch.tensor([-40.0, 300.0])
    heatmaps = torch.zeros(1, 68, 64, 64, requires_grad=True)
    loss = place_loss(heatmaps, points_px)
    loss.backward()
    assert loss < 2 and heatmaps.grad.isfinite().all()  # at most half a cell, as the window's middle is the answer
    assert heatmaps.grad[0, 0].abs().max() == 0


def test_a_grown_net_answers_as_the_smaller_one_at_first():
    torch.manual_seed(0)
    small, large = FAN(1, channels=16).eval(), FAN(3, channels=16).eval()
    large.load_state_dict(grown(small.state_dict(), large))
    images = torch.rand(1, 3, 64, 64)
    (answer,), stacks = small(images), large(images)
    torch.testing.assert_close(stacks[0], answer)
    assert (stacks[1] - answer).abs().mean() < 0.5 * answer.abs().mean()
    torch.testing.assert_close(large.m2.b3_1.conv1.weight, small.m0.b3_1.conv1.weight)


def test_growing_to_the_same_size_changes_nothing():
    torch.manual_seed(0)
    net = FAN(2, channels=16)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name, value in grown(state, FAN(2, channels=16)).items():
        torch.testing.assert_close(value, state[name])
