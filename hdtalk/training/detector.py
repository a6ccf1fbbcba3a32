"""Trains the face detector on heads pasted at any size and place into busy pictures."""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from hdtalk.models.face_detector import FaceDetector, box_overlap, detection_loss
from hdtalk.training.augment import Placement, camera_faults, place_points, sampling_grid, scaled_rotations
from hdtalk.training.loop import Task, TrainConfig, picture_grid, to_uint8, write_network
from hdtalk.training.rendered import DeviceStills

CANVAS = 320
NUM_BACKDROPS = 512
NUM_VALIDATED = 160  # scenes


def face_box(landmarks_px: np.ndarray) -> np.ndarray:
    """Box (x0, y0, x1, y1) that detectors call a face: the landmarks' extent, raised over the forehead by a quarter."""
    (x0, y0), (x1, y1) = landmarks_px.min(0), landmarks_px.max(0)
    return np.array([x0, y0 - 0.25 * (y1 - y0), x1, y1], np.float32)


def clutter(rng: np.random.Generator) -> np.ndarray:
    """A picture without a face, uint8 [CANVAS,CANVAS,3]: noise at several scales under shapes, mostly out of focus."""
    image: np.ndarray = np.zeros((CANVAS, CANVAS, 3), np.float32) + rng.uniform(10, 245, 3).astype(np.float32)
    for scale in rng.choice([2, 5, 12, 30, 80], size=rng.integers(1, 4), replace=False):
        noise = rng.normal(size=(int(scale), int(scale), 3)).astype(np.float32) * rng.uniform(5, 50)
        image += cv2.resize(noise, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(image)
    for _ in range(rng.integers(3, 22)):
        colour, centre = rng.uniform(0, 255, 3).tolist(), rng.uniform(0, CANVAS, 2)
        axes = rng.uniform(4, 110, 2)
        kind = rng.integers(3)
        if kind == 0:
            cv2.ellipse(image, (centre.tolist(), axes.tolist(), float(rng.uniform(0, 180))), colour, -1, cv2.LINE_AA)
        elif kind == 1:
            corner = (centre + axes).astype(int).tolist()
            cv2.rectangle(image, centre.astype(int).tolist(), corner, colour, -1)
        else:
            far = rng.uniform(0, CANVAS, 2).astype(int).tolist()
            cv2.line(image, centre.astype(int).tolist(), far, colour, int(rng.integers(1, 12)), cv2.LINE_AA)
    if rng.random() < 0.7:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 5))
    return np.clip(image, 0, 255).astype(np.uint8)


class Scenes:
    """Pictures of up to three heads pasted at any size and place into clutter."""

    def __init__(self, data: DeviceStills, seed: int = 0):
        self.data = data
        rng = np.random.default_rng(seed)
        backdrops = torch.from_numpy(np.stack([clutter(rng) for _ in range(NUM_BACKDROPS)]))
        self.backdrops = backdrops.permute(0, 3, 1, 2).to(data.device)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[np.ndarray]]:
        """Pictures [N,3,CANVAS,CANVAS] in [-1,1] and each one's boxes [K,4] of its 0 to 3 faces, in pixels."""
        images = self._backdrops(rng, count)
        boxes: list[list[np.ndarray]] = [[] for _ in range(count)]
        wanted = rng.choice([0, 1, 2, 3], p=[0.1, 0.6, 0.2, 0.1], size=count)
        for place in range(3):
            indices = self.data.draw(rng, count)
            placement = _random_paste(rng, count)
            points = place_points(self.data.table.landmarks_px[indices], 256.0, placement) * (CANVAS / 256)
            crops = _crop_boxes(placement)
            fits = [self._fits(p, c, b) for p, c, b in zip(points, crops, boxes, strict=True)]
            pasted = np.flatnonzero((place < wanted) & fits)
            if len(pasted) == 0:
                continue
            images = self._paste(images, indices[pasted], pasted, placement[pasted], rng)
            for k in pasted:
                boxes[k].append(np.clip(face_box(points[k]), 0, CANVAS))
        images = camera_faults(images, rng, 0.8)
        return images, [np.array(b, np.float32).reshape(-1, 4) for b in boxes]

    def _backdrops(self, rng, count):
        """Clutter, mirrored and turned by quarters by turns, so that few pictures give many."""
        chosen = self.backdrops[torch.from_numpy(rng.integers(NUM_BACKDROPS, size=count)).to(self.backdrops.device)]
        chosen = torch.rot90(chosen, int(rng.integers(4)), (2, 3))
        return (chosen.flip(3) if rng.random() < 0.5 else chosen).float() / 127.5 - 1

    def _fits(self, points_px, crop_box, others):
        """Whether most of the face would be in the picture, its crop would hide no other face, and it lies on none."""
        box = face_box(points_px)
        inside = np.clip(box, 0, CANVAS)
        if np.prod(inside[2:] - inside[:2]) < 0.7 * np.prod(box[2:] - box[:2]):
            return False
        return all(_overlap(other, crop_box) <= 0.1 and _overlap(box, other) <= 0.1 for other in others)

    def _paste(self, images, indices, rows, placement, rng):
        """Whole pictures with their own surroundings, or the person cut out; soft edges."""
        heads, labels = self.data.images(indices), self.data.labels(indices)
        cut_out = torch.from_numpy(rng.random(len(rows)) < 0.5).to(images.device)[:, None, None]
        alpha = torch.where(cut_out, (labels > 0).float(), 1.0)[:, None]
        alpha = F.pad(alpha[:, :, 4:-4, 4:-4], (4, 4, 4, 4))
        alpha = F.avg_pool2d(F.avg_pool2d(alpha, 3, 1, 1), 3, 1, 1)
        side = np.sqrt(np.abs(np.linalg.det(placement.matrix))) * CANVAS
        shrunk = F.avg_pool2d(heads, 3, 1, 1, count_include_pad=False)
        small = torch.from_numpy(side < 140).to(images.device)[:, None, None, None]
        heads = torch.where(small, F.avg_pool2d(shrunk, 3, 1, 1, count_include_pad=False), heads)
        theta_grid = sampling_grid(placement, CANVAS, images.device)
        paste = F.grid_sample(heads, theta_grid, "bilinear", "border", align_corners=False)
        mask = F.grid_sample(alpha, theta_grid, "bilinear", "zeros", align_corners=False)
        rows = torch.from_numpy(rows).to(images.device)
        under = images[rows]
        return images.index_copy(0, rows, under + (paste - under) * mask)


def _random_paste(rng: np.random.Generator, count: int) -> Placement:
    """Aligned crops of 45 to 380 px on the canvas, tilted a little, anywhere."""
    factor = np.exp(rng.uniform(np.log(45), np.log(380), count)) / CANVAS
    angle = np.radians(np.clip(rng.normal(size=count), -2, 2) * 12)
    shift = rng.uniform(-0.76, 0.76, (count, 2)).astype(np.float32)
    return Placement(scaled_rotations(factor, angle), shift, rng.random(count) < 0.5)


def _crop_boxes(placement: Placement) -> np.ndarray:
    """Boxes [N,4] around the moved crops, in pixels of the canvas."""
    moved = placement.moved(np.array([[[-1, -1], [1, -1], [1, 1], [-1, 1]]], np.float32))
    return (np.concatenate([moved.min(1), moved.max(1)], 1) + 1) * (CANVAS / 2)


def _overlap(a, b) -> float:
    """Share of box a that lies in box b."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return float(np.prod(np.maximum(0, high - low)) / np.prod(a[2:] - a[:2]))


class DetectorTask(Task):
    name = "detector"
    averaged = ("net",)

    def __init__(self, config: TrainConfig, data: DeviceStills, validation: DeviceStills, sizes: dict):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.sizes = data, sizes
        self.scenes, self.validation = Scenes(data, config.seed), Scenes(validation, config.seed + 1)
        net = FaceDetector(**sizes).to(self.device).to(memory_format=torch.channels_last)
        self.networks = {"net": net}
        self.optimisers = {"main": torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)}

    def step(self, step, progress, rng):
        images, boxes = self.scenes.draw(rng, self.config.batch_size)
        with self.autocast():
            output = self.networks["net"](images)
        loss = detection_loss(output, [torch.from_numpy(b) for b in boxes])
        self.update(loss)
        return {"loss": loss}

    def validate(self, averages):
        rng, found, total, spurious, tiles = np.random.default_rng(5), 0, 0, 0, []
        images, boxes_of = self.validation.draw(rng, NUM_VALIDATED)
        for image, boxes in zip(to_uint8(images), boxes_of, strict=True):
            image = np.ascontiguousarray(image)
            detected = averages["net"].detect(image[None])[0]
            overlaps = np.array([[box_overlap(d[:4], b) for b in boxes] for d in detected])
            overlaps = overlaps.reshape(len(detected), len(boxes))
            found += int((overlaps.max(0) > 0.5).sum()) if len(detected) and len(boxes) else 0
            spurious += int((overlaps.max(1) < 0.3).sum()) if len(boxes) and len(detected) else len(detected)
            total += len(boxes)
            if len(tiles) < 24:
                for box, colour in [*((b, (255, 0, 0)) for b in boxes), *((d[:4], (0, 255, 0)) for d in detected)]:
                    cv2.rectangle(image, box[:2].astype(int).tolist(), box[2:4].astype(int).tolist(), colour, 1)
                tiles.append(image[::2, ::2])
        measures = {"recall": found / total, "false_alarms_per_picture": spurious / NUM_VALIDATED}
        return measures, picture_grid([tiles[i : i + 8] for i in range(0, 24, 8)])

    def export(self, averages, folder: Path, measures) -> None:
        write_network(
            folder, "detector", averages["net"], "face_detector", self.sizes, self.data.table.description, measures
        )
