"""From the frame to the aligned face crop and back: smooth FFHQ quads, crop_face and its inverse paste_back."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from hdtalk.config import CropConfig
from hdtalk.data import CropTrack, FaceTrack

DEFAULTS = CropConfig()


def crop_track(track: FaceTrack, resolution: int, config: CropConfig = DEFAULTS) -> CropTrack:
    """FFHQ quads of a tracked face, smoothed over time (centre and axes apart, as STIT does), never across a cut."""
    centres, axes = ffhq_axes(track.landmarks_px, config.scale)
    bounds = [0, *track.cuts, len(centres)]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        if stop - start > 1:
            shot = slice(start, stop)
            centres[shot] = _smooth(centres[shot], config.centre_sigma_frames)
            axes[shot] = _smooth(axes[shot], config.axes_sigma_frames)
    return CropTrack(quads_px=_quads(centres, axes), resolution=resolution)


def ffhq_quads(landmarks_px: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Corners of the FFHQ alignment (Karras et al., StyleGAN paper): landmarks [T,68,2] -> float64 [T,4,2], top-left,
    bottom-left, bottom-right, top-right, in pixels of the frame; always squares, turned with the head."""
    return _quads(*ffhq_axes(landmarks_px, scale))


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
    oversampling = int(np.ceil(_side(quad) / resolution - 1e-6))
    side = resolution * max(oversampling, 1)
    image = torch.from_numpy(patch).permute(2, 0, 1)[None].float()
    crop = _sample(image, _crop_to_frame(quad - origin, side), side, side, padding="border")
    if oversampling > 1:
        crop = F.avg_pool2d(crop, oversampling)
    return (crop[0] / 127.5 - 1).numpy()


def paste_back(
    frame: np.ndarray,
    crop: np.ndarray,
    mask: np.ndarray,
    quad_px: np.ndarray,
    config: CropConfig = DEFAULTS,
) -> np.ndarray:
    """Puts an edited crop [3,R,R] in [-1,1] back into its frame where `mask` ([R,R] or [1,R,R], in [0,1]) says so.

    Not the crop itself but its *difference* to the crop of the unedited frame is turned back and added, so an edit
    that changes nothing returns the frame bit for bit, resampling included, and the source keeps the detail that is
    finer than a crop pixel. Where the edit changed the picture by more than `keep_detail_below`, that detail belongs
    to the old content and fades out with it. Pixels with mask 0 are the source's own. Returns a new frame.
    """
    quad = np.asarray(quad_px, np.float64)
    resolution = crop.shape[-1]
    x0, y0, x1, y1 = _bounds(quad, frame.shape[1], frame.shape[0])
    result = frame.copy()
    if x0 >= x1 or y0 >= y1:
        return result
    source = crop_face(frame, quad, resolution)
    difference = torch.from_numpy(np.asarray(crop, np.float32) - source)
    alpha = torch.from_numpy(np.asarray(mask, np.float32).reshape(1, resolution, resolution))
    keep = _unchanged(difference, config.keep_detail_below)
    layers = torch.cat([alpha, keep, difference, torch.from_numpy(source)])[None]  # [1,8,R,R]

    reduction = int(resolution / _side(quad) + 1e-6)
    if reduction > 1:  # several crop pixels fall on one frame pixel
        layers = F.interpolate(layers, size=-(-resolution // reduction), mode="area")
    to_crop = _invert(_crop_to_frame(quad - (x0, y0), layers.shape[-1]))
    warped = _sample(layers, to_crop, y1 - y0, x1 - x0, padding="border")[0]
    inside = _sample(torch.ones_like(layers[:, :1]), to_crop, y1 - y0, x1 - x0, padding="zeros")[0]
    alpha = warped[0:1] * (inside > 0.999)

    region = torch.from_numpy(frame[y0:y1, x0:x1]).permute(2, 0, 1).float()
    finer_than_crop = region - (warped[5:8] + 1) * 127.5
    edited = region + alpha * (warped[2:5] * 127.5 - (1 - warped[1:2]) * finer_than_crop)
    result[y0:y1, x0:x1] = edited.round_().clamp_(0, 255).byte().permute(1, 2, 0).numpy()
    return result


def landmarks_to_crop(landmarks_px: np.ndarray, quads_px: np.ndarray, resolution: int) -> np.ndarray:
    """Points [T,N,2] in pixels of the frame -> float32 [T,N,2] in pixels of the crops."""
    matrices = np.stack([_invert(_crop_to_frame(quad, resolution)) for quad in np.asarray(quads_px, np.float64)])
    return _transform(landmarks_px, matrices)


def landmarks_to_frame(landmarks_crop_px: np.ndarray, quads_px: np.ndarray, resolution: int) -> np.ndarray:
    """Points [T,N,2] in pixels of the crops -> float32 [T,N,2] in pixels of the frame."""
    matrices = np.stack([_crop_to_frame(quad, resolution) for quad in np.asarray(quads_px, np.float64)])
    return _transform(landmarks_crop_px, matrices)


def _quarter_turn(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, ::-1] * (-1, 1)


def _quads(centres: np.ndarray, axes: np.ndarray) -> np.ndarray:
    down = _quarter_turn(axes)
    return np.stack([centres - axes - down, centres - axes + down, centres + axes + down, centres + axes - down], 1)


def _smooth(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    return gaussian_filter1d(values, sigma_frames, axis=0) if sigma_frames > 0 else values


def _side(quad: np.ndarray) -> float:
    return float(np.linalg.norm(quad[3] - quad[0]))


def _crop_to_frame(quad: np.ndarray, resolution: int) -> np.ndarray:
    """Affine [2,3] from crop pixel (x, y) to frame pixel (x, y)."""
    right, down = (quad[3] - quad[0]) / resolution, (quad[1] - quad[0]) / resolution
    return np.column_stack([right, down, quad[0] + (right + down) / 2])


def _invert(matrix: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def _transform(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    moved = np.einsum("tij,tnj->tni", matrices[:, :, :2], np.asarray(points, np.float64)) + matrices[:, None, :, 2]
    return moved.astype(np.float32)


def _bounds(quad: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Frame pixels that the quad may touch: x0, y0, x1, y1 (exclusive)."""
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0)) + 1
    x0, y0 = np.clip(low, 0, (width, height)).astype(int)
    x1, y1 = np.clip(high, 0, (width, height)).astype(int)
    return x0, y0, x1, y1


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


def _sample(image: torch.Tensor, matrix: np.ndarray, height: int, width: int, padding: str) -> torch.Tensor:
    """Bilinear samples of image [1,C,h,w] at matrix @ (x, y, 1) for every pixel of a height x width picture."""
    size = np.array([image.shape[-1], image.shape[-2]], np.float64)
    scaled = matrix.copy()
    scaled[:, 2] += 0.5
    scaled = scaled * (2 / size)[:, None]  # pixel positions -> grid_sample's [-1,1], whose ends are pixel borders
    scaled[:, 2] -= 1
    x, y = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)[:, None]
    grid = torch.stack([row[0] * x + row[1] * y + row[2] for row in torch.from_numpy(scaled)], -1)
    return F.grid_sample(image, grid[None].float(), mode="bilinear", padding_mode=padding, align_corners=False)


def _unchanged(difference: torch.Tensor, threshold: float) -> torch.Tensor:
    """Near 1 where the edit left the crop as it was, near 0 where it changed: [1,R,R], smooth over a few pixels."""
    change = difference.abs().amax(0, keepdim=True)[None]
    change = F.avg_pool2d(F.pad(change, (2, 2, 2, 2), mode="replicate"), 5, stride=1)[0]
    return torch.exp(-((change / threshold) ** 2))
