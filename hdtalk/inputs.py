"""What a user hands in beside the video, checked before any work: landmarks, an emotion, a mix of sounds."""

import os
from typing import Any

import numpy as np

from hdtalk import audio
from hdtalk.data import SpeechFeatures, VideoInfo
from hdtalk.emotion import parse_emotion
from hdtalk.errors import InputError, UsageError

PathLike = str | os.PathLike


def read_landmarks(source: PathLike | np.ndarray | None) -> np.ndarray | None:
    """float32 [T, 68, 2] from an array, .npy or .npz (`landmarks_px`). Raises `InputError`."""
    if source is None:
        return None
    name = source_name(source)
    array: Any = source
    if not isinstance(source, np.ndarray):
        try:
            with open(source, "rb") as file:
                array = np.load(file, allow_pickle=False)
                array = array if isinstance(array, np.ndarray) else array["landmarks_px"]
        except Exception as error:  # a damaged file can break the parsers in any way
            reason = "no array has that name" if isinstance(error, KeyError) else "not NumPy's format, or damaged"
            if isinstance(error, OSError) and error.strerror:
                raise InputError(f"{name}: cannot be read ({error.strerror}).") from error
            raise InputError(
                f"{name}: no landmarks in it ({reason}). Expected .npz with landmarks_px [T,68,2]."
            ) from error
    if array.ndim != 3 or array.shape[1:] != (68, 2) or not len(array) or array.dtype.kind not in "fiu":
        raise InputError(f"{name}: {array.dtype} {array.shape}, expected numbers [T,68,2].")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: some landmarks are not finite. Fill the frames without a face first.")
    eyes_px = np.linalg.norm(array[:, 36:42].mean(1) - array[:, 42:48].mean(1), axis=-1)
    if (eyes_px < 1).any():
        raise InputError(f"{name}: frame {eyes_px.argmin()} has its eyes in one place. Expected full-frame pixels.")
    return array.astype(np.float32)


def read_landmarks_of(
    video: VideoInfo, source: PathLike | np.ndarray | None, num_frames: int | None = None
) -> np.ndarray | None:
    """As `read_landmarks`. Raises `InputError` also for another number of frames than `num_frames`, if that is given,
    and where the middle of a frame's landmarks lies outside of the video's picture."""
    landmarks_px = read_landmarks(source)
    if source is None or landmarks_px is None:
        return None
    name = source_name(source)
    if num_frames not in (None, len(landmarks_px)):
        raise InputError(f"{name}: {len(landmarks_px)} frames of landmarks for {num_frames} frames of {video.path}.")
    x, y = landmarks_px.mean(axis=1).T
    outside = (x < 0) | (y < 0) | (x >= video.width) | (y >= video.height)
    if outside.any():
        frame = int(outside.argmax())
        raise InputError(
            f"{name}: the face of frame {frame} is around ({x[frame]:.0f}, {y[frame]:.0f}), outside of the picture of "
            f"{video.width}x{video.height}. Expected full-frame pixels of this video."
        )
    return landmarks_px


def read_emotion(emotion: str | None, emotion_from: PathLike | None, landmarks: Any = None) -> SpeechFeatures | None:
    """The recording whose emotion is taken, if there is one. Raises `UsageError` or `InputError` where the face cannot
    show this emotion instead of the voice's own."""
    if emotion is not None and emotion_from is not None:
        raise UsageError("--emotion and --emotion-from contradict each other. Give one of them.")
    if emotion is not None:
        parse_emotion(emotion)
    recording = None if emotion_from is None else audio.read_speech(emotion_from)
    if landmarks is not None and (emotion is not None or emotion_from is not None):
        raise UsageError("--landmarks say what the face does, so no emotion can be chosen. Leave one of them out.")
    return recording


def emotion_source(emotion: str | None, emotion_from: PathLike | None) -> str | None:
    """What OUT.json says of the emotion: its name, the recording it was taken from, or None (the speech's own)."""
    return emotion or (str(emotion_from) if emotion_from else None)


def source_name(source: PathLike | np.ndarray) -> str:
    return "landmarks" if isinstance(source, np.ndarray) else str(source)


def background_level_db(audio_mix: str) -> float | None:
    """Level of --audio-mix keep-background:DB, None without it. Raises `UsageError`."""
    if not audio_mix:
        return None
    kind, _, level = audio_mix.partition(":")
    try:
        level_db = float(level or -12.0)
    except ValueError:
        level_db = np.nan
    if kind != "keep-background" or not abs(level_db) <= 120:
        raise UsageError(f"--audio-mix {audio_mix}: expected keep-background:DB, for example keep-background:-12.")
    return level_db
