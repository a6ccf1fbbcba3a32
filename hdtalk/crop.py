"""From the frame to the aligned face crop and back: smooth FFHQ quads, crop_face and its inverse paste_back."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from hdtalk.config import CropConfig
from hdtalk.data import CropTrack, FaceTrack
from hdtalk.squares import (
    crop_face,
    crop_to_frame,
    ffhq_axes,
    ffhq_quads,
    invert,
    landmarks_to_crop,
    landmarks_to_frame,
    sample,
    side_px,
    square_quads,
)

__all__ = [
    "crop_track",
    "crop_face",
    "crop_faces",
    "ffhq_quads",
    "landmarks_to_crop",
    "landmarks_to_frame",
    "paste_back",
]

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
    return CropTrack(quads_px=square_quads(centres, axes), resolution=resolution)


def crop_faces(frames: Iterable[np.ndarray], quads_px: np.ndarray, resolution: int) -> np.ndarray:
    """`crop_face` of several frames, rounded: uint8 [N,3,R,R]."""
    crops = [_rounded(crop_face(*pair, resolution)) for pair in zip(frames, quads_px, strict=True)]
    return np.stack(crops) if crops else np.empty((0, 3, resolution, resolution), np.uint8)


def paste_back(
    frame: np.ndarray,
    crop: np.ndarray,
    mask: np.ndarray,
    quad_px: np.ndarray,
    config: CropConfig = DEFAULTS,
) -> np.ndarray:
    """Puts an edited crop [3,R,R] back into its frame where `mask` ([R,R] or [1,R,R]) says so. Both are float, in
    [-1,1] and [0,1], or uint8, 0 to 255.

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
    if crop.dtype == np.uint8:  # both rounded, so that what was not edited differs by nothing
        difference = torch.from_numpy((crop.astype(np.float32) - _rounded(source)) / 127.5)
    else:
        difference = torch.from_numpy(np.asarray(crop, np.float32) - source)
    opacity = np.float32(mask) / (255 if mask.dtype == np.uint8 else 1)
    alpha = torch.from_numpy(opacity.reshape(1, resolution, resolution))
    keep = _unchanged(difference, config.keep_detail_below)
    layers = torch.cat([alpha, keep, difference, torch.from_numpy(source)])[None]  # [1,8,R,R]

    reduction = int(resolution / side_px(quad) + 1e-6)
    if reduction > 1:  # several crop pixels fall on one frame pixel
        layers = F.interpolate(layers, size=-(-resolution // reduction), mode="area")
    to_crop = invert(crop_to_frame(quad - (x0, y0), layers.shape[-1]))
    warped = sample(layers, to_crop, y1 - y0, x1 - x0, padding="border")[0]
    inside = sample(torch.ones_like(layers[:, :1]), to_crop, y1 - y0, x1 - x0, padding="zeros")[0]
    alpha = warped[0:1] * (inside > 0.999)

    region = torch.from_numpy(frame[y0:y1, x0:x1].astype(np.float32)).permute(2, 0, 1)
    finer_than_crop = region - (warped[5:8] + 1) * 127.5
    edited = region + alpha * (warped[2:5] * 127.5 - (1 - warped[1:2]) * finer_than_crop)
    result[y0:y1, x0:x1] = edited.round_().clamp_(0, 255).byte().permute(1, 2, 0).numpy()
    return result


def _rounded(crop: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((crop + 1) * 127.5), 0, 255).astype(np.uint8)


def _smooth(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    return gaussian_filter1d(values, sigma_frames, axis=0) if sigma_frames > 0 else values


def _bounds(quad: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Frame pixels that the quad may touch: x0, y0, x1, y1 (exclusive)."""
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0)) + 1
    x0, y0 = np.clip(low, 0, (width, height)).astype(int)
    x1, y1 = np.clip(high, 0, (width, height)).astype(int)
    return x0, y0, x1, y1


def _unchanged(difference: torch.Tensor, threshold: float) -> torch.Tensor:
    """Near 1 where the edit left the crop as it was, near 0 where it changed: [1,R,R], smooth over a few pixels."""
    change = difference.abs().amax(0, keepdim=True)[None]
    change = F.avg_pool2d(F.pad(change, (2, 2, 2, 2), mode="replicate"), 5, stride=1)[0]
    return torch.exp(-((change / max(threshold, 1e-6)) ** 2))
