"""Sound features of a corpus: computed once, and again for everything that they depend on."""

import os

import numpy as np
import pytest
from clips import tone, write_wav

from hdtalk import audio
from hdtalk.training.mead import read_mead
from hdtalk.training.speech_data import load_takes


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
