"""The measure of a bundle leaves out what a bundle has no network for, and says so."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from script_module import load_script

import hdtalk


@pytest.fixture(scope="module")
def measure_bundle():
    return load_script("measure_bundle")


class Stills:
    """Two grey pictures with landmarks."""

    landmarks_px = np.random.default_rng(0).uniform(60, 200, (2, 68, 2))

    def __len__(self):
        return 2

    def pictures(self, part):
        return np.full((len(part), 256, 256, 3), 128, np.uint8)


def test_a_bundle_without_a_second_landmark_net_has_its_first_measured(measure_bundle, tiny_networks, capsys):
    measures = measure_bundle.measure_landmarkers(tiny_networks, Stills(), None)
    names = ("nme_percent", "failures_percent", "lip_gap_slope", "lip_gap_correlation")
    assert set(measures) == {f"landmarker.{name}" for name in names}
    assert "landmarker_eval: left out" in capsys.readouterr().out


def test_codes_that_were_refined_are_measured_beside_the_encoder_s(measure_bundle, tiny_networks, tiny_crops):
    pictures = tiny_crops[0].transpose(0, 2, 3, 1)
    stills = type("Stills", (), {"__len__": lambda _: len(pictures), "pictures": lambda _, part: pictures[part]})()
    with torch.no_grad():
        found = measure_bundle.measure_encoder(tiny_networks, stills, None)
    assert set(found) == {f"encoder.{kind}{name}" for kind in ("", "refined_") for name in ("psnr_db", "lpips")}
    assert found["encoder.refined_psnr_db"] > found["encoder.psnr_db"] + 0.1


def test_without_a_second_landmark_net_shots_are_tuned_only(
    measure_bundle, tiny_networks, tmp_path, monkeypatch, capsys
):
    samples = tmp_path / "samples"
    samples.mkdir()
    names = ("video", "landmarks", "other_video", "other_audio", "other_landmarks")
    shot = {"name": "anna", **{name: f"{name}.npz" for name in names}}
    (samples / "samples.json").write_text(json.dumps({"shots": [shot]}))
    for name in names:
        np.savez(samples / f"{name}.npz", landmarks_px=np.zeros((3, 68, 2)))
    inversion = SimpleNamespace(scores={"psnr_db": 30.0, "ssim": 0.9})
    monkeypatch.setattr(hdtalk, "invert_video", lambda *_, **__: inversion, raising=False)
    edited: list[Path] = []
    monkeypatch.setattr(hdtalk, "edit_video", lambda *paths, **_: edited.append(paths[2]), raising=False)
    assert measure_bundle.measure_shots(tiny_networks, tmp_path, "fast", None) == {
        "tuned.psnr_db": 30.0,
        "tuned.ssim": 0.9,
    }
    assert not edited and "edit: left out" in capsys.readouterr().out
