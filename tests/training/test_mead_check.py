"""The MEAD check on small folders with MEAD's own irregularities."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from hdtalk.errors import InputError
from hdtalk.training.mead import VIEWS
from hdtalk.training.mead_check import check_mead, unpack_mead

ROOT = Path(__file__).resolve().parents[2]
EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "sad", "surprised")


def takes(count=2):
    """Relative paths, without a suffix, of a whole actor's takes."""
    paths = [f"neutral/level_1/{number:03d}" for number in range(1, count + 1)]
    for emotion in EMOTIONS:
        paths += [f"{emotion}/level_{level}/{n:03d}" for level in (1, 2, 3) for n in range(1, count + 1)]
    return paths


def write_actor(folder, views=VIEWS, paths=None, video="video"):
    for take in paths or takes():
        for path in [f"audio/{take}.m4a", *(f"{video}/{view}/{take}.mp4" for view in views)]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"x")


def test_a_whole_actor_has_nothing_to_remark(tmp_path):
    write_actor(tmp_path / "M003")
    (report,) = check_mead(tmp_path)
    assert report.remarks == [] and report.takes == 2 + 7 * 3 * 2
    assert report.views == dict.fromkeys(VIEWS, 44) and report.emotions["happy"] == 6


def test_meads_own_irregularities_are_listed_actor_by_actor(tmp_path):
    write_actor(tmp_path / "W017", views=("down",))
    write_actor(tmp_path / "M011", paths=[take for take in takes() if not take.startswith("fear")])
    write_actor(tmp_path / "M042", video="video_1")
    write_actor(tmp_path / "W021", video="video/2")
    holed = [take for take in takes() if take not in ("happy/level_2/001", "sad/level_3/001", "sad/level_3/002")]
    write_actor(tmp_path / "M019", paths=[*holed, "neutral/level_2/001"])
    (tmp_path / "M019/video/front/happy/level_2/001.mp4").write_bytes(b"x")
    (tmp_path / "M019/audio/neutral/level_1/003.m4a").write_bytes(b"x")
    (tmp_path / "M019/video/behind").mkdir()
    (tmp_path / "readme").mkdir()
    remarks = {report.actor: report.remarks for report in check_mead(tmp_path)}
    assert remarks["W017"] == ["no view front, left_30, left_60, right_30, right_60, top"]
    assert remarks["M011"] == ["no emotion fear"]
    assert remarks["M042"] == ["video in parts: video_1"]
    assert remarks["W021"] == []
    assert remarks["M019"] == [
        "neutral has level 1 and 2 instead of 1",
        "sad has level 1 and 2 instead of 1 and 2 and 3",
        "1 takes have sound but no video",
        "numbers are not contiguous in happy/level_2",
        "unknown folders: video/behind",
        "1 videos have no sound beside them",
    ]
    assert remarks["readme"] == ["no take with sound: not an actor's folder, or incomplete"]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        check_mead(tmp_path / "gone")
    (tmp_path / "holiday").mkdir()
    with pytest.raises(InputError, match="Expected MEAD's layout"):
        check_mead(tmp_path)


def pack(archive, names):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))


def test_archives_are_unpacked_where_the_layout_wants_them(tmp_path):
    names = [f"front/{take}.mp4" for take in takes()]
    sounds = [f"{take}.m4a" for take in takes()]
    pack(tmp_path / "M003" / "video.tar", [f"video/{name}" for name in names])  # with its own top folder
    pack(tmp_path / "M003" / "audio.tar", [f"./audio/{name}" for name in sounds])
    pack(tmp_path / "W021" / "video" / "1.tar", names)  # without one
    pack(tmp_path / "W021" / "audio.tar", sounds)
    with pytest.raises(InputError, match="4 archives are still packed .* --unpack"):
        check_mead(tmp_path)
    assert len(unpack_mead(tmp_path)) == 4
    assert (tmp_path / "W021/video/1/front/neutral/level_1/001.mp4").is_file()
    assert {report.actor: report.views for report in check_mead(tmp_path)} == {
        "M003": {"front": 44},
        "W021": {"front": 44},
    }
    assert unpack_mead(tmp_path) == []


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    pack(tmp_path / "MEAD" / "M003" / "video.tar", ["../../outside.mp4"])
    with pytest.raises(InputError, match="video.tar: cannot be unpacked"):
        unpack_mead(tmp_path / "MEAD")
    assert not (tmp_path / "outside.mp4").exists() and not (tmp_path / "MEAD" / "outside.mp4").exists()


def test_script_prints_and_writes_the_report(tmp_path):
    write_actor(tmp_path / "M003", paths=[f"neutral/level_1/{n:03d}" for n in range(1, 13)])
    report = tmp_path.parent / f"{tmp_path.name}.json"
    command = [sys.executable, str(ROOT / "scripts" / "prepare_mead"), str(tmp_path), "--json", str(report)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "M003: 12 takes, 84 videos, 1 emotions" in run.stdout and "no emotion angry" in run.stdout
    content = json.loads(report.read_text())
    assert content["test"] == [f"M003/neutral/level_1/{n:03d}" for n in range(3, 13)]
