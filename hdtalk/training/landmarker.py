"""Trains the two landmark nets: FAN on heat maps, and a second net of another kind that only ever measures."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from hdtalk.losses.landmark import gaussian_heatmaps
from hdtalk.models.fan import FAN, heatmaps_to_landmarks
from hdtalk.models.landmark_regressor import LandmarkRegressor
from hdtalk.training.augment import camera_faults, mirror, random_affine, random_occluder, warp, warp_points
from hdtalk.training.loop import Task, TrainConfig, picture_grid, write_network
from hdtalk.training.rendered import RenderedStills

SIZE = 256


def augmented(data: RenderedStills, indices, rng: np.random.Generator, strength: float = 1.0):
    """Pictures uint8 [N,256,256,3] and landmarks float32 [N,68,2] (px), moved, mirrored, covered and spoilt."""
    images, points = data.pictures(indices), data.landmarks_px[indices]
    made, moved = [], []
    for image, landmarks_px in zip(images, points, strict=True):
        if rng.random() < 0.5:
            image, landmarks_px, _ = mirror(image, landmarks_px, None)
        matrix = random_affine(rng, SIZE, (0.68, 1.3), 14.0 * strength, 0.05 * strength)
        image, landmarks_px = warp(image, matrix, rng), warp_points(landmarks_px, matrix)
        if rng.random() < 0.25 * strength:
            random_occluder(image, None, rng)
        made.append(camera_faults(image, rng, strength))
        moved.append(landmarks_px)
    return np.stack(made), np.stack(moved).astype(np.float32)


def normalised_error(predicted_px: np.ndarray, truth_px: np.ndarray) -> np.ndarray:
    """Mean point error over the distance of the outer eye corners, in percent, one number a face."""
    inter_ocular = np.linalg.norm(truth_px[:, 36] - truth_px[:, 45], axis=-1)
    return 100 * np.linalg.norm(predicted_px - truth_px, axis=-1).mean(-1) / inter_ocular


def draw_landmarks(image: np.ndarray, landmarks_px: np.ndarray) -> np.ndarray:
    """uint8 RGB picture with a green dot at each point."""
    image = np.ascontiguousarray(image)
    for x, y in landmarks_px:
        cv2.circle(image, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1, cv2.LINE_AA)
    return image


class _LandmarkTask(Task):
    averaged = ("net",)

    def __init__(
        self, config: TrainConfig, data: RenderedStills, validation: RenderedStills, net: nn.Module, sizes: dict
    ):
        super().__init__(config)
        self.data, self.validation, self.sizes = data, validation, sizes
        self.networks = {"net": net.to(self.device).to(memory_format=torch.channels_last)}
        self.optimisers = {"main": torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)}
        self.run = torch.compile(net, dynamic=False) if config.compile else net

    def batch(self, rng: np.random.Generator):
        indices = rng.integers(len(self.data), size=self.config.batch_size)
        images, points = augmented(self.data, indices, rng)
        return _to_tensor(images, self.device), torch.from_numpy(points).to(self.device)

    def predict(self, net: nn.Module, images: torch.Tensor) -> np.ndarray:
        raise NotImplementedError

    def validate(self, averages):
        rng = np.random.default_rng(1)
        clean, spoilt, tiles = [], [], []
        for part in np.array_split(np.arange(min(240, len(self.validation))), 10):
            images, points = self.validation.pictures(part), self.validation.landmarks_px[part]
            clean.append(normalised_error(self.predict(averages["net"], _to_tensor(images, self.device)), points))
            images, points = augmented(self.validation, part, rng)
            predicted = self.predict(averages["net"], _to_tensor(images, self.device))
            spoilt.append(normalised_error(predicted, points))
            tiles += [draw_landmarks(*pair) for pair in zip(images[:4], predicted[:4], strict=True)]
        clean, spoilt = np.concatenate(clean), np.concatenate(spoilt)
        measures = {
            "nme_percent": float(clean.mean()),
            "failures_percent": float((clean > 8).mean() * 100),
            "augmented_nme_percent": float(spoilt.mean()),
            "augmented_failures_percent": float((spoilt > 8).mean() * 100),
        }
        return measures, picture_grid([tiles[i : i + 10] for i in range(0, 40, 10)])

    def _export(self, role: str, architecture: str, averages, folder: Path, measures) -> None:
        write_network(folder, role, averages["net"], architecture, self.sizes, self.data.description, measures)


class LandmarkerTask(_LandmarkTask):
    """FAN on Gaussian heat maps; positive cells weigh more, else an empty map is the easiest answer."""

    name = "landmarker"

    def __init__(self, config, data, validation, sizes):
        torch.manual_seed(config.seed)
        super().__init__(config, data, validation, FAN(**sizes), sizes)

    def step(self, step, progress, rng):
        images, points = self.batch(rng)
        target = gaussian_heatmaps(points, SIZE)
        with self.autocast():
            stacks = self.run((images + 1) / 2)
        weight = 1 + 15 * target
        loss = sum((weight * (stack.float() - target).square()).mean() for stack in stacks) * 100
        self.update(loss)
        return {"loss": loss.item()}

    def predict(self, net, images):
        with self.autocast():
            maps = net.heatmaps(images)
        return heatmaps_to_landmarks(maps.float()).cpu().numpy()

    def export(self, averages, folder, measures):
        self._export("landmarker", "fan", averages, folder, measures)


class LandmarkRegressorTask(_LandmarkTask):
    """The measuring net: coordinates straight from the picture, other augmentation seed, other architecture."""

    name = "landmarker_eval"

    def __init__(self, config, data, validation, sizes):
        torch.manual_seed(config.seed + 1)
        super().__init__(config, data, validation, LandmarkRegressor(**sizes), sizes)

    def step(self, step, progress, rng):
        images, points = self.batch(rng)
        with self.autocast():
            predicted = self.run(images)
        error = (predicted.float() - points).abs() / 2  # px; Wing-like: steep near zero
        loss = torch.log1p(error).mean() + 0.02 * error.mean()
        self.update(loss)
        return {"loss": loss.item()}

    def predict(self, net, images):
        with self.autocast():
            return net(images).float().cpu().numpy()

    def export(self, averages, folder, measures):
        self._export("landmarker_eval", "landmark_regressor", averages, folder, measures)


def _to_tensor(images: np.ndarray, device) -> torch.Tensor:
    """uint8 [N,H,W,3] -> float32 [N,3,H,W] in [-1,1], channels last."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
