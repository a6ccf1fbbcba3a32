"""Which predicted video is compared with which true one: from two files, two folders, or a CSV."""

import csv
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hdtalk.errors import InputError, UsageError
from hdtalk.media import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A predicted video and the true one, under the clip's name (the same in all methods)."""

    clip: str
    prediction: Path
    ground_truth: Path


def pairs_of_methods(paths: Sequence[str | Path], names: Sequence[str] = ()) -> dict[str, list[Pair]]:
    """Method -> pairs for `PRED... GT`, or for CSV files that list pairs. `names`: one for each PRED (or CSV), else
    the file's or folder's own name. Raises UsageError when the numbers do not fit or two methods have one name."""
    files = [Path(path) for path in paths]
    tables = [path.suffix.lower() == ".csv" for path in files]
    if any(tables) != all(tables):
        raise UsageError("give videos or folders (PRED... GT) or CSV files of pairs, not both.")
    if not any(tables) and len(files) < 2:
        raise UsageError(f"{files[0]}: what shall it be compared with? Give PRED and GT, or a CSV of pairs.")
    predictions = files if any(tables) else files[:-1]
    if names and len(names) != len(predictions):
        raise UsageError(
            f"--method was given {len(names)} times for {len(predictions)} predictions; name each of them."
        )
    methods: dict[str, list[Pair]] = {}
    own_names: Sequence[str | None] = names or [None] * len(predictions)
    for path, name in zip(predictions, own_names, strict=True):
        found = _read_csv(path, name) if any(tables) else {name or _own_name(path): find_pairs(path, files[-1])}
        if twice := set(found) & set(methods):
            raise UsageError(f"two methods are called {min(twice)}; name them apart with --method.")
        methods |= found
    return _with_clip_names(methods)


def _own_name(path: Path) -> str:
    return path.absolute().name if path.is_dir() else path.stem


def find_pairs(prediction: str | Path, ground_truth: str | Path) -> list[Pair]:
    """Pairs two files, or the videos of two folders that have the same name below them (suffix aside).

    Raises InputError when nothing fits together, UsageError for a file against a folder.
    """
    prediction, ground_truth = Path(prediction), Path(ground_truth)
    for path in (prediction, ground_truth):
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder.")
    if prediction.is_dir() != ground_truth.is_dir():
        raise UsageError(f"{prediction} and {ground_truth}: give two files or two folders, not one of each.")
    if not prediction.is_dir():
        return [Pair(ground_truth.stem, prediction, ground_truth)]
    predicted, true = _videos_below(prediction), _videos_below(ground_truth)
    common = sorted(set(predicted) & set(true))
    if not common:
        raise InputError(
            f"{prediction}: no video there is named like one in {ground_truth} "
            f"({some_of(predicted) or 'no videos'} against {some_of(true) or 'no videos'}). "
            "Give a CSV of pairs instead."
        )
    if left_out := sorted(set(predicted) ^ set(true)):
        logger.warning("%s: without counterpart and left out: %s", prediction, some_of(left_out))
    return [Pair(name, predicted[name], true[name]) for name in common]


def read_pairs(path: str | Path, default_method: str | None = None) -> dict[str, list[Pair]]:
    """Method -> pairs from a CSV with the columns `prediction`, `ground_truth` and, if wanted, `method` and `clip`;
    paths are relative to the CSV's folder. Clips without a name get that of the true video, with as many of its folders
    as tell it from the others. Raises InputError that names the line, UsageError for a method named twice over."""
    return _with_clip_names(_read_csv(Path(path), default_method))


def _read_csv(path: Path, default_method: str | None) -> dict[str, list[Pair]]:
    """As `read_pairs`, but a clip that has no name there has none yet."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = {(name or "").strip().lower() for name in reader.fieldnames or []}
            if not {"prediction", "ground_truth"} <= names:
                raise InputError(f"{path}: its first line must name the columns prediction and ground_truth.")
            rows = [(reader.line_num, _stripped(row)) for row in reader]
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}).") from None
    methods: dict[str, list[Pair]] = {}
    for line, row in rows:
        if not any(row.values()):
            continue
        if default_method and row.get("method"):
            raise UsageError(f"{path}: names the methods itself. Leave out --method, or the column method there.")
        for column in ("prediction", "ground_truth"):
            if not row[column]:
                raise InputError(f"{path}, line {line}: the cell {column} is empty. Give the path of a video.")
            if not (path.parent / row[column]).is_file():
                raise InputError(f"{path}, line {line}: there is no file {path.parent / row[column]}.")
        pair = Pair(row.get("clip", ""), path.parent / row["prediction"], path.parent / row["ground_truth"])
        methods.setdefault(row.get("method") or default_method or path.stem, []).append(pair)
    if not methods:
        raise InputError(f"{path}: holds no pairs.")
    return methods


def _stripped(row: Mapping) -> dict[str, str]:
    return {str(key or "").strip().lower(): str(value or "").strip() for key, value in row.items()}


def _videos_below(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{folder}: both {found[name].name} and {path.name} are there; keep one of each name.")
        found[name] = path
    return found


def _with_clip_names(methods: Mapping[str, Sequence[Pair]]) -> dict[str, list[Pair]]:
    """Names the clips that have no name after their true videos, and numbers what has one name in one method."""
    names = _shortest_names({_location(pair) for pairs in methods.values() for pair in pairs if not pair.clip})
    named: dict[str, list[Pair]] = {method: [] for method in methods}
    for method, pairs in methods.items():
        times: Counter[str] = Counter()
        for pair in pairs:
            clip = pair.clip or names[_location(pair)]
            times[clip] += 1
            named[method].append(replace(pair, clip=clip if times[clip] == 1 else f"{clip} ({times[clip]})"))
    return named


def _location(pair: Pair) -> Path:
    return Path(os.path.abspath(pair.ground_truth))


def _shortest_names(videos: set[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other has: 001, but happy/001 where sad/001 is there too. Suffixes are
    shown only where nothing else differs."""
    bare = {video: video.with_suffix("") for video in videos}
    num_alike = Counter(bare.values())
    names: dict[Path, str] = {}
    length = 1
    while len(names) < len(num_alike):
        ends = {path: "/".join(path.parts[-length:]) for path in num_alike if path not in names}
        times = Counter(ends.values())
        names |= {path: end for path, end in ends.items() if times[end] == 1}
        length += 1
    return {video: names[path] + (video.suffix if num_alike[path] > 1 else "") for video, path in bare.items()}


def some_of(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
