"""The landmark optimisation: its latent spaces, its warm starts, and that it follows, couples and recovers."""

import dataclasses

import numpy as np
import pytest
import torch

from hdtalk import follow, optimise
from hdtalk.config import OptimiseConfig
from hdtalk.errors import UsageError
from hdtalk.landmark_codes import LandmarkCodes
from hdtalk.latent_space import latent_space
from hdtalk.losses.temporal import feature_distances
from hdtalk.models.fan import heatmaps_to_landmarks
from hdtalk.optimise import Frames

# these nets' codes are neighbours by chance only: little smoothness
CONFIG = OptimiseConfig(
    steps=4,
    batch_size=2,
    components=16,
    latent_space="whitened",
    target_heatmaps="gaussian",
    lambda_smooth=1e-4,
    patience=6,
)


@pytest.fixture
def frames(tiny_crops):
    crops, ws = tiny_crops
    rng = np.random.default_rng(2)
    source = rng.uniform(6, 26, (4, 68, 2)).astype(np.float32)
    return Frames(crops[:4], ws[:4], source, source + rng.normal(0, 1.5, source.shape).astype(np.float32))


def solve(networks, frames, config=CONFIG, **options):
    space = latent_space(networks.generator, config)
    given = (networks.generator, networks.landmarker, networks.perceptual, space, frames, config)
    return optimise.optimise_frames(*given, **options)


def test_starts_that_show_the_targets_leave_the_landmark_net_nothing_to_do(tiny_networks, tiny_crops, tiny_shot):
    crops, ws = tiny_crops
    shot_px = tiny_shot[1][:6] / 3
    config = dataclasses.replace(CONFIG, target_heatmaps="shifted", start_ridge=1e-6, start_scale=0.2, steps=0)
    codes = LandmarkCodes(shot_px, ws, crops.shape[-1], config)
    wanted = np.array([3, 0, 5])
    frames = Frames(crops[:3], ws[:3], shot_px[:3], shot_px[wanted])
    started = follow.shot_starts(codes, frames, dataclasses.replace(config, smoothness="none"))
    torch.testing.assert_close(started.pivots, ws[wanted], atol=0.02, rtol=0)
    np.testing.assert_allclose(started.shown_px, shot_px[wanted], atol=0.02)
    assert torch.equal(frames.pivots, ws[:3])
    there = solve(tiny_networks, started, config, independent=True).losses["landmarks"]
    from_source = solve(tiny_networks, frames, config, independent=True).losses["landmarks"]
    assert there.max() < 0.02 * from_source.mean()


def test_mouths_that_are_bent_to_their_targets_are_not_moved_twice(tiny_networks, frames):
    """The descent asks little of their landmarks; where nothing is bent it does, and of all others always."""
    config = dataclasses.replace(CONFIG, target_heatmaps="shifted", steps=0)
    moved = {}
    for name, landmarks in (("mouth", slice(48, 68)), ("rest", slice(0, 48))):
        shown_px = frames.target_px.copy()
        shown_px[:, landmarks] += 2.0
        started = dataclasses.replace(frames, shown_px=shown_px)
        for reach in (0.03, 0.0):
            bending = dataclasses.replace(config, warp_reach=reach)
            moved[name, reach] = solve(tiny_networks, started, bending, independent=True).losses["landmarks"].min()
    share = config.bent_mouth_weight / config.mouth_weight
    assert moved["mouth", 0.03] < 2 * share * moved["mouth", 0.0]
    assert moved["rest", 0.03] > 0.5 * moved["rest", 0.0] > 0


def test_the_smoothness_of_starts_is_that_of_the_ways_from_them(tiny_networks, frames):
    config = dataclasses.replace(CONFIG, lambda_lpips=0.0, lambda_fan=0.0, lambda_smooth=1.0, lambda_mahalanobis=0.0)
    started = dataclasses.replace(frames, shown_px=frames.target_px)
    before = frames.pivots[:1] + 1.0
    options = {"before": before[0], "before_pivot": before[0]}
    torch.testing.assert_close(solve(tiny_networks, started, config, **options).ws, frames.pivots)
    pulled = solve(tiny_networks, frames, config, **options).ws
    assert pulled.diff(dim=0).norm() < 0.97 * frames.pivots.diff(dim=0).norm()
    options["before_pivot"] = before[0] - 0.5  # the frame before went by a half: the first one is drawn after it
    drawn = solve(tiny_networks, started, config, **options).ws
    assert (drawn[0] - frames.pivots[0]).mean() > 0


@pytest.mark.parametrize(("latent_space", "rate"), [("whitened", 0.1), ("w+", 0.005)])
def test_codes_move_towards_the_targets(tiny_networks, frames, latent_space, rate):
    config = dataclasses.replace(CONFIG, latent_space=latent_space, learning_rate=rate, steps=8)
    solution = solve(tiny_networks, frames, config)
    assert solution.losses["total"].mean() < solution.losses["start"].mean()
    assert solution.ws.shape == frames.pivots.shape and not torch.equal(solution.ws, frames.pivots)


def test_equation_5_is_what_is_reported(tiny_networks, frames):
    config = dataclasses.replace(CONFIG, latent_space="w+", perceptual_mouth=1.0, steps=1)
    solution = solve(tiny_networks, frames, config, independent=True)
    parts = solution.losses
    expected = config.lambda_lpips * parts["lpips"] + config.lambda_fan * parts["landmarks"]
    np.testing.assert_allclose(parts["total"], expected, rtol=1e-4)
    with torch.no_grad():
        pictures = tiny_networks.generator.synthesise(frames.pivots)
        targets = torch.from_numpy(frames.crops).float() / 127.5 - 1
        lpips = tiny_networks.perceptual(pictures, targets)
        upscaled = torch.nn.functional.interpolate(pictures, size=(256, 256), mode="bilinear")
        heatmaps = tiny_networks.landmarker.heatmaps(upscaled).numpy()
    cells = (frames.target_px + 0.5) * (256 / 32) / 4 - 0.5
    grid = np.arange(64)
    gaussian = np.exp(-((grid - cells[..., None]) ** 2) / 2)  # [n, 68, 2, 64]
    wanted = gaussian[:, :, 1, :, None] * gaussian[:, :, 0, None, :]
    weights = np.r_[np.ones(36), np.full(12, 2.0), np.full(20, 3.0)]
    weights /= weights.mean()
    fan = (np.sqrt(((heatmaps - wanted) ** 2).sum((2, 3))) * weights).sum(1)
    np.testing.assert_allclose(parts["start"], lpips.numpy() + 5e-3 * fan, rtol=1e-3)


def test_smoothness_pulls_neighbours_and_the_frame_before_together(tiny_networks, frames):
    rough = dataclasses.replace(CONFIG, latent_space="w+", smoothness="none", plateau=0.0)
    smooth = dataclasses.replace(rough, smoothness="latent", lambda_smooth=1.0)
    before = frames.pivots[3]
    results = [solve(tiny_networks, frames, config, before=before).ws for config in (rough, smooth)]
    steps = [torch.cat([before[None], ws]).diff(dim=0).norm() for ws in results]
    assert steps[1] < steps[0]


@pytest.mark.parametrize("optimiser", ["l-bfgs", "adam"])
@pytest.mark.parametrize("joint", [True, False])
def test_feature_smoothness_brings_pictures_together(tiny_networks, frames, optimiser, joint):
    """Those of neighbours and of the finished frame before, mouths included, whatever descends."""
    none = dataclasses.replace(CONFIG, smoothness="none", plateau=0.0, steps=8, learning_rate=0.1)
    none = dataclasses.replace(none, optimiser=optimiser, joint=joint)
    feature = dataclasses.replace(none, smoothness="feature", lambda_feature_smooth=30.0)
    before = frames.pivots[3].flip(-1)
    distances = []
    for config in (none, feature):
        ws = torch.cat([before[None], solve(tiny_networks, frames, config, before=before).ws])
        with torch.no_grad():
            taps = tiny_networks.perceptual.features(tiny_networks.generator.synthesise(ws))
        distances.append(feature_distances(taps).sum())
    assert distances[1] < 0.9 * distances[0]


def test_frame_by_frame_only_sees_the_finished_frame_before(tiny_networks, frames):
    config = dataclasses.replace(CONFIG, joint=False, latent_space="w+", learning_rate=1e-2, lambda_smooth=1e-2)
    whole = solve(tiny_networks, frames, config)
    first = solve(tiny_networks, frames[:2], config)
    torch.testing.assert_close(whole.ws[:2], first.ws, rtol=0, atol=0)
    rest = solve(tiny_networks, frames[2:], config, before=first.ws[-1])
    torch.testing.assert_close(whole.ws[2:], rest.ws, rtol=0, atol=0)


@pytest.mark.parametrize("option", [{"smoothness": "feature"}, {"smoothness": "none"}, {"target_heatmaps": "shifted"}])
def test_other_terms_run_to_an_end(tiny_networks, frames, option):
    solution = solve(tiny_networks, frames, dataclasses.replace(CONFIG, **option))
    assert np.isfinite(solution.losses["total"]).all()


def test_a_frame_on_a_plateau_rests(tiny_networks, frames):
    config = dataclasses.replace(CONFIG, learning_rate=1e-9, steps=20, patience=2)
    assert (solve(tiny_networks, frames, config, independent=True).steps == 3).all()


def test_steps_that_are_not_finite_are_taken_back(tiny_networks, frames, monkeypatch, caplog):
    from hdtalk import optimise as module

    landmark_loss, calls = module.landmark_loss, []

    def sometimes(*args):
        calls.append(1)
        return landmark_loss(*args) * (float("nan") if len(calls) in (5, 6) else 1.0)

    monkeypatch.setattr(module, "landmark_loss", sometimes)
    solution = solve(tiny_networks, frames)
    assert "taken back" in caplog.text
    assert torch.isfinite(solution.ws).all()
    assert solution.losses["total"].mean() < solution.losses["start"].mean()


def test_anchors_are_unlike_each_other_and_start_their_own_frames_exactly():
    displacements = np.concatenate([np.zeros((5, 136)), np.ones((3, 136)), 2 * np.ones((1, 136))]).astype(np.float32)
    chosen = follow.choose_anchors(displacements, 5)
    assert len(chosen) == 3 and {float(displacements[i, 0]) for i in chosen} == {0.0, 1.0, 2.0}
    coordinates = torch.arange(3.0)[:, None, None].expand(3, 1, 4)
    started = follow.warm_starts(displacements, displacements[chosen], coordinates)
    expected = coordinates[[list(displacements[chosen][:, 0]).index(row[0]) for row in displacements]]
    torch.testing.assert_close(started, expected, atol=1e-4, rtol=0)


def test_shifted_heatmaps_move_each_landmark_by_its_own_way():
    from hdtalk.losses.landmark import gaussian_heatmaps

    landmarks = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0)) * 120 + 60
    cells = torch.randint(-3, 4, (1, 68, 2), generator=torch.Generator().manual_seed(1)).float()
    moved = optimise.shift_heatmaps(gaussian_heatmaps(landmarks, 256), cells)
    torch.testing.assert_close(heatmaps_to_landmarks(moved), landmarks + 4 * cells, atol=0.1, rtol=0)
    torch.testing.assert_close(moved, gaussian_heatmaps(landmarks + 4 * cells, 256), atol=1e-4, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):  # where the descent runs in it, places stay exact
        torch.testing.assert_close(optimise.shift_heatmaps(gaussian_heatmaps(landmarks, 256), cells), moved)


@pytest.mark.parametrize(
    "options", [{"latent_space": "z"}, {"layer_groups": "odd"}, {"target_heatmaps": "painted"}], ids=str
)
def test_unknown_choices_are_named(tiny_networks, frames, options):
    with pytest.raises(UsageError, match="Known"):
        solve(tiny_networks, frames, dataclasses.replace(CONFIG, **options))
