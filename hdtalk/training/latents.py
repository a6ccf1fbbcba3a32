"""Gives a generator its mapping network: z ~ N(0, I) to the w of faces that occur, in closed form.

Where the generator was distilled and its mapping network never trained, the codes of pictures are there all the same:
the encoder's. A normal distribution with their mean and covariance samples plausible heads, and its principal
components are the directions in which edits may go. A linear map of z is that distribution, and eight layers of leaky
ReLU can be set to be that map exactly, so nothing is descended.
"""

from typing import Any

import numpy as np
import torch

from hdtalk.device import resolve_precision
from hdtalk.invert import encode_pivots
from hdtalk.training.loop import picture_grid, to_uint8
from hdtalk.training.rendered import RenderedStills

FAR = 8.0  # standard deviations: the first layers stay on the straight side of the leaky ReLU up to here
SLOPE, GAIN = 0.2, 2**0.5  # of the mapping network's leaky ReLU


def codes_of(encoder: Any, stills: RenderedStills, count: int = 2048, batch_size: int = 16) -> torch.Tensor:
    """w of `count` pictures spread over the stills: the mean over the rows of the encoder's W+, float32 [n,512]."""
    chosen = np.unique(np.linspace(0, len(stills) - 1, count).astype(int))
    dtype = resolve_precision("auto", next(encoder.parameters()).device)
    codes = []
    for part in np.array_split(chosen, max(1, len(chosen) // (8 * batch_size))):
        crops = stills.pictures(part).transpose(0, 3, 1, 2)
        codes.append(encode_pivots(encoder, crops, batch_size, dtype).mean(1))
    return torch.cat(codes)


@torch.no_grad()
def set_mapping(generator: Any, codes: torch.Tensor) -> None:
    """Sets `generator.style` so that z ~ N(0, I) gives w ~ N(mean, covariance of `codes`), and the mean latent.

    `codes`: [N, w_dim]; z and w must have one size. Raises ValueError where they have not, or for fewer than three
    layers.
    """
    layers = list(generator.style)[1:]  # the first only normalises
    if generator.z_dim != generator.w_dim or len(layers) < 3:
        raise ValueError(f"needs z and w of one size and three layers, got {generator.z_dim}, {generator.w_dim}")
    mean = codes.double().mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(codes.double().T))
    # The sign of each direction and their order are free: the largest first, pointing up
    directions = directions.flip(1) * directions.flip(1).sum(0).sign()
    root = directions * variances.flip(0).clamp(min=0).sqrt()
    one = torch.eye(len(mean), dtype=torch.float64, device=codes.device)
    zero = torch.zeros_like(mean)
    # z + FAR is positive and passes unchanged; then -w bent by the leaky ReLU; then bent back
    _set(layers[0], one / GAIN, zero + FAR / GAIN)
    for layer in layers[1:-2]:
        _set(layer, one / GAIN, zero)
    _set(layers[-2], -root / GAIN, (root.sum(1) * FAR - mean) / GAIN)
    _set(layers[-1], -one / (SLOPE * GAIN), zero)
    generator.mean_latent.copy_(mean)


def _set(layer: Any, matrix: torch.Tensor, bias: torch.Tensor) -> None:
    """An equalised layer's weights, so that it multiplies by `matrix` and adds `bias`."""
    layer.weight.copy_(matrix / layer.gain)
    layer.bias.copy_(bias / layer.rate)


@torch.no_grad()
def sample_sheet(generator: Any, seed: int = 64, rows: int = 8) -> np.ndarray:
    """Pictures of rows x 8 random z, uint8 RGB [rows R, 8 R, 3]."""
    z = torch.randn(8 * rows, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    w = generator.mapping(z.to(generator.mean_latent.device))
    pictures = [to_uint8(generator.synthesise(part)) for part in w.split(8)]
    return picture_grid([list(row) for row in pictures])
