"""Trains the two landmark nets: FAN on heat maps, and a second net of another kind that only ever measures."""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.face_units import lip_gap
from hdtalk.losses.landmark import gaussian_heatmaps
from hdtalk.models.fan import FAN, STRIDE_PX, centroids, heatmaps_to_landmarks
from hdtalk.models.integral_regressor import (
    MOUTH_FROM,
    WINDOW_PX,
    CloseRegressor,
    IntegralRegressor,
    Windows,
    look_closer,
    mouth_windows,
)
from hdtalk.training.augment import (
    Placement,
    camera_faults,
    occlude,
    place_images,
    place_points,
    random_placement,
    sampling_grid,
)
from hdtalk.training.loop import Replayed, Task, TrainConfig, picture_grid, to_uint8, write_network
from hdtalk.training.rendered import DeviceStills

SIDE_PX = 256
MOUTH_NOTE = "; the mouth from near: "  # between what the two networks of a CloseRegressor have seen
LEAST_MASS = 1e-3  # emptier windows have no centre to correct yet


def augmented(data: DeviceStills, indices: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """Pictures [N,3,256,256] in [-1,1] and landmarks float32 [N,68,2] (px), moved, mirrored, covered and spoilt."""
    placement = random_placement(rng, len(indices), (0.68, 1.3), 14.0, 0.05)
    images = place_images(data.images(indices), sampling_grid(placement, SIDE_PX, data.device))
    images, _ = occlude(images, None, rng, 0.25)
    return camera_faults(images, rng), place_points(data.table.landmarks_px[indices], SIDE_PX, placement)


def normalised_error(predicted_px: np.ndarray, truth_px: np.ndarray) -> np.ndarray:
    """Mean point error over the distance of the outer eye corners, in percent, one number a face."""
    inter_ocular = np.linalg.norm(truth_px[:, 36] - truth_px[:, 45], axis=-1)
    return 100 * np.linalg.norm(predicted_px - truth_px, axis=-1).mean(-1) / inter_ocular


def lip_gap_fit(predicted_px: np.ndarray, truth_px: np.ndarray) -> tuple[float, float]:
    """By how much the gap of the inner lips that a net sees grows with the true one, `[N,68,2]` each, and their
    correlation: 1 and 1 at best, 0 and 0 where either never changes."""
    seen, true = (gap - gap.mean() for gap in (lip_gap(predicted_px), lip_gap(truth_px)))
    together = float((seen * true).mean())
    spread = float((true**2).mean())
    return together / max(spread, 1e-12), together / max(float(np.sqrt(spread * (seen**2).mean())), 1e-12)


def draw_landmarks(image: np.ndarray, landmarks_px: np.ndarray) -> np.ndarray:
    """uint8 RGB picture with a green dot at each point."""
    image = np.ascontiguousarray(image)
    for x, y in landmarks_px:
        cv2.circle(image, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1, cv2.LINE_AA)
    return image


class _LandmarkTask(Task):
    averaged = ("net",)

    def __init__(self, config: TrainConfig, data: DeviceStills, validation: DeviceStills, net: nn.Module, sizes: dict):
        super().__init__(config)
        self.data, self.validation, self.sizes = data, validation, sizes
        self.networks = {"net": net.to(self.device).to(memory_format=torch.channels_last)}
        self.optimisers = {"main": torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)}
        self.run = Replayed(net, config)

    def batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        images, points = augmented(self.data, self.data.draw(rng, self.config.batch_size), rng)
        return images, torch.from_numpy(points).to(self.device)

    def predict(self, net: nn.Module, images: torch.Tensor) -> np.ndarray:
        raise NotImplementedError

    def validate(self, averages):
        rng = np.random.default_rng(1)
        clean, spoilt, seen, tiles = [], [], [], []
        count = min(240, len(self.validation))
        for part in np.array_split(np.arange(count), min(10, count)):
            points = self.validation.table.landmarks_px[part]
            predicted = self.predict(averages["net"], self.validation.images(part))
            clean.append(normalised_error(predicted, points))
            seen.append(predicted)
            images, points = augmented(self.validation, part, rng)
            predicted = self.predict(averages["net"], images)
            spoilt.append(normalised_error(predicted, points))
            tiles += [draw_landmarks(*pair) for pair in zip(to_uint8(images[:4]), predicted[:4], strict=True)]
        clean, spoilt = np.concatenate(clean), np.concatenate(spoilt)
        slope, correlation = lip_gap_fit(np.concatenate(seen), self.validation.table.landmarks_px[:count])
        measures = {
            "nme_percent": float(clean.mean()),
            "failures_percent": float((clean > 8).mean() * 100),
            "augmented_nme_percent": float(spoilt.mean()),
            "augmented_failures_percent": float((spoilt > 8).mean() * 100),
            "lip_gap_slope": slope,
            "lip_gap_correlation": correlation,
        }
        rows = [tiles[i : i + 10] for i in range(0, len(tiles) - 9, 10)]
        return measures, picture_grid(rows) if rows else None

    @property
    def trained_on(self) -> str:
        """What the network has seen, by now."""
        return self.data.table.description

    def _export(self, role: str, architecture: str, net: nn.Module, folder: Path, measures) -> None:
        write_network(folder, role, net, architecture, self.sizes, self.trained_on, measures)


def place_loss(heatmaps: torch.Tensor, points_px: torch.Tensor) -> torch.Tensor:
    """How far the maps' centres, as they are decoded, lie from the truth `[N,68,2]` (px), where that is in the picture:
    a scalar, in pixels; quadratic below one. The windows are those around the truth."""
    side = heatmaps.shape[-1]
    cells = (points_px / STRIDE_PX).floor().long()
    inside = ((cells >= 0) & (cells < side)).all(-1)
    found = centroids(heatmaps.float(), cells.clamp(0, side - 1), LEAST_MASS)
    return F.smooth_l1_loss(found[inside], points_px[inside])


def grown(smaller: dict[str, torch.Tensor], net: FAN) -> dict[str, torch.Tensor]:
    """Weights for a FAN from those of one with fewer hourglasses: the new ones start as copies of its last, and what
    ties them to it as it was drawn, but a tenth as strong."""
    last = max(k for k in range(net.num_modules) if f"l{k}.weight" in smaller)
    state = net.state_dict()
    for name, drawn in state.items():
        part, _, rest = name.partition(".")
        older = f"{part[:-1]}{last}.{rest}"
        if name in smaller:
            state[name] = smaller[name]
        elif older in smaller:
            state[name] = smaller[older]
        elif part[:2] in ("al", "bl"):
            state[name] = 0.1 * drawn
    return state


class LandmarkerTask(_LandmarkTask):
    """FAN on Gaussian heat maps, and on where they are decoded to be; positive cells weigh more, else an empty map is
    the easiest answer."""

    name = "landmarker"

    def __init__(self, config, data, validation, sizes):
        torch.manual_seed(config.seed)
        super().__init__(config, data, validation, FAN(**sizes), sizes)

    def start_from(self, name, state):
        super().start_from(name, grown(state, self.networks[name]))

    def step(self, step, progress, rng):
        images, points = self.batch(rng)
        target = gaussian_heatmaps(points, SIDE_PX)
        weight = 1 + 15 * target
        stacks = self.run((images + 1) / 2)
        maps = sum((weight * (stack.float() - target).square()).mean() for stack in stacks) * 100
        places = sum(place_loss(stack, points) for stack in stacks)
        self.update(maps + places)
        return {"maps": maps, "places": places / len(stacks)}

    def predict(self, net, images):
        with self.autocast():
            maps = net.heatmaps(images)
        return heatmaps_to_landmarks(maps.float()).cpu().numpy()

    def export(self, averages, folder, measures):
        self._export("landmarker", "fan", averages["net"], folder, measures)


def wing_like(found_px: torch.Tensor, truth_px: torch.Tensor) -> torch.Tensor:
    """Distance of points `[N, K, 2]`: steep near zero, as Wing loss is; a scalar."""
    error = (found_px.float() - truth_px).abs() / 2
    return torch.log1p(error).mean() + 0.02 * error.mean()


class IntegralRegressorTask(_LandmarkTask):
    """The measuring net: coordinates straight from the picture, other augmentation seed, other architecture.

    `MouthRegressorTask` trains its look at the mouth, which is to be taken again after this."""

    name = "landmarker_eval"

    def __init__(self, config, data, validation, sizes):
        torch.manual_seed(config.seed + 1)
        super().__init__(config, data, validation, IntegralRegressor(**sizes), sizes)

    def start_from(self, name, state):
        super().start_from(name, part_of(state, "face"))

    def step(self, step, progress, rng):
        images, points = self.batch(np.random.default_rng((1, *rng.integers(1 << 32, size=2))))
        loss = wing_like(self.run(images), points)
        self.update(loss)
        return {"loss": loss}

    def predict(self, net, images):
        with self.autocast():
            return net(images).float().cpu().numpy()

    def export(self, averages, folder, measures):
        self._export("landmarker_eval", "integral_regressor", averages["net"], folder, measures)


class MouthRegressorTask(_LandmarkTask):
    """The measuring net's look at the mouth, in windows as its look at the face may place them.

    `judge`: the net so far, of which the look at the face stays as it is; `trained_on`: what it has seen."""

    name = "landmarker_eval_mouth"

    def __init__(self, config, data, validation, sizes, judge: IntegralRegressor | CloseRegressor, trained_on: str):
        torch.manual_seed(config.seed + 1)
        self.whole = CloseRegressor(**sizes)
        super().__init__(config, data, validation, self.whole.mouth, sizes)
        self.face_trained_on = trained_on.partition(MOUTH_NOTE)[0]
        state = judge.state_dict()
        self.whole.face.load_state_dict(part_of(state, "face"))
        self.whole.to(self.device).requires_grad_(False).eval()
        self.whole.mouth.requires_grad_(True).train()
        if isinstance(judge, CloseRegressor):
            self.start_from("net", state)

    @property
    def trained_on(self):
        return f"{self.face_trained_on}{MOUTH_NOTE}{super().trained_on}"

    def start_from(self, name, state):
        super().start_from(name, part_of(state, "mouth"))

    def step(self, step, progress, rng):
        rng = np.random.default_rng((2, *rng.integers(1 << 32, size=2)))
        images, points = window_batch(self.data, self.data.draw(rng, self.config.batch_size), rng)
        loss = wing_like(self.run(images), points)
        self.update(loss)
        return {"loss": loss}

    def predict(self, net, images):
        with self.autocast():
            return look_closer(images, self.whole.face, net).float().cpu().numpy()

    def export(self, averages, folder, measures):
        self.whole.mouth.load_state_dict(averages["net"].state_dict())
        self._export("landmarker_eval", "close_regressor", self.whole, folder, measures)


def part_of(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The weights of "face" or "mouth" in those of a CloseRegressor; others, of one network alone, as they are."""
    if not any(name.startswith(f"{part}.") for name in state):
        return state
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def window_batch(
    data: DeviceStills, indices: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows about mouths [N,3,128,128] in [-1,1] and their points float32 [N,20,2] (px), of pictures moved, mirrored,
    covered and spoilt; the windows lie as a look at the face might place them."""
    count = len(indices)
    placement = random_placement(rng, count, (0.68, 1.3), 14.0, 0.0)
    points = torch.from_numpy(place_points(data.table.landmarks_px[indices], SIDE_PX, placement))
    windows = mouth_windows(points)
    half = windows.half_sides_px.numpy()
    centres = windows.centres_px.numpy() + np.clip(rng.normal(size=(count, 2)), -2, 2) * half[:, None] * 0.08
    half = half * np.exp(np.clip(rng.normal(size=count), -2, 2) * 0.08)
    windows = Windows(torch.from_numpy(centres.astype(np.float32)), torch.from_numpy(half.astype(np.float32)))
    # the same squares, as a further placement: the window's middle goes to 0 and its side to [-1, 1]
    larger = (SIDE_PX / 2 / half).astype(np.float32)
    shift = (placement.shift - (centres / (SIDE_PX / 2) - 1)) * larger[:, None]
    placed = Placement(placement.matrix * larger[:, None, None], shift.astype(np.float32), placement.mirrored)
    images = place_images(data.images(indices), sampling_grid(placed, WINDOW_PX, data.device))
    images, _ = occlude(images, None, rng, 0.15)
    return camera_faults(images, rng), windows.from_picture(points[:, MOUTH_FROM:]).to(data.device)
