"""Windows of video frames: centred at every frame rate, whatever the chunk, and shared rows at 25 fps."""

from fractions import Fraction

import numpy as np
import pytest

from hdtalk.data import SpeechFeatures
from hdtalk.windows import exact_fps, mfcc_windows, num_video_frames, prosody_windows, silent_frames, stretch_of_rows

ROWS = 400


@pytest.fixture
def speech():
    """Each row says its own middle in seconds."""
    seconds = (np.arange(ROWS) * 0.01 + 0.0125).astype(np.float32)
    silent = np.arange(ROWS) >= 300
    return SpeechFeatures(
        np.repeat(seconds[:, None], 12, 1),
        np.zeros((ROWS, 6), np.float32),
        silent,
        np.full(12, -1, np.float32),
        64000,
        -20,
    )


@pytest.mark.parametrize("fps", ["24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60", "12.5"])
def test_windows_are_centred_on_the_middle_of_their_frames(speech, fps):
    fps = Fraction(fps)
    windows = mfcc_windows(speech, fps)
    assert windows.shape == (num_video_frames(speech, fps), 28, 12)
    frames = np.arange(len(windows))
    inside = (frames > 0.2 * fps) & (frames < 3.7 * fps)
    middles = (frames + 0.5) / float(fps)
    assert np.abs(windows.mean((1, 2)) - middles)[inside].max() <= 0.005 + 1e-6


@pytest.mark.parametrize("fps", ["25", "30000/1001", "60"])
def test_chunks_equal_the_whole(speech, fps):
    whole = mfcc_windows(speech, Fraction(fps))
    parts = [mfcc_windows(speech, Fraction(fps), 13, start) for start in range(0, len(whole), 13)]
    np.testing.assert_array_equal(np.concatenate(parts)[: len(whole)], whole)


def test_a_long_video_does_not_drift():
    rows = 100 * 3600
    seconds = np.repeat((np.arange(rows) * 0.01 + 0.0125)[:, None], 12, 1)
    speech = SpeechFeatures(seconds, seconds[:, :6], np.zeros(rows, bool), np.zeros(12), 3600 * 16000, -20)
    last = num_video_frames(speech, 29.97) - 10
    assert mfcc_windows(speech, 29.97, 1, last).mean() == pytest.approx((last + 0.5) * 1001 / 30000, abs=0.005)


def test_stretches_hold_the_rows_of_the_windows(speech):
    rows, windows = stretch_of_rows(speech, 9, 20), mfcc_windows(speech, 25, 9, 20)
    assert rows.shape == (60, 18)
    for part, expected in ((rows[:, :12], windows), (rows[:, 12:], prosody_windows(speech, 25, 9, 20))):
        np.testing.assert_array_equal(np.stack([part[4 * t : 4 * t + 28] for t in range(9)]), expected)


def test_beyond_the_speech_there_is_silence(speech):
    windows = mfcc_windows(speech, 25, 200)
    assert (windows[150:] == -1).all()
    assert (windows[0, :10] == -1).all()
    silent = silent_frames(speech, 25, 200)
    assert not silent[:74].any()
    assert silent[76:].all()


@pytest.mark.parametrize(
    ("given", "exact"),
    [(29.97, "30000/1001"), (23.976, "24000/1001"), (59.94, "60000/1001"), (25.0, "25"), (12.5, "25/2")],
)
def test_floats_become_the_rates_they_stand_for(given, exact):
    assert exact_fps(given) == Fraction(exact)
