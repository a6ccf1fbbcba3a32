"""A comparison video: original, landmarks and edited side by side, with labels and the sound as a waveform."""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from moviepy import ColorClip, CompositeVideoClip, ImageClip, TextClip, VideoClip

from hdtalk.config import CompareConfig, MediaConfig
from hdtalk.data import VideoInfo
from hdtalk.draw import ACCENT, INK, draw_landmarks
from hdtalk.errors import InputError
from hdtalk.media import DEFAULTS as MEDIA_DEFAULTS
from hdtalk.media import VideoWriter, probe, read_frames, read_frames_in_order
from hdtalk.soundtrack import Soundtrack, decode_audio, open_audio

DEFAULTS = CompareConfig()
ENCODER = MediaConfig(crf=18, preset="veryfast")
WAVEFORM_RATE = 8000
BACKGROUND = (18, 18, 22)


def write_comparison(
    source: str | os.PathLike,
    edited: str | os.PathLike,
    output: str | os.PathLike,
    landmarks_px: np.ndarray | None = None,
    order: np.ndarray | None = None,
    overwrite: bool = True,
    config: CompareConfig = DEFAULTS,
    media: MediaConfig = MEDIA_DEFAULTS,
) -> VideoInfo:
    """Writes `output` with the frames, the exact rate and the sound of `edited`, and returns what it holds.

    `landmarks_px` [T,68,2]: the landmarks that were aimed at, pixels of the frame, per edited frame; without them
    their panel is left out. `order` int [T]: which frame of the source each edited frame came from; by default the
    first with the first, the last one standing still. Frames stream through; a face that is small in its frame is
    shown enlarged, the same region in all panels. `media`: how the source is read, by default as any video.
    """
    before, after = probe(source, media), probe(edited)
    if (before.width, before.height) != (after.width, after.height):
        raise InputError(f"{edited}: is {after.width}x{after.height}, {source} is {before.width}x{before.height}.")
    numbers = np.minimum(np.arange(after.num_frames), before.num_frames - 1) if order is None else np.asarray(order)
    if landmarks_px is not None and len(landmarks_px) != after.num_frames or len(numbers) != after.num_frames:
        raise InputError(f"{edited}: has {after.num_frames} frames, but landmarks or order are for another number.")

    region = _region(landmarks_px, after, config)
    size = _panel_size(region, float(after.pixel_aspect), config)
    originals = _Film(_views(read_frames_in_order(source, numbers, config=media), region, size), after.fps)
    edits = _Film(_views(read_frames(edited), region, size), after.fps)
    panels: list[tuple[str, Callable[[float], np.ndarray]]] = [("original", originals)]
    if landmarks_px is not None:
        scale = np.array(size) / (region[2:] - region[:2])
        points = (np.asarray(landmarks_px, np.float64) - region[:2] + 0.5) * scale - 0.5

        def drawn(t: float) -> np.ndarray:
            return draw_landmarks(originals(t) // 4, points[originals.number(t)])

        panels.append(("landmarks", drawn))
    panels.append(("edited", edits))

    picture = _compose(panels, size, edited if after.has_audio else None, after, config)
    like = VideoInfo(
        path=os.fspath(output),
        width=picture.w,
        height=picture.h,
        fps=after.fps,
        num_frames=after.num_frames,
        duration_s=after.duration_s,
        has_audio=after.has_audio,
        colour=after.colour,
    )
    sound = Soundtrack(edited, start_s=0.0) if after.has_audio else None
    with VideoWriter(output, like, sound, overwrite, ENCODER) as writer:
        for number in range(after.num_frames):
            writer.write(np.ascontiguousarray(picture.get_frame(float((number + Fraction(1, 2)) / after.fps))))
    return probe(output)


class _Film:
    """A stream of frames as a function of time, as moviepy asks for it: time may stand still, but not go back."""

    def __init__(self, frames: Iterator[np.ndarray], fps: Fraction):
        self._frames, self._fps, self._number = frames, fps, -1
        self._held: Any = None

    def __call__(self, t: float) -> np.ndarray:
        while self._number < self.number(t):
            self._held, self._number = next(self._frames), self._number + 1
        return self._held

    def number(self, t: float) -> int:
        return int(t * float(self._fps) + 1e-6)


def _views(frames: Iterator[np.ndarray], region: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    x0, y0, x1, y1 = region
    for frame in frames:
        part = frame[y0:y1, x0:x1]
        shrinks = size[0] <= part.shape[1]
        yield cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _region(landmarks_px: np.ndarray | None, info: VideoInfo, config: CompareConfig) -> np.ndarray:
    """x0, y0, x1, y1 of the frame to show: all of it, or around a face that would be small in it."""
    whole = np.array([0, 0, info.width, info.height])
    if landmarks_px is None:
        return whole
    points = np.asarray(landmarks_px).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    if (high - low).max() > config.enlarge_below * min(info.width, info.height):
        return whole
    half = (high - low).max() * config.around_face / 2
    centre = (low + high) / 2
    region = np.concatenate([np.floor(centre - half), np.ceil(centre + half)]).astype(int)
    region = np.clip(region, 0, whole[[2, 3, 2, 3]])
    return region if (region[2:] - region[:2]).min() >= 16 else whole


def _panel_size(region: np.ndarray, pixel_aspect: float, config: CompareConfig) -> tuple[int, int]:
    """Width and height in square pixels, both even."""
    width, height = (region[2] - region[0]) * pixel_aspect, region[3] - region[1]
    scale = config.panel_height_px / height
    return max(2, round(width * scale / 2) * 2), config.panel_height_px // 2 * 2


def _compose(
    panels: list[tuple[str, Callable[[float], np.ndarray]]],
    size: tuple[int, int],
    sound: str | os.PathLike | None,
    info: VideoInfo,
    config: CompareConfig,
) -> CompositeVideoClip:
    """Panels in a row, a label above each, the waveform with a moving cursor below."""
    gap, label = config.gap_px // 2 * 2, config.label_px // 2 * 2
    strip = config.waveform_px // 2 * 2 if sound is not None else 0
    width = len(panels) * size[0] + (len(panels) + 1) * gap
    height = label + size[1] + gap + (strip + gap if strip else 0)
    duration, inner, top = info.duration_s, width - 2 * gap, label + size[1] + gap
    still = [ColorClip((width, height), BACKGROUND, duration=duration)]
    for column, (name, _) in enumerate(panels):
        box = (size[0], label)
        text = TextClip(
            text=name, font_size=round(label * 0.55), color=INK, method="caption", size=box, text_align="left"
        )
        still.append(text.with_duration(duration).with_position((gap + column * (size[0] + gap), 0)))
    if strip and sound is not None:
        wave = ImageClip(waveform(sound, duration, inner, strip), duration=duration)
        still.append(wave.with_position((gap, top)))

    def row(t: float) -> np.ndarray:
        picture = np.full((size[1], inner, 3), BACKGROUND, np.uint8)
        for column, (_, show) in enumerate(panels):
            left = column * (size[0] + gap)
            picture[:, left : left + size[0]] = show(t)
        return picture

    # what stands still is drawn once: moviepy blends every layer of every frame
    layers = [ImageClip(CompositeVideoClip(still, size=(width, height)).get_frame(0), duration=duration)]
    layers.append(VideoClip(row, duration=duration).with_position((gap, label)))
    if strip:
        cursor = ColorClip((2, strip), ACCENT, duration=duration)
        layers.append(cursor.with_position(lambda t: (gap + int(t / duration * (inner - 2)), top)))
    return CompositeVideoClip(layers, size=(width, height)).with_duration(duration)


def waveform(sound: str | os.PathLike, duration_s: float, width: int, height: int) -> np.ndarray:
    """The envelope of a file's sound over `duration_s`: uint8 RGB [height,width,3], louder is taller, 0 dBFS fills."""
    peaks, position = np.zeros(width, np.float32), 0
    container = open_audio(sound)
    try:
        limit = int(duration_s * WAVEFORM_RATE)
        for block in decode_audio(container, WAVEFORM_RATE, 0.0):
            columns = (position + np.arange(block.shape[1])) * width // max(limit, 1)
            inside = columns < width
            np.maximum.at(peaks, columns[inside], np.abs(block).max(0)[inside])
            position += block.shape[1]
            if position >= limit:
                break
    finally:
        container.close()
    distance = np.abs(np.arange(height) - (height - 1) / 2)[:, None]
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    picture[distance <= np.maximum(peaks * height / 2, 0.5)] = (96, 132, 168)
    return picture
