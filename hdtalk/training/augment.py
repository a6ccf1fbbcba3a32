"""Random geometry and camera faults, so that nets trained on clean renders also read real footage."""

import cv2
import numpy as np

# iBUG 68: the point that takes each point's place when the picture is mirrored
MIRRORED_68 = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)
# CelebAMask labels with a left and a right: brows, eyes, ears
MIRRORED_LABELS = np.arange(19, dtype=np.uint8)
MIRRORED_LABELS[[2, 3, 4, 5, 7, 8]] = 3, 2, 5, 4, 8, 7


def random_affine(
    rng: np.random.Generator, size: int, scale: tuple[float, float], rotation_deg: float, shift: float
) -> np.ndarray:
    """2x3 matrix about the centre of a square picture: scale drawn log-uniformly, rotation and shift (share of the
    size) drawn normally, clipped at two sigma."""
    factor = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    angle = np.clip(rng.normal(), -2, 2) * rotation_deg
    matrix = np.asarray(cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), angle, factor), float)
    matrix[:, 2] += np.clip(rng.normal(size=2), -2, 2) * shift * size
    return matrix


def warp(image: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H,W,3] -> the same size; what lies outside is black, mirrored or smeared, drawn at random."""
    border = (cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE)[rng.integers(3)]
    shrinks = np.hypot(*matrix[0, :2]) < 0.8
    if shrinks:
        image = cv2.GaussianBlur(image, (0, 0), 0.35 / np.hypot(*matrix[0, :2]))
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=border)


def warp_labels(labels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Labels uint8 [H,W]; 255 (unknown) outside."""
    size = labels.shape[1::-1]
    return cv2.warpAffine(
        labels, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255
    )


def warp_points(points_px: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [...,2] whose pixel centres lie at +0.5 (as the renderer's), moved as `warp` moves the pixels."""
    return (points_px - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5


def mirror(image: np.ndarray, landmarks_px: np.ndarray, labels: np.ndarray | None):
    """Left becomes right in picture, points and labels."""
    points = landmarks_px[MIRRORED_68].copy()
    points[:, 0] = image.shape[1] - points[:, 0]
    flipped_labels = None if labels is None else MIRRORED_LABELS[labels[:, ::-1]]
    return image[:, ::-1].copy(), points.astype(np.float32), flipped_labels


def camera_faults(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """uint8 RGB [H,W,3] as a worse camera would have taken it: exposure, contrast, gamma, colour cast, saturation,
    focus and motion blur, low resolution, noise, JPEG. `strength` 0..1 scales how much and how often."""
    x: np.ndarray = image.astype(np.float32) / 255
    x = np.clip(x, 0, 1) ** np.exp(rng.normal() * 0.22 * strength)
    x = (x - 0.5) * np.exp(rng.normal() * 0.15 * strength) + 0.5 + rng.normal() * 0.06 * strength
    x = x * np.exp(rng.normal(size=3) * 0.06 * strength).astype(np.float32)
    grey = x.mean(-1, keepdims=True)
    saturation = 0.0 if rng.random() < 0.05 * strength else np.exp(rng.normal() * 0.3 * strength)
    x = (grey + (x - grey) * saturation).astype(np.float32)
    kind = rng.random() / max(strength, 1e-3)
    if kind < 0.25:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 2.2))
    elif kind < 0.4:
        size = image.shape[1::-1]
        factor = rng.uniform(0.22, 0.7)
        small = cv2.resize(x, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        x = cv2.resize(small, size, interpolation=(cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)])
    elif kind < 0.48:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        direction = np.array([np.cos(a := rng.uniform(0, np.pi)), np.sin(a)]) * (length - 1) / 2
        centre = (length - 1) / 2
        cv2.line(
            kernel,
            tuple(np.round(centre - direction).astype(int).tolist()),
            tuple(np.round(centre + direction).astype(int).tolist()),
            1.0,
        )
        x = cv2.filter2D(x, -1, kernel / kernel.sum())
    if rng.random() < 0.6 * strength:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.gamma(1.5, 0.012))
    x = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    if rng.random() < 0.5 * strength:
        quality = int(rng.integers(25, 92))
        coded = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        x = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return x


def random_occluder(image: np.ndarray, labels: np.ndarray | None, rng: np.random.Generator) -> None:
    """Covers a part of the picture, in place, with a flat or noisy shape; its labels become 255 (unknown)."""
    size = image.shape[0]
    mask = np.zeros(image.shape[:2], np.uint8)
    centre = rng.uniform(0.05, 0.95, 2) * size
    axes = rng.uniform(0.04, 0.18, 2) * size
    if rng.random() < 0.5:
        cv2.ellipse(mask, (centre.tolist(), (2 * axes).tolist(), float(rng.uniform(0, 180))), 1, -1)
    else:
        corners = centre + rng.uniform(-1, 1, (5, 2)) * axes * 1.4
        cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), 1)
    colour = rng.integers(0, 256, 3) + rng.normal(size=(*image.shape[:2], 3)) * rng.uniform(0, 25)
    image[mask > 0] = np.clip(colour, 0, 255).astype(np.uint8)[mask > 0]
    if labels is not None:
        labels[mask > 0] = 255
