"""Predicted landmarks take on the head pose of the original ones: one cross-attention and a dense layer."""

import torch
from torch import nn


class AlignmentNetwork(nn.Module):
    """HDTalk paper, equation (1): softmax(Q K^T / sqrt(t)) V with Q from the predicted landmarks' tokens, K and V
    from the original landmarks' tokens, t the token size; then one dense layer. A token is an embedding of one
    landmark's position, plus a vector that says which landmark it is."""

    def __init__(self, token_size: int = 64, hidden: int = 128):
        super().__init__()
        self.token_size = token_size
        self.embed_predicted = _LandmarkTokens(token_size, hidden)
        self.embed_original = _LandmarkTokens(token_size, hidden)
        self.query = nn.Linear(token_size, token_size, bias=False)
        self.key = nn.Linear(token_size, token_size, bias=False)
        self.value = nn.Linear(token_size, token_size, bias=False)
        self.dense = nn.Linear(68 * token_size, 136)

    def forward(self, original: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """`original` (pose) and `predicted` (face), both `[N, 68, 2]` in face units -> aligned `[N, 68, 2]`."""
        attended = self.attend(self.embed_predicted(predicted), self.embed_original(original))
        return self.dense(attended.flatten(1)).unflatten(-1, (68, 2))

    def attend(self, predicted_tokens: torch.Tensor, original_tokens: torch.Tensor) -> torch.Tensor:
        """Equation (1) on tokens `[N, 68, t]`."""
        scores = self.query(predicted_tokens) @ self.key(original_tokens).transpose(1, 2) / self.token_size**0.5
        return scores.softmax(-1) @ self.value(original_tokens)


class _LandmarkTokens(nn.Module):
    def __init__(self, token_size: int, hidden: int):
        super().__init__()
        self.whole = nn.Sequential(nn.Linear(136, hidden), nn.ReLU(), nn.Linear(hidden, token_size))
        self.point = nn.Linear(2, token_size)
        self.which = nn.Parameter(0.1 * torch.randn(68, token_size))

    def forward(self, landmarks: torch.Tensor) -> torch.Tensor:
        # A point's token knows the whole face too: where a lip lies depends on how far the head is turned.
        return self.point(landmarks) + self.which + self.whole(landmarks.flatten(1))[:, None]
