"""Batches: every clip once, failures noted, stopped and gone on, parts that add up to the whole."""

import csv
import errno
import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from hdtalk import batch, media
from hdtalk.batch import plan_batch, run_batch
from hdtalk.errors import InputError, ResourceError, Stopped, UsageError
from hdtalk.files import file_hash
from hdtalk.job import Job
from hdtalk.options import resolve
from hdtalk.weights import load_bundle

QUICK = {
    "precision": "float32",
    "invert": {"steps": 1, "shared_steps": 0, "refine_steps": 0},
    "optimise": {"steps": 1, "anchors": 0},
    "stitch": {"steps": 0},
}


@pytest.fixture
def clips(tiny_shot, tmp_path):
    """A folder with the tiny shot three times, the middle one broken, and its landmarks three times."""
    video, track, _ = tiny_shot
    for folder in ("clips", "tracks"):
        (tmp_path / folder / "sub").mkdir(parents=True)
    for name in ("a", "b", "c"):
        shutil.copy(video, tmp_path / "clips" / f"{name}.mp4")
        np.savez(tmp_path / "tracks" / f"{name}.npz", landmarks_px=track)
    (tmp_path / "clips" / "b.mp4").write_bytes(video.read_bytes()[:300])
    return tmp_path / "clips"


def table_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_clips_made_with_other_settings_are_not_taken_for_done(tiny_shot, tiny_bundle_folder, tmp_path):
    video, track, _ = tiny_shot
    for folder in ("clips", "tracks", "out"):
        (tmp_path / folder).mkdir()
    shutil.copy(video, tmp_path / "clips" / "a.mp4")
    np.savez(tmp_path / "tracks" / "a.npz", landmarks_px=track)
    works = plan_batch(tmp_path / "clips", tmp_path / "out", "none", tmp_path / "tracks")
    given = QUICK | {"bundle": str(tiny_bundle_folder), "device": "cpu"}
    assert [row.state for row in run_batch(works, tmp_path / "out" / "batch.csv", **given)] == ["made"]
    assert [row.state for row in run_batch(works, tmp_path / "out" / "batch.csv", **given)] == ["there"]
    before = (tmp_path / "out" / "a.mp4").read_bytes()
    np.savez(tmp_path / "tracks" / "a.npz", landmarks_px=track + 1)
    with pytest.raises(UsageError, match=r"a\.mp4: made with other settings \(track\)"):
        run_batch(works, tmp_path / "out" / "batch.csv", **given)
    with pytest.raises(UsageError, match=r"a\.mp4: made with other settings \(track\)"):
        run_batch([replace(works[0], track=None)], tmp_path / "out" / "batch.csv", **given)
    np.savez(tmp_path / "tracks" / "a.npz", landmarks_px=track)
    with pytest.raises(UsageError, match=r"a\.mp4: made with other settings \(seed\)"):
        run_batch(works, tmp_path / "out" / "batch.csv", **given, seed=1)
    assert (tmp_path / "out" / "a.mp4").read_bytes() == before
    rows = run_batch(works, tmp_path / "out" / "batch.csv", **given, seed=1, overwrite=True)
    assert [row.state for row in rows] == ["made"]


def test_recordings_are_known_by_what_they_hold(inverted, tmp_path, tiny_bundle_folder):
    """OUT.json names them; a caller may give a path or text, and may have recorded the file anew."""
    work = works_of(tmp_path, "a")[0]
    voice, sad = tmp_path / "angry.wav", tmp_path / "sad.wav"
    for path in (work.video, voice, sad):
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.stem)
    given = {"bundle": str(tiny_bundle_folder)}
    run_batch([work], tmp_path / "batch.csv", **given)
    inputs = {"video": work.video, "emotion_from": voice}
    manifest = {
        "inputs": {kind: {"path": str(path), "sha256": file_hash(path)} for kind, path in inputs.items()},
        "configuration": asdict(resolve({})),
        "bundle": {"sha256": load_bundle(str(tiny_bundle_folder), "cpu").hashes | {"landmarker_eval": "another judge"}},
        "emotion": str(voice),
    }
    work.output.with_suffix(".json").write_text(json.dumps(manifest))
    for emotion_from in (voice, str(voice)):
        rows = run_batch([work], tmp_path / "batch.csv", **given, emotion_from=emotion_from)
        assert [row.state for row in rows] == ["there"]
    with pytest.raises(UsageError, match=r"a\.mp4: made with other settings \(emotion_from\)"):
        run_batch([work], tmp_path / "batch.csv", **given, emotion_from=sad)
    voice.write_text("angrier")
    with pytest.raises(UsageError, match=r"a\.mp4: made with other settings \(emotion_from\)"):
        run_batch([work], tmp_path / "batch.csv", **given, emotion_from=voice)
    work.video.write_text("another film")
    with pytest.raises(UsageError, match=r"a\.mp4: made with other settings \(video, emotion_from\)"):
        run_batch([work], tmp_path / "batch.csv", **given)


@pytest.fixture
def inverted(monkeypatch):
    """Inversions that take no time, and the names that they were asked for: `zip` breaks, `stop` stops, `full`
    finds the disk full, `large` too little memory."""
    names = []

    def invert(video, output, track=None, overwrite=False, **options):
        names.append(output.stem)
        if output.exists() and not overwrite:
            raise UsageError(f"{output} exists already.")
        job = output.with_name(f"{output.name}.job")
        job.mkdir(exist_ok=True)
        output.write_text("video")
        if output.stem == "zip":
            raise ZeroDivisionError("one\nand two")
        if output.stem == "full":
            with media._disk_errors(output):
                raise OSError(errno.ENOSPC, "No space left on device")
        if output.stem == "large":
            raise ResourceError("too little memory for this clip")
        if output.stem == "stop":
            raise Stopped("stopped")
        manifest = {"scores": {"psnr_db": 33.3}, "domain": {"inside": True}, "seconds": {"faces": 2.0, "tuning": 1.5}}
        output.with_suffix(".json").write_text(json.dumps(manifest))
        return SimpleNamespace(job=job, scores={"psnr_db": 44.4}, in_domain=False)

    monkeypatch.setattr(batch, "invert_video", invert)
    return names


def works_of(folder, *names):
    return [batch.Work(name, folder / "data" / f"{name}.mp4", folder / f"{name}.mp4") for name in names]


def test_a_clip_that_fails_is_noted_and_what_is_there_is_kept(clips, tiny_bundle_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    works = plan_batch(clips, out, "none", clips.parent / "tracks")
    run = lambda: run_batch(works, out / "batch.csv", bundle=str(tiny_bundle_folder), **QUICK)  # noqa: E731
    assert [row.state for row in run()] == ["made", "failed", "made"]
    rows = table_of(out / "batch.csv")
    assert [row["name"] for row in rows] == ["a", "b", "c"] and "b.mp4" in rows[1]["reason"]
    assert float(rows[0]["psnr_db"]) > 0 and media.probe(out / "a.mp4").num_frames == 10
    assert sorted(p.name for p in out.iterdir()) == ["a.json", "a.mp4", "batch.csv", "c.json", "c.mp4"]
    before = (out / "a.mp4").stat().st_mtime_ns
    assert [row.state for row in run()] == ["there", "failed", "there"]
    assert (out / "a.mp4").stat().st_mtime_ns == before


def test_a_stopped_batch_goes_on(clips, tiny_bundle_folder, tmp_path):
    works, table = plan_batch(clips, tmp_path, "none", clips.parent / "tracks"), tmp_path / "batch.csv"
    options = {"bundle": str(tiny_bundle_folder), "keep_jobs": True, **QUICK}

    def stop(done, row):
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        run_batch(works, table, report=stop, **options)
    assert [row["state"] for row in table_of(table)] == ["made"]
    assert (tmp_path / "a.mp4.job" / "tuning").is_dir()
    assert [row.state for row in run_batch(works, table, **options)] == ["there", "failed", "made"]
    (tmp_path / "a.json").unlink()  # as if killed before it was written
    assert [row.state for row in run_batch(works, table, **options)] == ["made", "failed", "there"]


def test_what_the_table_says_of_other_clips_is_kept(inverted, tmp_path):
    works, table = works_of(tmp_path, "a", "b", "c"), tmp_path / "batch.csv"

    def stop(done, row):
        raise Stopped("stopped")

    run_batch(works, table)
    before = table_of(table)
    assert [(row["state"], row["psnr_db"], row["in_domain"]) for row in before] == [("made", "44.4", "False")] * 3
    with pytest.raises(Stopped):
        run_batch(works, table, report=stop)
    assert table_of(table) == [before[0] | {"state": "there"}, *before[1:]]
    run_batch(works, table)
    assert table_of(table) == [row | {"state": "there"} for row in before]
    assert inverted == ["a", "b", "c"]


@pytest.mark.parametrize("left", [None, "name,state\na,made\n", "name,seconds,psnr_db,in_domain\na,many,,\n", "\xff\0"])
def test_without_a_usable_table_scores_come_from_the_manifest(inverted, tmp_path, left):
    works, table = works_of(tmp_path, "a"), tmp_path / "batch.csv"
    run_batch(works, table)
    table.unlink()
    if left is not None:
        table.write_bytes(left.encode("latin-1"))
    (row,) = run_batch(works, table)
    assert (row.state, row.seconds, row.psnr_db, row.in_domain) == ("there", 3.5, 33.3, True)
    works[0].output.with_suffix(".json").write_text("[]")
    table.unlink()
    (row,) = run_batch(works, table)
    assert (row.state, row.psnr_db, row.in_domain) == ("there", None, None)


def test_a_video_without_its_manifest_is_made_again_unless_it_is_someone_elses(inverted, tmp_path):
    works, table = works_of(tmp_path, "stop", "foreign"), tmp_path / "batch.csv"
    (tmp_path / "foreign.mp4").write_text("a film")
    with pytest.raises(Stopped):
        run_batch(works, table)
    assert works[0].output.exists()
    with pytest.raises(Stopped):  # not UsageError: its own video is in the way
        run_batch(works[:1], table)
    (row,) = run_batch(works[1:], table)
    assert row.state == "failed" and "exists already" in row.reason
    assert works[1].output.read_text() == "a film"


def test_a_new_video_beside_an_old_manifest_is_not_finished(inverted, tmp_path):
    """As a run with `overwrite` leaves them that was killed in between."""
    (work,), table = works_of(tmp_path, "a"), tmp_path / "batch.csv"
    run_batch([work], table, keep_jobs=True)
    with Job(work.job) as job:
        job.claim(work.output)
        assert [row.state for row in run_batch([work], table)] == ["made"]


def test_any_error_of_one_clip_lets_the_next_begin(inverted, tmp_path, caplog):
    works, table = works_of(tmp_path, "zip", "a"), tmp_path / "batch.csv"
    with caplog.at_level("DEBUG", "hdtalk.batch"):
        rows = run_batch(works, table)
    assert [(row.state, row.reason) for row in rows] == [("failed", "ZeroDivisionError: one and two"), ("made", "")]
    assert "Traceback" in caplog.text


def test_a_full_disk_ends_the_batch_and_too_large_a_clip_does_not(inverted, tmp_path):
    works, table = works_of(tmp_path, "large", "a", "full", "b"), tmp_path / "batch.csv"
    with pytest.raises(ResourceError, match="disk is full"):
        run_batch(works, table)
    assert inverted == ["large", "a", "full"]
    assert [(row["name"], row["state"]) for row in table_of(table)] == [("large", "failed"), ("a", "made")]


def test_overwrite_makes_every_clip_again(inverted, tmp_path):
    works, table = works_of(tmp_path, "a", "b"), tmp_path / "batch.csv"
    run_batch(works, table)
    assert [row.state for row in run_batch(works, table, overwrite=True)] == ["made", "made"]
    assert inverted == ["a", "b", "a", "b"]


def test_shards_add_up_to_the_whole(clips):
    out = clips.parent / "out"
    whole = plan_batch(clips, out)
    parts = [plan_batch(clips, out, shard=(k, 2)) for k in (1, 2)]
    assert sorted(w.name for part in parts for w in part) == [w.name for w in whole]
    assert len(parts[0]) == 2
    with pytest.raises(UsageError, match="shard 3/2"):
        plan_batch(clips, out, shard=(3, 2))


def test_who_says_what(clips, tiny_shot):
    out, speech = clips.parent / "out", tiny_shot[2]
    names = [work.video for work in plan_batch(clips, out)]
    assert [work.speech for work in plan_batch(clips, out, "own")] == names
    assert [work.speech for work in plan_batch(clips, out, "next")] == [*names[1:], names[0]]
    assert {work.speech for work in plan_batch(clips, out, str(speech))} == {speech}
    voices = clips.parent / "voices"
    voices.mkdir()
    for name in ("a", "b"):
        shutil.copy(speech, voices / f"{name}.wav")
    with pytest.raises(InputError, match="no sound named c"):
        plan_batch(clips, out, str(voices))
    shutil.copy(speech, voices / "c.wav")
    assert [work.speech for work in plan_batch(clips, out, str(voices))] == [voices / f"{n}.wav" for n in "abc"]
    with pytest.raises(UsageError, match="expected own, next"):
        plan_batch(clips, out, "nowhere")
    (voices / "notes.txt").write_text("no sound")
    with pytest.raises(InputError, match=r"notes\.txt"):
        plan_batch(clips, out, str(voices / "notes.txt"))


def test_clips_of_one_file_name_get_their_own_words(tiny_shot, tmp_path):
    """By the whole name or the path; by the bare name only where it can mean no other clip."""
    for name in ("happy/001", "sad/001", "sad/002"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "data" / "sad" / "._001.mp4").write_bytes(b"x")  # macOS leaves these
    for folder, suffix in (("voices", ".wav"), ("tracks", ".npz")):
        (tmp_path / folder / "sad").mkdir(parents=True)
        for name in ("001", "._001", "002", "happy_001"):
            (tmp_path / folder / f"{name}{suffix}").write_bytes(b"x")
    voices, tracks = tmp_path / "voices", tmp_path / "tracks"
    plan = lambda **given: plan_batch(tmp_path / "data", tmp_path / "out", **given)  # noqa: E731
    assert [work.name for work in plan()] == ["happy_001", "sad_001", "sad_002"]
    for given in ({"speech": str(voices)}, {"tracks": tracks}, {"tracks": tracks, "shard": (1, 3)}):
        with pytest.raises(UsageError, match=r"001\.(wav|npz): 2 clips could be meant.*sad_001"):
            plan(**given)
    for folder, suffix in (("voices", ".wav"), ("tracks", ".npz")):
        shutil.move(tmp_path / folder / f"001{suffix}", tmp_path / folder / "sad" / f"001{suffix}")
    works = plan(speech=str(voices), tracks=tracks)
    assert [w.speech for w in works] == [voices / name for name in ("happy_001.wav", "sad/001.wav", "002.wav")]
    assert [w.track for w in works] == [tracks / name for name in ("happy_001.npz", "sad/001.npz", "002.npz")]
    (tracks / "002.npz").unlink()
    with pytest.raises(InputError, match="no landmarks named sad_002"):
        plan(tracks=tracks)


def test_outputs_within_the_data_are_no_clips_and_names_stay_apart(clips):
    shutil.copy(clips / "a.mp4", clips / "sub" / "x.mp4")
    (clips / "out").mkdir()
    shutil.copy(clips / "a.mp4", clips / "out" / "a.mp4")
    works = plan_batch(clips, clips / "out")
    assert [work.name for work in works] == ["a", "b", "c", "sub_x"]
    shutil.copy(clips / "a.mp4", clips / "sub_x.mp4")
    with pytest.raises(InputError, match="share one output"):
        plan_batch(clips, clips / "out")
    with pytest.raises(UsageError, match="another folder"):
        plan_batch(clips, clips)
    with pytest.raises(InputError, match="no videos"):
        plan_batch(clips.parent / "tracks", clips / "out")


def test_settings_that_no_clip_could_have_are_refused_once(clips, tmp_path):
    works, table = plan_batch(clips, tmp_path, "none"), tmp_path / "batch.csv"
    with pytest.raises(UsageError, match="no_such_setting"):
        run_batch(works, table, bundle="demo", no_such_setting=1)
    with pytest.raises(UsageError, match="stitch.steps"):
        run_batch(works, table, bundle="demo", **{"stitch.steps": "many"})
    assert not table.exists()
