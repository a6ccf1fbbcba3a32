"""Sound features of a corpus: computed once, and again for everything that they depend on."""

import os

import numpy as np
import pytest
from clips import tone, write_wav

from hdtalk import audio
from hdtalk.face_units import STILL_POINTS, lip_gap, to_face_units
from hdtalk.training.mead import read_mead
from hdtalk.training.speech_data import displacements, load_takes


@pytest.fixture
def decoded(monkeypatch):
    """The recordings that were read, in order."""
    paths, real = [], audio.read_audio
    monkeypatch.setattr(audio, "read_audio", lambda path: paths.append(path) or real(path))
    return paths


def write_actor(root, numbers, seconds=0.5):
    for number in numbers:
        path = root / "M003" / "audio" / "neutral" / "level_1" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, *tone(seconds))
    return read_mead(root)


def test_parts_of_one_actor_keep_their_features(tmp_path, decoded):
    clips = write_actor(tmp_path / "MEAD", ("001", "002", "003"))
    parts = clips[:2], clips[2:]
    first = [load_takes(part, tmp_path / "features", 1) for part in parts]
    assert len(decoded) == 3
    second = [load_takes(part, tmp_path / "features", 1) for part in parts]
    assert len(decoded) == 3
    for take, again in zip(sum(first, []), sum(second, []), strict=True):
        assert len(again.sounds) == 2
        for sound, same in zip(take.sounds, again.sounds, strict=True):
            np.testing.assert_array_equal(sound.mfcc, same.mfcc)
            np.testing.assert_array_equal(sound.prosody, same.prosody)


def test_features_of_others_are_not_taken(tmp_path, decoded):
    features = tmp_path / "features"
    clips = write_actor(tmp_path / "one", ("001",))
    longer = write_actor(tmp_path / "two", ("001",), seconds=0.8)
    assert load_takes(clips, features, 0)[0].sounds[0].num_samples == 8000
    assert load_takes(longer, features, 0)[0].sounds[0].num_samples == 12800  # another corpus
    for change in ({"seed": 1}, {"versions": 1}):
        before = len(decoded)
        load_takes(clips, features, **{"versions": 0, **change})
        assert len(decoded) == before + 1
    status = clips[0].audio.stat()
    write_wav(clips[0].audio, *tone(0.5, hertz=300.0))  # as long as before, only later
    os.utime(clips[0].audio, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    before = len(decoded)
    load_takes(clips, features, 0)
    assert len(decoded) == before + 1


def turned_person(rng, num_clips=24, num_frames=80):
    """A head of 68 points with depth that speaks and smiles while it turns: front views by clip, the neutral face, and
    what speech and smiles do, `[T,68,2]` by clip, face units."""
    head = np.concatenate([rng.uniform(-1, 1, (68, 2)), rng.uniform(-0.5, 0.2, (68, 1))], 1)
    head[[36, 39, 42, 45, 27, 28, 29, 30, 33]] = [
        (-0.5, 0, 0), (-0.2, 0, 0.1), (0.2, 0, 0.1), (0.5, 0, 0), *[(0, 0.1 * k, 0.25 + 0.1 * k) for k in range(4)],
        (0, 0.45, 0.4),
    ]  # fmt: skip
    head[48:68, 2] = 0.1  # the mouth lies in one plane
    fronts, moves = {}, {}
    for clip in range(num_clips):
        opening, smile = np.abs(np.sin(np.arange(num_frames) * rng.uniform(0.2, 0.6, (2, 1))))
        smile += rng.uniform(0, 1)
        moved = np.zeros((num_frames, 68, 2))
        moved[:, 65:68, 1] = 0.1 * opening[:, None]
        moved[:, [48, 54]] = smile[:, None, None] * np.array([[-0.05, -0.08], [0.05, -0.08]])
        points = np.repeat(head[None], num_frames, 0)
        points[..., :2] += moved
        phase = rng.uniform(0.06, 0.12, (2, 1)) * np.arange(num_frames)
        yaw, pitch = rng.normal(0, 0.035, (2, 1)) + 0.03 * np.sin(phase)
        plane = np.stack(
            [points[..., 0] + yaw[:, None] * points[..., 2], points[..., 1] - pitch[:, None] * points[..., 2]], -1
        )
        fronts[str(clip)], moves[str(clip)] = to_face_units(plane * 200 + 500)[0], moved
    return fronts, to_face_units(head[None, :, :2] * 200 + 500)[0][0], moves


def test_what_turns_of_the_head_do_is_no_displacement():
    fronts, neutral, moves = turned_person(np.random.default_rng(0))
    scale = np.linalg.norm(neutral[45] - neutral[36])  # of face units; 1 in the head's own
    found = displacements(fronts, neutral)
    mouth = slice(48, 68)
    with_turns, without = (
        np.mean([np.abs(faces[name] - scale * moves[name])[:, mouth].mean() for name in moves])
        for faces in ({name: front - neutral for name, front in fronts.items()}, found)
    )
    assert without < 0.4 * with_turns
    for name, move in moves.items():
        opening = lip_gap(neutral + found[name])
        assert np.corrcoef(opening, move[:, 66, 1])[0, 1] > 0.99


def test_a_single_still_frame_keeps_its_displacement():
    fronts, neutral, _ = turned_person(np.random.default_rng(1), num_clips=1, num_frames=1)
    ((name, front),) = fronts.items()
    np.testing.assert_allclose(displacements(fronts, neutral)[name], front - neutral, atol=1e-6)
    assert not {*range(48, 68)} & set(STILL_POINTS)
