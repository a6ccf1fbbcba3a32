"""HDTF preparation on lists and downloads of its layout, small enough to look at every pixel."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import numbered_frames, read_sound, tone, write_clip

from hdtalk.data import FaceTrack
from hdtalk.errors import InputError, UsageError
from hdtalk.media import VideoWriter, probe, read_frames
from hdtalk.training.hdtf import choose_videos, prepare_hdtf, read_lists, square_around

ROOT = Path(__file__).resolve().parents[2]
LISTS = {
    "video_url": "﻿Radio1 https://example.org/1\nRadio2 https://example.org/2\nRadio3 https://example.org/3\n",
    "resolution": "Radio1.mp4 96\nRadio2.mp4 48\nRadio3.mp4 720\n",
    "annotion_time": "Radio1.mp4 00:00-00:01 00:01-00:02 \nRadio2.mp4 00:00-00:01\nRadio3.mp4 1:00:05-1:00:07\n",
    "crop_wh": "Radio1_0.mp4 10 40 20 40\nRadio2_0.mp4 5 20 10 20\nRadio3_0.mp4 0 99 0 99\n",
    "crop_ratio": "Radio1_0.mp4 1.2\nRadio1_1.mp4 0.9\n",
}


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "HDTF_dataset"
    folder.mkdir()
    for kind, text in LISTS.items():
        (folder / f"RD_{kind}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def downloads(tmp_path):
    folder = tmp_path / "downloads"
    (folder / "RD").mkdir(parents=True)
    frames = numbered_frames(16, step=12)
    frames[:, 20:60, 10:50, 1] = 255  # what the published window shows
    sound = tone(2, rate=16000, channels=1)
    sound[0][:, 16000:] *= 0.1
    write_clip(folder / "Radio1.mp4", frames, fps=Fraction(8), audio=sound)
    write_clip(folder / "RD" / "Radio2.mkv", frames[:8], fps=Fraction(8))  # twice the published height
    return folder


def test_lists_are_joined_by_name(lists):
    clips = {clip.name: clip for clip in read_lists(lists)}
    assert list(clips) == ["Radio1_0", "Radio1_1", "Radio2_0", "Radio3_0"]
    assert clips["Radio1_0"].window_px == (10, 20, 40, 40)  # the file's order is x, width, y, height
    assert (clips["Radio1_1"].start_s, clips["Radio1_1"].stop_s) == (1, 2)
    assert clips["Radio1_1"].window_px is None and clips["Radio1_1"].ratio == 0.9
    assert clips["Radio3_0"].start_s == 3605 and clips["Radio2_0"].height_px == 48
    assert clips["Radio1_0"].url == "https://example.org/1"  # its list begins with a byte order mark


def test_damaged_lists_are_named_with_their_line(lists, tmp_path):
    (lists / "RD_annotion_time.txt").write_text("Radio1.mp4 00:00-00:01\nRadio2.mp4 00:09-00:01\n")
    with pytest.raises(InputError, match=r"RD_annotion_time.txt, line 2: cannot be read: 'Radio2.mp4 00:09-00:01'"):
        read_lists(lists)
    (lists / "RD_resolution.txt").unlink()
    with pytest.raises(InputError, match="RD_resolution.txt: this list is missing"):
        read_lists(lists)
    with pytest.raises(InputError, match="no lists of HDTF there"):
        read_lists(tmp_path)


def test_method_1_cuts_the_published_window_in_time_and_space(lists, downloads, tmp_path):
    outcomes = {outcome.clip: outcome for outcome in prepare_hdtf(read_lists(lists), downloads, tmp_path / "out")}
    first = tmp_path / "out" / outcomes["Radio1_0"].path
    assert first.relative_to(tmp_path / "out").as_posix() == "RD/Radio1_0.mp4"
    info, frames = probe(first), np.stack(list(read_frames(first)))
    assert (info.width, info.height, info.fps, info.num_frames) == (512, 512, 8, 8)
    assert frames[..., 1].min() > 230 and abs(frames[3, 256, 100, 0].astype(int) - (16 + 3 * 12)) < 8
    samples, rate = read_sound(first)
    assert rate == 16000 and abs(samples.shape[1] / rate - 1) < 0.1 and samples[0, 2000:14000].std() > 0.2

    assert outcomes["Radio2_0"].window_px == (10, 20, 40, 40)  # published for 48 px, downloaded with 96
    assert "no window" in outcomes["Radio1_1"].reason
    assert "not downloaded: expected Radio3.mp4 (from https://example.org/3)" in outcomes["Radio3_0"].reason
    table = json.loads((tmp_path / "out" / "hdtf.json").read_text())
    assert [row["clip"] for row in table] == list(outcomes)


def test_method_2_follows_the_face_over_the_whole_interval(lists, downloads, tmp_path):
    asked = []

    def track(path, first, last):
        asked.append((path.name, first, last))
        corners = np.zeros((last - first, 68, 2), np.float32) + [40, 30]
        corners[:, 0] = [[60 + t, 50] for t in range(last - first)]
        return FaceTrack(corners, np.arange(last - first) != 7)

    outcomes = {
        outcome.clip: outcome
        for outcome in prepare_hdtf(read_lists(lists), downloads, tmp_path / "out", method=2, track=track)
    }
    assert asked == [("Radio1.mp4", 0, 8), ("Radio1.mp4", 8, 16)]
    # x 40 ... 66 (frame 7 has no face), y 30 ... 50: side 26 * 1.2, about their middle (53, 40)
    assert outcomes["Radio1_0"].window_px == (38, 24, 31, 31)
    assert outcomes["Radio1_1"].window_px == (42, 28, 23, 23)
    second = tmp_path / "out" / outcomes["Radio1_1"].path
    samples, _ = read_sound(second)
    assert probe(second).num_frames == 8 and 0.02 < samples[0, 2000:14000].std() < 0.06  # the quiet second
    assert "no ratio" in outcomes["Radio2_0"].reason


def test_method_2s_square_stays_inside_the_picture():
    track = FaceTrack(np.float32([[[0, 0], [90, 40]]]), np.array([True]))
    assert square_around(track, 1.0, 200, 100) == (0, 0, 90, 90)
    assert square_around(track, 2.0, 200, 100) == (0, 0, 100, 100)
    with pytest.raises(InputError, match="no face found"):
        square_around(FaceTrack(track.landmarks_px, np.array([False])), 1.0, 200, 100)


def test_a_window_of_another_video_is_refused(lists, downloads, tmp_path):
    (lists / "RD_crop_wh.txt").write_text("Radio1_0.mp4 100 90 0 90\n")
    (outcome, *_) = prepare_hdtf(read_lists(lists), downloads, tmp_path / "out")
    assert "does not fit into 128x96" in outcome.reason and not list((tmp_path / "out").rglob("*.mp4"))


def listing_of(out):
    return {row["clip"]: row for row in json.loads((out / "hdtf.json").read_text())}


def test_a_clip_of_another_window_is_cut_again(lists, downloads, tmp_path):
    out, clips = tmp_path / "out", choose_videos(read_lists(lists), ["Radio1"])[:1]

    def track(path, first, last):
        return FaceTrack(np.tile(np.float32([[60, 30], [90, 60]]), (last - first, 1, 1)), np.ones(last - first, bool))

    (by_hand,) = prepare_hdtf(clips, downloads, out)
    first = (out / by_hand.path).read_bytes()
    (found,) = prepare_hdtf(clips, downloads, out, method=2, track=track)
    second = (out / found.path).read_bytes()
    assert by_hand.window_px != found.window_px == (57, 27, 36, 36) and first != second
    assert listing_of(out)["Radio1_0"]["window_px"] == [57, 27, 36, 36]
    assert next(read_frames(out / found.path))[..., 1].mean() < 100  # the published window is bright green

    written = (out / found.path).stat().st_mtime_ns
    prepare_hdtf(clips, downloads, out, method=2, track=track)
    assert (out / found.path).stat().st_mtime_ns == written
    (again,) = prepare_hdtf(clips, downloads, out)
    assert again == by_hand and next(read_frames(out / again.path))[..., 1].min() > 230


def test_a_clip_that_cannot_be_made_anew_stays_listed_as_it_is(lists, downloads, tmp_path):
    out, clips = tmp_path / "out", choose_videos(read_lists(lists), ["Radio2.mp4"])
    (made,) = prepare_hdtf(clips, downloads, out)
    (kept,) = prepare_hdtf(clips, downloads, out, method=2)
    assert (kept.path, kept.window_px, kept.reason) == (made.path, made.window_px, "")
    assert "left as it was: the lists have no ratio" in kept.note
    (out / made.path).unlink()
    (gone,) = prepare_hdtf(clips, downloads, out, method=2)
    assert gone.path == "" and "no ratio" in gone.reason


def test_a_stopped_run_has_listed_what_it_made(lists, downloads, tmp_path):
    def stop(done, total, name):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_hdtf(read_lists(lists), downloads, tmp_path / "out", progress=stop)
    assert list(listing_of(tmp_path / "out")) == ["Radio1_0"]


def test_some_videos_are_added_to_the_listing(lists, downloads, tmp_path):
    out, clips = tmp_path / "out", read_lists(lists)
    prepare_hdtf(choose_videos(clips, ["Radio2"]), downloads, out)
    made = prepare_hdtf(choose_videos(clips, ["Radio1"]), downloads, out)
    assert [outcome.clip for outcome in made] == ["Radio1_0", "Radio1_1"]
    assert set(listing_of(out)) == {"Radio1_0", "Radio1_1", "Radio2_0"} and listing_of(out)["Radio2_0"]["path"]
    with pytest.raises(UsageError, match="nosuch: the lists have no such video"):
        choose_videos(clips, ["Radio1", "nosuch"])
    (out / "hdtf.json").write_text("{")
    with pytest.raises(InputError, match="hdtf.json: damaged"):
        prepare_hdtf(clips, downloads, out)


def test_a_clip_of_a_broken_off_download_is_cut_again_when_that_is_whole(lists, downloads, tmp_path):
    out, whole = tmp_path / "out", downloads / "Radio1.mp4"
    clips, data = [clip for clip in read_lists(lists) if clip.name == "Radio1_0"], whole.read_bytes()
    info, frames = probe(whole), list(read_frames(whole))
    (made,) = prepare_hdtf(clips, downloads, out)
    expected = probe(out / made.path).num_frames
    (out / made.path).unlink()
    with VideoWriter(whole, info, overwrite=True) as writer:
        for frame in frames[: round(clips[0].start_s * info.fps) + 2]:
            writer.write(frame)
    (short,) = prepare_hdtf(clips, downloads, out)
    assert "shorter" in short.note and probe(out / made.path).num_frames == 2
    whole.write_bytes(data)
    (again,) = prepare_hdtf(clips, downloads, out)
    assert (again.note, probe(out / again.path).num_frames) == ("", expected)


def test_script_says_each_thing_once(lists, downloads, tmp_path):
    (lists / "RD_annotion_time.txt").write_text("Radio1.mp4 00:01-00:03\nRadio3.mp4 1:00:05-1:00:07\n")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "prepare_hdtf"), str(lists), str(downloads), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout + run.stderr).count("not downloaded") == 1
    assert run.stderr == "Radio1_0: warning: 1.00 s shorter than in the lists: Radio1.mp4 ends before the interval\n"
    assert probe(out / "RD" / "Radio1_0.mp4").num_frames == 8

    listing = (out / "hdtf.json").read_text()
    run = subprocess.run([*command, "--only", "nosuch"], capture_output=True, text=True)
    assert run.returncode == 2 and "nosuch: the lists have no such video" in run.stderr
    assert (out / "hdtf.json").read_text() == listing

    shown = subprocess.run([*command[:2], "--help"], capture_output=True, text=True, check=True).stdout
    examples = [line for line in shown.splitlines() if "HDTF/HDTF_dataset" in line]
    assert len(examples) == 2 and all(line.split()[0] == "scripts/prepare_hdtf" for line in examples)


def test_script_reports_what_is_missing_and_keeps_what_is_there(lists, downloads, tmp_path):
    out = tmp_path / "out"
    (out / "RD").mkdir(parents=True)
    (out / "RD" / "Radio1_0.mp4").write_bytes(b"made earlier")
    command = [sys.executable, str(ROOT / "scripts" / "prepare_hdtf"), str(lists), str(downloads), str(out)]
    run = subprocess.run([*command, "--only", "Radio1", "--only", "Radio3"], capture_output=True, text=True, check=True)
    assert "1 of 3 clips are in" in run.stdout and "Radio3_0: not downloaded" in run.stdout
    assert (out / "RD" / "Radio1_0.mp4").read_bytes() == b"made earlier"
    (tmp_path / "empty").mkdir()
    for downloaded, hint in (("gone", "gone: there is no such folder"), ("empty", "empty: no clip could be made")):
        command[3:] = [str(tmp_path / downloaded), str(tmp_path / "new")]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 3 and hint in run.stderr
