"""Trains the face detector on heads pasted at any size and place into busy pictures."""

from pathlib import Path

import cv2
import numpy as np
import torch

from hdtalk.models.face_detector import FaceDetector, detection_loss
from hdtalk.training.augment import camera_faults, mirror
from hdtalk.training.loop import Task, TrainConfig, picture_grid, write_network
from hdtalk.training.rendered import RenderedStills

CANVAS = 320


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


def scene(data: RenderedStills, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [CANVAS,CANVAS,3] and the boxes [K,4] of its 0 to 3 faces, in pixels."""
    image = clutter(rng)
    boxes: list[np.ndarray] = []
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.1, 0.6, 0.2, 0.1])):
        index = np.array([rng.integers(len(data))])
        head, labels, points = data.pictures(index)[0], data.label_maps(index)[0], data.landmarks_px[index][0]
        if rng.random() < 0.5:
            head, points, labels = mirror(head, points, labels)
        size = np.exp(rng.uniform(np.log(45), np.log(380)))  # of the aligned crop, px
        angle = np.clip(rng.normal(), -2, 2) * 12
        matrix = np.asarray(cv2.getRotationMatrix2D((127.5, 127.5), angle, size / 256), float)
        centre = rng.uniform(0.12, 0.88, 2) * CANVAS
        matrix[:, 2] += centre - 127.5
        if size < 200:
            head = cv2.GaussianBlur(head, (0, 0), max(0.1, 0.3 * 256 / size))
        # whole picture with its own surroundings, or the person cut out; soft edges
        alpha = np.ones(labels.shape, np.float32) if rng.random() < 0.5 else (labels > 0).astype(np.float32)
        fade = np.ones_like(alpha)
        fade[:4] = fade[-4:] = 0
        fade[:, :4] = fade[:, -4:] = 0
        alpha = cv2.GaussianBlur(alpha * fade, (0, 0), 1.2)
        moved = points @ matrix[:, :2].T + matrix[:, 2]
        box = face_box(moved)
        inside = np.clip(box, 0, CANVAS)
        if np.prod(inside[2:] - inside[:2]) < 0.7 * np.prod(box[2:] - box[:2]):
            continue
        if any(_overlap(inside, other) > 0.02 for other in boxes):
            continue
        paste = cv2.warpAffine(head, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(alpha, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR)[..., None]
        image = (image * (1 - mask) + paste * mask).astype(np.uint8)
        boxes.append(inside)
    return camera_faults(image, rng, 0.8), np.array(boxes, np.float32).reshape(-1, 4)


def _overlap(a, b) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return float(np.prod(np.maximum(0, high - low)) / np.prod(a[2:] - a[:2]))


class DetectorTask(Task):
    name = "detector"
    averaged = ("net",)

    def __init__(self, config: TrainConfig, data: RenderedStills, validation: RenderedStills, sizes: dict):
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.data, self.validation, self.sizes = data, validation, sizes
        net = FaceDetector(**sizes).to(self.device).to(memory_format=torch.channels_last)
        self.networks = {"net": net}
        self.optimisers = {"main": torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)}

    def step(self, step, progress, rng):
        scenes = [scene(self.data, rng) for _ in range(self.config.batch_size)]
        x = torch.from_numpy(np.stack([s[0] for s in scenes])).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with self.autocast():
            output = self.networks["net"](x)
        loss = detection_loss(output, [torch.from_numpy(s[1]) for s in scenes])
        self.update(loss)
        return {"loss": loss.item()}

    def validate(self, averages):
        rng, found, total, spurious, tiles = np.random.default_rng(5), 0, 0, 0, []
        for _ in range(120):
            image, boxes = scene(self.validation, rng)
            detected = averages["net"].detect(image[None])[0]
            overlaps = np.array([[_iou(d[:4], b) for b in boxes] for d in detected]).reshape(len(detected), len(boxes))
            found += int((overlaps.max(0) > 0.5).sum()) if len(detected) and len(boxes) else 0
            spurious += int((overlaps.max(1) < 0.3).sum()) if len(boxes) and len(detected) else len(detected)
            total += len(boxes)
            if len(tiles) < 24:
                for box, colour in [*((b, (255, 0, 0)) for b in boxes), *((d[:4], (0, 255, 0)) for d in detected)]:
                    cv2.rectangle(image, box[:2].astype(int).tolist(), box[2:4].astype(int).tolist(), colour, 1)
                tiles.append(image[::2, ::2])
        measures = {"recall": found / total, "false_alarms_per_picture": spurious / 120}
        return measures, picture_grid([tiles[i : i + 8] for i in range(0, 24, 8)])

    def export(self, averages, folder: Path, measures) -> None:
        write_network(folder, "detector", averages["net"], "face_detector", self.sizes, self.data.description, measures)


def _iou(a, b) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(0, high - low))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))
