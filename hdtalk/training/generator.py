"""Trains a small StyleGAN2 on rendered heads: distilled from the renderer's parameters, then sharpened adversarially.

Renderer parameters -> mapping -> w -> synthesis is supervised by the render itself (pixels at several scales, edges,
deep features), growing in resolution. `hdtalk.training.latents` then sets the generator's own mapping network, so that
z ~ N(0, I) samples heads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.generators.discriminator import Discriminator
from hdtalk.generators.stylegan2 import Generator
from hdtalk.training.loop import Task, TrainConfig, picture_grid, to_uint8, write_network
from hdtalk.training.rendered import DeviceStills

FEATURES = (2, 3, 4, 5, 6, 11, 12, 13)  # CelebAMask labels of brows, eyes, glasses, mouth and lips
LATENT_SIZE = 512
WEIGHT_STEPS = 50  # of pixel weights held as bytes
ADVERSARIAL_WEIGHT = 0.05  # beside the losses against the render
SMALL = 128  # side in px of the pictures that are held decoded in memory


# what moves most of the picture comes with few numbers: these parts of the parameters are enlarged, that one reduced
PART_SCALES = {"pose": 5.0, "jitter": 3.0, "expression": 2.5, "distance": 2.0, "background": 0.4}
PART_SCALES |= dict.fromkeys(["skin", "hair", "glasses", "beard"], 2.0)


class ParameterMapping(nn.Module):
    """Renderer parameters [N,P] -> w [N,512]. `layout`: their parts, as RenderedStills.layout lists them."""

    scale: torch.Tensor

    def __init__(self, layout: list[dict], hidden: int = 512, layers: int = 3):
        super().__init__()
        num_parameters = layout[-1]["stop"]
        scale = torch.ones(num_parameters)
        for part in layout:
            scale[part["start"] : part["stop"]] = PART_SCALES.get(part["name"], 1.0)
        self.register_buffer("scale", scale)
        sizes = [num_parameters, *[hidden] * layers]
        blocks = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.net = nn.Sequential(*blocks, nn.Linear(hidden, LATENT_SIZE))

    def forward(self, params: torch.Tensor) -> torch.Tensor:
        return self.net(params * self.scale)


def pixel_weights(labels: torch.Tensor) -> torch.Tensor:
    """Importance [N,1,H,W] of pixels by their label uint8 [N,H,W]: facial features 5, head 1, neck 0.6, cloth 0.3,
    background 0.25; soft at the borders."""
    weights, features = torch.ones(256), torch.zeros(256)
    weights[[0, 14, 16]] = torch.tensor([0.25, 0.6, 0.3])
    features[list(FEATURES)] = 5.0
    weight, feature = (table.to(labels.device)[labels.long()][:, None] for table in (weights, features))
    feature = F.avg_pool2d(F.max_pool2d(feature, 9, 1, 4), 9, 1, 4, count_include_pad=False)
    return torch.maximum(weight, feature)


def multi_scale_loss(made: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted L1 of pixels and of edges at full, half, quarter and eighth size."""
    loss = made.new_zeros((), dtype=torch.float32)
    for level in range(4):
        error = (made - truth).abs().mean(1, keepdim=True)
        loss = loss + (error * weight).sum() / weight.sum()
        if level < 2:
            for axis in (2, 3):
                edge_error = (made.diff(dim=axis) - truth.diff(dim=axis)).abs().mean(1, keepdim=True)
                edge_weight = weight.narrow(axis, 1, weight.shape[axis] - 1)
                loss = loss + 0.7 * (edge_error * edge_weight).sum() / edge_weight.sum()
        made, truth, weight = (F.avg_pool2d(x, 2) for x in (made, truth, weight))
    return loss


class GeneratorTask(Task):
    """Distillation with growth, then (from `adversarial_from` of the run on) an adversarial term with lazy R1."""

    name = "generator"
    averaged = ("generator", "mapping")

    def __init__(
        self,
        config: TrainConfig,
        data: DeviceStills,
        validation: DeviceStills,
        sizes: dict,
        load_perceptual: Callable[[], nn.Module | None] = lambda: None,
        growth: tuple[tuple[float, int], ...] = ((0.1, 32), (0.25, 64), (0.5, 128)),
        features_from: float = 0.5,
        adversarial_from: float = 0.8,
        r1_every: int = 16,
    ):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        self.growth, self.features_from = growth, features_from
        self.small = np.empty((0, SMALL, SMALL, 3), np.uint8), np.empty((0, SMALL, SMALL), np.uint8)
        self.adversarial_from, self.r1_every = adversarial_from, r1_every
        self.load_perceptual: Callable[[], nn.Module | None] | None = load_perceptual
        self.perceptual: nn.Module | None = None
        generator = Generator(**sizes).to(self.device, memory_format=torch.channels_last)
        mapping = ParameterMapping(data.table.layout).to(self.device)
        generator.style.requires_grad_(False)
        discriminator = Discriminator(
            sizes["resolution"], channel_base=sizes["channel_base"], channel_max=sizes["channel_max"]
        ).to(self.device)
        discriminator.to(memory_format=torch.channels_last)
        self.generator = generator
        self.networks = {"generator": generator, "mapping": mapping, "discriminator": discriminator}
        # equalised weights have unit deviation, so they need far larger steps than biases and constants
        equalised = [p for p in generator.parameters() if p.requires_grad and p.ndim in (2, 5)]
        others = [p for p in generator.parameters() if p.requires_grad and p.ndim not in (2, 5)]
        rate = config.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": equalised},
            {"params": others, "lr": rate * 0.15},
            {"params": mapping.parameters(), "lr": rate * 0.1},
        ]
        self.optimisers = {
            "main": torch.optim.Adam(groups, lr=rate, betas=(0.5, 0.99), fused=self.device.type == "cuda"),
            "discriminator": torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.99)),
        }

    def resolution_at(self, progress: float) -> int:
        for end, resolution in self.growth:
            if progress < end:
                return resolution
        return self.sizes["resolution"]

    def batch(self, rng: np.random.Generator, resolution: int):
        """Truth [N,3,r,r], pixel weights [N,1,r,r] and parameters [N,P]; without a GPU small pictures come from memory.
        Small pictures are cheap: there are more of them, so that the cost of a step stays about even."""
        size = self.config.batch_size * min(8, self.sizes["resolution"] // resolution)
        indices = self.data.draw(rng, size)
        params = self.data.params(indices)
        if resolution > SMALL or self.device.type != "cpu":
            return *_shrunk(self.data.images(indices), self.data.labels(indices), resolution), params
        if len(self.small[0]) < len(self.data):  # at first, and when more have arrived
            pictures, weights = _shrink_from(len(self.small[0]), self.data, SMALL)
            self.small = np.concatenate([self.small[0], pictures]), np.concatenate([self.small[1], weights])
        truth, weight = (torch.from_numpy(array[indices]).to(self.device) for array in self.small)
        truth = F.avg_pool2d(truth.permute(0, 3, 1, 2).float() / 127.5 - 1, SMALL // resolution)
        weight = F.avg_pool2d(weight[:, None].float() / WEIGHT_STEPS, SMALL // resolution)
        return truth.contiguous(memory_format=torch.channels_last), weight, params

    def step(self, step: int, progress: float, rng: np.random.Generator) -> dict[str, float | torch.Tensor]:
        resolution = self.resolution_at(progress)
        truth, weight, params = self.batch(rng, resolution)
        ws = self.networks["mapping"](params)[:, None].expand(-1, self.networks["generator"].num_ws, -1)
        with self.autocast():
            made = self.generator.synthesise(ws, noise="none", resolution=resolution)
        made = made.float()
        loss = multi_scale_loss(made, truth, weight)
        numbers: dict[str, float | torch.Tensor] = {"pixels": loss, "resolution": resolution}
        if progress >= self.features_from and self.load_perceptual is not None:
            found, self.load_perceptual = self.load_perceptual(), None  # it may have been trained meanwhile
            self.perceptual = None if found is None else found.to(self.device)
        if self.perceptual is not None:
            with self.autocast():
                features = self.perceptual(made, truth).mean()
            loss = loss + 1.0 * features
            numbers["features"] = features
        adversarial = progress >= self.adversarial_from and resolution == self.sizes["resolution"]
        if adversarial:
            discriminator = self.networks["discriminator"].requires_grad_(False)
            with self.autocast():
                score = discriminator(made)
            deceit = F.softplus(-score.float()).mean()
            share = min(1.0, (progress - self.adversarial_from) / 0.05)  # the discriminator learns first
            loss = loss + ADVERSARIAL_WEIGHT * share * deceit
            numbers["deceit"] = deceit
        self.update(loss)
        if adversarial:
            numbers |= self._train_discriminator(made.detach(), truth, step)
        return numbers

    def _train_discriminator(self, made, truth, step) -> dict[str, torch.Tensor]:
        discriminator = self.networks["discriminator"].requires_grad_(True)
        with self.autocast():
            fake, real = discriminator(made), discriminator(truth)
        loss = F.softplus(fake.float()).mean() + F.softplus(-real.float()).mean()
        numbers = {"discriminator": loss}
        if step % self.r1_every == 0:
            few = truth[:8].clone().requires_grad_(True)
            with self.autocast():
                score = discriminator(few)
            (gradient,) = torch.autograd.grad(score.float().sum(), few, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            loss = loss + 0.5 * 5.0 * self.r1_every * penalty / 16
            numbers["r1"] = penalty * self.r1_every
        self.update(loss, "discriminator")
        return numbers

    def validate(self, averages):
        measures, rows = {}, []
        for name, data in (("", self.validation), ("training_", self.data)):
            chosen = np.linspace(0, len(data) - 1, 48).astype(int)
            whole, mouth = [], []
            for part in np.array_split(chosen, 6):
                truth, labels = data.images(part), data.labels(part).cpu().numpy()
                ws = averages["mapping"](data.params(part))[:, None].expand(-1, averages["generator"].num_ws, -1)
                with self.autocast():
                    made = averages["generator"].synthesise(ws, noise="none").float()
                error = ((made.clamp(-1, 1) - truth) / 2).square().mean(1).cpu().numpy()
                whole.extend(-10 * np.log10(error.mean((1, 2))))
                in_mouth = np.isin(labels, (11, 12, 13))
                mouth.extend(-10 * np.log10(e[m].mean()) for e, m in zip(error, in_mouth, strict=True) if m.any())
                if len(rows) < 4:
                    rows += [list(to_uint8(truth)), list(to_uint8(made))]
            measures[name + "psnr_db"] = float(np.mean(whole))
            measures[name + "mouth_psnr_db"] = float(np.mean(mouth))
        return measures, picture_grid(rows)

    def export(self, averages, folder: Path, measures) -> None:
        write_network(
            folder, "generator", averages["generator"], "stylegan2", self.sizes, self.data.table.description, measures
        )


def _shrunk(pictures: torch.Tensor, labels: torch.Tensor, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth [N,3,r,r] in [-1,1] and pixel weights [N,1,r,r]."""
    weight, factor = pixel_weights(labels), pictures.shape[-1] // resolution
    if factor > 1:
        pictures, weight = F.avg_pool2d(pictures, factor), F.avg_pool2d(weight, factor)
    return pictures.contiguous(memory_format=torch.channels_last), weight


def _shrink_from(first: int, data: DeviceStills, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures from `first` on, uint8 [N,r,r,3], and pixel weights uint8 [N,r,r] in steps of 1 / WEIGHT_STEPS."""
    count = len(data) - first
    pictures = np.empty((count, resolution, resolution, 3), np.uint8)
    weights = np.empty((count, resolution, resolution), np.uint8)
    for part in np.array_split(np.arange(count), max(1, count // 64)):
        truth, weight = _shrunk(data.images(first + part), data.labels(first + part), resolution)
        pictures[part] = to_uint8(truth)
        weights[part] = (weight[:, 0] * WEIGHT_STEPS).round().byte().numpy()
    return pictures, weights
