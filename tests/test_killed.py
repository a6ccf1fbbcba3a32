"""kill -9 at any moment, resumed each time, ends in the video of an undisturbed run."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from hdtalk import media

SETTINGS = {
    "invert.steps": 6,
    "invert.shared_steps": 2,
    "invert.refine_steps": 2,
    "invert.chunk_frames": 3,
    "invert.checkpoint_s": 0,
    "optimise.steps": 2,
    "optimise.warm_steps": 1,
    "optimise.anchors": 2,
    "optimise.chunk_frames": 3,
    "stitch.steps": 1,
}
KILLS = 10


def state_of(job):
    """What lies in the job's folder, half-written files included."""
    found = set()
    for path in job.rglob("*") if job.exists() else ():
        try:
            found.add((str(path), path.stat().st_mtime_ns, path.stat().st_size))
        except FileNotFoundError:  # renamed meanwhile
            found.add((str(path), 0, 0))
    return found


@pytest.mark.timeout(600)
def test_killed_ten_times_and_resumed(tiny_bundle_folder, tiny_shot, tmp_path):
    video, track, speech = tiny_shot
    np.savez(tmp_path / "track.npz", landmarks_px=track)
    np.savez(tmp_path / "target.npz", landmarks_px=track[::-1])

    def start(output):
        command = [sys.executable, "-m", "hdtalk", "edit", video, speech, "-o", tmp_path / output]
        command += ["--bundle", tiny_bundle_folder, "--precision", "float32"]
        command += ["--track", tmp_path / "track.npz", "--landmarks", tmp_path / "target.npz"]
        command += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(process):
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error.decode()

    finish(start("whole.mp4"))
    rng = np.random.default_rng(0)
    job, killed_in = tmp_path / "cut.mp4.job", []
    for _ in range(KILLS):
        process, seen = start("cut.mp4"), state_of(job)
        changes = int(rng.integers(1, 9))  # of the folder, before the blow
        while changes and process.poll() is None:
            now = state_of(job)
            changes -= now != seen
            seen = now
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.02)))
        process.kill()
        process.communicate()
        assert process.returncode == -9, "it ended before it was killed: too few files to count"
        killed_in.append(len(list(job.glob("*/stage.json"))))
        assert not (tmp_path / "cut.mp4").exists()
    assert len(set(killed_in)) >= 3  # blows fell in different stages
    finish(start("cut.mp4"))
    whole, cut = (np.stack(list(media.read_frames(tmp_path / name))) for name in ("whole.mp4", "cut.mp4"))
    np.testing.assert_array_equal(cut, whole)
    scores = [json.loads((tmp_path / name).read_text())["scores"] for name in ("whole.json", "cut.json")]
    assert scores[0] == scores[1]
