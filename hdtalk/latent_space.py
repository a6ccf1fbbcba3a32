"""In which directions, and how far, an edit may move the codes: spaces of offsets in W+."""

from typing import Any

import numpy as np
import torch

from hdtalk.config import OptimiseConfig
from hdtalk.errors import UsageError

DEFAULTS = OptimiseConfig()
MIN_SHOT = 4  # frames whose codes span a space of their own


class LatentSpace:
    """Coordinates `[n, K]` of offsets in W+, in standard deviations along K orthogonal directions.

    `basis`: float32 `[K, num_ws, 512]`, each direction as long as one standard deviation, or None for "w+", where the
    coordinates are the offset itself, `[n, num_ws, 512]`. `groups`: how many sets of directions the layers have.
    """

    def __init__(self, name: str, num_ws: int, basis: torch.Tensor | None, groups: int = 1):
        self.name, self.num_ws, self.basis, self.groups = name, num_ws, basis, groups

    def zeros(self, n: int, device: torch.device) -> torch.Tensor:
        shape = (n, self.num_ws, 512) if self.basis is None else (n, len(self.basis))
        return torch.zeros(shape, device=device)

    def decode(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Coordinates -> offsets `[n, num_ws, 512]`."""
        return coordinates if self.basis is None else torch.einsum("nk,kld->nld", coordinates, self.basis)

    def encode(self, offsets: torch.Tensor) -> torch.Tensor:
        """The coordinates whose offsets are nearest: the inverse of `decode` where there is one."""
        if self.basis is None:
            return offsets
        squared = self.basis.square().sum((1, 2)).clamp_min(1e-12)
        return torch.einsum("nld,kld->nk", offsets, self.basis) / squared

    def mahalanobis(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Squared length in standard deviations, averaged over groups, `[n]`; 0 for "w+"."""
        if self.basis is None:
            return coordinates.new_zeros(len(coordinates))
        return coordinates.square().sum(1) / self.groups


def latent_space(
    generator: Any, config: OptimiseConfig = DEFAULTS, pivots: torch.Tensor | None = None, seed: int = 0
) -> LatentSpace:
    """The space that `config` asks for. A trial showed that free offsets in W+ ("w+") satisfy the landmark net with a
    broken face, so the others keep to directions that occur:

    "shot": principal components of the shot's own `pivots` `[N, num_ws, 512]`: what this person's code did, where the
    generator was tuned (a shot of hardly any frames gets the whitened one). "whitened": those of 8192 samples of the
    mapping network, shared by the layers of a group.

    Raises `UsageError` for a space or a grouping that does not exist."""
    device = generator.mean_latent.device
    if config.latent_space == "w+":
        return LatentSpace("w+", generator.num_ws, None)
    if config.latent_space == "shot":
        assert pivots is not None, "the shot's space is made of its pivots"
        if len(pivots) >= MIN_SHOT:
            basis = _principal_components(pivots.flatten(1), config.components)
            return LatentSpace("shot", generator.num_ws, basis.reshape(len(basis), *pivots.shape[1:]).to(device))
    if config.latent_space not in ("shot", "whitened"):
        raise UsageError(f"latent_space {config.latent_space!r}: unknown. Known: shot, whitened, w+.")
    layers = torch.arange(generator.num_ws)
    groupings = {
        "shared": torch.zeros_like(layers),
        "coarse": torch.where(layers < 9, 0, 1),
        "thirds": layers * 3 // generator.num_ws,
        "per-layer": layers,
    }
    if config.layer_groups not in groupings:
        raise UsageError(f"layer_groups {config.layer_groups!r}: unknown. Known: {', '.join(groupings)}.")
    z = np.random.default_rng(seed).standard_normal((8192, generator.z_dim), np.float32)
    with torch.no_grad():
        w = torch.cat([generator.mapping(part.to(device)) for part in torch.from_numpy(z).split(1024)])
    directions = _principal_components(w, config.components)  # [k, 512]
    group_of = groupings[config.layer_groups]
    count = 1 if config.layer_groups == "coarse" else int(group_of.max()) + 1
    members = torch.stack([(group_of == group).float() for group in range(count)])  # [groups, num_ws]
    basis = torch.einsum("gl,kd->gkld", members, directions).flatten(0, 1)
    return LatentSpace("whitened", generator.num_ws, basis.to(device), count)


def _principal_components(samples: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` leading ones of samples `[N, d]` (or N - 1), each one standard deviation long: float32 `[k, d]`."""
    centred = samples.double().cpu()
    centred = centred - centred.mean(0)
    n, d = centred.shape
    count = max(1, min(count, d, n - 1))
    if n > d:
        variances, directions = torch.linalg.eigh(centred.t() @ centred / (n - 1))  # ascending
        return (directions[:, -count:] * variances[-count:].clamp_min(1e-12).sqrt()).t().flip(0).float()
    variances, directions = torch.linalg.eigh(centred @ centred.t() / (n - 1))  # of the smaller matrix
    lengths = (variances[-count:].clamp_min(1e-12) * max(1, n - 1)).sqrt()
    components = (directions[:, -count:] / lengths).t() @ centred  # unit vectors
    return (components * variances[-count:].clamp_min(1e-12).sqrt()[:, None]).flip(0).float()
