"""Trains a bundle's e4e encoder on renders: by pictures, and by latents where they are known."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.e4e import Encoder4Editing
from hdtalk.muon import Muon
from hdtalk.training.augment import camera_faults
from hdtalk.training.generator import ParameterMapping, multi_scale_loss, pixel_weights
from hdtalk.training.loop import Task, TrainConfig, picture_grid, to_uint8, write_network
from hdtalk.training.rendered import DeviceStills

# Of a run that goes on from a trained encoder:
NEAR, NEAR_EVERY = 0.1, 4  # weight of that encoder's latents, and which pictures it sees
FULL_EVERY = 4  # which steps look at pictures of full size
MUON_RATE = 0.5  # root mean square of a convolution's step, of the learning rate


class EncoderTask(Task):
    """Reconstruction through the frozen generator (pixels, edges, deep features), e4e's penalty on the deltas between
    layers, and latents.

    `teacher`: the mapping from the renderer's parameters to w that the generator was trained with; its answers are the
    latents to find, and layers open one after another over the first third of the run. Or an encoder that was trained
    so: the run goes on from its weights, the latents stay near those that it gives, and what costs most is spared: the
    first layers stay as they are, and three steps of four look at pictures of half the size.
    """

    name = "encoder"
    averaged = ("encoder",)

    def __init__(
        self,
        config: TrainConfig,
        data: DeviceStills,
        validation: DeviceStills,
        sizes: dict,
        generator: Any,
        teacher: ParameterMapping | Encoder4Editing,
        perceptual: nn.Module | None = None,
    ):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        self.generator = generator.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.teacher = teacher.to(self.device).eval().requires_grad_(False)
        self.perceptual = None if perceptual is None else perceptual.to(self.device)
        encoder = Encoder4Editing(resolution=generator.resolution, **sizes)
        self.continues = isinstance(teacher, Encoder4Editing)
        if self.continues:
            encoder.load_state_dict(teacher.state_dict())
            encoder.eval()  # batches are smaller than those that its normalisation knows
            encoder.input_layer.requires_grad_(False)
            encoder.body[0].requires_grad_(False)
            latents = generator.mapping(torch.randn(4096, generator.z_dim, device=self.device))
        else:
            latents = teacher(data.params(np.linspace(0, len(data) - 1, 4096).astype(int)))
            encoder.mean_latent.copy_(latents.mean(0).expand_as(encoder.mean_latent))
        self.spread = latents.std(0).mean().item()
        encoder.to(self.device).to(memory_format=torch.channels_last)
        self.networks = {"encoder": encoder}
        learning = [p for p in encoder.parameters() if p.requires_grad]
        by_muon = [p for p in learning if self.continues and p.ndim == 4]
        others = [p for p in learning if not self.continues or p.ndim != 4]
        self.optimisers = {
            "main": torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
        }
        if by_muon:
            self.optimisers["convolutions"] = Muon(by_muon, lr=MUON_RATE * config.learning_rate)

    def step(self, step, progress, rng):
        indices = self.data.draw(rng, self.config.batch_size)
        truth, labels = self.data.images(indices), self.data.labels(indices)
        if self.continues and rng.random() < 0.5:  # the renderer's parameters would not fit a mirrored head
            truth, labels = truth.flip(-1), labels.flip(-1)
        x = camera_faults(truth, rng, 0.35, share=0.6)
        with self.autocast(), torch.no_grad():
            known = slice(None, None, NEAR_EVERY if self.continues else 1)
            target = self.teacher(truth[known]) if self.continues else self.teacher(self.data.params(indices))[:, None]
        opened = 1.0 if self.continues else min(1.0, progress / 0.33)
        with self.autocast():
            ws = self.networks["encoder"](x, stage=int(opened * (self.generator.num_ws - 1)) + 1).float()
        deltas = ws[:, 1:] - ws[:, :1]
        latent_loss = F.smooth_l1_loss(ws[known] / self.spread, target.float().expand_as(ws[known]) / self.spread)
        delta_loss = deltas.square().sum(-1).add(1e-8).sqrt().mean() / self.spread
        halved = 2 if self.continues and step % FULL_EVERY else 1
        truth, labels = F.avg_pool2d(truth, halved), labels[:, ::halved, ::halved]
        with self.autocast():
            made = self.generator.synthesise(ws, noise="const", resolution=self.generator.resolution // halved)
        made = made.float()
        pixels = multi_scale_loss(made, truth, pixel_weights(labels))
        loss = pixels + (NEAR if self.continues else 0.5) * latent_loss + 2e-3 * delta_loss
        numbers = {"latents": latent_loss, "pixels": pixels, "deltas": delta_loss}
        if self.perceptual is not None:
            with self.autocast():
                features = self.perceptual(made, truth).mean()
            loss = loss + features
            numbers["features"] = features
        self.update(loss, *self.optimisers)
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
