"""Jobs: fingerprints, resume, atomic writes, damaged artefacts, the lock, stopping."""

import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hdtalk.errors import HDTalkError, InputError, ResourceError, Stopped, UsageError
from hdtalk.files import file_hash, temporary, write_atomically
from hdtalk.job import Job, array_hash, fingerprint, is_claimed, stoppable
from hdtalk.run import STAGES


@dataclass(frozen=True)
class Config:
    steps: int = 3


def open_stage(job, config=None, **inputs):
    return job.stage("pivots", inputs=inputs or {"crops": "abc"}, config=config or Config())


def test_finished_stage_is_found_again_with_its_content(tmp_path):
    ws = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        stage.save(0, {"ws": ws})
        stage.save(1, {"ws": ws + 1})
        stage.finish({"psnr_db": np.float32(30.5), "frames": [1, 2]})
        content_hash = stage.content_hash
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        assert stage.complete and stage.chunks == [0, 1]
        np.testing.assert_array_equal(stage.load(1)["ws"], ws + 1)
        assert stage.table == {"psnr_db": 30.5, "frames": [1, 2]}
        assert stage.content_hash == content_hash


def test_a_change_of_inputs_configuration_or_version_starts_the_stage_afresh(tmp_path):
    base = fingerprint("pivots", {"crops": "abc"}, Config(), 1)
    assert base == fingerprint("pivots", {"crops": "abc"}, Config(3), 1)
    others = {
        fingerprint("pivots", {"crops": "abd"}, Config(), 1),
        fingerprint("pivots", {"crops": "abc"}, Config(4), 1),
        fingerprint("pivots", {"crops": "abc"}, Config(), 2),
        fingerprint("tuning", {"crops": "abc"}, Config(), 1),
    }
    assert base not in others and len(others) == 4
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        stage.save(0, {"ws": np.zeros(3, np.float32)})
        stage.finish()
        changed = open_stage(job, Config(4))
        assert not changed.complete and changed.chunks == []
        assert sorted(path.name for path in changed.folder.iterdir()) == []


def test_chunks_survive_an_unfinished_run(tmp_path):
    with Job(tmp_path / "a.job") as job:
        open_stage(job).save(0, {"ws": np.arange(3)})
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        assert stage.chunks == [0] and not stage.complete
        stage.save(1, {"ws": np.arange(4)})
        stage.drop(0)
        assert stage.chunks == [1]
    with Job(tmp_path / "a.job") as job:
        assert open_stage(job).chunks == [1]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_artefact_is_noticed_and_dropped(tmp_path, caplog, damage):
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        stage.save(0, {"ws": np.arange(100)})
        stage.save(1, {"ws": np.arange(50)})
        stage.finish()
    path = tmp_path / "a.job" / "pivots" / "000000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    match damage:
        case "flip":
            path.write_bytes(data)
        case "truncate":
            path.write_bytes(data[:-10])
        case "remove":
            path.unlink()
    with Job(tmp_path / "a.job") as job, caplog.at_level(logging.WARNING):
        stage = open_stage(job)
        assert stage.chunks == [1] and not stage.complete
        assert "000000.safetensors" in caplog.text and "computed again" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "null"])
def test_a_damaged_record_starts_the_stage_afresh(tmp_path, content):
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        stage.save(0, {"ws": np.arange(3)})
        (stage.folder / "stage.json").write_text(content)
        assert open_stage(job).chunks == []


def test_restart_forgets_stages_but_no_foreign_files(tmp_path):
    (tmp_path / "a.job").mkdir()
    (tmp_path / "a.job" / "notes.txt").write_text("mine")
    foreign = tmp_path / "a.job" / "model"
    foreign.mkdir()
    for name in ("stage.json", "000001.safetensors"):
        (foreign / name).write_text("mine")
    with Job(tmp_path / "a.job") as job:
        open_stage(job).save(0, {"ws": np.arange(3)})
        kept = job.stage("other", inputs={})
        kept.save(0, {"x": np.zeros(1)})
    with Job(tmp_path / "a.job", restart=STAGES) as job:
        assert open_stage(job).chunks == [] and job.stage("other", inputs={}).chunks == [0]
    assert (tmp_path / "a.job" / "notes.txt").read_text() == "mine"
    assert [(foreign / name).read_text() for name in ("stage.json", "000001.safetensors")] == ["mine", "mine"]


def test_rows_are_read_alone(tmp_path):
    rng = np.random.default_rng(1)
    crops = rng.integers(0, 255, (6, 3, 4, 4), dtype=np.uint8)
    ws = rng.normal(size=(6, 5)).astype(np.float32)
    with Job(tmp_path / "a.job") as job:
        stage = open_stage(job)
        stage.save(0, {"crops": crops, "ws": ws})
        np.testing.assert_array_equal(stage.read_rows(0, "crops", np.array([5, 0, 3])), crops[[5, 0, 3]])
        np.testing.assert_array_equal(stage.read_rows(0, "ws", np.array([2])), ws[[2]])


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


HOLDER = """
import sys, time
from hdtalk.job import Job
with Job(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_run_is_told_who_holds_the_job_and_a_dead_holder_is_no_obstacle(tmp_path):
    folder = tmp_path / "a.job"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HDTalkError, match=f"process {holder.pid} ") as refused, Job(folder):
            pass
        assert refused.value.exit_code == 1  # neither memory nor disk ran out
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    (folder / "pivots").mkdir()
    for name in (
        "pivots/.000000.safetensors.0a1b2c3d.part",
        "pivots/.stage.json.part",
        ".unfinished.json.0a1b2c3d.part",
    ):
        (folder / name).write_bytes(b"half")
    with Job(folder):
        assert not list(folder.glob("**/.*.part"))


def test_a_run_that_ends_forgets_its_own_outputs_only(tmp_path):
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    for path in (first, second):
        path.write_text("film")
    folder = tmp_path / "a.job"
    with Job(folder) as stopped:
        stopped.claim(first)
    with Job(folder) as job:
        job.claim(second)
        assert is_claimed(folder, first) and is_claimed(folder, second)
        job.release()
    assert is_claimed(folder, first) and not is_claimed(folder, second)
    with Job(folder) as job:
        job.claim(first)
        job.release()
    assert not list(folder.glob("unfinished*"))


def test_job_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--job"), Job(tmp_path / "file" / "a.job"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_become_stopped_and_the_old_handler_returns(number, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="a.job") as caught, stoppable(tmp_path / "a.job"):
        signal.raise_signal(number)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Stopped, match="the same command without --restart"), stoppable(tmp_path / "a.job", True):
        signal.raise_signal(number)


def test_a_full_disk_is_a_resource_error_and_other_failures_stay_what_they_are(tmp_path):
    with pytest.raises(ResourceError, match="disk is full"), stoppable(tmp_path):
        raise OSError(28, "No space left on device", "chunk")
    with pytest.raises(ResourceError, match="without --restart"), stoppable(tmp_path, restarted=True):
        raise OSError(28, "No space left on device", "chunk")
    with pytest.raises(PermissionError), stoppable(tmp_path):
        raise PermissionError(13, "Permission denied", "chunk")


def test_hashes_tell_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    zeros = np.zeros((2, 3), np.float32)
    assert len({array_hash(zeros), array_hash(zeros.T), array_hash(zeros.astype(np.int32)), array_hash(zeros + 1)}) == 4


def test_files_are_written_whole_with_the_rights_that_the_user_gives(tmp_path):
    path, before = tmp_path / "a.json", os.umask(0o027)
    try:
        write_atomically(path, b"old")
        assert path.stat().st_mode & 0o777 == 0o640
        with pytest.raises(ZeroDivisionError), temporary(path) as unfinished:
            unfinished.write_bytes(b"half")
            raise ZeroDivisionError
    finally:
        os.umask(before)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_other_peoples_files_survive_in_a_folder_given_as_job(tmp_path):
    """`--job .` in a project folder whose folders happen to bear the stages' names."""
    mine = [tmp_path / name for name in ("speech/take1.wav", "faces/a.jpg", "sub/.dl.part", "tuning/.dl.part")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with Job(tmp_path) as job:
        for name in ("speech", "faces"):
            with pytest.raises(UsageError, match="--job"):
                job.stage(name, inputs={})
        job.stage("crops", inputs={}).save(0, {"x": np.zeros(1)})
        (tmp_path / "crops" / "notes.txt").write_text("mine")
        again = job.stage("crops", inputs={"video": "another"})
        assert again.chunks == [] and not (tmp_path / "crops" / "000000.safetensors").exists()
    with Job(tmp_path, restart=["crops"]):
        assert not (tmp_path / "crops" / "stage.json").exists()
    assert all(path.read_text() == "mine" for path in [*mine, tmp_path / "crops" / "notes.txt"])
