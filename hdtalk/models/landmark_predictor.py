"""Content and emotion codes over time -> landmark displacements of a face with the given neutral geometry."""

from collections.abc import Sequence

import torch
from torch import nn

State = tuple[torch.Tensor, torch.Tensor]


class LandmarkPredictor(nn.Module):
    """LSTM, then a two-layer MLP (HDTalk paper III.A; the reference branch as in EVP). Sizes of the papers: reference
    256 -> 512, LSTM 3 x 256. Displacements come out in the basis `components` `[k, 136]`, a principal subspace of
    the training displacements: face units (outer eye corners 1 apart), frontal, relative to the neutral face.
    `lookahead`: the frames from now whose content the LSTM hears beside the present one's; the papers have none.
    """

    def __init__(
        self,
        content_size: int = 256,
        emotion_size: int = 128,
        reference_sizes: tuple[int, int] = (256, 512),
        lstm_size: int = 256,
        lstm_layers: int = 3,
        num_components: int = 32,
        lookahead: Sequence[int] = (),
    ):
        super().__init__()
        self.content_size, self.emotion_size = content_size, emotion_size
        self.lookahead, self.reach = tuple(lookahead), max(lookahead, default=0)
        first, second = reference_sizes
        self.reference = nn.Sequential(nn.Linear(136, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        self.lstm = nn.LSTM(
            second + (1 + len(self.lookahead)) * content_size + emotion_size, lstm_size, lstm_layers, batch_first=True
        )
        self.mlp = nn.Sequential(nn.Linear(lstm_size, lstm_size), nn.ReLU(), nn.Linear(lstm_size, num_components))
        self.register_buffer("components", torch.zeros(num_components, 136))
        self.register_buffer("component_scale", torch.ones(num_components))

    def forward(
        self, neutral: torch.Tensor, content: torch.Tensor, emotion: torch.Tensor, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        """`neutral` `[N, 68, 2]`, `content` `[N, T + reach, c]`, `emotion` `[N, T, e]` -> displacements
        `[N, T, 68, 2]` and the LSTM's state, which goes into the next chunk of a stream."""
        num_frames = emotion.shape[1]
        reference = self.reference(neutral.flatten(1))[:, None].expand(-1, num_frames, -1)
        later = [content[:, k : k + num_frames] for k in self.lookahead]
        hidden, state = self.lstm(torch.cat([reference, content[:, :num_frames], emotion, *later], -1), state)
        weights = self.mlp(hidden) * self.component_scale
        return (weights @ self.components).unflatten(-1, (68, 2)), state
