"""From files to landmarks and back: speech and a shot in, the shot's new landmarks out, and a preview of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from hdtalk import audio, speech_landmarks, weights
from hdtalk.config import EditConfig, MediaConfig, SpeechConfig
from hdtalk.data import SpeechFeatures
from hdtalk.errors import UsageError
from hdtalk.face_landmarks import known_track
from hdtalk.files import temporary
from hdtalk.inputs import read_emotion, read_landmarks_of
from hdtalk.plan import frame_order, frames_looked_at, used_frames
from hdtalk.track import track_video

Speech = str | os.PathLike | np.ndarray | SpeechFeatures


@dataclass(frozen=True)
class SpokenShot:
    """A shot's landmarks before and after: float32 `[T,68,2]` pixels each, `frames` int64 `[T]`: which frame of the
    video each belongs to (the shot may be shown several times), `missing` bool `[T]`: no face there."""

    landmarks_px: np.ndarray
    source_px: np.ndarray
    frames: np.ndarray
    missing: np.ndarray
    fps: Fraction


def predict_landmarks(
    speech: Speech,
    landmarks_px: np.ndarray,
    fps: Fraction | float,
    *,
    bundle: str | os.PathLike = "auto",
    model=None,
    emotion: str | None = None,
    emotion_from: Speech | None = None,
    shot_speech: Speech | None = None,
    device: str = "cpu",
    config: SpeechConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Float32 `[T,68,2]`: a shot's landmarks `landmarks_px` `[T,68,2]` (full-frame pixels, iBUG order) at `fps`,
    re-voiced by `speech`: a file, a 16 kHz waveform, or `SpeechFeatures`. `model`: a `SpeechModel`, else the bundle's.
    `emotion`: `NAME[:0..1]`; `emotion_from`: another recording to take the emotion from.
    `shot_speech`: what is said in the shot itself (the person's habit shows, and the emotion on the face already).
    Raises InputError for unusable sound or landmarks, UsageError for an unknown emotion."""
    if emotion and emotion_from is not None:
        raise UsageError("emotion and emotion_from exclude each other. Give one of them.")
    return speech_landmarks.predict_landmarks(
        _features(speech),
        landmarks_px,
        fps,
        model=model or weights.load_bundle(bundle, device).speech,
        emotion=emotion,
        emotion_from=None if emotion_from is None else _features(emotion_from),
        shot_speech=None if shot_speech is None else _features(shot_speech),
        config=config,
        progress=progress,
    )


def speak_shot(
    video: str | os.PathLike,
    speech: str | os.PathLike,
    *,
    bundle: str | os.PathLike = "auto",
    emotion: str | None = None,
    emotion_from: str | os.PathLike | None = None,
    track: str | os.PathLike | np.ndarray | None = None,
    device: str = "cpu",
    config: EditConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SpokenShot:
    """The landmarks that `hdtalk edit` with these settings would follow, without editing: face tracking, then speech.
    `track`: landmarks `[T,68,2]` of the video's frames, or an .npz that holds them, instead of detecting them."""
    from hdtalk import media

    config = config or EditConfig()
    features = audio.read_speech(speech)
    info = media.probe(video, config.media)
    models = weights.load_bundle(bundle, device)
    other = read_emotion(emotion, emotion_from)  # before the long part
    first, stop = used_frames(info, config)
    known_px = read_landmarks_of(info, track, stop - first)
    wanted = audio.num_video_frames(features, info.fps)
    order = frame_order(stop - first, wanted, config.audio_longer, config.audio_shorter)
    stop = first + frames_looked_at(order, stop - first, info, config)
    if known_px is None:
        face = track_video(info, first, stop, models, config, progress=progress)
    else:
        face = known_track(known_px[: stop - first])
    source_px = face.landmarks_px[order]
    spoken_px = predict_landmarks(
        features, source_px, info.fps, model=models.speech, emotion=emotion, emotion_from=other,
        shot_speech=audio.read_shot_speech(video, float(first / info.fps), float(stop / info.fps)),
        config=config.speech,
    )  # fmt: skip
    return SpokenShot(spoken_px, source_px, first + order, ~face.present[order], info.fps)


def save_landmarks(path: str | os.PathLike, shot: SpokenShot) -> None:
    """An .npz with `landmarks_px`, `source_px`, `frames`, `missing` and `fps` (numerator, denominator)."""
    fps = np.array([shot.fps.numerator, shot.fps.denominator])
    with temporary(Path(path)) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file,
            landmarks_px=shot.landmarks_px,
            source_px=shot.source_px,
            frames=shot.frames,
            missing=shot.missing,
            fps=fps,
        )


def write_preview(
    path: str | os.PathLike,
    shot: SpokenShot,
    video: str | os.PathLike,
    speech: str | os.PathLike,
    overwrite: bool = False,
    config: MediaConfig | None = None,
) -> None:
    """The shot with the new landmarks drawn on it, and the new speech as its sound."""
    from hdtalk import media
    from hdtalk.draw import draw_landmarks
    from hdtalk.soundtrack import Soundtrack

    config = config or MediaConfig()
    info = media.probe(video, config)
    with media.VideoWriter(path, info, Soundtrack(speech, config=config), overwrite, config) as writer:
        frames = media.read_frames_in_order(video, shot.frames, config=config)
        for frame, points, missing in zip(frames, shot.landmarks_px, shot.missing, strict=True):
            writer.write(frame if missing else draw_landmarks(frame, points))


def _features(speech: Speech) -> SpeechFeatures:
    return speech if isinstance(speech, SpeechFeatures) else audio.read_speech(speech)
