"""What is said: a 280 ms window of MFCC and energy -> content code (the audio encoder of ATVGnet and EVP)."""

import torch
from torch import nn


class ContentEncoder(nn.Module):
    """`windows` float32 `[N, 28, num_features]` -> codes `[N, code_size]` >= 0. Papers: width 64, hidden 2048, code
    256, on MFCC 1 to 12 alone. These do not tell how loud a moment is, which a closing mouth changes most and noise
    least: with 13 features the energy follows them.
    `across`: the first kernel sees all coefficients at once, as cepstra are no picture and their neighbours not alike;
    it needs a ninth of the operations at the same width."""

    def __init__(
        self,
        width: int = 64,
        hidden: int = 2048,
        code_size: int = 256,
        num_features: int = 12,
        across: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_features = num_features
        if across:
            self.convolutions = nn.Sequential(
                conv_block(1, width, (3, num_features), (1, 0)),  # [N, w, 28, 1]
                conv_block(width, 2 * width, (3, 1), (1, 0)),
                nn.MaxPool2d((5, 1), (2, 1)),  # [N, 2w, 12, 1]
                conv_block(2 * width, 4 * width, (3, 1), (1, 0)),
                conv_block(4 * width, 4 * width, (3, 1), (1, 0)),
            )
            features = 4 * width * 12
        else:
            self.convolutions = nn.Sequential(
                conv_block(1, width),
                conv_block(width, 2 * width),
                nn.MaxPool2d(3, (1, 2)),  # [N, 2w, 26, 5]
                conv_block(2 * width, 4 * width),
                conv_block(4 * width, 4 * width),
                conv_block(4 * width, 8 * width),
                nn.MaxPool2d(3, 2),  # [N, 8w, 12, 2]
            )
            features = 8 * width * 12 * 2
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, code_size), nn.ReLU())

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.over_rows(windows)[:, 0]

    def over_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `[N, 4T + 24, num_features]` -> codes `[N, T, code_size]` of T windows, four rows apart, at the price of
        less than two: what windows share is computed once. Inside the stretch a window's border sees its neighbours
        where it would see zeros alone."""
        maps = self.convolutions(rows[:, None])  # [N, 8w, 2T + 10, 2]; across: [N, 4w, 2T + 10, 1]
        windows = maps.unfold(2, 12, 2).permute(0, 2, 1, 4, 3)  # [N, T, 8w, 12, 2]
        return self.dense(self.dropout(windows.flatten(2)))


def conv_block(channels_in: int, channels_out: int, kernel=3, padding=1) -> nn.Sequential:
    """Convolution without bias (3x3: the size stays), batch norm, ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
