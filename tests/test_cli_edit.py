"""`hdtalk edit` and `hdtalk invert` on good and bad input: exit code, one line, and nothing lost or half-written."""

import io
import json
import os
import shutil
import signal
import subprocess
import wave
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from clips import write_clip

from hdtalk import media
from hdtalk.cli import _stage_bars, hdtalk
from hdtalk.errors import InputError
from hdtalk.job import Job
from hdtalk.options import resolve
from hdtalk.prepare import look_for_faces

QUICK = [
    *(
        "--precision",
        "float32",
        "--set",
        "invert.steps=1",
        "--set",
        "invert.refine_steps=0",
        "--set",
        "invert.shared_steps=0",
    ),
    *("--set", "optimise.steps=1", "--set", "optimise.anchors=0", "--set", "stitch.steps=0"),
]


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_shot):
    """An empty working folder with the tiny shot, its speech and its landmarks in it."""
    video, track, speech = tiny_shot
    shutil.copy(video, tmp_path / "shot.mp4")
    shutil.copy(speech, tmp_path / "speech.wav")
    np.savez(tmp_path / "track.npz", landmarks_px=track)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def edit(here, tiny_bundle_folder):
    def run(*arguments, video="shot.mp4", speech="speech.wav", output="out.mp4", drive=True):
        driven = ["--landmarks", "track.npz", "--track", "track.npz"] if drive else []
        options = ["-o", output, "--bundle", str(tiny_bundle_folder), *QUICK, *driven, *arguments]
        return CliRunner().invoke(hdtalk, ["edit", *options, "--", video, speech])

    return run


def sound(path, seconds=0.4, rate=16000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((8000 * np.sin(np.arange(int(seconds * rate)) * 0.2)).astype(np.int16).tobytes())


def truncated(here):
    data = Path("shot.mp4").read_bytes()
    Path("bad.mp4").write_bytes(data[: len(data) // 3])


def without_index(here):
    data = Path("shot.mp4").read_bytes()
    Path("bad.mp4").write_bytes(data.replace(b"moov", b"mooo"))


VIDEOS = {
    "truncated": truncated,
    "no moov": without_index,
    "empty": lambda here: Path("bad.mp4").write_bytes(b""),
    "text": lambda here: Path("bad.mp4").write_text("not a video\n" * 100),
    "playlist": lambda here: Path("bad.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n#EXT-X-ENDLIST\n"),
    "playlist of a local file": lambda here: Path("bad.mp4").write_text("#EXTM3U\n#EXTINF:1,\nshot.mp4\n"),
    "concat script": lambda here: Path("bad.mp4").write_text("ffconcat version 1.0\nfile shot.mp4\n"),
    "folder": lambda here: Path("bad.mp4").mkdir(),
    "missing": lambda here: None,
    "pipe": lambda here: os.mkfifo("bad.mp4"),
    "sound only": lambda here: shutil.copy("speech.wav", "bad.mp4"),
}


def one_line(result, code, *hints):
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("hdtalk: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    for hint in hints:
        assert hint in lines[0], lines[0]


def contents(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


@pytest.mark.parametrize("kind", VIDEOS)
def test_bad_video(edit, here, kind):
    VIDEOS[kind](here)
    before = contents(here)
    result = edit(video="bad.mp4")
    if kind == "folder":  # click refuses that as misuse
        assert result.exit_code == 2
    else:
        one_line(result, 3, "bad.mp4")
    assert contents(here) == before


SPEECHES = {
    "missing": lambda: None,
    "empty file": lambda: Path("bad.wav").write_bytes(b""),
    "no samples": lambda: sound("bad.wav", 0),
    "50 ms": lambda: sound("bad.wav", 0.05),
    "text": lambda: Path("bad.wav").write_text("hello"),
    "video without sound": lambda: shutil.copy("shot.mp4", "bad.wav"),
    "folder": lambda: Path("bad.wav").mkdir(),
    "playlist": lambda: Path("bad.wav").write_text("#EXTM3U\nhttp://localhost/a.ts\n"),
}


@pytest.mark.parametrize("kind", SPEECHES)
def test_bad_speech(edit, here, kind):
    SPEECHES[kind]()
    before = contents(here)
    result = edit(speech="bad.wav", drive=False)
    if kind == "folder":
        assert result.exit_code == 2
    else:
        one_line(result, 3, "bad.wav")
    assert contents(here) == before


ARGUMENTS = {
    "unknown preset": (["--preset", "slow"], 2),
    "unknown setting": (["--set", "optimise.stepps=3"], 2),
    "setting without value": (["--set", "optimise.steps"], 2),
    "setting of the wrong type": (["--set", "optimise.steps=many"], 2),
    "unknown emotion": (["--emotion", "hungry"], 2),
    "emotion out of range": (["--emotion", "happy:3"], 2),
    "two emotions": (["--emotion", "happy", "--emotion-from", "speech.wav"], 2),
    "emotion beside landmarks": (["--emotion", "happy"], 2),
    "option as a setting": (["--set", "job=there"], 2),
    "nothing left of the face": (["--set", "crop.scale=0"], 2),
    "sound of less than nothing": (["--set", "media.audio_bitrate_per_channel=-5"], 2),
    "job of the output's name": (["--job", "out.mp4"], 2),
    "name too long on the way": (["-o", f"{'x' * 245}.mp4"], 2),
    "recording of the emotion too short": (["--emotion-from", "blip.wav"], 3),
    "landmarks too few for the shot": (["--landmarks", "short.npz", "--audio-shorter", "silence"], 3),
    "unknown device": (["--device", "toaster"], 2),
    "device that is not there": (["--device", "cuda:63"], 2),
    "mix without level": (["--audio-mix", "louder"], 2),
    "trimmed away": (["--trim-start", "9"], 2),
    "negative trim": (["--trim-start", "-1"], 2),
    "wrong suffix": (["-o", "out.avi"], 2),
    "folder of the output is not there": (["-o", "nowhere/out.mp4"], 2),
    "face in no known form": (["--face", "leftmost"], 2),
    "unknown codec": (["--codec", "bogus"], 2),
    "quality out of range": (["--crf", "999"], 2),
    "quality that x264 does not have": (["--crf", "60"], 2),
    "face at no number": (["--face", "nan,nan"], 2),
    "landmarks outside of the picture": (["--landmarks", "far.npz"], 3),
    "negative steps": (["--set", "invert.steps=-3"], 2),
    "recording of the emotion missing": (["--emotion-from", "gone.wav"], 3),
    "no such bundle": (["--bundle", "nowhere"], 4),
    "landmarks missing": (["--landmarks", "nothing.npz"], 3),
    "emotion without its intensity": (["--emotion", "happy:"], 2),
    "landmarks of the wrong kind": (["--landmarks", "speech.wav"], 3),
    "track of another length": (["--track", "short.npz"], 3),
}


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_bad_arguments(edit, here, kind, dry):
    np.savez("short.npz", landmarks_px=np.random.default_rng(0).normal(30, 9, (3, 68, 2)).astype(np.float32))
    np.savez("far.npz", landmarks_px=np.load("track.npz")["landmarks_px"] + 1e6)
    sound("blip.wav", 0.04)
    before = contents(here)
    arguments, code = ARGUMENTS[kind]
    result = edit(*arguments, *["--dry-run"] * dry)
    assert result.exit_code == code and "Traceback" not in result.output
    if "Usage:" not in result.output:  # click's own answers take a few lines
        one_line(result, code)
    assert contents(here) == before


def test_output_in_the_way_is_kept(edit, here):
    Path("out.mp4").write_text("mine")
    one_line(edit(), 2, "out.mp4", "--overwrite")
    assert Path("out.mp4").read_text() == "mine"
    one_line(edit("--overwrite", output="shot.mp4"), 2, "shot.mp4")
    assert media.probe("shot.mp4").num_frames == 10


def test_report_in_the_way_is_kept(edit, here):
    Path("out_report.html").write_text("mine")
    one_line(edit("--report"), 2, "out_report.html", "--overwrite")
    assert Path("out_report.html").read_text() == "mine" and not Path("out.mp4").exists()


def test_a_folder_of_recordings_is_not_taken_for_a_job(edit, here):
    Path("speech").mkdir()
    Path("speech/take.wav").write_text("mine")
    one_line(edit("--job", "."), 2, "speech/take.wav", "--job DIR")
    assert Path("speech/take.wav").read_text() == "mine" and not Path("faces").exists()


def test_files_of_an_earlier_run_beside_the_output_are_named(edit, here):
    Path("out_report.html").write_text("mine")
    result = edit("--dry-run")
    assert result.exit_code == 0 and "out_report.html is an earlier run's" in result.stdout
    assert "out_compare.mp4" not in result.stdout
    assert Path("out_report.html").read_text() == "mine"


def test_weights_that_are_damaged(edit, here, tiny_bundle_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle_folder, broken)
    data = bytearray((broken / "generator.safetensors").read_bytes())
    data[-5] ^= 0xFF
    (broken / "generator.safetensors").write_bytes(data)
    one_line(edit("--bundle", str(broken)), 4, "generator")
    assert not Path("out.mp4").exists()


def test_no_face_and_a_face_lost_on_the_way(edit, here, monkeypatch):
    from hdtalk import run as module
    from hdtalk.errors import InputError

    def lost(self):
        assert self.config.faces.on_missing == "fail"
        raise InputError(f"{self.video}: no face in frames 3-5. Trim the clip, or use --on-missing-face keep.")

    monkeypatch.setattr(module.Run, "_track_faces", lost)
    one_line(edit("--on-missing-face", "fail"), 3, "shot.mp4", "3-5")
    assert not Path("out.mp4").exists()


def test_busy_job(edit, here):
    with Job("out.mp4.job"):
        one_line(edit(), 1, "out.mp4.job", str(os.getpid()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(edit, here, monkeypatch, number):
    from hdtalk import run as module

    monkeypatch.setattr(module.Run, "cut_crops", lambda self, face: signal.raise_signal(number))
    one_line(edit(), 130, "out.mp4.job", "again")
    assert Path("out.mp4.job/faces/stage.json").exists() and not Path("out.mp4").exists()


def test_what_a_job_holds_needs_no_second_place(edit, here, monkeypatch):
    """A job that was stopped for want of space goes on in what is left."""
    from hdtalk.job import held_bytes
    from hdtalk.run import STAGES

    assert edit().exit_code == 0
    held = held_bytes(Path("out.mp4.job"), STAGES)
    needed = []
    monkeypatch.setattr("hdtalk.prepare.require_disk", lambda folder, size: needed.append(size))
    for job in ("out.mp4.job", "new.job"):
        edit("--dry-run", "--job", job, "--overwrite")
    assert held > 10_000 and needed[1] - needed[0] == held


def test_full_disk(edit, here, monkeypatch):
    from hdtalk import job, plan

    usage = shutil.disk_usage(".")
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: usage._replace(free=10))
    one_line(edit(), 5, "MB are free")
    assert not Path("out.mp4.job").exists()
    monkeypatch.undo()
    os.chdir(here)
    replace = os.replace

    def full(source, target):
        if "crops" in str(target):
            raise OSError(28, "No space left on device", str(target))
        return replace(source, target)

    monkeypatch.setattr(job.os, "replace", full)
    one_line(edit(), 5, "disk is full", "again")
    assert not list(here.rglob("*.part")) and not Path("out.mp4").exists()


def clip(name, **options):
    rng = np.random.default_rng(0)
    size = options.pop("size", (64, 80))
    frames = np.repeat(rng.integers(0, 255, (10, size[0] // 8 + 1, size[1] // 8 + 1, 3)), 8, 1).repeat(8, 2)
    write_clip(name, frames[:, : size[0], : size[1]].astype(np.uint8), **{"fps": Fraction(25), **options})


GOOD = {
    "rotated": lambda: clip("good.mp4", size=(80, 64), rotation_degrees=90, pixel_format="yuv420p"),
    "odd size": lambda: clip("good.mp4", size=(63, 79)),
    "ten bits": lambda: clip("good.mp4", pixel_format="yuv420p10le"),
    "4:4:4": lambda: clip("good.mp4", pixel_format="yuv444p"),
    "variable rate": lambda: clip(
        "good.mp4", times_s=[0.04 * t + 0.01 * (t % 2) for t in range(10)], time_base=Fraction(1, 100)
    ),
    "29.97 fps": lambda: clip("good.mp4", fps=Fraction(30000, 1001), pixel_format="yuv420p"),
    "unicode and quotes": lambda: shutil.copy("shot.mp4", "ünï 'quoted' \"name\" $HOME.mp4"),
    "leading dash": lambda: shutil.copy("shot.mp4", "-shot.mp4"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_unusual_video_is_edited(edit, here, kind):
    before = contents(here)
    GOOD[kind]()
    (name,) = contents(here) - before
    result = edit("--json", video=name)
    assert result.exit_code == 0, (result.output, result.exception)
    answer = json.loads(result.stdout)
    source, made = media.probe(name), media.probe(answer["output"])
    assert (made.width, made.height, made.fps, made.num_frames) == (source.width, source.height, source.fps, 10)
    assert made.has_audio and answer["num_edited"] == 10


@pytest.mark.parametrize("seconds, num_frames", [(0.2, 5), (0.8, 20)])
def test_shorter_and_longer_speech(edit, here, seconds, num_frames):
    sound("other.wav", seconds)
    np.savez("target.npz", landmarks_px=np.load("track.npz")["landmarks_px"][np.arange(num_frames) % 10])
    result = edit("--landmarks", "target.npz", "--json", speech="other.wav")
    assert result.exit_code == 0, (result.output, result.exception)
    made = media.probe("out.mp4")
    assert made.num_frames == num_frames and made.has_audio


def test_video_in_which_nobody_is_to_be_seen(here):
    clip("wall.mp4", size=(240, 320))
    before = contents(here)
    one_line(CliRunner().invoke(hdtalk, ["edit", "wall.mp4", "speech.wav"]), 3, "wall.mp4", "face")
    assert contents(here) - before == {"wall_edited.mp4.job/lock"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder that nobody may write to")
def test_folder_that_cannot_be_written_to(edit, here):
    before = contents(here)
    one_line(edit(output="/proc/out.mp4"), 2, "/proc", "not writable")
    assert contents(here) == before


def test_artefact_damaged_between_two_runs(edit, here, caplog):
    assert edit().exit_code == 0
    first = Path("out.mp4").read_bytes()
    (artefact,) = Path("out.mp4.job/optimisation").glob("*.safetensors")
    artefact.write_bytes(artefact.read_bytes()[:-100])
    result = edit("--overwrite")
    assert result.exit_code == 0 and f"{artefact}: damaged" in caplog.text
    assert Path("out.mp4").read_bytes() == first


@pytest.mark.parametrize("free_kb", [96, 400])
def test_disk_that_is_really_full(here, edit, free_kb):
    disk = here / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={free_kb}k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        with pytest.MonkeyPatch.context() as patch:  # it fills up after the check that finds enough room
            usage = shutil.disk_usage(here)
            patch.setattr("hdtalk.plan.shutil.disk_usage", lambda _: usage)
            one_line(edit(output=str(disk / "out.mp4")), 5, "full")
        assert not (disk / "out.mp4").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_dry_run_writes_nothing(edit, here, monkeypatch):
    monkeypatch.setattr("hdtalk.prepare.look_for_faces", lambda *_: ["a face was found"])
    before = contents(here)
    result = edit("--dry-run")
    assert result.exit_code == 0 and contents(here) == before
    assert "10 frames" in result.stdout and "memory" in result.stdout and "time" in result.stdout


@pytest.mark.parametrize(("face", "noted"), [("largest", False), ("0", False), ("5", True), ("-1", True)])
def test_a_wanted_face_beyond_those_seen_is_noted(here, face, noted):
    notes = look_for_faces(Path("shot.mp4"), 0, 10, one_face(confidence=0.7), resolve({"face": face}))
    assert "in 5 of the 5 frames" in notes[0]
    assert any(f"--face {face}" in note for note in notes) == noted


def test_a_look_for_faces_asks_for_landmarks_too(here):
    with pytest.raises(InputError, match=r"shot.mp4: .* no landmarks on it \(confidence at most 0.20, expected 0.3"):
        look_for_faces(Path("shot.mp4"), 0, 10, one_face(confidence=0.2), resolve({}))


def one_face(confidence):
    """Detector and landmarker that see a face everywhere, as sure as that."""

    class OneFace:
        def detect(self, frames):
            return [np.array([[10, 10, 40, 40, 0.9]])] * len(frames)

        def heatmaps(self, images):
            heatmaps = torch.zeros(len(images), 68, 64, 64)
            heatmaps[:, np.arange(68), np.arange(68) % 50 + 7, np.arange(68) // 2 + 10] = confidence
            return heatmaps

    return SimpleNamespace(detector=OneFace(), landmarker=OneFace())


def test_inversion_of_a_later_part_keeps_its_sound(here, tiny_bundle_folder):
    from hdtalk.audio import read_audio

    sweep = np.sin(0.002 * np.arange(19200) ** 1.5 * 0.1).astype(np.float32)[None]
    clip("talk.mp4", audio=(sweep, 48000))
    frames = np.load("track.npz")["landmarks_px"][4:]
    np.savez("part.npz", landmarks_px=frames)
    arguments = ["invert", "talk.mp4", "-o", "inv.mp4", "--bundle", str(tiny_bundle_folder), "--track", "part.npz"]
    result = CliRunner().invoke(hdtalk, [*arguments, "--trim-start", "0.16", *QUICK])
    assert result.exit_code == 0, (result.output, result.exception)
    whole, part = read_audio("talk.mp4"), read_audio("inv.mp4")
    later = whole[2560 : 2560 + 3000]  # 0.16 s at 16 kHz
    shifts = [float(np.abs(part[k : k + 3000] - later).mean()) for k in range(0, 800)]
    assert min(shifts) < 0.05 * np.abs(later).mean()
    assert np.argmin(shifts) < 500


def test_invert_then_help_and_plain_report(here, tiny_bundle_folder):
    arguments = ["invert", "shot.mp4", "-o", "inv.mp4", "--bundle", str(tiny_bundle_folder), "--track", "track.npz"]
    result = CliRunner().invoke(hdtalk, [*arguments, *QUICK])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "10 of 10 frames inverted" in result.stdout
    assert media.probe("inv.mp4").num_frames == 10 and json.loads(Path("inv.json").read_text())["scores"]["psnr_db"] > 0


@pytest.mark.parametrize(
    "outputs, hint",
    [
        (["-o", "out.npz", "--preview", "shot.mp4", "--overwrite"], "shot.mp4: the output would overwrite an input"),
        (["-o", "out.npz", "--preview", "out.avi"], "out.avi: the output must end in"),
        (["-o", "nowhere/out.npz"], "nowhere does not exist"),
        (["-o", "track.npz"], "track.npz exists already"),
        (["-o", "out.txt"], "written as .npz"),
    ],
)
def test_landmarks_refuse_outputs_at_once(here, outputs, hint):
    before = contents(here)
    one_line(CliRunner().invoke(hdtalk, ["landmarks", "speech.wav", "--video", "shot.mp4", *outputs]), 2, hint)
    assert contents(here) == before


def test_landmarks_take_any_setting_of_the_speech(here):
    """At strength 0 the face rests in every frame: the lips of the still head never part."""
    arguments = ["landmarks", "speech.wav", "--video", "shot.mp4", "--track", "track.npz", "--bundle", "demo"]
    for name, strength in (("spoken.npz", 1), ("still.npz", 0)):
        given = [*arguments, "-o", name, "--set", f"speech.strength={strength}"]
        result = CliRunner().invoke(hdtalk, given)
        assert result.exit_code == 0, (result.output, result.exception)
    spoken, still = (np.load(name)["landmarks_px"] for name in ("spoken.npz", "still.npz"))
    lips = [61, 62, 63], [67, 66, 65]
    gap = (still[:, lips[1], 1] - still[:, lips[0], 1]).mean(1)
    assert np.ptp(gap) < 0.1, gap
    assert np.abs(spoken - still)[:, 48:].max() > 0.2
    wrong = [*arguments, "-o", "wrong.npz", "--set", "speech.power=1"]
    one_line(CliRunner().invoke(hdtalk, wrong), 2, "speech.power")
    assert not Path("wrong.npz").exists()


def test_a_stage_that_comes_again_has_a_bar_again(monkeypatch):
    """As the video's stages do after those of the strip."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    with _stage_bars() as progress:
        for stage, done, total in (("writing", 3, 3), ("faces", 1, 1), ("writing", 0, 8), ("writing", 8, 8)):
            progress(stage, done, total)
    bars = [line for line in terminal.getvalue().replace("\r", "\n").split("\n") if line.startswith("writing")]
    assert any("3/3" in bar for bar in bars) and "8/8" in bars[-1]


def test_progress_without_a_terminal_is_a_line_a_minute(monkeypatch, capsys):
    clock = iter([0, 10, 50, 70, 100, 131, 200])
    monkeypatch.setattr("hdtalk.cli.time.monotonic", lambda: next(clock))
    with _stage_bars() as progress:
        for stage, done in (
            ("faces", 1),
            ("faces", 9),
            ("tuning", 10),
            ("tuning", 20),
            ("tuning", 30),
            ("tuning", 100),
        ):
            progress(stage, done, 100)
    said = capsys.readouterr().err.splitlines()
    # at 70 s tuning has just begun; at 131 s it has made 20 steps in 61 s and 70 are left
    assert said == ["tuning 10/100", "tuning 30/100, about 4 min left in it", "tuning 100/100"]
