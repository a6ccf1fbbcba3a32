"""Scores predicted videos against ground truth: finds the pairs, lines them up in time and space, runs the metrics."""

import csv
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from hdtalk.audio import mfcc, read_shot_audio
from hdtalk.config import EvaluateConfig
from hdtalk.crop import crop_faces, crop_track
from hdtalk.data import FaceTrack, VideoInfo
from hdtalk.errors import InputError, UsageError, WeightsError
from hdtalk.instruments import Instruments
from hdtalk.media import VIDEO_SUFFIXES, probe, read_frames
from hdtalk.metrics import METRICS, STAND_IN_SUFFIX
from hdtalk.metrics.fid import FeatureStatistics, frechet_distance
from hdtalk.metrics.identity import identity_similarity
from hdtalk.metrics.jitter import background_jitter, landmark_jitter
from hdtalk.metrics.landmark_distance import face_landmark_distance, mouth_landmark_distance
from hdtalk.metrics.lpips import lpips
from hdtalk.metrics.lse import lse
from hdtalk.metrics.psnr import mean_psnr, psnr
from hdtalk.metrics.ssim import ssim
from hdtalk.scores import ClipScores, Evaluation
from hdtalk.squares import square_quads

logger = logging.getLogger(__name__)

DEFAULTS = EvaluateConfig()
SYNC_FPS, SYNC_PX = 25, 224


@dataclass(frozen=True)
class Pair:
    """A predicted video and the true one, under the clip's name (the same in all methods)."""

    clip: str
    prediction: Path
    ground_truth: Path


def evaluate(
    methods: Mapping[str, Sequence[Pair]],
    instruments: Instruments,
    config: EvaluateConfig = DEFAULTS,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Scores every method on its pairs. `progress(done, total, what)` is called once per clip.

    A column is the mean over the clips of the mean over the frames; FID takes all frames of all clips together. What an
    instrument is missing for is left out and said, and so is a clip that turns out to be damaged or to show no face.
    Raises InputError for videos that cannot be compared, before any is scored, and where nothing could be.
    """
    alignments = {pair: _align(pair) for pairs in methods.values() for pair in pairs}  # refused before any is scored
    by_truth: dict[Path, list[tuple[str, Pair]]] = {}
    for method, pairs in methods.items():
        for pair in pairs:
            by_truth.setdefault(pair.ground_truth, []).append((method, pair))
    total, done = sum(map(len, methods.values())), 0
    distributions = {method: _Distribution() for method in methods}
    scored: dict[tuple[str, Pair], ClipScores] = {}
    failures: list[str] = []
    for ground_truth, compared in by_truth.items():
        try:
            truth = _Truth(instruments.track(ground_truth) if instruments.track else None, len(compared) > 1)
        except InputError as error:
            failures += [f"{method}, {pair.clip}: {error}" for method, pair in compared]
            done += len(compared)
            continue
        for method, pair in compared:
            if progress:
                progress(done, total, f"{method}: {pair.clip}")
            given = alignments[pair], truth, instruments, config, distributions[method]
            try:
                scored[method, pair] = _score_clip(method, pair, *given)
            except InputError as error:
                failures.append(f"{method}, {pair.clip}: {error}")
            done += 1
    if progress:
        progress(total, total, "done")
    if not scored:
        others = f" (and {total - 1} more that could not be scored either)" if total > 1 else ""
        raise InputError(f"{failures[0]}{others}")
    scores: dict[str, dict[str, float]] = {}
    clips: list[ClipScores] = []
    notes: list[str] = []
    for method, pairs in methods.items():
        if mine := [scored[method, pair] for pair in pairs if (method, pair) in scored]:
            columns = mine[0].values
            scores[method] = {column: _mean(column, [clip.values[column] for clip in mine]) for column in columns}
            scores[method]["FID"] = distributions[method].distance()
            clips += mine
            notes += _identical_clips(method, mine)
    return _named(scores, clips, instruments, config, [*_unequal_clips(scores, clips), *notes], failures)


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
            f"({_some(predicted) or 'no videos'} against {_some(true) or 'no videos'}). Give a CSV of pairs instead."
        )
    if left_out := sorted(set(predicted) ^ set(true)):
        logger.warning("%s: without counterpart and left out: %s", prediction, _some(left_out))
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


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unequal_clips(methods: Iterable[str], scored: Sequence[ClipScores]) -> list[str]:
    everything = {clip.clip for clip in scored}
    lacking = {name: sorted(everything - {clip.clip for clip in scored if clip.method == name}) for name in methods}
    return [
        f"{name} lacks {_some(clips)}; its numbers are over other clips than its neighbours'"
        for name, clips in lacking.items()
        if clips
    ]


def _identical_clips(method: str, clips: Sequence[ClipScores]) -> list[str]:
    """A note where some clips, not all, equal the truth in every frame: the method's PSNR is over the others."""
    identical = [clip.clip for clip in clips if math.isinf(clip.values["PSNR"])]
    if not 0 < len(identical) < len(clips):
        return []
    count = f"{len(identical)} of {len(clips)} clips equal the ground truth in every frame ({_some(identical)})"
    return [f"{method}: {count}; PSNR leaves them out"]


# ------------------------------------------------------------------------------------------------- one clip


class _Distribution:
    """Inception features of all predicted and all true frames, of a clip or of all clips of a method."""

    def __init__(self) -> None:
        self._sides: tuple[FeatureStatistics, FeatureStatistics] | None = None

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        if self._sides is None:
            self._sides = FeatureStatistics(predicted.shape[1]), FeatureStatistics(true.shape[1])
        self._sides[0].add(predicted)
        self._sides[1].add(true)

    def merge(self, clip: "_Distribution") -> None:
        if self._sides is None:
            self._sides = clip._sides
        elif clip._sides is not None:
            for mine, other in zip(self._sides, clip._sides, strict=True):
                mine.merge(other)

    def distance(self) -> float:
        return frechet_distance(*self._sides) if self._sides else math.nan


class _Truth:
    """A true video's face, and what networks see in its frames, which is kept where it `is_shared` by methods."""

    def __init__(self, track: FaceTrack | None, is_shared: bool):
        self.track, self._is_shared = track, is_shared
        self._seen: dict[tuple[str, int, int], np.ndarray] = {}

    def seen(self, by: str, start: int, images: np.ndarray, network: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`network(images)`, of the frames from `start` on."""
        key = by, start, len(images)
        if key in self._seen:
            return self._seen[key]
        found = network(images)
        if self._is_shared:
            self._seen[key] = found
        return found


def _score_clip(
    method: str,
    pair: Pair,
    alignment: "_Alignment",
    truth: _Truth,
    instruments: Instruments,
    config: EvaluateConfig,
    distribution: _Distribution,
) -> ClipScores:
    track = truth.track
    present = np.ones(alignment.num_frames, bool) if track is None else track.present[: alignment.num_frames]
    notes = list(alignment.notes)
    if track is None and config.crop == "face":
        raise WeightsError(f"--crop face needs to find the face: {instruments.missing['BG-jitter']} Try --crop full.")
    if not present.all():
        notes.append(f"no face in {(~present).sum()} of {len(present)} true frames; they have no part in face columns")
    if not present.any():
        track = None
        if config.crop == "face":
            raise InputError(f"{pair.ground_truth}: no face found. Try --crop full.")
    boxes = face_boxes(track.landmarks_px, config.face_box_scale) if track else None
    quads = crop_track(track, config.crop_px).quads_px if track else None

    frames: dict[str, list[np.ndarray]] = {name: [] for name in ("PSNR", "SSIM", "LPIPS", "ID", "BG-jitter")}
    landmarks: list[np.ndarray] = []  # of both sides, [2,n,68,2]
    features = _Distribution()  # counted only once the whole clip is read
    error_before = None
    for start, predicted, true in _chunks(alignment, config.chunk_frames):
        indices = np.arange(start, start + len(true))
        faces = indices[present[indices]]
        if config.crop == "face":
            assert boxes is not None
            images = tuple(_crops(side, start, faces, boxes, config.crop_px) for side in (predicted, true))
        else:
            images = predicted, true
        if len(images[0]):
            frames["PSNR"].append(psnr(*images))
            frames["SSIM"].append(ssim(*images))
            if instruments.perceptual:
                frames["LPIPS"].append(lpips(images[0], images[1], instruments.perceptual, instruments.device))
            if instruments.fid_features:
                true_features = truth.seen("FID", start, images[1], instruments.fid_features)
                features.add(instruments.fid_features(images[0]), true_features)
        if quads is None:
            continue
        crops = tuple(_crops(side, start, faces, quads, config.crop_px) for side in (predicted, true))
        if len(faces) and instruments.embed:
            frames["ID"].append(identity_similarity(crops[0], crops[1], instruments.embed))
        if instruments.landmarks:
            points = np.full((2, len(indices), 68, 2), np.nan)
            if len(faces):
                points[0, present[indices]] = instruments.landmarks(crops[0])
                points[1, present[indices]] = truth.seen("landmarks", start, crops[1], instruments.landmarks)
            landmarks.append(points)
        for index, error in zip(indices, predicted.astype(np.int16) - true, strict=True):
            if error_before is not None and present[index] and present[index - 1]:
                outside = _outside(error.shape[:2], quads[index - 1], quads[index])
                frames["BG-jitter"].append(np.array([background_jitter(error_before, error, outside)]))
            error_before = error

    per_frame = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in frames.items()}
    identical = int(np.isinf(per_frame["PSNR"]).sum())
    if 0 < identical < len(per_frame["PSNR"]):
        notes.append(f"{identical} of {len(per_frame['PSNR'])} frames equal the ground truth; PSNR leaves them out")
    values = {name: _mean(name, series) for name, series in per_frame.items()}
    if landmarks:
        predicted_px, true_px = np.concatenate(landmarks, axis=1)
        values["F-LD"] = _mean("F-LD", face_landmark_distance(predicted_px, true_px))
        values["M-LD"] = _mean("M-LD", mouth_landmark_distance(predicted_px, true_px))
        values["Jitter"] = landmark_jitter(predicted_px, true_px)
    if instruments.syncnet and track is not None:
        values["LSE-D"], values["LSE-C"] = _synchronisation(alignment, track, instruments, notes)
    values = {name: values.get(name, math.nan) for name in METRICS if name != "FID"}
    distribution.merge(features)
    return ClipScores(method, pair.clip, alignment.num_frames, values, tuple(notes))


def _mean(column: str, values: Sequence[float] | np.ndarray) -> float:
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return math.nan
    return mean_psnr(numbers) if column == "PSNR" else float(numbers.mean())


def _synchronisation(alignment: "_Alignment", track: FaceTrack, instruments: Instruments, notes: list[str]):
    if not alignment.predicted.has_audio:
        notes.append("the prediction has no sound; LSE is not measured")
        return math.nan, math.nan
    assert instruments.syncnet is not None
    signal = read_shot_audio(alignment.predicted.path)
    boxes = sync_boxes(track.landmarks_px)

    def faces() -> Iterator[np.ndarray]:
        """Crops at 25 fps, whatever the clock of the true video."""
        rate = alignment.true.fps / SYNC_FPS
        for tick, frame in enumerate(alignment.prediction_frames(Fraction(SYNC_FPS))):
            box = boxes[_shown_at(tick, rate, len(boxes))]
            yield crop_faces([frame], box[None], SYNC_PX)[0].transpose(1, 2, 0)

    samples = np.clip(signal * 32768, -32768, 32767).astype(np.int16)
    return lse(faces(), mfcc(samples), len(samples), instruments.syncnet)


# ------------------------------------------------------------------------------------------- time and space


@dataclass(frozen=True)
class _Alignment:
    """The first `num_frames` true frames are compared with the predicted ones that are shown at their middles."""

    predicted: VideoInfo
    true: VideoInfo
    num_frames: int
    notes: tuple[str, ...]

    def prediction_frames(self, fps: Fraction | None = None) -> Iterator[np.ndarray]:
        """The predicted frame for each true one, or for each of a clock of `fps`, at the true one's size."""
        fps = fps or self.true.fps
        size = self.true.width, self.true.height
        shrinks = self.predicted.width > self.true.width
        rate, count = self.predicted.fps / fps, int(self.num_frames * fps / self.true.fps)
        wanted = (_shown_at(index, rate, self.predicted.num_frames) for index in range(count))
        for frame in _pick(read_frames(self.predicted.path), wanted):
            if frame.shape[1::-1] != size:
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
            yield frame


def _align(pair: Pair) -> _Alignment:
    predicted, true = probe(pair.prediction), probe(pair.ground_truth)
    notes = []
    shape = predicted.width / predicted.height / (true.width / true.height)
    if abs(shape - 1) > 0.02:
        raise InputError(
            f"{pair.prediction} is {predicted.width}x{predicted.height}, but {pair.ground_truth} is "
            f"{true.width}x{true.height}: not the same framing. Crop one like the other first."
        )
    if (predicted.width, predicted.height) != (true.width, true.height):
        sizes = f"{predicted.width}x{predicted.height}", f"{true.width}x{true.height}"
        notes.append(f"prediction resized from {sizes[0]} to {sizes[1]}")
    rate = predicted.fps / true.fps
    if rate != 1:
        notes.append(
            f"prediction {float(predicted.fps):.3f} fps, ground truth {float(true.fps):.3f} fps: "
            "compared on time, each true frame with the predicted frame that is shown at its middle"
        )
    num_frames = min(true.num_frames, math.ceil(predicted.num_frames / rate))  # those that begin while it lasts
    excess_s = predicted.duration_s - true.duration_s
    lacking, surplus = true.num_frames - num_frames, predicted.num_frames - math.ceil(true.num_frames * rate)
    if lacking:
        shorter = f"prediction {max(-excess_s, 0):.2f} s shorter"
        notes.append(f"{shorter}: the last {lacking} of {true.num_frames} true frames are left out")
    elif surplus > rate / 2:  # more than half a true frame
        longer = f"prediction {excess_s:.2f} s longer"
        notes.append(f"{longer}: its last {surplus} of {predicted.num_frames} frames are left out")
    return _Alignment(predicted, true, num_frames, tuple(notes))


def _shown_at(index: int, rate: Fraction, num_frames: int) -> int:
    """Which of `num_frames` frames is shown at the middle of frame `index` of another clock, with `rate` frames to each
    of its own; the earlier one where two meet there."""
    return min(math.ceil((2 * index + 1) * rate / 2) - 1, num_frames - 1)


def _pick(frames: Iterator[np.ndarray], wanted: Iterator[int]) -> Iterator[np.ndarray]:
    """The frame for each wanted index; these never decrease."""
    at, frame = -1, np.empty(0)
    for index in wanted:
        while at < index:
            frame, at = next(frames), at + 1
        yield frame


def _chunks(alignment: _Alignment, size: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    predicted, true = alignment.prediction_frames(), read_frames(alignment.true.path, 0, alignment.num_frames)
    start = 0
    while chunk := list(islice(zip(predicted, true, strict=True), size)):
        yield start, np.stack([pair[0] for pair in chunk]), np.stack([pair[1] for pair in chunk])
        start += len(chunk)


def face_boxes(landmarks_px: np.ndarray, scale: float) -> np.ndarray:
    """Upright squares around the 68 landmarks, float64 [T,4,2] corners like CropTrack's: centre of the bounding box,
    `scale` times its longer side."""
    low, high = landmarks_px.min(axis=1).astype(np.float64), landmarks_px.max(axis=1).astype(np.float64)
    return _upright((low + high) / 2, scale * (high - low).max(axis=1) / 2)


def sync_boxes(landmarks_px: np.ndarray) -> np.ndarray:
    """The crop of syncnet_python around a face box: 1.4 times its longer side, moved down by a fifth of it."""
    low, high = landmarks_px.min(axis=1).astype(np.float64), landmarks_px.max(axis=1).astype(np.float64)
    half = (high - low).max(axis=1) / 2
    return _upright((low + high) / 2 + np.stack([0 * half, 0.4 * half], axis=1), 1.4 * half)


def _upright(centres: np.ndarray, halves: np.ndarray) -> np.ndarray:
    return square_quads(centres, np.stack([halves, 0 * halves], axis=1))


def _crops(frames: np.ndarray, start: int, indices: np.ndarray, quads: np.ndarray, side: int) -> np.ndarray:
    return crop_faces(frames[indices - start], quads[indices], side).transpose(0, 2, 3, 1)


def _outside(shape: tuple[int, int], *quads: np.ndarray) -> np.ndarray:
    inside = np.zeros(shape, np.uint8)
    for quad in quads:
        cv2.fillConvexPoly(inside, np.round(quad).astype(np.int32), 1)
    return inside == 0


# ---------------------------------------------------------------------------------------------------- names


def _named(
    scores, clips, instruments: Instruments, config: EvaluateConfig, notes: list[str], failures: list[str]
) -> Evaluation:
    """Leaves out what could not be measured at all, and gives stand-ins the name that nobody mistakes."""
    shown = [name for name in METRICS if any(not math.isnan(row[name]) for row in scores.values())]
    named = {name: name + STAND_IN_SUFFIX if name in instruments.stand_ins else name for name in shown}
    missing = {
        name: instruments.missing.get(name, "No clip allowed it, see the notes.")
        for name in METRICS
        if name not in shown
    }
    definitions = {
        column: (METRICS[name].stand_in if name in instruments.stand_ins else METRICS[name].definition)
        + (f" {instruments.made_by[name]}" if name in instruments.made_by else "")
        for name, column in named.items()
    }
    picture = (
        f"image columns compare the upright square around the true landmarks ({config.face_box_scale} times their "
        f"longer side), resampled to {config.crop_px} px"
        if config.crop == "face"
        else "image columns compare whole frames"
    )
    clips = [replace(clip, values={c: clip.values.get(n, math.nan) for n, c in named.items()}) for clip in clips]
    scores = {method: {column: row[name] for name, column in named.items()} for method, row in scores.items()}
    return Evaluation(config.crop, scores, clips, definitions, missing, [picture, *notes], failures)
