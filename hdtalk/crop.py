"""From the frame to the aligned face crop and back: smooth FFHQ quads, crop_face and its inverse paste_back."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from hdtalk.config import CropConfig
from hdtalk.data import CropTrack, FaceTrack
from hdtalk.squares import (
    crop_face,
    crop_picture,
    crop_to_frame,
    ffhq_axes,
    ffhq_quads,
    invert,
    landmarks_to_crop,
    landmarks_to_frame,
    positions,
    sample_at,
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
    "finer_detail",
    "paste_back",
]

DEFAULTS = CropConfig()
MARGIN = 4  # crop pixels around a place that resampling, once there and back, takes into account
LOWER_FACE = 0.5, 1.0, 0.15, 0.85  # top, bottom, left, right, shares of an aligned crop's side


@dataclass(frozen=True)
class FinerDetail:
    """What of a frame's lower face is finer than a pixel of its crop: `picture`, uint8 `[h, w, 3]`, 128 for nothing;
    `quad_px`: the crop's corners in it, float64 `[4, 2]`."""

    picture: np.ndarray
    quad_px: np.ndarray


@dataclass(frozen=True)
class Loan:
    """Another frame's `detail`; `field`: float32 `[2, 64, 64]`, by which that frame's crop is carried to this one's
    (`mouth_warp.carrying_fields`); `share`: uint8 `[R, R]`, how much of it belongs there."""

    detail: FinerDetail
    field: np.ndarray
    share: np.ndarray


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


def finer_detail(
    frame: np.ndarray, quad_px: np.ndarray, resolution: int, config: CropConfig = DEFAULTS
) -> FinerDetail | None:
    """The detail of a frame that its crop cannot show, for other frames to lend; None where the crop shows all."""
    quad = np.asarray(quad_px, np.float64)
    size = frame.shape[1], frame.shape[0]
    x0, y0, x1, y1 = _bounds(quad, *size)
    left, top, right, bottom = _bounds(_part(quad, *LOWER_FACE), *size)
    if side_px(quad) <= resolution or left >= right or top >= bottom:
        return None
    crop = torch.from_numpy(crop_face(frame, quad, resolution))[None]
    quad_region = quad - (x0, y0)
    here = positions(invert(crop_to_frame(quad_region, resolution)), y1 - y0, x1 - x0)
    shown = _shown(crop, quad_region, here, config.back_projections)[0]
    shown_levels = (shown[:, top - y0 : bottom - y0, left - x0 : right - x0].permute(1, 2, 0).numpy() + 1) * 127.5
    picture = np.clip(np.rint(frame[top:bottom, left:right] - shown_levels) + 128, 0, 255).astype(np.uint8)
    return FinerDetail(picture, quad - (left, top))


def paste_back(
    frame: np.ndarray,
    crop: np.ndarray,
    mask: np.ndarray,
    quad_px: np.ndarray,
    config: CropConfig = DEFAULTS,
    loan: Loan | None = None,
) -> np.ndarray:
    """Puts an edited crop [3,R,R] back into its frame where `mask` ([R,R] or [1,R,R]) says so. Both are float, in
    [-1,1] and [0,1], or uint8, 0 to 255.

    Not the crop itself but its *difference* to the crop of the unedited frame is turned back and added, so an edit
    that changes nothing returns the frame bit for bit, resampling included, and the source keeps the detail that is
    finer than a crop pixel. Where the edit changed the picture by more than `keep_detail_below`, that detail belongs
    to the old content and fades out with it. Where a crop pixel is larger than the frame's, what cropping blurred is
    sharpened again: `back_projections` times, what a crop of the result would lack is added (Irani and Peleg 1991).
    What is finer still another frame may lend: where old detail fades out, that of `loan` comes in.
    Pixels with mask 0 are the source's own. Returns a new frame.
    """
    whole, opacity = np.asarray(quad_px, np.float64), np.reshape(mask, crop.shape[1:])
    result = frame.copy()
    window = _window(opacity, config)
    if window is None:
        return result
    crop, opacity = crop[:, *window], opacity[window]
    edges = (edge / mask.shape[-1] for part in window for edge in (part.start, part.stop))
    quad, resolution = _part(whole, *edges), crop.shape[-1]
    x0, y0, x1, y1 = _bounds(quad, frame.shape[1], frame.shape[0])
    if x0 >= x1 or y0 >= y1:
        return result
    source = crop_face(frame, quad, resolution)
    if crop.dtype == np.uint8:  # both rounded, so that what was not edited differs by nothing
        difference = torch.from_numpy((crop.astype(np.float32) - _rounded(source)) / 127.5)
    else:
        difference = torch.from_numpy(np.asarray(crop, np.float32) - source)
    alpha = torch.from_numpy(opacity[None].astype(np.float32) / (255 if mask.dtype == np.uint8 else 1))
    keep = _unchanged(difference, config.keep_detail_below)
    lent = torch.zeros_like(alpha) if loan is None else torch.from_numpy(loan.share[window][None] / np.float32(255))
    shares, pictures = torch.cat([alpha, keep, lent])[None], torch.cat([difference, torch.from_numpy(source)])[None]

    reduction = int(resolution / side_px(quad) + 1e-6)
    if reduction > 1:  # several crop pixels fall on one frame pixel
        size = -(-resolution // reduction)
        shares, pictures = (F.interpolate(layer, size=size, mode="area") for layer in (shares, pictures))
    quad = quad - (x0, y0)
    here = positions(invert(crop_to_frame(quad, shares.shape[-1])), y1 - y0, x1 - x0)
    shares_frame = sample_at(shares, here, "border", "bilinear")[0]
    inside = sample_at(torch.ones_like(shares[:, :1]), here, "zeros", "bilinear")[0]
    alpha, keep, lent = shares_frame[0:1] * (inside > 0.999), shares_frame[1:2], shares_frame[2:3]

    region = torch.from_numpy(frame[y0:y1, x0:x1].astype(np.float32)).permute(2, 0, 1)
    shown = _shown(pictures, quad, here, config.back_projections)[0] * 127.5
    finer_than_crop = region - (shown[3:] + 127.5)
    if loan is not None:
        finer_than_crop -= lent * _carried(loan, whole - (x0, y0), y1 - y0, x1 - x0)
    edited = region + alpha * (shown[:3] - (1 - keep) * finer_than_crop)
    result[y0:y1, x0:x1] = edited.round_().clamp_(0, 255).byte().permute(1, 2, 0).numpy()
    return result


def _window(mask: np.ndarray, config: CropConfig) -> tuple[slice, slice] | None:
    """The smallest square of a crop that holds all that its mask [R,R] shows, and what cropping and pasting look at
    around that; None where it shows nothing."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    spans = [(int(seen[0]), int(seen[-1]) + 1) for seen in (rows, columns)]
    margin = MARGIN * (1 + config.back_projections)
    side = min(len(mask), max(stop - start for start, stop in spans) + 2 * margin)
    top, left = (min(max((start + stop - side) // 2, 0), len(mask) - side) for start, stop in spans)
    return slice(top, top + side), slice(left, left + side)


def _part(quad: np.ndarray, top: float, bottom: float, left: float, right: float) -> np.ndarray:
    """Corners of a part of the square with the corners `quad`; its edges in shares of the square's side."""
    shares = np.array([[left, top], [left, bottom], [right, bottom], [right, top]])
    return quad[0] + shares @ np.stack([quad[3] - quad[0], quad[1] - quad[0]])


def _shown(crops: torch.Tensor, quad: np.ndarray, here: torch.Tensor, back_projections: int) -> torch.Tensor:
    """What crops [1,C,R,R] say of the picture in which `quad` are their corners, [1,C,h,w]; `here`: where its pixels
    are in the crops, [h,w,2]."""
    resolution = crops.shape[-1]
    shown = sample_at(crops, here, "border", "bicubic")
    for _ in range(back_projections if side_px(quad) > resolution else 0):
        shown += sample_at(crops - crop_picture(shown, quad, resolution), here, "border", "bicubic")
    return shown


def _carried(loan: Loan, quad: np.ndarray, height: int, width: int) -> torch.Tensor:
    """The loan's detail where it belongs in a height x width picture, of which `quad` is the crop, [3,height,width]."""
    here = positions(invert(crop_to_frame(quad, 1)), height, width)  # in the crop, in sides of it; its centre is 0
    field = torch.from_numpy(loan.field)[None]
    nodes = field.shape[-1]
    there = here - sample_at(field, (here + 0.5) * nodes - 0.5, "border", "bilinear")[0].permute(1, 2, 0)
    to_frame = torch.from_numpy(crop_to_frame(loan.detail.quad_px, 1))
    detail = torch.from_numpy(loan.detail.picture.astype(np.float32) - 128).permute(2, 0, 1)[None]
    return sample_at(detail, there @ to_frame[:, :2].T + to_frame[:, 2], "zeros", "bicubic")[0]


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
