"""The demo's folder: what others put there stays."""

import pytest
import torch

import hdtalk.demo
from hdtalk.demo import run_demo, sample_shots
from hdtalk.errors import UsageError


def test_a_video_that_no_demo_made_is_not_replaced(tmp_path):
    name = next(iter(sample_shots()))
    own = tmp_path / f"{name}.mp4"
    own.write_bytes(b"holidays")
    with pytest.raises(UsageError, match="not from an earlier demo"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [own.name] and own.read_bytes() == b"holidays"
    (tmp_path / f"{name}.json").write_text('{"inputs": {"video": {"sha256": "another"}}}')  # an edit of one's own
    with pytest.raises(UsageError, match="not from an earlier demo"):
        run_demo(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and own.read_bytes() == b"holidays"


def test_an_unknown_shot_is_named_with_those_that_there_are(tmp_path):
    with pytest.raises(UsageError, match=f"no sample shot called zoe; there are {', '.join(sample_shots())}"):
        run_demo(tmp_path / "out", "zoe")
    assert not (tmp_path / "out").exists()


def test_the_scores_are_measured_on_the_device_asked_for(tmp_path, monkeypatch):
    class Measured(Exception):
        """Carries the device."""

    def installed_instruments(bundle, device="cpu"):
        raise Measured(device)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(hdtalk.demo, "edit_video", lambda *_, **__: None)
    monkeypatch.setattr(hdtalk.demo, "installed_instruments", installed_instruments)
    with pytest.raises(Measured) as asked:
        run_demo(tmp_path, device="cuda")
    assert asked.value.args == (torch.device("cuda"),)
