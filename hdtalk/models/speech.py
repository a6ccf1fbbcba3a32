"""All networks between speech and landmarks, as one module: what a bundle's speech file holds."""

import torch
from torch import nn

from hdtalk.models.alignment import AlignmentNetwork
from hdtalk.models.content_encoder import ContentEncoder
from hdtalk.models.emotion_encoder import EmotionEncoder
from hdtalk.models.landmark_predictor import LandmarkPredictor

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")  # EVP's label order
VOICED_ABOVE = 0.3  # of the voicing row


class SpeechModel(nn.Module):
    """Sizes are given per network, as keyword arguments of its class. The predictor steps at 25 fps; landmarks at other
    rates are interpolated. `emotion_codes` `[8, code]`: the centre of each emotion at full intensity."""

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor
    emotion_codes: torch.Tensor

    def __init__(
        self,
        content_encoder: dict | None = None,
        emotion_encoder: dict | None = None,
        landmark_predictor: dict | None = None,
        alignment: dict | None = None,
    ):
        super().__init__()
        self.content_encoder = ContentEncoder(**content_encoder or {})
        self.emotion_encoder = EmotionEncoder(**emotion_encoder or {})
        self.landmark_predictor = LandmarkPredictor(**landmark_predictor or {})
        self.alignment = AlignmentNetwork(**alignment or {})
        num_features = self.emotion_encoder.num_features
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_scale", torch.ones(num_features))
        self.register_buffer("emotion_codes", torch.zeros(len(EMOTIONS), self.emotion_encoder.code_size))

    def content(self, rows: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """MFCC and prosody rows `[N, 4T + 24, 18]` -> content codes `[N, T, c]`. `mean`, `scale` `[12]` of the
        recording's MFCC: taking them out removes microphone, room and timbre, and much of the emotion, before the
        network sees anything."""
        freed = freed_of_voice(rows, mean, scale)
        return self.content_encoder.over_rows(freed[..., : self.content_encoder.num_features])

    def emotion(self, rows: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
        """MFCC and prosody rows `[N, 4T + 24, 18]` -> emotion codes `[N, T, e]`; average them over a stretch. `voice`
        `[N, 24]` or `[24]`: what is constant in the recording (`voices_of`), for encoders that also see the rows
        relative to it (`num_features` 28), how it moves (36), and how harmonic and rough it is (42)."""
        rows = relative_to_voice(rows, voice)[..., : len(self.feature_mean)]
        return self.emotion_encoder.over_rows((rows - self.feature_mean) / self.feature_scale)


def freed_of_voice(rows: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rows `[N, R, 18]` -> `[N, R, 13]`: MFCC less the recording's mean, over its deviation, and the energy."""
    return torch.cat([(rows[..., :12] - mean) / scale, rows[..., 14:15]], -1)


def relative_to_voice(rows: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
    """Rows `[N, R, 18]` -> `[N, R, 42]`: MFCC and pitch once more, against the recording's own mean, as one person's
    high voice is another one's low one; and how the voice moves, the same in every row, as no window of 280 ms shows
    the range of a melody or the pace of a sentence. Harmonicity and roughness come last, the recording's and the
    rows'."""
    relative = rows[..., :13] - voice[..., None, :13]
    voiced = (rows[..., 13:14] > VOICED_ABOVE).to(rows.dtype)
    moves = voice[..., None, 13:].expand(*rows.shape[:-1], -1)
    return torch.cat([rows[..., :15], relative[..., :12], relative[..., 12:] * voiced, moves, rows[..., 15:]], -1)


def voices_of(rows: torch.Tensor, speaking: torch.Tensor) -> torch.Tensor:
    """What is constant in recordings: rows `[N, R, 18]`, and where they hold speech, bool `[N, R]` -> `[N, 24]`: mean
    MFCC, mean pitch (octaves against 150 Hz); then the pitch's deviation, its rise over the last quarter, its step from
    row to row; the energy's deviation, step and flutter; the step of the MFCC; the share of voiced rows; and the mean
    harmonicity and roughness of these."""
    speaking = spoken_rows(speaking)
    voiced = rows[..., 13] > VOICED_ABOVE
    mfcc, pitch, energy = rows[..., :12], rows[..., 12], rows[..., 14]
    both_voiced, both_speaking = voiced[:, 1:] & voiced[:, :-1], speaking[:, 1:] & speaking[:, :-1]
    count = voiced.cumsum(1)
    ending = voiced & (count > 0.75 * count[:, -1:])
    mean_pitch, mean_energy = _mean(pitch, voiced), _mean(energy, speaking)
    moves = [
        _mean((pitch - mean_pitch[:, None]) ** 2, voiced).sqrt(),
        _mean(pitch, ending) - mean_pitch,
        _mean(pitch.diff(dim=1).abs(), both_voiced),
        _mean((energy - mean_energy[:, None]) ** 2, speaking).sqrt(),
        _mean(energy.diff(dim=1).abs(), both_speaking),
        _mean(energy.diff(n=2, dim=1).abs(), both_speaking[:, 1:] & both_speaking[:, :-1]),
        _mean(mfcc.diff(dim=1).abs().mean(-1), both_speaking),
        _mean(voiced.to(rows.dtype), speaking),
    ]
    means = [_mean(mfcc, speaking[..., None]), mean_pitch[:, None]]
    return torch.cat([*means, torch.stack(moves, 1), _mean(rows[..., 15:], voiced[..., None])], 1)


def spoken_rows(speaking: torch.Tensor) -> torch.Tensor:
    """Rows that a voice's statistics are taken over, bool `[N, R]`: those that hold speech; all where these are few."""
    return torch.where(speaking.sum(1, keepdim=True) >= 10, speaking, True)


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Over dimension 1 where `where`; 0 where that is nowhere."""
    return (values * where).sum(1) / where.sum(1).clamp(min=1)
