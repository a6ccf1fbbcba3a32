"""What the stages hand to each other: small frozen dataclasses of plain arrays and numbers."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, in display orientation."""

    path: str
    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration_s: float
    has_audio: bool


@dataclass(frozen=True)
class FaceTrack:
    """One person's face over a shot. `landmarks_px` float32 [T,68,2] (x, y) full-frame pixels, iBUG order;
    `present` bool [T]: False where the face is missing and the frame must stay as it is (its landmarks are then
    interpolated neighbours, finite but not to be trusted)."""

    landmarks_px: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class CropTrack:
    """Where the aligned crop of each frame lies. `quads_px` float64 [T,4,2]: corners top-left, bottom-left,
    bottom-right, top-right in full-frame pixels; `resolution`: side of the crop in pixels."""

    quads_px: np.ndarray
    resolution: int
