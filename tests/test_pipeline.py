"""The whole chain on a tiny bundle: outputs, resume, reuse, and that nothing outside the mask changes."""

import json
import os
from fractions import Fraction

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from hdtalk import media
from hdtalk.data import FaceTrack
from hdtalk.errors import HDTalkError, InputError, Stopped, UsageError
from hdtalk.job import Job
from hdtalk.pipeline import edit_video, invert_video, plan_edit
from hdtalk.run import Run

SMALL = {
    "precision": "float32",
    "invert": {
        "steps": 4,
        "shared_steps": 2,
        "refine_steps": 2,
        "chunk_frames": 4,
        "checkpoint_s": 0.0,
        "lambda_locality": 10.0,
        "locality_every": 2,
    },
    "optimise": {"steps": 3, "warm_steps": 2, "anchors": 3, "chunk_frames": 4},
    "stitch": {"steps": 2},
}


@pytest.fixture
def run(tiny_bundle_folder, tiny_shot, tmp_path):
    """Edits the tiny shot so that the mouth moves in reverse."""
    video, track, speech = tiny_shot

    def edit(name="out.mp4", **options):
        options = {"landmarks": track[::-1].copy(), "track": track, **SMALL, **options}
        return edit_video(video, speech, tmp_path / name, bundle=str(tiny_bundle_folder), **options)

    return edit


def frames_of(path):
    return np.stack(list(media.read_frames(path)))


def test_edit_writes_the_video_its_record_and_its_job(run, tiny_shot):
    seen = []
    result = run(progress=lambda *step: seen.append(step))
    info, source = media.probe(result.output), media.probe(tiny_shot[0])
    assert (info.num_frames, info.fps, info.width, info.height) == (10, source.fps, source.width, source.height)
    assert info.has_audio and result.num_edited == 10 and result.kept == {}
    record = json.loads(result.manifest.read_text())
    assert record["frames"]["edited"] == 10 and record["bundle"]["name"] == "tiny"
    assert record["configuration"]["invert"]["steps"] == 4 and len(record["inputs"]["video"]["sha256"]) == 64
    assert not result.in_domain and "outside the domain" in record["domain"]["notice"]
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["faces", "crops", "pivots", "tuning", "speech", "optimisation", "stitching", "writing"]
    assert all(0 <= done <= total for _, done, total in seen)
    assert sorted(p.name for p in result.output.parent.iterdir()) == ["out.json", "out.mp4", "out.mp4.job"]


def test_a_run_stopped_anywhere_and_resumed_writes_the_same_video(run, tmp_path):
    whole = run("whole.mp4")
    stops = [("pivots", 4), ("tuning", 1), ("tuning", 3), ("optimisation", 6), ("stitching", 4), ("writing", 5)]

    def stop_at(stage, done):
        def progress(*step):
            if step[:2] == (stage, done):
                raise KeyboardInterrupt

        return progress

    for stage, done in stops:
        with pytest.raises(Stopped, match=r"cut\.mp4\.job"):
            run("cut.mp4", progress=stop_at(stage, done))
        assert not (tmp_path / "cut.mp4").exists() and not list(tmp_path.glob("*.partial"))
    resumed = run("cut.mp4")
    np.testing.assert_array_equal(frames_of(resumed.output), frames_of(whole.output))
    assert resumed.scores == whole.scores


def test_other_targets_reuse_the_inversion_and_a_damaged_artefact_is_made_again(run, tiny_shot, tmp_path, caplog):
    first = run()
    job = first.job
    before = {path: path.stat().st_mtime_ns for path in job.rglob("*.safetensors")}
    other = run("other.mp4", landmarks=tiny_shot[1].copy(), job=job)
    changed = {p.parent.name for p, time in before.items() if not p.exists() or p.stat().st_mtime_ns != time}
    assert changed == {"optimisation", "stitching", "details"}
    damaged = job / "pivots" / "000001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\1")
    again = run("again.mp4", landmarks=tiny_shot[1].copy(), job=job)
    assert "000001.safetensors" in caplog.text
    np.testing.assert_array_equal(frames_of(again.output), frames_of(other.output))


def test_other_landmarks_of_the_source_give_what_a_new_job_gives(run, tiny_shot):
    """Also where the tuning knows nothing of them: here lips that the crop's corners do not depend on."""
    other = tiny_shot[1].copy()
    other[:, 49:54] += 1.5 * np.sin(np.arange(len(other)))[:, None, None]
    options = {"invert": {"steps": 0, "refine_steps": 0, "shared_steps": 0}}
    first = run("first.mp4", **options)
    reused = run("reused.mp4", track=other, job=first.job, **options)
    fresh = run("fresh.mp4", track=other, **options)
    codes = [load_file(job / "optimisation" / "000001.safetensors")["ws"] for job in (reused.job, fresh.job)]
    np.testing.assert_array_equal(*codes)
    np.testing.assert_array_equal(frames_of(reused.output), frames_of(fresh.output))


def test_frames_whose_mouths_are_taken_lend_what_their_crops_do_not_show(run):
    lent = run("lent.mp4", stitch={**SMALL["stitch"], "lent_threshold": 100.0})
    alone = run("alone.mp4", stitch={**SMALL["stitch"], "lent_threshold": 0.0})
    assert not list((alone.job / "details").glob("*.safetensors"))
    stitched = [load_file(path) for path in (lent.job / "stitching").glob("*.safetensors")]
    lenders = {int(row) for arrays in stitched for row in arrays["lenders"]}
    assert {int(path.stem) for path in (lent.job / "details").glob("*.safetensors")} == lenders
    picture = cv2.imdecode(load_file(lent.job / "details" / f"{min(lenders):06d}.safetensors")["picture"], -1)
    assert picture.std() > 1  # a crop of 32 pixels shows less than a frame with a head of 60
    assert (frames_of(lent.output) != frames_of(alone.output)).any()


def test_frames_without_a_face_and_pixels_outside_the_crop_stay_the_source_s(run, tiny_shot, monkeypatch):
    from hdtalk import run as module
    from hdtalk.data import FaceTrack

    present = np.arange(10) != 6
    track = lambda self: FaceTrack(self.track_px, present)  # noqa: E731
    monkeypatch.setattr(module.Run, "_track_faces", track)
    written = []
    write = media.VideoWriter.write
    monkeypatch.setattr(media.VideoWriter, "write", lambda self, f: (written.append(f.copy()), write(self, f))[1])
    result = run()
    assert result.kept == {"no face": [6]} and result.num_edited == 9
    source, written = frames_of(tiny_shot[0]), written[-10:]  # before: the trial of the encoder
    np.testing.assert_array_equal(written[6], source[6])
    difference = np.abs(np.stack(written).astype(int) - source).max((0, 3))
    assert difference.max() > 0
    assert (difference[:, :4] == 0).all() and (difference[:, -4:] == 0).all()  # the crop does not reach there


def test_longer_landmarks_go_back_and_forth(run, tiny_shot):
    track = tiny_shot[1]
    result = run(landmarks=np.concatenate([track, track[-2::-1]]))
    assert result.num_frames == 19 == media.probe(result.output).num_frames


def test_inversion_is_taken_up_by_an_edit(run, tiny_shot, tiny_bundle_folder, tmp_path):
    video, track, _ = tiny_shot
    result = invert_video(video, tmp_path / "inverted.mp4", bundle=str(tiny_bundle_folder), track=track, **SMALL)
    assert result.num_inverted == 10 and result.scores["psnr_db"] > 0
    assert media.probe(result.output).num_frames == 10
    tuned = result.job / "tuning" / "000000.safetensors"
    before = tuned.stat().st_mtime_ns
    edited = run(job=result.job)
    assert tuned.stat().st_mtime_ns == before and edited.scores["psnr_db"] == result.scores["psnr_db"]


def test_plan_says_what_it_would_do_and_does_nothing(tiny_shot, tiny_bundle_folder, tmp_path, monkeypatch):
    video, track, speech = tiny_shot
    monkeypatch.setattr("hdtalk.prepare.look_for_faces", lambda *_: [])
    options = {"bundle": str(tiny_bundle_folder), "track": track, "landmarks": np.concatenate([track, track])}
    plan = plan_edit(video, speech, tmp_path / "out.mp4", **options, **SMALL)
    for inverts in (invert_video, lambda video, *rest, **given: plan_edit(video, None, *rest, **given)):
        with pytest.raises(UsageError, match="report: only an edit has it"):
            inverts(video, tmp_path / "out.mp4", report=True, **options, **SMALL)
    assert len(plan.order) == 20 and plan.num_source == 10 and plan.disk_bytes > 0
    assert set(plan.seconds) == {"faces", "inversion", "optimisation", "stitching", "writing"}
    text = "\n".join(plan.lines())
    assert "80x64, 25 fps" in text and "pingpong" in text and "20 frames" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        ({"audio_mix": "loud"}, UsageError, "keep-background:DB"),
        ({"audio_mix": "keep-background:10000"}, UsageError, "keep-background:DB"),
        ({"trim_start": 1e308}, UsageError, "trim"),
        ({"emotion": "hungry"}, UsageError, "happy"),
        ({"emotion": "happy", "emotion_from": "a.wav"}, UsageError, "contradict"),
        ({"trim_start": 5.0}, UsageError, "trim"),
        ({"track": np.arange(3 * 136.0).reshape(3, 68, 2)}, InputError, "3 frames"),
        ({"landmarks": np.zeros((3, 67, 2), np.float32)}, InputError, "68"),
        ({"landmarks": np.full((3, 68, 2), np.nan, np.float32)}, InputError, "finite"),
        ({"landmarks": "nothing.npz"}, InputError, "nothing.npz"),
        ({"landmarks": np.zeros((3, 68, 2), np.float32)}, InputError, "frame 0 has its eyes in one place"),
        ({"landmarks": np.full((3, 68, 2), "x")}, InputError, "expected numbers"),
        ({"no_such_option": 1}, UsageError, "no_such_option"),
        ({"device": "cuda:7"}, UsageError, "cuda:7"),
        ({"device": "toaster"}, UsageError, "toaster"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(run, tmp_path, options, error, hint):
    with pytest.raises(error, match=hint):
        run(**options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["cut short", "empty", "another name"])
def test_landmark_files_that_cannot_be_read(run, tiny_shot, tmp_path, kind):
    good = tmp_path / "good.npz"
    np.savez(good, landmarks_px=tiny_shot[1])
    bad = tmp_path / "bad.npz"
    if kind == "another name":
        np.savez(bad, points=tiny_shot[1])
    else:
        bad.write_bytes(good.read_bytes()[: 100 if kind == "cut short" else 0])
    with pytest.raises(InputError, match=r"bad\.npz: no landmarks in it"):
        run(landmarks=bad)
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, tiny_shot[1])
    assert run(landmarks=tmp_path / "array.npz").num_edited == 10  # named .npz, but a plain array


def test_a_face_that_only_comes_after_the_speech_is_refused_before_the_inversion(run, tiny_shot, monkeypatch):
    video, track, speech = tiny_shot
    monkeypatch.setattr(Run, "_track_faces", lambda self: FaceTrack(track, np.arange(10) >= 6))
    with pytest.raises(InputError, match=r"no face in the 4 frames .* frame 6\. Try --trim-start 0\.24"):
        run(landmarks=track[:4], track=None)


def stopped_before_its_record(run, monkeypatch, **options):
    def stop(*_):
        raise Stopped("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "write_manifest", stop)
        with pytest.raises(Stopped):
            run(**options)


def test_a_run_stopped_between_its_outputs_goes_on_with_the_same_command(run, tmp_path, monkeypatch):
    stopped_before_its_record(run, monkeypatch, compare=True)
    assert (tmp_path / "out.mp4").exists() and (tmp_path / "out_compare.mp4").exists()
    assert not (tmp_path / "out.json").exists()
    before = frames_of(tmp_path / "out.mp4")
    result = run(compare=True)
    np.testing.assert_array_equal(frames_of(result.output), before)
    assert result.manifest.exists()
    with pytest.raises(UsageError, match="exists already"):  # it had come to its end
        run(compare=True)
    result.manifest.unlink()
    with pytest.raises(UsageError, match="exists already"):
        run(compare=True)


def test_a_file_put_in_the_place_of_a_stopped_run_s_output_is_kept(run, tmp_path, monkeypatch):
    stopped_before_its_record(run, monkeypatch)
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        run()
    assert (tmp_path / "out.mp4").read_text() == "mine"


def test_output_is_never_an_input_and_never_replaced_unasked(run, tiny_shot, tiny_bundle_folder, tmp_path):
    video, track, speech = tiny_shot
    with pytest.raises(UsageError, match="overwrite an input"):
        edit_video(video, speech, video, bundle=str(tiny_bundle_folder), overwrite=True)
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        run()
    assert (tmp_path / "out.mp4").read_text() == "mine"


def test_a_second_run_on_the_same_job_is_refused(run, tmp_path):
    with Job(tmp_path / "out.mp4.job"), pytest.raises(HDTalkError, match=f"process {os.getpid()}"):
        run()


def test_trimmed_part_only(run, tiny_shot):
    track = tiny_shot[1]
    result = run(trim_start=0.08, trim_end=0.28, track=track[2:7], landmarks=track[2:7][::-1].copy())
    assert result.num_frames == 5 and media.probe(result.output).duration_s == pytest.approx(float(Fraction(5, 25)))


def test_a_shot_too_short_to_learn_from_has_its_mouths_bent(run, tiny_shot, caplog):
    """Two frames span no space of their own; the picture is moved from where they show the mouth to the target."""
    track = tiny_shot[1][:2]
    target = track.copy()
    target[:, 48:68, 1] += np.where(np.arange(48, 68) > 53, 1.5, 0)
    result = run(trim_end=0.08, track=track, landmarks=target)
    fields = load_file(result.job / "optimisation" / "000001.safetensors")["fields"]
    assert result.num_frames == 2 and fields[:, 1].max() > 0.01 and np.abs(fields[:, 0]).max() < 0.01
    assert not (result.job / "optimisation" / "000000.safetensors").exists()  # nothing starts where mouths have moved
    assert result.scores["mouths_beyond_shot"] == 1 and "beyond what the shot shows" in caplog.text
    assert "mouths_beyond_shot" not in run("free.mp4", optimise={"latent_space": "w+"}).scores
    assert run("talking.mp4", landmarks=tiny_shot[1]).scores["mouths_beyond_shot"] == 0


def test_of_a_shot_that_outlasts_the_speech_only_a_part_is_worked_on(run, tiny_shot, tmp_path):
    """A job that was asked for holds all of it, and other speech of any length finds its inversion there."""
    track = tiny_shot[1]
    few = {"track": track, "landmarks": track[:3][::-1].copy(), "spare_s": 0.12}
    short = run("short.mp4", **few)
    assert short.num_frames == 3 and len(load_file(short.job / "faces" / "000000.safetensors")["present"]) == 6
    whole = run("whole.mp4", **few, job=tmp_path / "all")
    assert whole.num_frames == 3 and len(load_file(whole.job / "faces" / "000000.safetensors")["present"]) == 10
    assert run("longer.mp4", job=tmp_path / "all").seconds["tuning"] < whole.seconds["tuning"] / 4


def test_known_landmarks_that_jump_begin_a_new_shot(run, tiny_shot):
    track = tiny_shot[1].copy()
    assert run().job.joinpath("faces").is_dir()
    track[6:] += np.float32([20, 0])
    result = run("jumps.mp4", track=track, landmarks=track)
    assert json.loads((result.job / "faces" / "stage.json").read_text())["table"]["cuts"] == [6]
