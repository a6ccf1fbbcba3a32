"""Other heads' mouths: gathered from videos into a bundle's file, and used where a shot shows no such mouths."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from script_module import load_script

from hdtalk.pipeline import edit_video
from hdtalk.weights import load_bundle

SMALL = {"precision": "float32", "invert": {"steps": 2, "shared_steps": 1, "refine_steps": 1}, "stitch": {"steps": 1}}


@pytest.fixture(scope="module")
def taught(tiny_bundle_folder, tiny_shot, tmp_path_factory):
    """A tiny bundle with the mouth codes of the drawn head, and what the script said."""
    folder = tmp_path_factory.mktemp("taught")
    bundle = shutil.copytree(tiny_bundle_folder, folder / "bundle")
    np.savez(folder / "track.npz", landmarks_px=tiny_shot[1])
    command = [str(tiny_shot[0]), "--track", str(folder / "track.npz"), "--jobs", str(folder / "jobs")]
    command += ["--bundle", str(bundle), "--components", "5", "--device", "cpu"]
    result = CliRunner().invoke(load_script("make_mouth_codes").main, command)
    assert result.exit_code == 0, result.output
    return bundle, result.stdout


def test_principal_directions_are_of_unit_length_and_give_the_codes_back():
    codes = np.random.default_rng(0).normal(size=(9, 3, 512))
    codes[5:] = 0.5 * codes[:4] - codes[1:5]
    coordinates, basis, kept = load_script("make_mouth_codes").principal(codes, 5)
    np.testing.assert_allclose(np.einsum("nk,kld->nld", coordinates, basis), codes, atol=1e-6)
    np.testing.assert_allclose(basis.reshape(len(basis), -1) @ basis.reshape(len(basis), -1).T, np.eye(5), atol=1e-6)
    assert kept == pytest.approx(1)


def test_a_bundle_is_taught_mouths_by_videos(taught):
    bundle, said = taught
    codes = load_bundle(bundle).mouth_codes
    assert codes.moves.shape[1:] == (68, 2) and codes.basis.shape[0] == 5 and "of 10 frames" in said
    opening = (codes.moves[:, 66, 1] - codes.moves[:, 62, 1]).numpy()
    assert opening.min() < 0.01 < opening.max()
    (entry,) = (e for e in json.loads((bundle / "bundle.json").read_text())["files"] if e["role"] == "mouth_codes")
    assert 0 < entry["quality"]["variance_kept"] <= 1 and "1 talking heads" in entry["trained_on"]


def test_a_still_takes_the_codes_of_other_heads(taught, tiny_bundle_folder, tiny_shot, tmp_path):
    video, track, speech = tiny_shot
    target = track[:1].copy()
    target[:, 54:60, 1] += 3
    given = {
        "track": track[:1],
        "landmarks": target,
        "trim_end": 0.04,
        **SMALL,
        "optimise": {"steps": 0, "warm_steps": 0},
    }
    moved = []
    for name, bundle in (("alone", tiny_bundle_folder), ("taught", taught[0])):
        result = edit_video(video, speech, tmp_path / f"{name}.mp4", bundle=str(bundle), **given)
        ws = load_file(result.job / "optimisation" / "000001.safetensors")["ws"]
        moved.append(np.abs(ws - load_file(result.job / "tuning" / "000000.safetensors")["pivots"]).max())
        assert result.num_edited == 1 and result.scores["mouths_beyond_shot"] == 1
    assert moved[0] < 1e-6 < 0.01 < moved[1]
