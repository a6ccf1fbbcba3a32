"""All networks between speech and landmarks, as one module: what a bundle's speech file holds."""

import torch
from torch import nn

from hdtalk.models.alignment import AlignmentNetwork
from hdtalk.models.content_encoder import ContentEncoder
from hdtalk.models.emotion_encoder import EmotionEncoder
from hdtalk.models.landmark_predictor import LandmarkPredictor

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")  # EVP's label order


class SpeechModel(nn.Module):
    """Sizes are given per network, as keyword arguments of its class. `fps`: the rate at which the predictor steps;
    other rates are interpolated. `emotion_codes` `[8, code]`: the centre of each emotion at full intensity."""

    def __init__(
        self,
        content_encoder: dict | None = None,
        emotion_encoder: dict | None = None,
        landmark_predictor: dict | None = None,
        alignment: dict | None = None,
        fps: float = 25,
    ):
        super().__init__()
        self.fps = fps
        self.content_encoder = ContentEncoder(**content_encoder or {})
        self.emotion_encoder = EmotionEncoder(**emotion_encoder or {})
        self.landmark_predictor = LandmarkPredictor(**landmark_predictor or {})
        self.alignment = AlignmentNetwork(**alignment or {})
        num_features = self.emotion_encoder.num_features
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_scale", torch.ones(num_features))
        self.register_buffer("emotion_codes", torch.zeros(len(EMOTIONS), self.emotion_encoder.code_size))

    def content(self, mfcc_windows: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """MFCC `[..., 28, 12]` -> content codes `[..., c]`. `mean`, `scale` `[12]` of the recording: taking them out
        removes microphone, room and voice timbre, and with them much of the emotion, before the network sees it."""
        windows = (mfcc_windows - mean) / scale
        return self.content_encoder(windows.flatten(0, -3)).unflatten(0, windows.shape[:-2])

    def emotion(self, mfcc_windows: torch.Tensor, prosody_windows: torch.Tensor) -> torch.Tensor:
        """MFCC `[..., 28, 12]`, prosody `[..., 28, 3]` -> emotion codes `[..., e]`; average them over a stretch."""
        windows = torch.cat([mfcc_windows, prosody_windows], -1)[..., : len(self.feature_mean)]
        windows = (windows - self.feature_mean) / self.feature_scale
        return self.emotion_encoder(windows.flatten(0, -3)).unflatten(0, windows.shape[:-2])
