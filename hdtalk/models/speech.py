"""All networks between speech and landmarks, as one module: what a bundle's speech file holds."""

import torch
from torch import nn

from hdtalk.models.alignment import AlignmentNetwork
from hdtalk.models.content_encoder import ContentEncoder
from hdtalk.models.emotion_encoder import EmotionEncoder
from hdtalk.models.landmark_predictor import LandmarkPredictor

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")  # EVP's label order


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

    def content(self, mfcc_rows: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """MFCC rows `[N, 4T + 24, 12]` -> content codes `[N, T, c]`. `mean`, `scale` `[12]` of the recording: taking
        them out removes microphone, room and timbre, and much of the emotion, before the network sees anything."""
        return self.content_encoder.over_rows((mfcc_rows - mean) / scale)

    def emotion(self, rows: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
        """MFCC and prosody rows `[N, 4T + 24, 15]` -> emotion codes `[N, T, e]`; average them over a stretch. `voice`
        `[N, 13]` or `[13]`: mean MFCC and pitch of the recording, for encoders that also see the rows relative to it
        (`num_features` 28)."""
        rows = relative_to_voice(rows, voice)[..., : len(self.feature_mean)]
        return self.emotion_encoder.over_rows((rows - self.feature_mean) / self.feature_scale)


def relative_to_voice(rows: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
    """Rows `[N, R, 15]` -> `[N, R, 28]`: MFCC and pitch once more, against the recording's own mean. One person's high
    voice is another one's low one; how far it rises tells more."""
    relative = rows[..., :13] - voice[..., None, :]
    voiced = (rows[..., 13:14] > 0.3).to(rows.dtype)
    return torch.cat([rows, relative[..., :12], relative[..., 12:] * voiced], -1)
