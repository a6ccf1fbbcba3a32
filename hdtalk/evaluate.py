"""Scores predicted videos against ground truth: lines pairs up in time and space, runs the metrics."""

import math
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
from hdtalk.errors import InputError, NoFaceError, WeightsError
from hdtalk.instruments import Instruments
from hdtalk.media import probe, read_frames
from hdtalk.metrics import METRICS, STAND_IN_SUFFIX
from hdtalk.metrics.fid import FeatureStatistics, frechet_distance
from hdtalk.metrics.identity import identity_similarity
from hdtalk.metrics.jitter import background_jitter, landmark_jitter
from hdtalk.metrics.landmark_distance import face_landmark_distance, mouth_landmark_distance
from hdtalk.metrics.lpips import lpips
from hdtalk.metrics.lse import lse
from hdtalk.metrics.psnr import mean_psnr, psnr
from hdtalk.metrics.ssim import ssim
from hdtalk.pairs import Pair, some_of
from hdtalk.scores import ClipScores, Evaluation
from hdtalk.squares import square_quads

DEFAULTS = EvaluateConfig()
SYNC_FPS, SYNC_PX = 25, 224


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


def _unequal_clips(methods: Iterable[str], scored: Sequence[ClipScores]) -> list[str]:
    everything = {clip.clip for clip in scored}
    lacking = {name: sorted(everything - {clip.clip for clip in scored if clip.method == name}) for name in methods}
    return [
        f"{name} lacks {some_of(clips)}; its numbers are over other clips than its neighbours'"
        for name, clips in lacking.items()
        if clips
    ]


def _identical_clips(method: str, clips: Sequence[ClipScores]) -> list[str]:
    """A note where some clips, not all, equal the truth in every frame: the method's PSNR is over the others."""
    identical = [clip.clip for clip in clips if math.isinf(clip.values["PSNR"])]
    if not 0 < len(identical) < len(clips):
        return []
    count = f"{len(identical)} of {len(clips)} clips equal the ground truth in every frame ({some_of(identical)})"
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
    if truth.track is None and config.crop == "face":
        raise WeightsError(f"--crop face needs to find the face: {instruments.missing['BG-jitter']} Try --crop full.")
    measures = _ClipMeasures(truth, alignment.num_frames, instruments, config)
    present, notes = measures.present, list(alignment.notes)
    if not present.all():
        notes.append(f"no face in {(~present).sum()} of {len(present)} true frames; they have no part in face columns")
    if not present.any() and config.crop == "face":
        raise NoFaceError(f"{pair.ground_truth}: no face found. Try --crop full.")
    for start, predicted, true in _chunks(alignment, config.chunk_frames):
        measures.add(start, predicted, true)
    values = measures.values(notes)
    if instruments.syncnet and measures.track is not None:
        values["LSE-D"], values["LSE-C"] = _synchronisation(alignment, measures.track, instruments, notes)
    values = {name: values.get(name, math.nan) for name in METRICS if name != "FID"}
    distribution.merge(measures.features)  # only once the whole clip is read
    return ClipScores(method, pair.clip, alignment.num_frames, values, tuple(notes))


class _ClipMeasures:
    """What the metrics of one clip have found so far, frame by frame."""

    def __init__(self, truth: _Truth, num_frames: int, instruments: Instruments, config: EvaluateConfig):
        self._truth, self._instruments, self._config = truth, instruments, config
        track = truth.track
        self.present = np.ones(num_frames, bool) if track is None else track.present[:num_frames]
        self.track = track if self.present.any() else None
        self.features = _Distribution()
        self._boxes = face_boxes(self.track.landmarks_px, config.face_box_scale) if self.track else None
        self._quads = crop_track(self.track, config.crop_px).quads_px if self.track else None
        self._frames: dict[str, list[np.ndarray]] = {n: [] for n in ("PSNR", "SSIM", "LPIPS", "ID", "BG-jitter")}
        self._landmarks: list[np.ndarray] = []  # of both sides, [2,n,68,2]
        self._error_before: np.ndarray | None = None

    def add(self, start: int, predicted: np.ndarray, true: np.ndarray) -> None:
        """The next frames of both videos, uint8 `[n,H,W,3]`; `start`: the number of the first."""
        indices = np.arange(start, start + len(true))
        faces = indices[self.present[indices]]
        sides = predicted, true
        by_face = self._config.crop == "face"
        images = [self._cropped(side, start, faces, self._boxes) if by_face else side for side in sides]
        if len(images[0]):
            self._add_images(start, *images)
        if self._quads is not None:
            self._add_faces(start, indices, *(self._cropped(side, start, faces, self._quads) for side in sides))
            self._add_background(indices, predicted.astype(np.int16) - true)

    def values(self, notes: list[str]) -> dict[str, float]:
        """Column -> value; adds to the notes what is peculiar about them."""
        per_frame = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in self._frames.items()}
        identical = int(np.isinf(per_frame["PSNR"]).sum())
        if 0 < identical < len(per_frame["PSNR"]):
            notes.append(f"{identical} of {len(per_frame['PSNR'])} frames equal the ground truth; PSNR leaves them out")
        values = {name: _mean(name, series) for name, series in per_frame.items()}
        if self._landmarks:
            predicted_px, true_px = np.concatenate(self._landmarks, axis=1)
            values["F-LD"] = _mean("F-LD", face_landmark_distance(predicted_px, true_px))
            values["M-LD"] = _mean("M-LD", mouth_landmark_distance(predicted_px, true_px))
            values["Jitter"] = landmark_jitter(predicted_px, true_px)
        return values

    def _cropped(self, frames: np.ndarray, start: int, faces: np.ndarray, quads: np.ndarray | None) -> np.ndarray:
        assert quads is not None
        return crop_faces(frames[faces - start], quads[faces], self._config.crop_px).transpose(0, 2, 3, 1)

    def _add_images(self, start: int, predicted: np.ndarray, true: np.ndarray) -> None:
        instruments = self._instruments
        self._frames["PSNR"].append(psnr(predicted, true))
        self._frames["SSIM"].append(ssim(predicted, true))
        if instruments.perceptual:
            self._frames["LPIPS"].append(lpips(predicted, true, instruments.perceptual, instruments.device))
        if instruments.fid_features:
            true_features = self._truth.seen("FID", start, true, instruments.fid_features)
            self.features.add(instruments.fid_features(predicted), true_features)

    def _add_faces(self, start: int, indices: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
        instruments = self._instruments
        if len(true) and instruments.embed:
            self._frames["ID"].append(identity_similarity(predicted, true, instruments.embed))
        if instruments.landmarks:
            points = np.full((2, len(indices), 68, 2), np.nan)
            if len(true):
                points[0, self.present[indices]] = instruments.landmarks(predicted)
                points[1, self.present[indices]] = self._truth.seen("landmarks", start, true, instruments.landmarks)
            self._landmarks.append(points)

    def _add_background(self, indices: np.ndarray, errors: np.ndarray) -> None:
        assert self._quads is not None
        for index, error in zip(indices, errors, strict=True):
            if self._error_before is not None and self.present[index] and self.present[index - 1]:
                outside = _outside(error.shape[:2], self._quads[index - 1], self._quads[index])
                self._frames["BG-jitter"].append(np.array([background_jitter(self._error_before, error, outside)]))
            self._error_before = error


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
