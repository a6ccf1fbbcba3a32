"""A corpus' takes in one small file: what training reads of them, rounded, without sounds or pictures.

    write_pack(path, {"train": takes, "validation": others}, "what it is")
    parts, description = read_pack(path)

Features are rounded to steps well below what a microphone changes. Displacements and views are kept in a principal
subspace; of the views only every `VIEW_STEP`-th frame is kept.
"""

import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from hdtalk.data import SpeechFeatures
from hdtalk.errors import InputError
from hdtalk.files import write_atomically
from hdtalk.training.mead import Clip
from hdtalk.training.speech_data import Take

VIEW_STEP = 10
# of MFCC 1..12; log2 pitch, voicing, energy / 20 dB, harmonicity, roughness
ROW_STEPS = np.array([1.0] * 12 + [1 / 64, 1 / 16, 1 / 40, 1 / 32, 1 / 16, 1 / 16], np.float32)
FACE_STEP = 2e-3  # along a principal direction, face units
NUM_DIRECTIONS = {"displacement": 40, "views": 80}
_VERSION = 2


def write_pack(path: Path, parts: dict[str, list[Take]], description: str = "") -> None:
    """Takes by part; only the clean recording and its first worsened versions that all takes have are kept."""
    takes = [take for own in parts.values() for take in own]
    versions = min(len(take.sounds) for take in takes)
    sounds = [sound for take in takes for sound in take.sounds[:versions]]
    facts: dict[str, Any] = {"version": _VERSION, "description": description, "versions": versions, "takes": []}
    views: list[np.ndarray] = []
    for part, own in parts.items():
        for take in own:
            clip = take.clip
            kept = {view: frames[:: VIEW_STEP // take.view_step] for view, frames in take.views.items()}
            views += kept.values()
            facts["takes"].append(
                {
                    "part": part,
                    "clip": [clip.actor, clip.emotion, clip.level, clip.number, clip.sentence],
                    "frames": None if take.displacement is None else len(take.displacement),
                    "views": {view: len(frames) for view, frames in kept.items()},
                    "emphasis": take.emphasis,
                }
            )
    rows = [np.concatenate([s.mfcc, s.prosody], 1) / ROW_STEPS for s in sounds]
    moved = [take.displacement.reshape(-1, 136) for take in takes if take.displacement is not None]
    neutral = [np.zeros((68, 2)) if take.neutral is None else take.neutral for take in takes]
    arrays: dict[str, Any] = {
        "rows": _differences(rows),
        "num_rows": np.array([len(s.mfcc) for s in sounds]),
        "silent": np.packbits(np.concatenate([s.silent for s in sounds])),
        "silent_row": sounds[0].silent_row,
        "num_samples": np.array([s.num_samples for s in sounds]),
        "level_db": np.array([s.level_db for s in sounds], np.float32),
        "neutral": np.array(neutral, np.float32),
        **_projected("displacement", moved),
        **_projected("views", [view.reshape(-1, 136) for view in views]),
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lzma.compress(buffer.getbuffer(), preset=6))


def read_pack(path: Path) -> tuple[dict[str, list[Take]], str]:
    """Takes by part, and the description. Raises InputError for a file that is no pack."""
    try:
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays["facts"].tobytes())
    except (lzma.LZMAError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path}: not a packed corpus ({error}). Write it with train_speech --pack.") from None
    if facts["version"] != _VERSION:
        raise InputError(f"{path}: packed by another version of HDTalk. Write it again with train_speech --pack.")
    lengths = arrays["num_rows"]
    rows = _sums(arrays["rows"], lengths)
    silent = np.split(np.unpackbits(arrays["silent"])[: lengths.sum()].astype(bool), np.cumsum(lengths)[:-1])
    sounds = [
        SpeechFeatures(own[:, :12], own[:, 12:], quiet, arrays["silent_row"], int(samples), float(level_db))
        for own, quiet, samples, level_db in zip(
            (own * ROW_STEPS for own in rows), silent, arrays["num_samples"], arrays["level_db"], strict=True
        )
    ]
    moved = iter(_restored("displacement", arrays, [t["frames"] for t in facts["takes"] if t["frames"] is not None]))
    shown = iter(_restored("views", arrays, [n for t in facts["takes"] for n in t["views"].values()]))
    parts: dict[str, list[Take]] = {}
    for k, take in enumerate(facts["takes"]):
        actor, emotion, level, number, sentence = take["clip"]
        clip = Clip(actor, emotion, level, number, None, sentence=sentence)
        has_front = take["frames"] is not None
        parts.setdefault(take["part"], []).append(
            Take(
                clip,
                Take.label(clip),
                sounds[k * facts["versions"] : (k + 1) * facts["versions"]],
                next(moved) if has_front else None,
                arrays["neutral"][k] if has_front else None,
                {view: next(shown) for view in take["views"]},
                VIEW_STEP,
                take.get("emphasis", 1.0),
            )
        )
    return parts, facts["description"]


def _projected(name: str, frames: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Mean and principal directions of all frames `[n, 136]`, and their differences along these."""
    every = np.concatenate(frames or [np.zeros((1, 136), np.float32)])
    mean = every.mean(0)
    _, directions = np.linalg.eigh(np.cov((every[:: max(1, len(every) // 50_000)] - mean).T) + 1e-12 * np.eye(136))
    basis = directions[:, ::-1][:, : NUM_DIRECTIONS[name]].T.astype(np.float32)  # [k, 136]
    steps = [(own - mean) @ basis.T / FACE_STEP for own in frames]
    return {f"{name}_mean": mean, f"{name}_basis": basis, name: _differences(steps or [np.zeros((0, len(basis)))])}


def _restored(name: str, arrays: dict[str, np.ndarray], lengths: list[int]) -> list[np.ndarray]:
    mean, basis = arrays[f"{name}_mean"], arrays[f"{name}_basis"]
    return [
        (own * np.float32(FACE_STEP) @ basis + mean).astype(np.float32).reshape(-1, 68, 2)
        for own in _sums(arrays[name], np.array(lengths, int))
    ]


def _differences(parts: list[np.ndarray]) -> np.ndarray:
    """Whole numbers `[n, k]` per part -> uint8 `[2, k, N]`: from row to row, small ones first in size, the low bytes
    apart from the high ones; that compresses well."""
    columns = [np.diff(np.rint(part).astype(np.int32), axis=0, prepend=0) for part in parts]
    values = np.concatenate(columns).T
    coded = np.where(values < 0, -2 * values - 1, 2 * values).clip(0, 65535).astype(np.uint16)
    return np.stack([coded & 255, coded >> 8]).astype(np.uint8)


def _sums(coded: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """The inverse: float32 `[n, k]` per part."""
    values = coded[0].astype(np.int32) + (coded[1].astype(np.int32) << 8)
    values = np.where(values & 1, -(values + 1) // 2, values // 2).T
    if not len(lengths):
        return []
    return [np.cumsum(part, 0).astype(np.float32) for part in np.split(values, np.cumsum(lengths)[:-1])]
