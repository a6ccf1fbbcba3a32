"""Content code and emotion code -> the MFCC window they came from: the decoder of cross-reconstruction (EVP)."""

import torch
from torch import nn


class SpeechDecoder(nn.Module):
    """`content` `[N, content_size]`, `emotion` `[N, emotion_size]` -> windows `[N, 28, 12]` in (-limit, limit).
    EVP's sizes are width 256, content 256, emotion 128, limit 90."""

    def __init__(self, width: int = 256, content_size: int = 256, emotion_size: int = 128, limit: float = 90.0):
        super().__init__()
        self.limit = limit
        self.layers = nn.Sequential(
            _up_block(content_size + emotion_size, width, 6, 2, 1),  # [N, w, 4, 4]
            _up_block(width, width // 2, (4, 2), 2, 1),  # [N, w/2, 8, 6]
            _up_block(width // 2, width // 4, 4, 2, 1),  # [N, w/4, 16, 12]
            _up_block(width // 4, width // 8, (4, 3), (2, 1), (3, 1)),  # [N, w/8, 28, 12]
            nn.ConvTranspose2d(width // 8, 1, 3, 1, 1),
        )

    def forward(self, content: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        code = torch.cat([content, emotion], 1)[..., None, None]
        return self.limit * torch.tanh(self.layers(code)[:, 0])


def _up_block(channels_in: int, channels_out: int, kernel, stride, padding) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(channels_in, channels_out, kernel, stride, padding)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
