"""Batches: every clip once, failures noted, stopped and gone on, parts that add up to the whole."""

import csv
import shutil

import numpy as np
import pytest

from hdtalk import media
from hdtalk.batch import plan_batch, run_batch
from hdtalk.errors import InputError, Stopped, UsageError

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
