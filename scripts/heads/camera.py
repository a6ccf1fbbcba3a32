"""Cameras for rendered heads: the frame, the FFHQ-aligned crop, and what a real camera does to a clean picture."""

from typing import NamedTuple

import cv2
import numpy as np


class Camera(NamedTuple):
    """A pinhole at `distance` cm from LOOK_AT; `frame` [2,3] takes the picture's plane (landmarks.py: cm, y down) to
    the image, in image widths from its left upper corner."""

    distance: float = 80.0
    frame: tuple = ((0.030, 0.0, 0.5), (0.0, 0.030, 0.51))


def whole_frame(zoom: float = 1.0, offset=(0.0, 0.01), aspect: float = 1.0) -> tuple:
    """An upright frame; zoom 1: it is 33 cm wide at LOOK_AT, which lies `offset` (in widths) from the image's centre.
    aspect: width / height."""
    return ((0.030 * zoom, 0.0, 0.5 + offset[0]), (0.0, 0.030 * zoom, 0.5 / aspect + offset[1]))


def aligned_frame(landmarks_plane: np.ndarray, jitter=(0.0, 0.0, 0.0, 0.0)) -> tuple:
    """The frame whose image is the FFHQ-aligned crop of a face with these landmarks [68,2].

    jitter: shift right and down in crop widths, log of a scale, rotation in radians; stands for tracking error."""
    centre, x, y = ffhq_square(landmarks_plane)
    cos, sin = np.cos(jitter[3]), np.sin(jitter[3])
    centre = centre + 2 * (jitter[0] * x + jitter[1] * y)
    x, y = (np.exp(jitter[2]) * v for v in (cos * x + sin * y, cos * y - sin * x))
    linear = np.linalg.inv(np.stack([x, y], 1)) / 2  # plane offsets -> image widths
    shift = 0.5 - linear @ centre
    return tuple((*map(float, row), float(t)) for row, t in zip(linear, shift, strict=True))


def ffhq_square(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and half sides (to the right, down) of the FFHQ crop; FFHQ data set's alignment."""
    eye_l, eye_r = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    eyes, mouth = (eye_l + eye_r) / 2, (landmarks[48] + landmarks[54]) / 2
    across, down = (eye_r - eye_l).astype(np.float64), (mouth - eyes).astype(np.float64)
    x = across + np.array([down[1], -down[0]])
    x *= max(2.0 * np.linalg.norm(across), 1.8 * np.linalg.norm(down)) / np.linalg.norm(x)
    return eyes + 0.1 * down, x, np.array([-x[1], x[0]])


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What lies between a clean picture (uint8 RGB [H,W,3]) and a frame of a real clip: blur, motion, low resolution,
    exposure, white balance, noise, compression. The size stays."""
    height, width = image.shape[:2]
    picture = image.astype(np.float32) / 255
    if rng.random() < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.8) * width / 256)
    if rng.random() < 0.12:
        length, angle = rng.uniform(2, 7) * width / 256, rng.uniform(0, np.pi)
        taps = np.zeros((15, 15), np.float32)
        end = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        cv2.line(
            taps, tuple(np.round(7 - end).astype(int).tolist()), tuple(np.round(7 + end).astype(int).tolist()), 1.0
        )
        picture = cv2.filter2D(picture, -1, taps / taps.sum())
    if rng.random() < 0.3:  # a small face in a large frame
        factor = rng.uniform(0.3, 0.9)
        small = (max(8, int(width * factor)), max(8, int(height * factor)))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(
            picture, (width, height), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
        )
    gamma, gain = np.exp(rng.normal(0, 0.18)), np.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.05, 3))
    picture = np.clip(picture, 0, 1) ** gamma * gain.astype(np.float32)
    grey = picture.mean(-1, keepdims=True)
    saturation = 0.0 if rng.random() < 0.04 else np.exp(rng.normal(0, 0.2))
    picture = grey + (picture - grey) * saturation
    picture = (picture - 0.5) * np.exp(rng.normal(0, 0.12)) + 0.5 + rng.normal(0, 0.03)
    strength = rng.exponential(0.012)
    noise = rng.standard_normal(picture.shape).astype(np.float32)
    if rng.random() < 0.5:
        noise = cv2.GaussianBlur(noise, (0, 0), 0.7) * 2
    picture = picture + noise * strength
    out = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        out = cv2.imdecode(cv2.imencode(".jpg", out[..., ::-1], quality)[1], cv2.IMREAD_COLOR)[..., ::-1].copy()
    return out


def occlude(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lays a hand or a microphone over the lower part of the picture; its label is background. For the landmark and
    parsing nets only; rarely (3 % of pictures)."""
    height, width = labels.shape
    mask = np.zeros((height, width), np.uint8)
    shade = np.zeros((height, width), np.float32)
    scale = width / 256
    at = np.array([rng.uniform(0.2, 0.8), rng.uniform(0.75, 0.95)]) * [width, height]

    def bar(start, end, radius, light=1.0):
        line = np.zeros((height, width), np.uint8)
        points = [tuple(np.round(p).astype(int).tolist()) for p in (start, end)]
        cv2.line(line, *points, 255, max(2, int(2 * radius)))
        cv2.circle(line, points[0], int(radius), 255, -1)
        depth = cv2.distanceTransform(line, cv2.DIST_L2, 3) / max(radius, 1)
        inside = line > 0
        shade[inside] = light * (0.35 + 0.65 * np.sqrt(np.clip(depth[inside], 0, 1)))
        mask[inside] = 255

    below = np.array([rng.normal(0, 40), 200]) * scale
    if rng.random() < 0.5:  # microphone: grip and dark head
        bar(at, at + below, 11 * scale, 0.5)
        bar(at - [0, 4 * scale], at + [0, 6 * scale], 18 * scale, 0.9)
        colour = rng.uniform(0.03, 0.25) * np.ones(3)
    else:  # hand: palm and four fingers
        skin = image[labels == 1]
        colour = (np.median(skin, 0) / 255 if len(skin) else np.array([0.6, 0.45, 0.4])) ** 2.2 * rng.uniform(0.8, 1.4)
        bar(at + [0, 60 * scale], at + below, 30 * scale)
        lean = rng.normal(0, 0.4)
        for k in range(4):
            tip = at + np.array([(k - 1.5) * 17 + 40 * lean, -rng.uniform(5, 25)]) * scale
            bar(tip, at + np.array([(k - 1.5) * 13, 62]) * scale, 8.5 * scale)
    cover = cv2.GaussianBlur(mask, (0, 0), 0.8 * scale).astype(np.float32)[..., None] / 255
    paint = np.clip(shade[..., None] * colour, 0, 1) ** (1 / 2.2) * 255
    hidden = labels.copy()
    hidden[mask > 127] = 0
    return (image * (1 - cover) + paint * cover).astype(np.uint8), hidden
