"""Clips of a MEAD-like corpus -> what the speech networks train on: features, displacements, poses, all in memory."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from hdtalk.data import SpeechFeatures
from hdtalk.face_units import STILL_POINTS, lip_gap, mouth_width, neutral_face, ridge, to_face_units
from hdtalk.files import temporary
from hdtalk.models.speech import EMOTIONS
from hdtalk.training.mead import Clip, read_landmarks
from hdtalk.training.sound_augment import worsen
from hdtalk.windows import num_video_frames

logger = logging.getLogger(__name__)

FPS = 25
ANALYSIS = 2  # changes with what read_speech makes of a recording
TURN_PRIOR = 0.02  # sum of squares of turns, in face units, from which on they are believed


@dataclass
class Take:
    """One clip, ready to train on. `sounds`: features of the clean recording and of its worsened versions;
    `displacement` float32 [T,68,2]: front view at 25 fps, face units, relative to `neutral` [68,2], turns of the head
    taken out;
    `views`: float32 [T,68,2] in face units per view, every `view_step`-th frame; `emotion`: index into EMOTIONS;
    `emphasis`: how often the speaker is heard, relative to others."""

    clip: Clip
    emotion: int
    sounds: list[SpeechFeatures]
    displacement: np.ndarray | None
    neutral: np.ndarray | None
    views: dict[str, np.ndarray]
    view_step: int = 1
    emphasis: float = 1.0

    @staticmethod
    def label(clip: Clip) -> int:
        return EMOTIONS.index(clip.emotion)


def load_takes(
    clips: list[Clip],
    cache: Path,
    versions: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    emphasis: Mapping[str, float] | None = None,
) -> list[Take]:
    """Reads every clip, taking sound features from `cache` where they are. `versions`: how many worsened copies of
    each recording there are besides the clean one; `emphasis`: of actors, where it is not 1."""
    actors: dict[str, list[Clip]] = {}
    for clip in clips:
        actors.setdefault(clip.actor, []).append(clip)
    takes = []
    for index, (actor, own) in enumerate(actors.items()):
        sounds = _sounds(actor, own, cache, versions, seed)
        views = {clip.name: _views(clip) for clip in own}
        neutral = _actor_neutral(own, views)
        fronts = {name: seen["front"] for name, seen in views.items() if "front" in seen}
        moves = {} if neutral is None else displacements(fronts, neutral)
        for clip in own:
            moved = moves.get(clip.name)
            if moved is not None:
                moved = _fit(moved, num_video_frames(sounds[clip.name][0], FPS))
            takes.append(
                Take(
                    clip,
                    Take.label(clip),
                    sounds[clip.name],
                    moved,
                    neutral,
                    views[clip.name],
                    emphasis=(emphasis or {}).get(actor, 1.0),
                )
            )
        if progress:
            progress(index + 1, len(actors))
    return takes


def _sounds(actor: str, clips: list[Clip], cache: Path, versions: int, seed: int) -> dict[str, list[SpeechFeatures]]:
    path = cache / f"{actor}-{_content_hash(clips, versions, seed)}.npz"
    names = [clip.name for clip in clips]
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            return _unpacked({key: file[key] for key in file.files}, versions)
    from hdtalk.audio import read_audio, read_speech  # needs PyAV, which training on packed features does without

    rng = np.random.default_rng((seed, *actor.encode()))
    waves = {clip.name: read_audio(clip.audio) for clip in clips if clip.audio is not None}
    sounds = {}
    for name in names:
        other = waves[names[rng.integers(len(names))]]
        worse = [worsen(waves[name], rng, other, rng.uniform(0.2, 1.0)) for _ in range(versions)]
        sounds[name] = [read_speech(wave) for wave in (waves[name], *worse)]
    cache.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = _packed(sounds)
    with temporary(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)
    return _unpacked(arrays, versions)  # rounded, as the next run reads them


def _content_hash(clips: list[Clip], versions: int, seed: int) -> str:
    """Of all that an actor's features depend on; recordings by their path, size and time."""
    facts: list[Any] = [ANALYSIS, versions, seed]
    for clip in clips:
        if clip.audio is not None:
            status = clip.audio.stat()
            facts.append([clip.name, str(clip.audio.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _packed(sounds: dict[str, list[SpeechFeatures]]) -> dict[str, np.ndarray]:
    flat = [features for own in sounds.values() for features in own]
    return {
        "names": np.array(list(sounds)),
        "rows": np.array([len(f.mfcc) for f in flat]),
        "mfcc": np.concatenate([f.mfcc for f in flat]),
        "prosody": np.concatenate([f.prosody for f in flat]).astype(np.float16),
        "silent": np.concatenate([f.silent for f in flat]),
        "silent_row": flat[0].silent_row,
        "num_samples": np.array([f.num_samples for f in flat]),
        "level_db": np.array([f.level_db for f in flat]),
        "above_noise_db": np.array([f.above_noise_db for f in flat]),
    }


def _unpacked(arrays: dict[str, np.ndarray], versions: int) -> dict[str, list[SpeechFeatures]]:
    ends = np.cumsum(arrays["rows"])
    flat = [
        SpeechFeatures(
            arrays["mfcc"][end - rows : end],
            arrays["prosody"][end - rows : end].astype(np.float32),
            arrays["silent"][end - rows : end],
            arrays["silent_row"],
            int(num_samples),
            float(level_db),
            float(above_noise_db),
        )
        for rows, end, num_samples, level_db, above_noise_db in zip(
            arrays["rows"], ends, arrays["num_samples"], arrays["level_db"], arrays["above_noise_db"], strict=True
        )
    ]
    stored = versions + 1
    return {name: flat[k * stored : (k + 1) * stored] for k, name in enumerate(arrays["names"].tolist())}


def _views(clip: Clip) -> dict[str, np.ndarray]:
    """The clip's faces by view; without the views in which its face is missing for a while."""
    views = {}
    for view, path in clip.landmarks.items():
        landmarks_px, fps = read_landmarks(path)
        if np.isfinite(landmarks_px).all():
            views[view] = _at_fps(landmarks_px, fps)
        else:
            logger.warning("%s %s left out: it has frames without a face", clip.name, view)
    return views


def _at_fps(landmarks_px: np.ndarray, fps: float) -> np.ndarray:
    """Landmarks in face units at 25 fps, frame t at (t + 0.5) / 25 s."""
    local = to_face_units(landmarks_px)[0]
    if Fraction(fps).limit_denominator(1001) == FPS or len(local) < 2:
        return local
    return resample_frames(local, fps, FPS, max(1, round(len(local) * FPS / fps)))


def resample_frames(values: np.ndarray, fps: float, new_fps: float, num_frames: int) -> np.ndarray:
    """`[T, ...]` at `fps` -> `[num_frames, ...]` at `new_fps`, both sampled in the middle of frames; no overshoot."""
    if len(values) < 2:
        return np.repeat(values[:1], num_frames, 0)
    times = (np.arange(len(values)) + 0.5) / float(fps)
    wanted = np.clip((np.arange(num_frames) + 0.5) / float(new_fps), times[0], times[-1])
    return PchipInterpolator(times, values, axis=0)(wanted).astype(np.float32)


def _actor_neutral(clips: list[Clip], views: dict[str, dict[str, np.ndarray]]) -> np.ndarray | None:
    """From the calm clips if there are any, else from all."""
    fronts = [(clip, views[clip.name]["front"]) for clip in clips if "front" in views[clip.name]]
    calm = [front for clip, front in fronts if clip.emotion == "neutral"] or [front for _, front in fronts]
    return neutral_face(np.concatenate(calm))[0] if calm else None


def displacements(fronts: dict[str, np.ndarray], neutral: np.ndarray) -> dict[str, np.ndarray]:
    """Front views of one person by clip, `[T,68,2]` in face units -> how far each point is from the neutral face
    `[68,2]`, less what the turns of the head do: no speech tells these.

    The first two principal components of the points that no expression moves say how the head is turned; what a turn
    does to the other points comes from a regression over all frames, on the lips' gap and the mouth's width, too."""
    faces = np.concatenate(list(fronts.values()))
    pose = faces[:, STILL_POINTS].reshape(len(faces), -1)
    directions = np.linalg.svd(pose - pose.mean(0), full_matrices=False)[2][:2]
    turn = (pose - neutral[STILL_POINTS].ravel()) @ directions.T
    inputs = np.stack([lip_gap(faces), mouth_width(faces), *turn.T], 1)
    ends = np.cumsum([len(front) for front in fronts.values()])[:-1]
    a, b = (np.concatenate([x - x.mean(0) for x in np.split(values, ends)]) for values in (inputs, faces))
    by_turn = ridge(a, b, [0, 0, *[TURN_PRIOR] * turn.shape[1]])[2:]
    still = faces - neutral - np.tensordot(turn, by_turn, 1)
    return dict(zip(fronts, np.split(still.astype(np.float32), ends), strict=True))


def _fit(values: np.ndarray, num_frames: int) -> np.ndarray:
    """Cuts, or holds the last frame: sound and picture of a take rarely end together."""
    return np.concatenate([values[:num_frames], np.repeat(values[-1:], max(0, num_frames - len(values)), 0)])
