"""From one emotion to another on a tiny bundle whose speech model is untrained: codes, landmarks and files."""

import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hdtalk import weights
from hdtalk.audio import read_speech
from hdtalk.cli import hdtalk
from hdtalk.data import FaceTrack
from hdtalk.emotion import SPAN_FRAMES, named_code
from hdtalk.emotion_strip import interpolate_emotion, moving_codes, parse_ends
from hdtalk.errors import InputError, UsageError
from hdtalk.files import file_hash
from hdtalk.media import probe
from hdtalk.models.speech import SpeechModel
from hdtalk.pipeline import edit_video
from hdtalk.run import Run
from hdtalk.speech_landmarks import predict_landmarks
from hdtalk.windows import STRETCH_FPS, num_video_frames


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = SpeechModel().eval().requires_grad_(False)
    network.emotion_codes.copy_(torch.randn(network.emotion_codes.shape))
    network.landmark_predictor.components.normal_(std=0.1)  # zero until they are trained: nothing would move
    for parameter in network.alignment.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network


@pytest.fixture(scope="module")
def speaking_bundle(tiny_bundle_folder, tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("speaking") / "tiny"
    shutil.copytree(tiny_bundle_folder, folder)
    weights.write_bundle_file(folder, "speech", model.state_dict(), "speech", {})
    return folder


def test_ends_are_names_or_recordings_even_with_colons_in_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "take:2.wav"):
        Path(name).write_bytes(b"x")
    assert parse_ends("neutral:happy") == ("neutral", "happy")
    assert parse_ends("a.wav:take:2.wav") == ("a.wav", "take:2.wav")
    assert parse_ends("sad:a.wav") == ("sad", "a.wav")
    assert parse_ends("neutral:happy:0.6") == ("neutral", "happy:0.6")
    assert parse_ends("sad:0.2:anger") == ("sad:0.2", "anger")
    for text in ("happy", "neutral:joyful", "a.wav:gone.wav"):
        with pytest.raises(UsageError, match="expected FIRST:SECOND"):
            parse_ends(text)


def test_the_moving_emotion_starts_at_one_end_and_reaches_the_other_evenly(model, tiny_shot):
    speech = read_speech(np.random.default_rng(0).normal(0, 0.1, 32000))
    first, second = named_code(model, "sad"), named_code(model, "surprised")
    codes = moving_codes(first, second, speech)
    assert len(codes) == num_video_frames(speech, STRETCH_FPS) // SPAN_FRAMES
    torch.testing.assert_close(codes[0], first)
    torch.testing.assert_close(codes[-1], second)
    torch.testing.assert_close(codes.diff(dim=0), (second - first).expand(len(codes) - 1, -1) / (len(codes) - 1))


def test_landmarks_of_a_given_code_are_those_of_the_emotion_it_belongs_to(model, tiny_shot):
    _, track, sound = tiny_shot
    speech = read_speech(sound)

    def predict(**emotion):
        return predict_landmarks(speech, track, 25, model=model, **emotion)

    np.testing.assert_array_equal(predict(emotion="happy:0.4"), predict(emotion_codes=named_code(model, "happy:0.4")))
    assert np.abs(predict(emotion="happy") - predict(emotion="sad")).max() > 0


QUICK = {
    "precision": "float32",
    "invert": {"steps": 2, "shared_steps": 1, "refine_steps": 1},
    "optimise": {"steps": 2, "warm_steps": 1, "anchors": 0},
    "stitch": {"steps": 1},
}


def test_a_run_writes_video_strip_and_landmarks(speaking_bundle, tiny_shot, tmp_path):
    video, track, speech = tiny_shot
    run = partial(
        interpolate_emotion, video, speech, "neutral:happy", tmp_path / "out.mp4", steps=3, track=track,
        bundle=str(speaking_bundle), report=True, **QUICK,
    )  # fmt: skip
    result = run()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["out.json", "out.mp4", "out.mp4.job", "out.npz", "out.png", "out_report.html"]
    assert "neutral:happy" in (tmp_path / "out_report.html").read_text()
    assert probe(result.video).num_frames == 10
    strip = cv2.imread(str(result.strip))
    assert strip.shape == (28 + 2 * 256, 3 * 256 + 2 * 6, 3)
    first, last = (strip[28:284, x : x + 256].astype(int) for x in (0, 2 * 262))
    assert np.abs(first - last).max() > 0
    stages = sorted(p.parent.relative_to(result.edit.job).as_posix() for p in result.edit.job.rglob("stage.json"))
    assert stages.count("tuning") == 1 and "strip/optimisation" in stages  # one inversion serves both
    assert not any(stage.startswith("strip/") and stage.endswith("tuning") for stage in stages)
    with np.load(result.landmarks) as file:
        assert file["landmarks_px"].shape == (3, 10, 68, 2) and file["shares"].tolist() == [0, 0.5, 1]
        held, moving = file["landmarks_px"], file["moving_px"]
    np.testing.assert_allclose(moving[0], held[0, 0], atol=1e-3)  # it begins with the first emotion
    away, ahead = (np.abs(moving[-1] - held[step, -1]).max() for step in (0, 2))
    assert 0 < away < np.abs(held[2, -1] - held[0, -1]).max() and 0 < ahead  # and is on its way to the second
    record = json.loads(result.edit.manifest.read_text())
    assert record["emotion"]["interp"] == "neutral:happy" and record["emotion"]["steps"] == 3
    assert result.strip.stat().st_mode == result.video.stat().st_mode
    for output in (result.video, result.edit.manifest, tmp_path / "out_report.html"):
        output.unlink()
    with pytest.raises(UsageError, match=r"out\.png exists already"):
        run()
    with pytest.raises(UsageError, match="--at 9: no frame .* lasts 0.40 s"):
        run(at_s=9, overwrite=True)


def test_a_job_that_is_given_serves_other_emotions_until_it_is_forgotten(speaking_bundle, tiny_shot, tmp_path):
    video, track, speech = tiny_shot
    run = partial(
        interpolate_emotion, video, speech, steps=2, track=track, bundle=str(speaking_bundle), job=tmp_path / "job",
        **QUICK,
    )  # fmt: skip
    tuned = []
    for end, restart in (("happy", False), ("sad", False), ("sad", True)):
        run(interp=f"neutral:{end}", output=tmp_path / f"{end}.mp4", restart=restart, overwrite=restart)
        tuned.append((tmp_path / "job" / "tuning" / "stage.json").stat().st_mtime_ns)
    assert tuned[0] == tuned[1] < tuned[2]


def test_speech_recorded_anew_meanwhile_is_not_taken_for_what_was_heard(speaking_bundle, tiny_shot, tmp_path):
    video, track, speech = tiny_shot
    spoken = tmp_path / "speech.wav"
    shutil.copy(speech, spoken)
    heard = file_hash(spoken)

    def record_anew(stage, *_):
        if stage == "tuning":
            spoken.write_bytes(spoken.read_bytes() + b"end")

    result = edit_video(
        video, spoken, tmp_path / "out.mp4", bundle=str(speaking_bundle), track=track, progress=record_anew, **QUICK
    )
    assert json.loads(result.manifest.read_text())["inputs"]["speech"]["sha256"] == heard != file_hash(spoken)


def test_a_dry_run_refuses_what_the_run_would(speaking_bundle, tiny_shot, tmp_path):
    video, track, speech = tiny_shot
    np.savez(tmp_path / "track.npz", landmarks_px=track)
    given = ["emotion", str(video), str(speech), "--track", str(tmp_path / "track.npz"), "--dry-run"]
    given += ["--bundle", str(speaking_bundle), "-o", str(tmp_path / "out.mp4")]
    (tmp_path / "empty.wav").touch()
    wrong = {"--at 9": "lasts 0.40 s", "--at nan": "--at", f"--interp sad:{tmp_path}/empty.wav": "empty.wav"}
    for arguments, hint in wrong.items():
        refused = CliRunner().invoke(hdtalk, given + arguments.split())
        assert refused.exit_code == (3 if "empty" in hint else 2) and hint in refused.stderr
    planned = CliRunner().invoke(hdtalk, [*given, "--at", "0.2"])
    assert planned.exit_code == 0 and "10 frames" in planned.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.wav", "track.npz"]


def test_a_stop_before_the_video_leaves_nothing_in_the_way(speaking_bundle, tiny_shot, tmp_path, monkeypatch):
    """And options that prolong or cut the shot do not reach the strip's pictures."""
    video, track, speech = tiny_shot
    run = partial(
        interpolate_emotion, video, speech, "neutral:sad", tmp_path / "out.mp4", steps=3, track=track,
        bundle=str(speaking_bundle), audio_longer="trim", **QUICK,
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("hdtalk.media.read_frames_in_order", lambda *_, **__: iter(()))
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever it is)
            run()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4.job"]
    result = run()
    assert cv2.imread(str(result.strip)).shape[1] == 3 * 256 + 2 * 6 and probe(result.video).num_frames == 10


def test_frames_without_the_face_are_kept_and_never_the_strip_s(speaking_bundle, tiny_shot, tmp_path, monkeypatch):
    video, track, speech = tiny_shot
    present = np.arange(10) > 6
    monkeypatch.setattr(
        Run, "_track_faces", lambda self: FaceTrack(track[: self.num_source], present[-self.num_source :])
    )
    run = partial(
        interpolate_emotion, video, speech, "neutral:sad", steps=2, bundle=str(speaking_bundle), **QUICK
    )  # fmt: skip
    result = run(output=tmp_path / "out.mp4")
    assert result.edit.num_edited == 3 and result.edit.kept == {"no face": list(range(7))}
    assert json.loads(result.edit.manifest.read_text())["emotion"]["strip_at_s"] >= 0.28
    with pytest.raises(UsageError, match="--at 0.08: no frame with the face"):
        run(output=tmp_path / "at.mp4", at_s=0.08)
    present[:] = False
    with pytest.raises(InputError, match="no face in any frame"):
        run(output=tmp_path / "none.mp4")
