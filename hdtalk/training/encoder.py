"""Trains a bundle's e4e encoder: the latents of renders are known, so it learns by regression and by pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.e4e import Encoder4Editing
from hdtalk.training.augment import camera_faults
from hdtalk.training.generator import ParameterMapping, multi_scale_loss, pixel_weights
from hdtalk.training.loop import Task, TrainConfig, picture_grid, to_uint8, write_network
from hdtalk.training.rendered import DeviceStills


class EncoderTask(Task):
    """Latent regression, reconstruction through the frozen generator (pixels, edges, deep features), and e4e's
    penalty on the deltas between layers. The stage opens layers one after another over the first third of the run."""

    name = "encoder"
    averaged = ("encoder",)

    def __init__(
        self,
        config: TrainConfig,
        data: DeviceStills,
        validation: DeviceStills,
        sizes: dict,
        generator: Any,
        mapping: ParameterMapping,
        perceptual: nn.Module | None = None,
    ):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        self.generator = generator.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.mapping = mapping.to(self.device).eval().requires_grad_(False)
        self.perceptual = None if perceptual is None else perceptual.to(self.device)
        encoder = Encoder4Editing(resolution=generator.resolution, **sizes)
        with torch.no_grad():
            latents = self.mapping(data.params(np.linspace(0, len(data) - 1, 4096).astype(int)))
            encoder.mean_latent.copy_(latents.mean(0).expand_as(encoder.mean_latent))
            self.spread = latents.std(0).mean().item()
        encoder.to(self.device).to(memory_format=torch.channels_last)
        self.networks = {"encoder": encoder}
        self.optimisers = {
            "main": torch.optim.AdamW(
                encoder.parameters(), lr=config.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99)
            )
        }

    def step(self, step, progress, rng):
        indices = self.data.draw(rng, self.config.batch_size)
        truth, labels = self.data.images(indices), self.data.labels(indices)
        x = camera_faults(truth, rng, 0.35, share=0.6)
        target = self.mapping(self.data.params(indices))
        stage = int(min(1.0, progress / 0.33) * (self.generator.num_ws - 1)) + 1
        with self.autocast():
            ws = self.networks["encoder"](x, stage=stage).float()
        deltas = ws[:, 1:] - ws[:, :1]
        latent_loss = F.smooth_l1_loss(ws / self.spread, target[:, None].expand_as(ws) / self.spread)
        delta_loss = deltas.square().sum(-1).add(1e-8).sqrt().mean() / self.spread
        with self.autocast():
            made = self.generator.synthesise(ws, noise="const")
        made = made.float()
        pixels = multi_scale_loss(made, truth, pixel_weights(labels))
        loss = pixels + 0.5 * latent_loss + 2e-3 * delta_loss
        numbers = {"latents": latent_loss, "pixels": pixels, "deltas": delta_loss}
        if self.perceptual is not None:
            with self.autocast():
                features = self.perceptual(made, truth).mean()
            loss = loss + features
            numbers["features"] = features
        self.update(loss)
        return numbers

    def validate(self, averages):
        whole, mouth, distances, rows = [], [], [], []
        for part in np.array_split(np.linspace(0, len(self.validation) - 1, 64).astype(int), 8):
            truth, labels = self.validation.images(part), self.validation.labels(part).cpu().numpy()
            with self.autocast():
                made = self.generator.synthesise(averages["encoder"](truth).float(), noise="const").float()
            if self.perceptual is not None:
                distances.extend(self.perceptual(made, truth).tolist())
            error = ((made.clamp(-1, 1) - truth) / 2).square().mean(1).cpu().numpy()
            whole.extend(-10 * np.log10(error.mean((1, 2))))
            in_mouth = np.isin(labels, (11, 12, 13))
            mouth.extend(-10 * np.log10(e[m].mean()) for e, m in zip(error, in_mouth, strict=True) if m.any())
            if len(rows) < 4:
                rows += [list(to_uint8(truth)), list(to_uint8(made))]
        measures = {"psnr_db": float(np.mean(whole)), "mouth_psnr_db": float(np.mean(mouth))}
        if distances:
            measures["lpips"] = float(np.mean(distances))
        return measures, picture_grid(rows)

    def export(self, averages, folder: Path, measures) -> None:
        write_network(
            folder,
            "encoder",
            averages["encoder"],
            "e4e",
            {"resolution": self.generator.resolution, **self.sizes},
            self.data.table.description,
            measures,
        )
