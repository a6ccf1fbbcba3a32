"""The clips that a table is made of: from a rendered test set, from MEAD, or from HDTF clips."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from hdtalk.errors import InputError, UsageError
from hdtalk.training.mead import LEVEL_STRENGTH, official_test, read_mead

LISTING = "testset.json"


@dataclass(frozen=True)
class Item:
    """One edit to score: `source` shall say `speech` and then look like `truth`. `emotion`: NAME:0..1 of the target.
    `track`, `target`: npz files with the exact landmarks_px [T,68,2] of source and truth, where they are known."""

    clip: str
    source: Path
    speech: Path
    truth: Path
    emotion: str | None = None
    track: Path | None = None
    target: Path | None = None


def write_listing(folder: Path, items: list[Item], about: str) -> None:
    """testset.json, with paths relative to its folder."""

    def relative(value):
        return str(value.relative_to(folder)) if isinstance(value, Path) else value

    rows = [{name: relative(value) for name, value in asdict(item).items()} for item in items]
    (folder / LISTING).write_text(json.dumps({"about": about, "items": rows}, indent=1) + "\n")


def write_take(points: Path, landmarks_px: np.ndarray, fps: float, facts: dict) -> None:
    """The landmarks of a rendered take, written at once, with the facts that the take depends on."""
    part = points.with_suffix(".part.npz")
    np.savez(part, landmarks_px=landmarks_px, fps=fps, facts=json.dumps(facts))
    part.replace(points)


def is_filmed(points: Path, facts: dict) -> bool:
    """Whether the take is there. Raises UsageError where it was made of other facts than these, or of unknown ones."""
    if not points.exists():
        return False
    try:
        with np.load(points, allow_pickle=False) as file:
            had = dict(json.loads(str(file["facts"])))
    except (OSError, ValueError, KeyError, TypeError, BadZipFile):
        had = {}
    changed = [name for name in facts if had.get(name) != facts[name]]
    if changed:
        different = "; ".join(f"{name} {had.get(name, 'unknown')}, not {facts[name]}" for name in changed)
        folder = points.parents[5]  # of ACTOR/landmarks/front/EMOTION/LEVEL/NUMBER.npz
        raise UsageError(
            f"{folder}: {points.relative_to(folder)} was made with other arguments ({different}). "
            "Choose another --out, or delete this folder."
        )
    return True


def read_items(folder: Path, limit: int = 0, patterns: Sequence[str] = ()) -> list[Item]:
    """The items of a folder that make_testset, prepare_mead or prepare_hdtf made: those whose clip's name fits one of
    the patterns (`T00[02]_*`), and of these the first `limit`; 0: all.

    MEAD: every official test take seen from the front, edited out of the actor's first neutral take; head motion is
    not shared, so image columns say little there. HDTF: every clip re-voiced with its own sound, so the unedited
    source is the truth itself. Raises InputError for any other folder, UsageError for a pattern that nothing fits.
    """
    if (folder / LISTING).is_file():
        items = _listed(folder)
    elif (folder / "hdtf.json").is_file():
        items = _hdtf(folder)
    else:
        items = _mead(folder)
    if not items:
        raise InputError(f"{folder}: no clip that a table could be made of. Expected what scripts/make_testset makes.")
    for pattern in patterns:
        if not any(fnmatchcase(item.clip, pattern) for item in items):
            raise UsageError(f"--clips {pattern}: no clip of {folder} is named so, but for example {items[0].clip}.")
    if patterns:
        items = [item for item in items if any(fnmatchcase(item.clip, pattern) for pattern in patterns)]
    return items[:limit] if limit else items


def _listed(folder: Path) -> list[Item]:
    try:
        rows = json.loads((folder / LISTING).read_text())["items"]
        paths = ("source", "speech", "truth", "track", "target")
        items = [Item(**{k: folder / v if k in paths and v else v for k, v in row.items()}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / LISTING}: damaged ({error}). Make the test set again.") from None
    for item in items:
        for path in (item.source, item.speech, item.truth):
            if not path.is_file():
                raise InputError(f"{folder / LISTING}: {path} is missing. Make the test set again.")
    return items


def _hdtf(folder: Path) -> list[Item]:
    try:
        made = [folder / row["path"] for row in json.loads((folder / "hdtf.json").read_text()) if row["path"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'hdtf.json'}: damaged ({error}). Run scripts/prepare_hdtf again.") from None
    return [Item(path.stem, path, path, path) for path in made if path.is_file()]


def _mead(folder: Path) -> list[Item]:
    takes = read_mead(folder)
    test, sources = official_test(takes), {}
    clips = [clip for clip in takes if "front" in clip.videos]
    for clip in clips:
        if clip.emotion == "neutral" and clip.name not in test:
            sources.setdefault(clip.actor, clip.videos["front"])
    return [
        Item(
            clip.name.replace("/", "_"),
            sources[clip.actor],
            clip.audio,
            clip.videos["front"],
            f"{clip.emotion}:{LEVEL_STRENGTH[clip.level]:.2f}",
        )
        for clip in clips
        if clip.name in test and clip.actor in sources
    ]
