"""Trains the perceptual backbone: a small convolutional net that must read everything the renderer was told."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.models.demo_backbone import DemoBackbone
from hdtalk.training.augment import camera_faults, place_images, place_points, random_placement, sampling_grid
from hdtalk.training.loop import Task, TrainConfig, write_network
from hdtalk.training.rendered import DeviceStills

SIDE_PX = 256


class ReadingHeads(nn.Module):
    """From the backbone's taps (mean and spread of each channel) to the renderer's parameters and the landmarks."""

    def __init__(self, channels: list[int], num_parameters: int):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2 * sum(channels), 512), nn.LeakyReLU(0.2))
        self.parameters_out = nn.Linear(512, num_parameters)
        self.landmarks_out = nn.Sequential(
            nn.Linear(channels[-1] * 64 + 512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 136)
        )

    def forward(self, taps: list[torch.Tensor]):
        taps = [t.float() for t in taps]
        pooled = torch.cat([torch.cat([t.mean((2, 3)), t.std((2, 3))], 1) for t in taps], 1)
        hidden = self.trunk(pooled)
        placed = F.adaptive_avg_pool2d(taps[-1], 8).flatten(1)
        return self.parameters_out(hidden), self.landmarks_out(torch.cat([placed, hidden], 1)).reshape(-1, 68, 2)


class PerceptualTask(Task):
    name = "perceptual"
    averaged = ("backbone", "heads")

    def __init__(self, config: TrainConfig, data: DeviceStills, validation: DeviceStills, sizes: dict):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        backbone = DemoBackbone(**sizes).to(self.device).to(memory_format=torch.channels_last)
        heads = ReadingHeads(backbone.channels, data.table.params.shape[1]).to(self.device)
        self.networks = {"backbone": backbone, "heads": heads}
        trained = [*backbone.parameters(), *heads.parameters()]
        self.optimisers = {"main": torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=1e-4)}

    def _batch(self, data: DeviceStills, indices: np.ndarray, rng: np.random.Generator):
        placement = random_placement(rng, len(indices), (0.9, 1.1), 4.0, 0.03, mirror=False)
        images = place_images(data.images(indices), sampling_grid(placement, SIDE_PX, self.device))
        points = place_points(data.table.landmarks_px[indices], SIDE_PX, placement)
        places = torch.from_numpy(points / (SIDE_PX / 2) - 1).to(self.device)
        return camera_faults(images, rng, 0.5), data.params(indices), places

    def _losses(self, backbone, heads, batch):
        x, params, points = batch
        with self.autocast():
            taps = backbone(x)
        read_params, read_points = heads(taps)
        return F.smooth_l1_loss(read_params, params), (read_points - points).abs().mean()

    def step(self, step, progress, rng):
        batch = self._batch(self.data, self.data.draw(rng, self.config.batch_size), rng)
        params_loss, points_loss = self._losses(self.networks["backbone"], self.networks["heads"], batch)
        self.update(params_loss + 5 * points_loss)
        return {"parameters": params_loss, "landmarks_px": points_loss * (SIDE_PX / 2)}

    def validate(self, averages):
        rng, numbers = np.random.default_rng(2), []
        for part in np.array_split(np.arange(min(320, len(self.validation))), 10):
            batch = self._batch(self.validation, part, rng)
            numbers.append([x.item() for x in self._losses(averages["backbone"], averages["heads"], batch)])
        params_loss, points_loss = np.mean(numbers, 0)
        return {"parameters": float(params_loss), "landmarks_px": float(points_loss) * SIDE_PX / 2}, None

    def export(self, averages, folder: Path, measures) -> None:
        write_network(
            folder,
            "perceptual",
            averages["backbone"],
            "demo_backbone",
            self.sizes,
            self.data.table.description,
            measures,
        )
