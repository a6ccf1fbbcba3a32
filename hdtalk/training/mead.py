"""MEAD on disk, irregularities included: which clips there are, in which views, and the landmarks cached for them.

    ACTOR/audio/EMOTION/level_N/NNN.m4a
    ACTOR/video/VIEW/EMOTION/level_N/NNN.mp4
    ACTOR/landmarks/VIEW/EMOTION/level_N/NNN.npz      landmarks_px [T,68,2], fps: written by us, in the cache folder;
                                                      NaN in frames without a face

A corpus without pictures has the same layout with landmarks only. Known irregularities: video_1 and video_2 (M042),
video/1 and video/2 (W021), absent views and emotions (W017, M011, M019), gaps in the numbers, stray files.
"""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hdtalk.errors import InputError
from hdtalk.files import temporary
from hdtalk.models.speech import EMOTIONS

logger = logging.getLogger(__name__)

VIEWS = ("front", "left_30", "left_60", "right_30", "right_60", "top", "down")
AUDIO_SUFFIXES = (".m4a", ".wav", ".flac", ".mp3", ".ogg")
LEVEL_STRENGTH = {1: 0.55, 2: 0.78, 3: 1.0}  # of the levels, as intensities
_EMOTION_OF = {**{name: name for name in EMOTIONS}, "disgust": "disgusted", "anger": "angry"}


@dataclass(frozen=True)
class Clip:
    """One take: a sentence said once, heard once, seen from one or more sides."""

    actor: str
    emotion: str
    level: int
    number: str
    audio: Path | None
    videos: dict[str, Path] = field(default_factory=dict)
    landmarks: dict[str, Path] = field(default_factory=dict)
    sentence: str | None = None  # equal for takes of the same words, where known

    @property
    def name(self) -> str:
        return f"{self.actor}/{self.emotion}/level_{self.level}/{self.number}"


def read_mead(root: Path | str, cache: Path | str | None = None, actors: Iterable[str] | None = None) -> list[Clip]:
    """All clips below `root` in a stable order. `cache`: where landmarks lie besides `root`. The words of a take
    come from `phones/EMOTION/level_N/NNN.json` ("text") or from `root/sentences.json`, {actor: {"emotion/level_N/NNN":
    sentence}}; without either, `sentence` is None. Raises InputError when there is no clip at all."""
    root, cache = Path(root), Path(cache or root)
    table_path = root / "sentences.json"
    table = json.loads(table_path.read_text()) if table_path.is_file() else {}
    wanted = set(actors) if actors is not None else None
    clips = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        if wanted is None or folder.name in wanted:
            clips += _actor_clips(folder, cache / folder.name, table.get(folder.name, {}))
    if not clips:
        raise InputError(f"{root}: no clips. Expected MEAD's layout: ACTOR/audio/EMOTION/level_N/NNN.m4a.")
    return clips


def official_test(clips: list[Clip]) -> set[str]:
    """Names of MEAD's test clips: per actor the last 10 neutral ones, the last 6 of each other emotion and level."""
    groups: dict[tuple, list[Clip]] = {}
    for clip in clips:
        groups.setdefault((clip.actor, clip.emotion, clip.level), []).append(clip)
    test = set()
    for (_, emotion, _), group in groups.items():
        last = sorted(group, key=lambda clip: clip.number)[-(10 if emotion == "neutral" else 6) :]
        test |= {clip.name for clip in last}
    return test


def cache_landmarks(
    clips: list[Clip],
    cache: Path,
    detect: Callable[[Path], tuple[np.ndarray, float]],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Detects the landmarks of every video that has none yet; returns how many videos could not be used (logged).
    `detect(video) -> landmarks_px [T,68,2], fps`; NaN where there is no face."""
    todo = [(clip, view) for clip in clips for view in clip.videos if view not in clip.landmarks]
    failed = 0
    for index, (clip, view) in enumerate(todo):
        target = cache / clip.actor / "landmarks" / view / clip.emotion / f"level_{clip.level}" / f"{clip.number}.npz"
        try:
            landmarks_px, fps = detect(clip.videos[view])
        except InputError as error:
            failed += 1
            logger.warning("%s %s left out: %s", clip.name, view, error)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary(target) as unfinished, unfinished.open("wb") as file:
            np.savez(file, landmarks_px=np.asarray(landmarks_px, np.float32), fps=float(fps))
        if progress:
            progress(index + 1, len(todo))
    return failed


def read_landmarks(path: Path) -> tuple[np.ndarray, float]:
    with np.load(path, allow_pickle=False) as file:
        return file["landmarks_px"], float(file["fps"])


def _actor_clips(folder: Path, cache: Path, sentences: dict[str, str]) -> list[Clip]:
    audio = _takes(folder / "audio", AUDIO_SUFFIXES)
    videos: dict[tuple[str, int, str], dict] = {}
    for video_root in sorted(path for path in folder.glob("video*") if path.is_dir()):
        # W021 nests parts inside video/, M042 has video_1/ and video_2/ beside each other
        for view_root in [video_root, *(part for part in sorted(video_root.iterdir()) if part.name.isdigit())]:
            for view in VIEWS:
                for key, path in _takes(view_root / view, (".mp4",)).items():
                    videos.setdefault(key, {})[view] = path
    landmarks: dict[tuple[str, int, str], dict] = {}
    for place in (folder, cache):
        for view in VIEWS:
            for key, path in _takes(place / "landmarks" / view, (".npz",)).items():
                landmarks.setdefault(key, {})[view] = path
    clips = []
    for key in sorted({*videos, *landmarks, *audio}):
        emotion, level, number = key
        if key not in audio:
            logger.warning("%s/%s/level_%d/%s: no sound; left out", folder.name, *key)
            continue
        words = folder / "phones" / emotion / f"level_{level}" / f"{number}.json"
        sentence = json.loads(words.read_text())["text"] if words.is_file() else None
        sentence = sentences.get(f"{emotion}/level_{level}/{number}", sentence)
        clips.append(
            Clip(folder.name, *key, audio[key], videos.get(key, {}), landmarks.get(key, {}), sentence),
        )
    return clips


def _takes(folder: Path, suffixes: tuple[str, ...]) -> dict[tuple[str, int, str], Path]:
    """(emotion, level, number) -> file, for EMOTION/level_N/NNN.suffix; everything else is passed over."""
    found = {}
    for path in sorted(folder.glob("*/level_*/*")):
        emotion, level = _EMOTION_OF.get(path.parts[-3].lower()), path.parts[-2].removeprefix("level_")
        if emotion is None or not level.isdigit() or path.suffix.lower() not in suffixes or not path.stem.isdigit():
            continue
        if path.stat().st_size == 0:
            logger.warning("%s: empty file; left out", path)
            continue
        found[emotion, int(level), path.stem] = path
    return found
