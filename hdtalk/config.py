"""Every default of every stage, once: one frozen dataclass per stage. The command line reads its defaults from here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CropConfig:
    """FFHQ alignment, smoothed over time as in STIT."""

    scale: float = 1.0
    centre_sigma_frames: float = 1.0
    axes_sigma_frames: float = 3.0
    keep_detail_below: float = 0.1  # changes of the crop (in [-1,1]) below this keep the detail finer than a crop pixel


@dataclass(frozen=True)
class MediaConfig:
    """What is read, and how the edited video is written."""

    codec: str = "libx264"
    crf: int = 16
    preset: str = "medium"
    pixel_format: str = "auto"  # yuv420p; yuv444p where the width or height is odd
    audio_bitrate_per_channel: int = 96_000
    max_pixels: int = 8192 * 4320
    max_lost_fraction: float = 0.1  # of the frames read so far may be undecodable; the nearest good one stands in


@dataclass(frozen=True)
class FaceConfig:
    """Which face is followed and when it counts as missing."""

    face: str = "largest"  # or the index of a face from left to right, or "x,y": a point on it in the first frame
    on_missing: str = "keep"  # keep those frames unedited | interpolate | fail
    max_gap_s: float = 0.4  # shorter gaps are interpolated
    min_confidence: float = 0.2  # mean peak of the 68 heat maps
    box_reference: float = 195.0  # FAN: the crop is 200 (w + h) / reference wide
    refine_scale: float = 1.25  # of the FFHQ quad, for the second, upright look
    smooth_sigma_s: float = 0.04
    smooth_mouth_eyes_sigma_s: float = 0.016  # closures last two or three frames and must survive
    chunk_frames: int = 32


@dataclass(frozen=True)
class AudioConfig:
    """Which recordings are accepted, and what counts as a pause."""

    min_duration_s: float = 0.1
    max_duration_s: float = 3600.0
    silent_level_db: float = -75.0  # quieter recordings hold no speech
    pause_below_level_db: float = 36.0  # a pause is this much quieter than the speech ...
    pause_above_floor_db: float = 6.0  # ... or this close to the recording's own noise floor
    min_pause_s: float = 0.14  # shorter gaps are the closures of stops
