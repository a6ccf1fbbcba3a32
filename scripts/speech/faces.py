"""Second half of the corpus: phone times -> mouth shapes, emotion on the face, head motion -> 68 landmarks per view.

No picture is rendered: the head model's points are projected, 25 times a second, into files that the MEAD reader takes
for its own cache of detected landmarks.
"""

import json
from pathlib import Path

import numpy as np

from scripts.heads.landmarks import HeadLandmarks
from scripts.heads.visemes import EMOTION_TABLE, emotion_weights, emotional_speech, speech_weights
from scripts.speech.speakers import Speaker
from scripts.speech.voice_emotion import LEVELS

FPS = 25
PIXELS_PER_CM = 38.0
VIEWS_DEG = {  # yaw, pitch
    "front": (0, 0),
    "left_30": (-30, 0),
    "left_60": (-60, 0),
    "right_30": (30, 0),
    "right_60": (60, 0),
    "top": (0, 25),
    "down": (0, -25),
}
SIDE_VIEWS = 2  # besides the front: drawn anew for every clip
IN_TABLE = {"disgusted": "disgust"}


def film(speaker: Speaker, out: Path, model: HeadLandmarks) -> int:
    """Writes landmarks/VIEW/EMOTION/level_N/NNN.npz for each of the speaker's recordings; returns their number."""
    rng = np.random.default_rng(speaker.head_seed + 50_000)
    identity = np.clip(0.85 * rng.normal(size=100), -2.2, 2.2)
    clips = sorted((out / "phones").glob("*/level_*/*.json"))
    for path in clips:
        emotion, level, number = path.parts[-3], int(path.parts[-2][-1]), path.stem
        clip = json.loads(path.read_text())
        weights = expression(clip, emotion, level, speaker.articulation, model.expression_names)
        sides = rng.choice(list(VIEWS_DEG)[1:], SIDE_VIEWS, replace=False)
        for view in ("front", *sides):
            plane_cm = model.project(identity, weights, _head_motion(view, len(weights), rng))
            landmarks_px = plane_cm * PIXELS_PER_CM + np.array([960, 540]) + rng.normal(0, 30, 2)
            target = out / "landmarks" / view / emotion / f"level_{level}" / f"{number}.npz"
            target.parent.mkdir(parents=True, exist_ok=True)
            np.savez(target, landmarks_px=landmarks_px.astype(np.float32), fps=FPS)
    return len(clips)


def expression(clip: dict, emotion: str, level: int, articulation: float, names: list[str]) -> np.ndarray:
    """Expression weights `[T,57]` of a recording: what the mouth says, plus the emotion."""
    speech = speech_weights([tuple(p) for p in clip["phones"]], names, fps=FPS, duration_s=clip["duration_s"])
    feeling = emotion_weights(names)[list(EMOTION_TABLE).index(IN_TABLE.get(emotion, emotion))]
    feeling = feeling * (0 if emotion == "neutral" else LEVELS[level])
    return np.clip(emotional_speech(feeling, speech, names, articulation), 0, 1).astype(np.float32)


def _head_motion(view: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Poses `[T,3]` in radians around the view's direction: an offset of its own, and slow sways."""
    yaw, pitch = VIEWS_DEG[view]
    spread = 2 if view == "front" else 10
    base = np.array([yaw, pitch, 0]) + rng.normal(size=3) * np.array([spread, spread * 0.7, spread * 0.3])
    time = np.arange(num_frames)[:, None] / FPS
    sway = sum(
        rng.normal(size=3) * np.array([1.2, 0.9, 0.6]) * np.sin(2 * np.pi * (f * time + rng.random(3)))
        for f in (0.2, 0.5, 0.9)
    )
    return np.radians(base + sway)
