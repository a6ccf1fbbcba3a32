"""LSE-D and LSE-C: features built so that the answer is known, and the windows that SyncNet is given."""

import numpy as np
import pytest
import torch

from hdtalk.metrics.lse import lse, lse_of_features


def test_features_that_match_after_a_shift():
    """Sound 4 frames late against the lips: one shift has distance ~0, the others the distance of strangers."""
    lips = torch.eye(60)
    sounds = torch.roll(lips, 4, 0)
    sounds[:4] = 0
    least, confidence = lse_of_features(lips, sounds)
    # At the right shift 56 windows agree (pairwise_distance adds 1e-6 per coordinate) and 4 meet the zero padding.
    assert least == pytest.approx(4 / 60, abs=1e-4)
    # At a wrong shift a window meets another unit vector (distance sqrt 2) or zeros (distance 1).
    assert 1.2 < confidence + least < 2**0.5


def test_formula_against_plain_loops():
    random = np.random.default_rng(0)
    lips, sounds = random.normal(size=(2, 23, 8))
    means = []
    for shift in range(-15, 16):
        distances = []
        for t in range(23):
            other = sounds[t + shift] if 0 <= t + shift < 23 else np.zeros(8)
            distances.append(np.sqrt(((lips[t] - other + 1e-6) ** 2).sum()))
        means.append(np.mean(distances))
    expected = min(means), np.median(means) - min(means)
    assert lse_of_features(torch.tensor(lips), torch.tensor(sounds)) == pytest.approx(expected, rel=1e-9)


class Recorder(torch.nn.Module):
    """Stands where SyncNet stands: its features are what it was shown."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.seen_lips, self.seen_audio = [], []

    def lips(self, x):
        self.seen_lips.append(x)
        return x.flatten(1)[:, :4]

    def audio(self, x):
        self.seen_audio.append(x)
        return x.flatten(1)[:, :4]


def test_windows_pair_five_bgr_frames_with_twenty_mfcc_steps():
    faces = np.zeros((12, 224, 224, 3), np.uint8)
    faces[..., 0] = np.arange(12)[:, None, None]  # red counts the frames
    mfcc = np.repeat(np.arange(60.0)[:, None], 13, axis=1)
    net = Recorder()
    lse(faces, mfcc, num_samples=11 * 640 + 5, syncnet=net, batch_size=4)
    lips, audio = torch.cat(net.seen_lips), torch.cat(net.seen_audio)
    assert lips.shape == (8, 3, 5, 224, 224) and audio.shape == (6, 1, 13, 20)  # of sound min(12, 11) - 5
    assert lips[3, 2, :, 0, 0].tolist() == [3, 4, 5, 6, 7] and lips[:, :2].abs().max() == 0
    assert audio[3, 0, 0].tolist() == list(range(12, 32))


def test_a_clip_too_short_has_no_value():
    faces = np.zeros((5, 224, 224, 3), np.uint8)
    assert np.isnan(lse(faces, np.zeros((20, 13)), 5 * 640, Recorder())).all()
    assert np.isnan(lse(faces, np.zeros((2, 13)), 400, Recorder())).all()
