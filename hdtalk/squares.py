"""Squares in a picture: where the FFHQ alignment puts them, their content upright, and points in and out of them.

Integer positions are pixel centres, in frames and in squares alike.
"""

import numpy as np
import torch
import torch.nn.functional as F


def ffhq_quads(landmarks_px: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Corners of the FFHQ alignment (Karras et al., StyleGAN paper): landmarks [T,68,2] -> float64 [T,4,2], top-left,
    bottom-left, bottom-right, top-right, in pixels of the frame; always squares, turned with the head."""
    return square_quads(*ffhq_axes(landmarks_px, scale))


def ffhq_axes(landmarks_px: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half-side vector (pointing to the face's left in the picture's right), both float64 [T,2]."""
    points = np.asarray(landmarks_px, np.float64)
    eye_left, eye_right = points[:, 36:42].mean(1), points[:, 42:48].mean(1)
    eyes = (eye_left + eye_right) / 2
    between_eyes = eye_right - eye_left
    eyes_to_mouth = (points[:, 48] + points[:, 54]) / 2 - eyes
    axis = between_eyes - _quarter_turn(eyes_to_mouth)
    length = np.maximum(2.0 * np.linalg.norm(between_eyes, axis=1), 1.8 * np.linalg.norm(eyes_to_mouth, axis=1))
    axis *= (scale * length / np.maximum(np.linalg.norm(axis, axis=1), 1e-9))[:, None]
    return eyes + 0.1 * eyes_to_mouth, axis


def crop_face(frame: np.ndarray, quad_px: np.ndarray, resolution: int) -> np.ndarray:
    """The square `quad_px` [4,2] of a uint8 RGB frame [H,W,3], upright: float32 [3,R,R] in [-1,1].

    Bilinear and antialiased (sampled finer, then averaged, where a crop pixel covers several frame pixels). Outside
    the frame the picture is mirrored. Pixel (i, j) of the crop shows the frame at quad[0] + (j + 0.5) / R of the way
    to quad[3] plus (i + 0.5) / R of the way to quad[1]; integer positions are pixel centres throughout.
    """
    quad = np.asarray(quad_px, np.float64)
    patch, origin = _patch(frame, quad)
    image = torch.from_numpy(patch.astype(np.float32)).permute(2, 0, 1)[None]
    return (crop_picture(image, quad - origin, resolution)[0] / 127.5 - 1).numpy()


def crop_picture(image: torch.Tensor, quad_px: np.ndarray, resolution: int) -> torch.Tensor:
    """`crop_face` of a picture of any kind, float [1,C,h,w] -> [1,C,R,R]; its border's pixels go on outside of it."""
    oversampling = max(1, int(np.ceil(side_px(quad_px) / resolution - 1e-6)))
    side = resolution * oversampling
    crop = sample_at(image, positions(crop_to_frame(quad_px, side), side, side), "border", "bilinear")
    return F.avg_pool2d(crop, oversampling) if oversampling > 1 else crop


def landmarks_to_crop(landmarks_px: np.ndarray, quads_px: np.ndarray, resolution: int) -> np.ndarray:
    """Points [T,N,2] in pixels of the frame -> float32 [T,N,2] in pixels of the crops."""
    matrices = np.stack([invert(crop_to_frame(quad, resolution)) for quad in np.asarray(quads_px, np.float64)])
    return _transform(landmarks_px, matrices)


def landmarks_to_frame(landmarks_crop_px: np.ndarray, quads_px: np.ndarray, resolution: int) -> np.ndarray:
    """Points [T,N,2] in pixels of the crops -> float32 [T,N,2] in pixels of the frame."""
    matrices = np.stack([crop_to_frame(quad, resolution) for quad in np.asarray(quads_px, np.float64)])
    return _transform(landmarks_crop_px, matrices)


def _quarter_turn(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, ::-1] * (-1, 1)


def square_quads(centres: np.ndarray, axes: np.ndarray) -> np.ndarray:
    down = _quarter_turn(axes)
    return np.stack([centres - axes - down, centres - axes + down, centres + axes + down, centres + axes - down], 1)


def side_px(quad: np.ndarray) -> float:
    return float(np.linalg.norm(quad[3] - quad[0]))


def crop_to_frame(quad: np.ndarray, resolution: int) -> np.ndarray:
    """Affine [2,3] from crop pixel (x, y) to frame pixel (x, y)."""
    right, down = (quad[3] - quad[0]) / resolution, (quad[1] - quad[0]) / resolution
    return np.column_stack([right, down, quad[0] + (right + down) / 2])


def invert(matrix: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def _transform(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    moved = np.einsum("tij,tnj->tni", matrices[:, :, :2], np.asarray(points, np.float64)) + matrices[:, None, :, 2]
    return moved.astype(np.float32)


def _patch(frame: np.ndarray, quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the frame under the quad, mirrored where the quad leaves the frame, and its top left pixel."""
    x0, y0 = (np.floor(quad.min(0)) - 1).astype(int)
    x1, y1 = (np.ceil(quad.max(0)) + 2).astype(int)
    rows = _mirrored(np.arange(y0, y1), frame.shape[0])
    columns = _mirrored(np.arange(x0, x1), frame.shape[1])
    if np.array_equal(rows, np.arange(y0, y1)) and np.array_equal(columns, np.arange(x0, x1)):
        return frame[y0:y1, x0:x1], np.array([x0, y0])
    return frame[rows[:, None], columns], np.array([x0, y0])


def _mirrored(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices reflected into [0, size) about the outermost pixels, however far away they are."""
    if size == 1:
        return np.zeros_like(indices)
    folded = np.abs(indices) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def positions(matrix: np.ndarray, height: int, width: int) -> torch.Tensor:
    """matrix @ (x, y, 1) for every pixel of a height x width picture, float64 [height,width,2]."""
    x, y = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)[:, None]
    return torch.stack([row[0] * x + row[1] * y + row[2] for row in torch.from_numpy(matrix)], -1)


def sample_at(image: torch.Tensor, points_px: torch.Tensor, padding: str, mode: str) -> torch.Tensor:
    """Samples of image [1,C,h,w] at points [height,width,2], (x, y) in its pixels."""
    size = torch.tensor([image.shape[-1], image.shape[-2]], dtype=torch.float64)
    grid = (points_px + 0.5) * (2 / size) - 1  # grid_sample's [-1,1], whose ends are pixel borders
    return F.grid_sample(image, grid[None].float(), mode=mode, padding_mode=padding, align_corners=False)
