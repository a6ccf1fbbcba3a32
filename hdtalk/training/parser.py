"""Trains the face parser: 19 CelebAMask classes from a picture."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hdtalk.models.bisenet import BiSeNet
from hdtalk.training.augment import camera_faults, mirror, random_affine, random_occluder, warp, warp_labels
from hdtalk.training.loop import Task, TrainConfig, picture_grid, write_network
from hdtalk.training.rendered import RenderedStills

COLOURS = np.random.default_rng(3).integers(40, 256, (256, 3)).astype(np.uint8)
COLOURS[[0, 255]] = 0
MOUTH = (11, 12, 13)


def augmented(data: RenderedStills, indices, rng: np.random.Generator):
    """Pictures uint8 [N,256,256,3] and labels uint8 [N,256,256], 255 where unknown."""
    made, classes = [], []
    for image, labels, points in zip(
        data.pictures(indices), data.label_maps(indices), data.landmarks_px[indices], strict=True
    ):
        if rng.random() < 0.5:
            image, _, labels = mirror(image, points, labels)
        matrix = random_affine(rng, image.shape[0], (0.75, 1.3), 10.0, 0.05)
        image, labels = warp(image, matrix, rng), warp_labels(labels, matrix)
        if rng.random() < 0.1:
            random_occluder(image, labels, rng)
        made.append(camera_faults(image, rng))
        classes.append(labels)
    return np.stack(made), np.stack(classes)


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

    def __init__(self, config: TrainConfig, data: RenderedStills, validation: RenderedStills, sizes: dict):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        net = BiSeNet(**sizes).to(self.device).to(memory_format=torch.channels_last)
        self.networks = {"net": net}
        self.optimisers = {"main": torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)}

    def step(self, step, progress, rng):
        images, labels = augmented(self.data, rng.integers(len(self.data), size=self.config.batch_size), rng)
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        target = torch.from_numpy(labels).to(self.device).long()
        with self.autocast():
            outputs = self.networks["net"].all_logits(x)
        loss = sum(
            share * F.cross_entropy(output.float(), target, ignore_index=255)
            for share, output in zip((1.0, 0.3, 0.3), outputs, strict=True)
        )
        probability = outputs[0].float().softmax(1)
        known = (target != 255)[:, None]
        truth = F.one_hot(target.clamp(max=18), 19).permute(0, 3, 1, 2) * known
        overlap = (probability * truth).sum((0, 2, 3))
        size = ((probability + truth) * known).sum((0, 2, 3))
        seen = truth.sum((0, 2, 3)) > 50
        dice = 1 - ((2 * overlap + 1) / (size + 1))[seen].mean()
        self.update(loss + 0.5 * dice)
        return {"cross_entropy": loss.item(), "dice": dice.item()}

    def validate(self, averages):
        confusion, tiles = np.zeros((19, 19), np.int64), []
        for part in np.array_split(np.arange(min(160, len(self.validation))), 10):
            images, labels = self.validation.pictures(part), self.validation.label_maps(part)
            x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with self.autocast():
                found = averages["net"].logits(x).argmax(1).cpu().numpy()
            np.add.at(confusion, (labels.ravel(), found.ravel()), 1)
            tiles.append(np.vstack([images[0], COLOURS[labels[0]], COLOURS[found[0]]]))
        miou, mouth_iou = intersection_over_union(confusion)
        return {"miou": miou, "mouth_iou": mouth_iou}, picture_grid([tiles])

    def export(self, averages, folder: Path, measures) -> None:
        write_network(folder, "parser", averages["net"], "bisenet", self.sizes, self.data.description, measures)
