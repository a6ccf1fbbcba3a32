"""How codes move with mouths, as other talking heads showed it."""

import torch
from torch import nn


class MouthCodes(nn.Module):
    """Samples of heads that talk, each counted from the same head with its lips closed.

    `moves`: landmarks `[samples, 68, 2]`, in sides of the crop; `coordinates`: of the codes' offsets, `[samples, K]`,
    along `basis` `[K, num_ws, 512]`. Made by `scripts/make_mouth_codes`.
    """

    moves: torch.Tensor
    coordinates: torch.Tensor
    basis: torch.Tensor

    def __init__(self, samples: int, components: int, num_ws: int):
        super().__init__()
        self.register_buffer("moves", torch.zeros(samples, 68, 2))
        self.register_buffer("coordinates", torch.zeros(samples, components))
        self.register_buffer("basis", torch.zeros(components, num_ws, 512))

    def offsets(self) -> torch.Tensor:
        """Of the codes, `[samples, num_ws, 512]`."""
        return torch.einsum("nk,kld->nld", self.coordinates, self.basis)
