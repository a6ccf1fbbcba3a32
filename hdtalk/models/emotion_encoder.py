"""How it is said: a 280 ms window of MFCC and prosody -> emotion code, and the linear classifier on top (EVP)."""

import torch
from torch import nn

from hdtalk.models.content_encoder import conv_block


class EmotionEncoder(nn.Module):
    """`windows` float32 `[N, 28, num_features]` -> codes `[N, code_size]` >= 0. EVP's sizes are width 64, hidden 2048,
    code 128, on 12 MFCC alone. With a gain-free MFCC neither pitch nor loudness is visible, so HDTalk appends the
    three prosody rows by default; `num_features=12` is EVP's network exactly. `across`: the first kernel sees all
    features at once, so that it knows which is which; EVP's maximum over the features cannot tell pitch from timbre."""

    def __init__(
        self,
        width: int = 64,
        hidden: int = 2048,
        code_size: int = 128,
        num_features: int = 15,
        num_emotions: int = 8,
        across: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_features, self.code_size = num_features, code_size
        if across:
            self.convolutions = nn.Sequential(
                conv_block(1, width, (num_features, 3), (0, 1)),  # [N, w, 1, 28]
                nn.MaxPool2d((1, 3), (1, 2)),
                conv_block(width, 2 * width, (1, 3), (0, 1)),
                conv_block(2 * width, 4 * width, (1, 3), (0, 1)),
                conv_block(4 * width, 8 * width, (1, 3), (0, 1)),
                nn.MaxPool2d((1, 2), (1, 2)),  # [N, 8w, 1, 6]
            )
        else:
            self.convolutions = nn.Sequential(
                conv_block(1, width),
                nn.MaxPool2d((1, 3), (1, 2)),  # [N, w, features, 13]
                conv_block(width, 2 * width),
                conv_block(2 * width, 4 * width),
                nn.MaxPool2d((num_features, 1)),  # [N, 4w, 1, 13]
                conv_block(4 * width, 8 * width),
                nn.MaxPool2d((1, 2), (1, 2)),  # [N, 8w, 1, 6]
            )
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Sequential(nn.Linear(8 * width * 6, hidden), nn.ReLU(), nn.Linear(hidden, code_size), nn.ReLU())
        self.classifier = nn.Linear(code_size, num_emotions)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.over_rows(windows)[:, 0]

    def over_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `[N, 4T + 24, num_features]` -> codes `[N, T, code_size]`, as in `ContentEncoder.over_rows`."""
        maps = self.convolutions(rows.transpose(1, 2)[:, None])  # [N, 8w, 1, T + 5]
        windows = maps[:, :, 0].unfold(2, 6, 1).transpose(1, 2)  # [N, T, 8w, 6]
        return self.dense(self.dropout(windows.flatten(2)))
