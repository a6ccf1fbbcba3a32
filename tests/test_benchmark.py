"""The benchmark at tiny size: A is what the textbook says, B is what the pipeline does, and the report adds up."""

import dataclasses
import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from script_module import load_script

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hdtalk.images import to_images  # noqa: E402
from hdtalk.losses.landmark import gaussian_heatmaps, landmark_weights  # noqa: E402
from hdtalk.options import resolve, split_settings  # noqa: E402
from scripts.benchmark import compare, costs, fast, machine, networks, plain, report, score, shot  # noqa: E402

CPU = torch.device("cpu")
FEW = {
    "invert.steps": 4,
    "invert.shared_steps": 2,
    "invert.refine_steps": 1,
    "optimise.warm_steps": 2,
    "stitch.steps": 1,
}
ONCE = {"preset": "paper", "invert.passes": 2, "optimise.steps": 2, "stitch.steps": 2}


@pytest.fixture(scope="module")
def nets():
    return networks.networks_by_rule(32, CPU, seed=0, small=True)


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    crops, truth = rng.integers(0, 256, (2, 5, 3, 32, 32), np.uint8)
    source_px = rng.uniform(6, 26, (5, 68, 2)).astype(np.float32)
    return shot.Shot("noise", crops, truth, source_px, source_px + 1)


@pytest.fixture(scope="module")
def sides(nets, frames):
    return compare.Sides(nets, frames, resolve(ONCE), resolve(FEW), CPU, torch.float32)


def test_the_textbook_generator_and_nets_say_what_ours_say(nets):
    ws = torch.randn(2, nets.generator.num_ws, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in (nets.generator.conv1.noise.weight, nets.generator.convs[1].noise.weight):
            weight.fill_(0.3)
        pictures = plain.synthesise(nets.generator, ws)
        torch.testing.assert_close(pictures, nets.generator.synthesise(ws), atol=1e-4, rtol=1e-4)
        silent = plain.synthesise(nets.generator, ws, noise=False)
        torch.testing.assert_close(silent, nets.generator.synthesise(ws, noise="none"), atol=1e-4, rtol=1e-4)
        distance = plain.lpips(nets.perceptual, pictures, pictures.flip(0))
        torch.testing.assert_close(distance, nets.perceptual(pictures, pictures.flip(0)), atol=1e-5, rtol=1e-4)
        upscaled = torch.nn.functional.interpolate(pictures, size=(256, 256), mode="bilinear")
        maps = plain.heatmaps(nets.landmarker, pictures)
        torch.testing.assert_close(maps, nets.landmarker.heatmaps(upscaled), atol=1e-4, rtol=1e-4)
    assert plain.synthesise(nets.generator, ws).is_contiguous()


def test_a_takes_every_step_and_leaves_the_given_generator_alone(nets, frames, sides):
    before = {name: p.clone() for name, p in nets.generator.named_parameters()}
    tuned, pivots, timed = plain.invert(nets, frames.crops[:2], sides.paper, CPU, passes=3)
    assert len(timed.steps) == len(timed.losses) == 6 and np.isfinite(timed.losses).all()
    wanted = plain.target_maps(nets, frames[:2], "gaussian", 1.0, CPU)
    ws, times = plain.follow(nets, tuned, frames.crops[:2], pivots, wanted, sides.paper, 4, [[0, 1]])
    assert [len(t.steps) for t in times] == [4, 4] and (ws - pivots).abs().amax() <= 4.1e-3  # Adam at 1e-3
    pictures, masks, times = plain.stitch(nets, tuned, frames.crops[:2], ws, sides.paper, 2)
    assert pictures.shape == (2, 3, 32, 32) and masks.alpha.shape == (2, 1, 32, 32) and len(times) == 2
    assert all(torch.equal(before[name], p) for name, p in nets.generator.named_parameters())


def test_objective_is_equation_5_written_plainly(nets, frames, sides):
    ws = torch.randn(2, nets.generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    wanted = plain.target_maps(nets, frames[:2], "gaussian", 1.0, CPU)
    found = score.objective(nets, nets.generator, ws, frames[:2], sides.paper, wanted, [[0, 1]])
    pictures, source = nets.generator.synthesise(ws), to_images(frames.crops[:2], CPU)
    maps = nets.landmarker.heatmaps(torch.nn.functional.interpolate(pictures, size=(256, 256), mode="bilinear"))
    points = torch.from_numpy(frames.target_px[:2]) + 0.5
    gap = (maps - gaussian_heatmaps(points, 32)).square().sum((2, 3)).sqrt()
    expected = nets.perceptual(pictures, source) + 5e-3 * (gap * landmark_weights(3.0, 2.0)).sum(1)
    expected[1] += 1e-4 * (ws[1] - ws[0]).square().sum()
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-3)


def test_pictures_have_an_objective_without_a_code(nets, frames, sides):
    shot = frames[:2]
    wanted = plain.target_maps(nets, shot, "shifted", 1.0, CPU)
    made, source = to_images(frames.crops[3:5], CPU), to_images(shot.crops, CPU)
    maps = nets.landmarker.heatmaps(torch.nn.functional.interpolate(made, size=(256, 256), mode="bilinear"))
    gap = (maps - wanted).square().sum((2, 3)).sqrt()
    expected = nets.perceptual(made, source) + 5e-3 * (gap * landmark_weights(3.0, 2.0)).sum(1)
    found = score.objective_of_pictures(nets, frames.crops[3:5], shot, sides.paper, wanted)
    assert found == pytest.approx(float(expected.mean()), rel=1e-3) and found > 0.01


def test_the_objective_to_the_truth_takes_the_true_take_for_source_and_targets(nets, frames, sides):
    shot = frames[:2]
    ws = torch.randn(2, nets.generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    pictures, truth = nets.generator.synthesise(ws), to_images(shot.truth, CPU)
    seen = [torch.nn.functional.interpolate(p, size=(256, 256), mode="bilinear") for p in (pictures, truth)]
    gap = (nets.landmarker.heatmaps(seen[0]) - nets.landmarker.heatmaps(seen[1])).square().sum((2, 3)).sqrt()
    expected = (nets.perceptual(pictures, truth) + 5e-3 * (gap * landmark_weights(3.0, 2.0)).sum(1)).mean()
    expected = float(expected + 1e-4 * (ws[1] - ws[0]).square().sum() / 2)
    aim, maps = score.towards_truth(nets, shot, CPU)
    found = score.objective(nets, nets.generator, ws, aim, sides.paper, maps, [[0, 1]]).mean()
    assert found == pytest.approx(expected, rel=1e-3)
    assert score.objective_of_pictures(nets, shot.truth, aim, sides.paper, maps) == pytest.approx(0, abs=1e-5)


def test_a_shot_without_a_true_take_has_its_objective_all_the_same(nets, frames, sides):
    shot = dataclasses.replace(frames[:2], truth=None)
    wanted = plain.target_maps(nets, shot, "shifted", 1.0, CPU)
    codes = {"a": (nets.generator, torch.zeros(2, nets.generator.num_ws, 512))}
    found = compare.objectives(sides, shot, wanted, [], codes)
    assert found["objective"]["a"] > 0 and found["objective"]["unedited"] > 0
    assert np.isnan([found["objective"]["truth"], *found["objective_to_truth"].values()]).all()


def test_shifted_targets_are_those_that_b_follows(nets, frames):
    from hdtalk.latent_space import latent_space
    from hdtalk.optimise import Frames, _Descent

    config = dataclasses.replace(resolve({}).optimise, latent_space="w+")
    given = Frames(frames.crops, torch.zeros(5, nets.generator.num_ws, 512), frames.source_px, frames.target_px)
    space = latent_space(nets.generator, config)
    trio = nets.generator, nets.landmarker, nets.perceptual
    descent = _Descent(trio, space, given, config, torch.float32, None, True)
    wanted = plain.target_maps(nets, frames, "shifted", 1.0, CPU)
    torch.testing.assert_close(torch.cat(descent.targets), wanted, atol=1e-4, rtol=1e-3)


def test_b_is_what_the_pipeline_does(tiny_bundle_folder, tiny_shot, tmp_path):
    """The same shot through edit_video and through the benchmark's chain of stages: the same objective."""
    from hdtalk import edit_video
    from hdtalk.config import CropConfig
    from hdtalk.crop import crop_faces, crop_track
    from hdtalk.data import FaceTrack
    from hdtalk.media import read_frames
    from hdtalk.squares import landmarks_to_crop

    video, source_px, speech = tiny_shot
    target_px = source_px + np.float32([0, 1.0])
    given = {**FEW, "precision": "float32"}
    result = edit_video(
        video, speech, tmp_path / "out.mp4", bundle=str(tiny_bundle_folder), device="cpu", landmarks=target_px,
        track=source_px, **given,
    )  # fmt: skip
    count = len(source_px)
    quads = crop_track(FaceTrack(source_px, np.ones(count, bool)), 32, CropConfig()).quads_px
    crops = crop_faces(read_frames(video), quads, 32)
    points = [landmarks_to_crop(px, quads, 32) for px in (source_px, target_px)]
    nets = networks.bundle_networks(str(tiny_bundle_folder), CPU)
    made = fast.run(nets, shot.Shot("tiny", crops, None, *points), resolve(given), CPU, torch.float32)
    assert len(made.ws) == count
    assert made.border.mean() == pytest.approx(result.scores["border"], rel=0.05, abs=1e-4)
    start, end = result.scores["objective_start"], result.scores["objective_total"]
    assert made.objective["start"] == pytest.approx(start, rel=1e-3)
    assert made.objective["total"] == pytest.approx(end, rel=1e-3)


def test_a_shot_survives_its_file_and_grows_there_and_back(frames, tmp_path):
    shot.save_shot(tmp_path / "shot.npz", frames)
    back = shot.load_shot(tmp_path / "shot.npz")
    for name in ("crops", "truth", "source_px", "target_px"):
        np.testing.assert_array_equal(getattr(back, name), getattr(frames, name))
    longer = frames.lasting(11)
    order = [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    np.testing.assert_array_equal(longer.crops, frames.crops[order])
    larger = frames.at_side(64)
    assert larger.crops.shape[-1] == 64
    np.testing.assert_allclose(larger.source_px, 2 * frames.source_px + 0.5)


def test_frames_for_a_are_pairs_of_neighbours():
    rows, groups = compare.plain_rows(89, 4)
    assert len(rows) == 4 and groups == [[0, 1], [2, 3]]
    assert rows[1] == rows[0] + 1 and rows[3] == rows[2] + 1
    assert compare.plain_rows(1, 2) == ([0], [[0]])


def test_ratios_outcome_and_report(sides, tmp_path):
    plan = compare.Plan(rounds=2, plain_steps=2, slice_frames=4, plain_frames=2, outcome="complete")
    found = compare.compare(sides, plan)
    for stage in compare.CHAIN:
        low, high = found["ratio_spread"][stage]
        assert 0 < low <= found["ratio"][stage] <= high
    for side in "ab":
        seconds, flops = found["seconds_per_frame"][side], found["flops_per_frame"][side]
        assert seconds["total"] == pytest.approx(sum(seconds[s] for s in compare.STAGES), rel=0.5)
        assert flops["total"] == pytest.approx(sum(flops[s] for s in compare.STAGES))
    made = compare.outcome(sides, plan)
    assert set(made["objective"]) == {"a", "b", "start", "unedited", "truth"}
    assert set(made["objective_to_truth"]) == {"a", "b", "start", "unedited"}
    assert np.isfinite([*made["objective"].values(), *made["objective_to_truth"].values()]).all()
    assert made["psnr"]["unedited"] > 0 and np.isnan(made["f_ld"]["a"])  # no second landmark net here
    found |= {"outcome_frames": made.pop("frames"), **made, "peak_tflops": 1.0}
    found["floor_share"] = {side: dict.fromkeys(compare.CHAIN, 0.5) for side in "ab"}
    found["profile"] = costs.profile(sides.networks, sides.fast, CPU, torch.float32, 1)
    found["by_length_s"] = costs.by_length(found["seconds_per_frame"]["b"], len(sides.shot))
    found["setting"] = SETTING
    for side in "ab":
        assert sum(row["share"] for row in found["profile"][side].values()) == pytest.approx(1)
    text, table = report.to_text(found), json.loads(report.to_json(found))
    assert "A / B" in text and table["f_ld"]["a"] is None
    assert table["ratio"]["optimise"] == found["ratio"]["optimise"]
    report.draw_curves(tmp_path / "curves.png", found["curves"])
    assert (tmp_path / "curves.png").stat().st_size > 1000


SETTING = dict.fromkeys(
    "hardware torch networks resolution shot frames preset seed targets clock precision threads_a threads_b rounds "
    "plain_steps slice_frames steps_a".split(),
    "x",
)


def test_a_run_grows_by_the_frames_while_the_tuning_does_not():
    costs_s = costs.by_length({"total": 3.0, "tune": 1.0, "shared offset": 0.5, "optimise": 1.5}, num_frames=10)
    assert costs_s["25"] == pytest.approx(15 + 1.5 * 25) and costs_s["250"] == pytest.approx(15 + 1.5 * 250)


def test_operations_are_counted_whatever_thread_does_the_work():
    from hdtalk.descent import in_batches

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    a = torch.ones(8, 8)
    flops = machine.count_flops(lambda: in_batches([0, 1], 1, lambda rows: a @ a, device=CPU))
    torch.set_num_threads(before)
    assert flops == 2 * 2 * 8**3


def test_command_writes_the_crops_of_a_sample(tmp_path):
    module = load_script("bench")
    out = tmp_path / "crops.npz"
    result = CliRunner().invoke(module.main, ["--save-crops", str(out), "--num-frames", "3"])
    assert result.exit_code == 0, result.output
    made = shot.load_shot(out)
    assert len(made) == 3 and made.crops.shape == (3, 3, 256, 256) and made.truth is not None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--json", "absent/bench.json"], "absent does not exist"),
        (["--png", "loss.png", "--quick"], "--outcome"),
        (["--png", "loss.png", "--resolution", "64"], "--outcome"),
        (["--rounds", "0"], "0 is not in the range"),
    ],
)
def test_command_refuses_before_it_measures(tmp_path, monkeypatch, arguments, hint):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(load_script("bench").main, arguments)
    assert result.exit_code == 2 and hint in result.output


def test_the_short_runs_that_memory_is_measured_on_are_possible(tmp_path):
    module = load_script("bench_memory")
    config = resolve(split_settings(module.FEW_STEPS))
    assert config.optimise.steps == config.stitch.steps == 1
    with pytest.raises(click.ClickException, match="ended with 3: hdtalk: .*absent.mp4"):
        module.edit(tmp_path / "absent.mp4", tmp_path / "absent.wav", "demo", "cpu")
