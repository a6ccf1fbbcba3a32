"""The command that trains the speech networks, on folders of MEAD's layout: what it prepares, skips and refuses."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from clips import tone, write_wav
from safetensors.torch import load_file, save_file
from script_module import load_script
from tiny_speech import TINY_SPEECH

from hdtalk.data import FaceTrack
from hdtalk.models.speech import SpeechModel
from hdtalk.training.mead import read_landmarks

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"M001": "train", "W002": "validation"}
ONE_STEP = ["--steps", "1", "--batch-size", "2", "--versions", "0"]
NEEDED = ("emotion", "alignment", "predictor")


@pytest.fixture
def train_speech(monkeypatch):
    module = load_script("train_speech")
    emotion_encoder = TINY_SPEECH["emotion_encoder"] | {"num_features": 36, "across": True}
    monkeypatch.setitem(module.SIZES, "demo", TINY_SPEECH | {"emotion_encoder": emotion_encoder})
    monkeypatch.setitem(module.DECODERS, "demo", {"width": 16, "content_size": 6, "emotion_size": 8})
    return module


@pytest.fixture
def corpus(tmp_path, tiny_shot):
    """Two people, two emotions, one take each, seen from the front."""
    root = tmp_path / "MEAD"
    moved = np.concatenate([tiny_shot[1]] * 3)
    moved += np.random.default_rng(0).normal(0, 0.2, moved.shape)
    for k, actor in enumerate(SPLITS):
        for emotion in ("happy", "sad"):
            audio = root / actor / "audio" / emotion / "level_1" / "001.wav"
            audio.parent.mkdir(parents=True)
            write_wav(audio, *tone(1.2, hertz=200 + 50 * k))
            put_landmarks(root, actor, "front", emotion, moved)
    (root / "splits.json").write_text(json.dumps(SPLITS))
    return root


def put_landmarks(root, actor, view, emotion, landmarks_px):
    path = root / actor / "landmarks" / view / emotion / "level_1" / "001.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, landmarks_px=landmarks_px, fps=25.0)


def add_second_view(root):
    for actor in SPLITS:
        for emotion in ("happy", "sad"):
            front = root / actor / "landmarks" / "front" / emotion / "level_1" / "001.npz"
            put_landmarks(root, actor, "left_30", emotion, read_landmarks(front)[0] * (0.8, 1))


def run(module, corpus, out, *options):
    return CliRunner().invoke(module.main, ["--data", str(corpus), "--out", str(out), *options])


def videos_instead(corpus, video):
    """Takes the landmarks away and puts videos there."""
    for actor in SPLITS:
        shutil.rmtree(corpus / actor / "landmarks")
        for emotion in ("happy", "sad"):
            path = corpus / actor / "video" / "front" / emotion / "level_1" / "001.mp4"
            path.parent.mkdir(parents=True)
            shutil.copy(video, path)


def test_videos_without_a_face_are_left_out(train_speech, corpus, tmp_path, tiny_shot, tiny_bundle_folder):
    videos_instead(corpus, tiny_shot[0])  # the untrained detector finds nobody
    result = run(train_speech, corpus, tmp_path / "out", "--detector-bundle", str(tiny_bundle_folder), *ONE_STEP)
    assert result.exit_code == 3
    assert "4 videos left out" in result.output
    assert "no training take is seen from two sides" in result.output


def test_frames_without_a_face_are_no_truth(train_speech, corpus, tmp_path, tiny_shot, tiny_bundle_folder, monkeypatch):
    videos_instead(corpus, tiny_shot[0])
    asked = []

    def track_face(read_frames, num_frames, fps, detector, landmarker, config, name, *_):
        assert len(list(read_frames(0, num_frames))) == num_frames == 10 and fps == 25
        asked.append(name)
        lost = np.arange(num_frames) == 4
        return FaceTrack(tiny_shot[1], ~lost if "sad" in name else np.ones(num_frames, bool))

    monkeypatch.setattr("hdtalk.track.track_face", track_face)
    out = tmp_path / "out"
    arguments = corpus, out, str(tiny_bundle_folder), out / "features", 0, 0, "cpu"
    takes, validation = train_speech.load(*arguments)
    assert [take.clip.emotion for take in takes + validation] == ["happy", "sad"] * 2
    for happy, sad in (takes, validation):
        assert list(happy.views) == ["front"] and np.isfinite(happy.displacement).all()
        assert not sad.views and sad.displacement is None
    marked, fps = read_landmarks(out / "landmarks/M001/landmarks/front/sad/level_1/001.npz")
    assert fps == 25 and list(np.flatnonzero(np.isnan(marked).any((1, 2)))) == [4]
    train_speech.load(*arguments)
    assert len(asked) == 4  # each video once


def test_views_left_out_are_counted(train_speech, corpus, tmp_path):
    path = corpus / "M001/landmarks/front/sad/level_1/001.npz"
    landmarks_px, fps = read_landmarks(path)
    landmarks_px[3] = np.nan
    np.savez(path, landmarks_px=landmarks_px, fps=fps)
    result = run(train_speech, corpus, tmp_path / "out", "--stage", "emotion", *ONE_STEP)
    assert result.exit_code == 0 and "1 views left out" in result.output


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[1", "damaged"),
        ("[1]", "damaged"),
        ('{"M001": "loud"}', "damaged"),
        ('{"M001": 0}', "M001 is not a positive"),
        ('{"M001": Infinity}', "M001 is not a positive"),
    ],
)
def test_unusable_emphasis_is_named(train_speech, corpus, tmp_path, text, cause):
    (corpus / "emphasis.json").write_text(text)
    result = run(train_speech, corpus, tmp_path / "out", *ONE_STEP)
    assert result.exit_code == 3
    assert "emphasis.json" in result.output.splitlines()[-1] and cause in result.output.splitlines()[-1]


def test_without_a_second_view_nothing_is_trained(train_speech, corpus, tmp_path):
    result = run(train_speech, corpus, tmp_path / "out", *ONE_STEP)
    assert result.exit_code == 3
    assert result.output.splitlines()[-1].startswith(f"train_speech: {corpus}: alignment: no training take is seen")
    assert not (tmp_path / "out" / "emotion").exists()


def test_without_sentences_the_others_are_trained_and_finished_stages_are_named(train_speech, corpus, tmp_path):
    add_second_view(corpus)
    out = tmp_path / "out"
    result = run(train_speech, corpus, out, *ONE_STEP)
    assert result.exit_code == 0, result.output
    assert "skipped: disentangle: no two takes are known to say the same words" in result.output
    assert all((out / stage / "finished.json").exists() for stage in NEEDED)
    assert (out / "speech.safetensors").exists() and not (out / "disentangle").exists()

    result = run(train_speech, corpus, out, *ONE_STEP)
    assert result.exit_code == 0 and "predictor: skipped, as it has finished" in result.output
    result = run(train_speech, corpus, out, "--stage", "disentangle", *ONE_STEP)  # asked for, so not passed over
    assert result.exit_code == 3 and "disentangle: no two takes" in result.output

    table = {"M001": {f"{emotion}/level_1/001": "she had" for emotion in ("happy", "sad")}}
    (corpus / "sentences.json").write_text(json.dumps(table))
    result = run(train_speech, corpus, out, *ONE_STEP)
    assert "only prepares the predictor" in result.output and not (out / "disentangle").exists()
    result = run(train_speech, corpus, out, "--stage", "disentangle", *ONE_STEP)
    assert result.exit_code == 0 and (out / "disentangle" / "finished.json").exists()


def test_a_run_keeps_what_it_began_from(train_speech, corpus, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    stage = ["--stage", "emotion", *ONE_STEP]
    assert run(train_speech, corpus, first, *stage).exit_code == 0
    weights = first / "start.safetensors"
    result = run(train_speech, corpus, first, "--start-from", str(weights), *stage)
    assert result.exit_code == 2 and "began from something else" in result.output
    for _ in range(2):  # the same command goes on
        assert run(train_speech, corpus, second, "--start-from", str(weights), *stage).exit_code == 0


def test_a_network_of_other_sizes_begins_anew_and_the_others_go_on(train_speech, corpus, tmp_path, monkeypatch):
    first, second = tmp_path / "first" / "start.safetensors", tmp_path / "second" / "start.safetensors"
    stage = ["--stage", "emotion", *ONE_STEP]
    assert run(train_speech, corpus, first.parent, *stage).exit_code == 0
    wider = TINY_SPEECH["content_encoder"] | {"across": True}
    monkeypatch.setitem(train_speech.SIZES, "demo", train_speech.SIZES["demo"] | {"content_encoder": wider})
    other_seed = ["--seed", "1", "--start-from", str(first)]
    assert run(train_speech, corpus, second.parent, *other_seed, *stage).exit_code == 0
    before, after = load_file(first), load_file(second)
    kept = [name for name in after if not name.startswith("content_encoder.")]
    assert len(kept) > 10 and all(torch.equal(before[name], after[name]) for name in kept)
    assert after["content_encoder.convolutions.0.0.weight"].shape == (2, 1, 3, 12)


def test_networks_that_grow_answer_as_before(train_speech):
    larger = {
        "content_encoder": TINY_SPEECH["content_encoder"] | {"hidden": 12},
        "landmark_predictor": TINY_SPEECH["landmark_predictor"] | {"lookahead": (2,)},
    }
    torch.manual_seed(6)
    small, large = SpeechModel(**TINY_SPEECH).eval(), SpeechModel(**TINY_SPEECH | larger).eval()
    small.landmark_predictor.components.normal_()
    fresh = {name: value.clone() for name, value in large.state_dict().items()}
    large.load_state_dict(train_speech.grown(small.state_dict(), fresh))
    rows, neutral, emotion = torch.randn(1, 4 * 8 + 24, 18), torch.randn(1, 68, 2), torch.randn(1, 6, 8)
    with torch.no_grad():
        content = [model.content(rows, torch.zeros(12), torch.ones(12)) for model in (small, large)]
        torch.testing.assert_close(content[1], content[0])
        before, _ = small.landmark_predictor(neutral, content[0][:, :6], emotion)
        after, _ = large.landmark_predictor(neutral, content[1], emotion)
    torch.testing.assert_close(after, before)
    assert torch.equal(large.content_encoder.dense[0].weight[8:], fresh["content_encoder.dense.0.weight"][8:])


def test_impossible_requests_are_refused_at_the_start(train_speech, corpus, tmp_path):
    (corpus / "splits.json").unlink()
    result = run(train_speech, corpus, tmp_path / "out", "--measure", "--clips 3", *ONE_STEP)
    assert result.exit_code == 2 and "no splits.json" in result.output
    result = run(train_speech, corpus, tmp_path / "out", "--export")
    assert result.exit_code == 2 and "holds no training" in result.output
    other = tmp_path / "other.safetensors"
    for content, hint in ((b"no weights", "damaged"), (None, "not a speech model of this --size")):
        other.write_bytes(content) if content else save_file({"weight": torch.zeros(2)}, other)
        result = run(train_speech, corpus, tmp_path / "out", "--average-with", str(other), *ONE_STEP)
        assert result.exit_code == 3 and hint in result.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(load_script("measure_speech").main, ["--data", str(corpus)])
    assert result.exit_code == 3 and result.output.count("\n") == 1 and "no splits.json" in result.output
    assert result.output.startswith("measure_speech: ")


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch without gloo")
def test_two_processes_train_from_one_preparation(corpus, tmp_path, tiny_bundle_folder):
    damaged = corpus / "M001" / "video" / "left_30" / "happy" / "level_1" / "001.mp4"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no video")
    table = {"M001": {f"{emotion}/level_1/001": "she had" for emotion in ("happy", "sad")}}
    (corpus / "sentences.json").write_text(json.dumps(table))
    command = [sys.executable, str(ROOT / "scripts" / "train_speech"), "--data", str(corpus), "--out", str(tmp_path)]
    command += ["--detector-bundle", str(tiny_bundle_folder)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            [*command, "--stage", "emotion", "--stage", "disentangle", *ONE_STEP],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert ["1 videos left out" in output for output in outputs] == [True, False]  # only the first one prepares
    assert (tmp_path / "emotion" / "finished.json").exists()
    assert len(list((tmp_path / "features").iterdir())) == 2  # one of each actor, nothing half written
    checkpoints = [tmp_path / "disentangle" / folder / "checkpoint.pt" for folder in ("", "rank_1")]
    one, other = (torch.load(path, weights_only=True)["networks"] for path in checkpoints)
    for network, state in one.items():  # averaged gradients mean something for equal networks only
        for name in [name for name in state if "running_" not in name]:  # those are of each process's own batches
            torch.testing.assert_close(other[network][name], state[name], rtol=0, atol=0, msg=f"{network}.{name}")


def test_the_mean_of_the_trained_weights_and_others(train_speech):
    model = torch.nn.BatchNorm1d(2)
    start, half_precision = ({name: value + by for name, value in model.state_dict().items()} for by in (2, 4))
    half_precision = {name: value.half() for name, value in half_precision.items()}
    wanted = {name: value + 2 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    train_speech.average(model, [start, half_precision])
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
