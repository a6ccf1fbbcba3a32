"""What the stages hand to each other: small frozen dataclasses of plain arrays and numbers."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class ColourTags:
    """How a video's numbers become light, in the codes of ITU-T H.273 (2 = not stated; `range` 1 limited, 2 full)."""

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    range: int = 0


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, in display orientation. `num_frames` counts frames of the constant rate `fps`: what
    `read_frames` yields. `pixel_aspect`: width of a pixel over its height."""

    path: str
    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration_s: float
    has_audio: bool
    colour: ColourTags = ColourTags()
    pixel_aspect: Fraction = Fraction(1)
    codec: str = ""
    pixel_format: str = ""
    variable_rate: bool = False
    hdr: bool = False
    interlaced: bool = False


@dataclass(frozen=True)
class FaceTrack:
    """One person's face over a shot. `landmarks_px` float32 [T,68,2] (x, y) full-frame pixels, iBUG order;
    `present` bool [T]: False where the face is missing and the frame must stay as it is (its landmarks are then
    interpolated neighbours, finite but not to be trusted). `confidence` float32 [T] in [0,1]: how sure the landmarks
    are, 0 where nothing was seen; `cuts`: first frames of further shots; `num_faces`: people seen in the clip."""

    landmarks_px: np.ndarray
    present: np.ndarray
    confidence: np.ndarray | None = None
    cuts: tuple[int, ...] = ()
    num_faces: int = 1


@dataclass(frozen=True)
class CropTrack:
    """Where the aligned crop of each frame lies. `quads_px` float64 [T,4,2]: corners top-left, bottom-left,
    bottom-right, top-right in full-frame pixels; `resolution`: side of the crop in pixels."""

    quads_px: np.ndarray
    resolution: int


@dataclass(frozen=True)
class SpeechFeatures:
    """What the speech stages need to know of a recording, one row per 10 ms (row r covers 10 r ... 10 r + 25 ms).
    `mfcc` float32 [rows,12]: coefficients 1 to 12; `prosody` float32 [rows,6]: log2(pitch / 150 Hz) or 0, voicing in
    [0,1], energy against the speech level in units of 20 dB, harmonicity in [0,1], slow and fast roughness (log10 of
    the squared depth to which the loudness swings at 20 to 50 and at 60 to 70 Hz, -3 or more); `silent` bool [rows]:
    pauses; `silent_row` float32 [12]: the MFCC of digital silence; `num_samples` at 16 kHz; `level_db`: level of the
    speech in dBFS, voice band; `above_noise_db`: how far it stands out of the recording's steady noise."""

    mfcc: np.ndarray
    prosody: np.ndarray
    silent: np.ndarray
    silent_row: np.ndarray
    num_samples: int
    level_db: float
    above_noise_db: float = 60.0

    @property
    def duration_s(self) -> float:
        return self.num_samples / 16000
