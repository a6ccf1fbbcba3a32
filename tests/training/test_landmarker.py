"""The landmark net's training: its loss on places, and how a larger net starts from a smaller one."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hdtalk.losses.landmark import gaussian_heatmaps
from hdtalk.models.fan import FAN
from hdtalk.models.integral_regressor import CloseRegressor, IntegralRegressor
from hdtalk.training.landmarker import MOUTH_NOTE, MouthRegressorTask, grown, lip_gap_fit, place_loss, window_batch
from hdtalk.training.loop import TrainConfig, train
from hdtalk.weights import load_bundle


class Spots:
    """What DeviceStills gives, of pictures that show a white spot at each point of the mouth, on black."""

    device = torch.device("cpu")

    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.landmarks_px = rng.uniform(40, 216, (count, 68, 2)).astype(np.float32)
        self.landmarks_px[:, :48:12] = [[30, 30]]  # the face's size is the same in all of them
        self.landmarks_px[:, 1:48:12] = [[226, 226]]
        middle, step = (
            rng.uniform(110, 146, (count, 1, 2)),
            np.stack(np.divmod(np.arange(20), 5), -1)[:, ::-1] - [2, 1.5],
        )
        self.landmarks_px[:, 48:] = middle + step * 9
        self.landmarks_px[:, 65:68, 1] += rng.uniform(0, 8, (count, 1))
        self.table, self.description = self, f"{count} spots"

    def __len__(self):
        return len(self.landmarks_px)

    def draw(self, rng, count):
        return rng.integers(len(self), size=count)

    def images(self, indices):
        centres = torch.arange(256) + 0.5
        x, y = (torch.from_numpy(self.landmarks_px[indices][:, 48:, axis, None]) - centres for axis in (0, 1))
        spots = torch.exp(-(x[:, :, None, :].square() + y[..., None].square()) / 8).amax(1)
        return spots[:, None].repeat(1, 3, 1, 1) * 2 - 1


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


def test_lip_gaps_are_fitted_by_slope_and_correlation():
    truth_px = np.zeros((5, 68, 2), np.float32)
    truth_px[:, 65:68, 1] = np.arange(5)[:, None] * 4
    seen_px = truth_px * 0.5 + 3
    seen_px[:, 65:68, 1] += 7  # an offset is no matter of the slope
    assert lip_gap_fit(seen_px, truth_px) == pytest.approx((0.5, 1.0))
    assert lip_gap_fit(seen_px[:1].repeat(5, 0), truth_px) == pytest.approx((0, 0))
    noise_px = seen_px.copy()
    noise_px[:, 65:68, 1] += np.array([1, -2, 0, 2, -1])[:, None]
    gaps = np.stack([noise_px[:, 66, 1] - noise_px[:, 62, 1], truth_px[:, 66, 1]])
    expected = np.polyfit(gaps[1], gaps[0], 1)[0], np.corrcoef(gaps)[0, 1]
    assert lip_gap_fit(noise_px, truth_px) == pytest.approx(expected, rel=1e-5)


def test_windows_are_trained_on_with_their_points_where_the_picture_shows_them():
    """However a picture was turned, mirrored, enlarged and cut, it is bright at the points that come with it."""
    data = Spots(6)
    images, points_px = window_batch(data, np.arange(6), np.random.default_rng(3))
    assert images.shape == (6, 3, 128, 128) and points_px.shape == (6, 20, 2)
    shown = images.mean(1, keepdim=True)
    at, beside = (F.grid_sample(shown, (points_px[:, None] + d) / 64 - 1, align_corners=False) for d in (0, 6))
    assert (at.mean((1, 2, 3)) > beside.mean((1, 2, 3)) + 0.2).all()


def test_the_look_at_the_mouth_is_trained_resumed_and_exported_beside_the_look_at_the_face(tmp_path):
    """Beginning with a net that has none; a face that was trained on in between is kept."""
    data, sizes = Spots(4), {"width": 4, "mouth_width": 4}
    torch.manual_seed(0)
    faces = IntegralRegressor(4), IntegralRegressor(4)
    config = TrainConfig(steps=2, batch_size=2, learning_rate=1e-2, log_steps=1)
    for folder in (tmp_path, tmp_path / "bundle"):
        folder.mkdir(exist_ok=True)
        (folder / "bundle.json").write_text('{"name": "b", "resolution": 256, "licence": "", "files": []}')
    train(MouthRegressorTask(config, data, data, sizes, faces[0], "10 heads"), tmp_path / "run")
    resumed = MouthRegressorTask(config, data, data, sizes, faces[1], f"10 heads{MOUTH_NOTE}old ones")
    measures = train(resumed, tmp_path / "run")
    averages = {"net": copy.deepcopy(resumed.networks["net"])}
    resumed.export(averages, tmp_path / "bundle", measures)
    bundle = load_bundle(tmp_path / "bundle")
    made = bundle.landmarker_eval
    assert isinstance(made, CloseRegressor)
    for name, value in faces[1].state_dict().items():
        torch.testing.assert_close(made.face.state_dict()[name].float(), value.float(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(made.mouth.stem[0].weight, averages["net"].stem[0].weight, atol=1e-3, rtol=1e-3)
    entry = bundle.files["landmarker_eval"][1]
    assert entry.trained_on == "10 heads; the mouth from near: 4 spots" and 0 <= entry.quality["nme_percent"]
    again = MouthRegressorTask(config, data, data, sizes, made, entry.trained_on)
    torch.testing.assert_close(again.networks["net"].stem[0].weight, made.mouth.stem[0].weight)
