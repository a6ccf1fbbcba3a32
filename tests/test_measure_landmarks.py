"""The score of target landmarks: nothing for the truth, one for a take left as it is."""

import numpy as np
import pytest
from script_module import load_script

import hdtalk.speech_landmarks
from hdtalk.config import SpeechConfig


@pytest.fixture(scope="module")
def judge():
    return load_script("measure_landmarks").judge


@pytest.mark.parametrize("truth_share", [0.0, 0.5, 1.0])
def test_the_share_of_the_error_that_is_left_is_the_score(judge, tiny_shot, monkeypatch, truth_share):
    source = np.concatenate([tiny_shot[1]] * 5)
    truth = source.copy()
    opening = 3 * np.sin(np.arange(len(source)))[:, None]
    truth[:, [56, 57, 58, 65, 66, 67], 1] += 3 + opening
    truth[:, 5:12, 1] += 1 + opening / 2
    monkeypatch.setattr(
        hdtalk.speech_landmarks, "predict_landmarks", lambda *_, **__: source + truth_share * (truth - source)
    )
    scores = judge(
        source,
        truth,
        *np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype(np.float32),
        "neutral:1.0",
        None,
        SpeechConfig(),
    )
    for name in ("mouth", "jaw", "jitter"):
        assert scores[name] == pytest.approx(1 - truth_share, abs=1e-4)
    if truth_share == 1:
        assert scores["opening"] == pytest.approx(1, abs=1e-4)
