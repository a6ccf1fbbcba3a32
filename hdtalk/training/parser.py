"""Trains the face parser: 19 CelebAMask classes from a picture."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hdtalk.models.bisenet import BiSeNet
from hdtalk.training.augment import (
    UNKNOWN,
    camera_faults,
    occlude,
    place_images,
    place_labels,
    random_placement,
    sampling_grid,
)
from hdtalk.training.loop import Replayed, Task, TrainConfig, picture_grid, to_uint8, write_network
from hdtalk.training.rendered import DeviceStills

COLOURS = np.random.default_rng(3).integers(40, 256, (256, 3)).astype(np.uint8)
COLOURS[[0, 255]] = 0
MOUTH = (11, 12, 13)


def augmented(data: DeviceStills, indices: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [N,3,H,W] in [-1,1] and labels uint8 [N,H,W], UNKNOWN outside and where covered."""
    images, labels = data.images(indices), data.labels(indices)
    placement = random_placement(rng, len(indices), (0.75, 1.3), 10.0, 0.05)
    grid = sampling_grid(placement, images.shape[-1], data.device)
    images, covered = occlude(place_images(images, grid), place_labels(labels, grid, placement), rng, 0.1)
    assert covered is not None
    return camera_faults(images, rng), covered


def intersection_over_union(confusion: np.ndarray) -> tuple[float, float]:
    """Mean IoU over the classes present, and IoU of mouth and lips taken together, from counts [truth, predicted]."""
    present = confusion.sum(1) > 0
    hits = np.diag(confusion)
    iou = hits / np.maximum(1, confusion.sum(0) + confusion.sum(1) - hits)
    mouth_truth, mouth_found = confusion[list(MOUTH)].sum(), confusion[:, list(MOUTH)].sum()
    mouth_both = confusion[np.ix_(MOUTH, MOUTH)].sum()
    return float(iou[present].mean()), float(mouth_both / max(1, mouth_truth + mouth_found - mouth_both))


class ParserTask(Task):
    name = "parser"
    averaged = ("net",)

    def __init__(self, config: TrainConfig, data: DeviceStills, validation: DeviceStills, sizes: dict):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        net = BiSeNet(**sizes).to(self.device).to(memory_format=torch.channels_last)
        self.networks, self.run = {"net": net}, Replayed(net, config, "all_logits")
        self.optimisers = {"main": torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)}

    def step(self, step, progress, rng):
        images, labels = augmented(self.data, self.data.draw(rng, self.config.batch_size), rng)
        target = labels.long()
        outputs = self.run(images)
        loss = sum(
            share * F.cross_entropy(output.float(), target, ignore_index=UNKNOWN)
            for share, output in zip((1.0, 0.3, 0.3), outputs, strict=True)
        )
        probability = outputs[0].float().softmax(1)
        known = (target != UNKNOWN)[:, None]
        truth = F.one_hot(target.clamp(max=18), 19).permute(0, 3, 1, 2) * known
        overlap = (probability * truth).sum((0, 2, 3))
        size = ((probability + truth) * known).sum((0, 2, 3))
        seen = (truth.sum((0, 2, 3)) > 50).float()
        dice = ((1 - (2 * overlap + 1) / (size + 1)) * seen).sum() / seen.sum()
        self.update(loss + 0.5 * dice)
        return {"cross_entropy": loss, "dice": dice}

    def validate(self, averages):
        confusion, tiles = np.zeros((19, 19), np.int64), []
        for part in np.array_split(np.arange(min(160, len(self.validation))), 10):
            images, labels = self.validation.images(part), self.validation.labels(part).cpu().numpy()
            with self.autocast():
                found = averages["net"].logits(images).argmax(1).cpu().numpy()
            np.add.at(confusion, (labels.ravel(), found.ravel()), 1)
            tiles.append(np.vstack([to_uint8(images[:1])[0], COLOURS[labels[0]], COLOURS[found[0]]]))
        miou, mouth_iou = intersection_over_union(confusion)
        return {"miou": miou, "mouth_iou": mouth_iou}, picture_grid([tiles])

    def export(self, averages, folder: Path, measures) -> None:
        write_network(folder, "parser", averages["net"], "bisenet", self.sizes, self.data.table.description, measures)
