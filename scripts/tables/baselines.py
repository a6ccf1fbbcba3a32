"""What an editing method must beat: the source as it is, and the source's own mouths cut and pasted."""

from pathlib import Path

import cv2
import numpy as np

from hdtalk.audio import read_speech
from hdtalk.face_units import to_face_units
from hdtalk.media import VideoWriter, probe, read_frames_in_order
from hdtalk.plan import frame_order
from hdtalk.soundtrack import Soundtrack
from hdtalk.windows import num_video_frames

STABLE = [*range(27, 36), *range(36, 48)]  # nose and eyes
MOUTH_AND_CHIN = [*range(4, 13), *range(48, 68)]
FEATHER = 0.12  # of the face's height


def write_unedited(source: Path, speech: Path, output: Path) -> None:
    """The source's frames, there and back as far as the speech lasts, with the new sound."""
    _write(source, speech, output, read_frames_in_order(source, output_order(source, speech)))


def write_mouth_paste(source: Path, speech: Path, output: Path, source_px: np.ndarray, target_px: np.ndarray) -> None:
    """Every frame gets the mouth of that source frame whose mouth is nearest to the target's in shape.

    `source_px` [N,68,2]: landmarks of the source; `target_px` [T,68,2]: wanted ones per output frame. No true frame is
    looked at: all mouths come from the source.
    """
    have, want = (to_face_units(points)[0][:, 48:] for points in (source_px, target_px))
    order = output_order(source, speech)[: len(want)]
    nearest = np.zeros(len(order), int)
    for index, place in enumerate(order):
        distance = ((have - want[index]) ** 2).sum(axis=(1, 2))
        nearest[index] = (distance + 1e-6 * np.abs(np.arange(len(have)) - place)).argmin()  # equal: next in time

    def pasted():
        frames, others = read_frames_in_order(source, order), read_frames_in_order(source, nearest)
        for place, other, frame, other_frame in zip(order, nearest, frames, others, strict=True):
            yield paste_mouth(frame, source_px[place], other_frame, source_px[other])

    _write(source, speech, output, pasted())


def output_order(source: Path, speech: Path) -> np.ndarray:
    """Source frame of every output frame, as `hdtalk edit` takes them by default."""
    info = probe(source)
    return frame_order(info.num_frames, num_video_frames(read_speech(speech), info.fps), "pingpong", "trim")


def paste_mouth(frame: np.ndarray, points: np.ndarray, other: np.ndarray, other_points: np.ndarray) -> np.ndarray:
    """`frame` with mouth and chin of `other`, laid over nose and eyes by a similarity, feathered. Landmarks [68,2]."""
    matrix = similarity(other_points[STABLE], points[STABLE])
    height, width = frame.shape[:2]
    warped = cv2.warpAffine(other, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    hull = cv2.convexHull(np.round(points[MOUTH_AND_CHIN]).astype(np.int32))
    mask = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(mask, hull, 1.0)
    blur = max(1.0, FEATHER * float(np.ptp(points[:, 1])) / 2)
    mask = cv2.GaussianBlur(mask, (0, 0), blur)[..., None]
    return np.round(frame + mask * (warped.astype(np.float32) - frame)).astype(np.uint8)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 2x3 turn, scale and shift that takes points [N,2] nearest to others (least squares)."""
    a, b = source @ [1, 1j], target @ [1, 1j]
    centre_a, centre_b = a.mean(), b.mean()
    factor = np.vdot(a - centre_a, b - centre_b) / np.vdot(a - centre_a, a - centre_a)
    shift = centre_b - factor * centre_a
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def _write(source: Path, speech: Path, output: Path, frames) -> None:
    with VideoWriter(output, probe(source), Soundtrack(speech), overwrite=True) as writer:
        for frame in frames:
            writer.write(frame)
