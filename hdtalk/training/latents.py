"""Fits the generator's own mapping network: z ~ N(0, I), read as renderer parameters through inverse CDFs, to w.

Every number that the renderer draws is tied to its own place in z: numbers by their rank among all renders, groups that
vary together (background, expression) along their principal axes first, choices by which of a few numbers is largest.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import norm

from hdtalk.training.generator import ParameterMapping
from hdtalk.training.loop import Task, TrainConfig, picture_grid, to_uint8
from hdtalk.training.rendered import DeviceStills, RenderedStills

PRINCIPAL_AXES = {"background": 16, "expression": 32}


class GaussianCode:
    """Renderer parameters as standard normal codes z [N,512]; what is left of z is noise without meaning."""

    def __init__(self, data: RenderedStills, z_dim: int = 512):
        self.z_dim, self.choices = z_dim, []
        numbers: list[np.ndarray] = []
        for part in data.layout:
            values = data.params[:, part["start"] : part["stop"]]
            if part["kind"] == "onehot":
                self.choices.append((values.argmax(1), values.mean(0)))
                continue
            if part["name"] in PRINCIPAL_AXES:
                centred = values - values.mean(0)
                _, _, axes = np.linalg.svd(centred[:8192], full_matrices=False)
                values = centred @ axes[: PRINCIPAL_AXES[part["name"]]].T
            numbers.append(values)
        self.numbers = np.concatenate(numbers, 1)
        self.sorted = np.sort(self.numbers, 0)
        used = self.numbers.shape[1] + sum(len(shares) for _, shares in self.choices)
        if used > z_dim:
            raise ValueError(f"the renderer's parameters need {used} numbers, z has {z_dim}")

    def draw(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """z float32 [n,z_dim] of these renders; ties and choices leave freedom, which is drawn anew."""
        z = rng.standard_normal((len(indices), self.z_dim))
        values, count = self.numbers[indices], len(self.sorted)
        for j in range(values.shape[1]):
            low = np.searchsorted(self.sorted[:, j], values[:, j], "left")
            high = np.searchsorted(self.sorted[:, j], values[:, j], "right")
            z[:, j] = norm.ppf((low + rng.random(len(indices)) * (high - low)).clip(0.5, count - 0.5) / count)
        start = values.shape[1]
        for chosen, shares in self.choices:
            stop = start + len(shares)
            z[:, start:stop] = _largest_at(z[:, start:stop], chosen[indices], shares)
            start = stop
        return z.astype(np.float32)


def _largest_at(z: np.ndarray, chosen: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Reorders each row's numbers so that number + log share is largest at the chosen place."""
    rows = np.arange(len(z))
    biased = z + np.log(np.maximum(shares, 1e-4))
    found = biased.argmax(1)
    z = z.copy()
    lifted = biased[rows, found] - np.log(np.maximum(shares[chosen], 1e-4))
    moved = found != chosen
    z[rows[moved], found[moved]] = z[rows[moved], chosen[moved]]
    z[rows[moved], chosen[moved]] = np.clip(lifted[moved], -3.5, 3.5)
    return z


class LatentTask(Task):
    name = "latents"
    averaged = ("generator",)

    def __init__(
        self,
        config: TrainConfig,
        data: DeviceStills,
        validation: DeviceStills,
        generator: Any,
        mapping: ParameterMapping,
        sizes: dict,
    ):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.sizes, self.code = data, sizes, GaussianCode(data.table)
        self.mapping = mapping.to(self.device).eval().requires_grad_(False)
        generator = generator.to(self.device).requires_grad_(False)
        generator.style.requires_grad_(True)
        self.networks = {"generator": generator}
        self.optimisers = {
            "main": torch.optim.Adam(generator.style.parameters(), lr=config.learning_rate * 10, betas=(0.9, 0.99))
        }
        with torch.no_grad():
            self.spread = self.mapping(data.params(np.arange(min(4096, len(data))))).std(0).mean().item()

    def step(self, step, progress, rng):
        indices = self.data.draw(rng, self.config.batch_size * 16)
        z = torch.from_numpy(self.code.draw(indices, rng)).to(self.device)
        with torch.no_grad():
            target = self.mapping(self.data.params(indices))
        loss = F.mse_loss(self.networks["generator"].mapping(z) / self.spread, target / self.spread)
        self.update(loss)
        return {"unexplained": loss}

    def validate(self, averages):
        generator = averages["generator"]
        z = torch.randn(64, generator.z_dim, generator=torch.Generator().manual_seed(64)).to(self.device)
        w = generator.mapping(z)
        with self.autocast():
            images = torch.cat([generator.synthesise(part) for part in w.split(8)])
        rows = to_uint8(images).reshape(8, 8, *to_uint8(images).shape[1:])
        return {"spread_of_w": float(w.std(0).mean()) / self.spread}, picture_grid([list(row) for row in rows])

    def export(self, averages, folder: Path, measures) -> None:
        from hdtalk import weights

        generator = averages["generator"]
        generator.mean_latent.copy_(generator.estimate_mean_latent())
        weights.write_bundle_file(
            folder,
            "generator",
            generator.state_dict(),
            architecture="stylegan2",
            sizes=self.sizes,
            trained_on=self.data.table.description,
            quality={},
        )
