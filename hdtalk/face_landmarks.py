"""Frames to one tracked face: detection, association over time, 68 landmarks per frame, gaps, shot cuts."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import linear_sum_assignment

from hdtalk.ahead import read_ahead
from hdtalk.config import FaceConfig
from hdtalk.data import FaceTrack
from hdtalk.errors import NoFaceError, UsageError
from hdtalk.models.fan import heatmaps_to_landmarks
from hdtalk.squares import crop_face, ffhq_quads, landmarks_to_frame

log = logging.getLogger(__name__)

DEFAULTS = FaceConfig()
ReadFrames = Callable[[int, int], Iterator[np.ndarray]]  # start, stop -> uint8 RGB [H,W,3], one at a time
LANDMARKER_SIDE_PX = 256
CHUNK_BYTES = 128 << 20
MOUTH_AND_EYES = np.r_[36:68]
HISTOGRAM_JUMP = 0.45  # of the colours change at a cut, and stay changed (a flash goes back)
SETTLED_DEGREES = 8.0
POSITION_JUMP = 0.5  # of the face's size between two frames: people do not move like that
RETURN_REACH = 3.0  # face sizes from where somebody was lost: who appears further away is somebody else


def track_face(
    read_frames: ReadFrames,
    num_frames: int,
    fps: float,
    detector,
    landmarker,
    config: FaceConfig = DEFAULTS,
    name: str = "the video",
    progress: Callable[[int, int], None] | None = None,
    first_frame: int = 0,
) -> FaceTrack:
    """Follows one face through a shot of any length; frames are read twice, a chunk at a time.

    `detector.detect(frames uint8 [N,H,W,3])` -> per frame float [K,5]: x0, y0, x1, y1 in pixels, score;
    `landmarker.heatmaps(images [N,3,256,256] in [-1,1])` -> [N,68,64,64]. The landmarker looks twice: at FAN's own
    crop of the detected box, then at the face turned upright and aligned, so tilted heads work (again if needed).
    Gaps of up to `max_gap_s` are interpolated; in longer ones `on_missing` decides. Smoothing adds no lag.
    `first_frame`: the shot's place in the video `name`, from which messages count its frames.
    Raises NoFaceError when no face is found (or one is missing and `on_missing` is "fail"), UsageError for a `face`
    that is not there.
    """
    report = progress or (lambda done, total: None)
    boxes, *looks = _detect_all(read_frames, num_frames, detector, config, lambda done: report(done, 2 * num_frames))
    cuts = _find_cuts(boxes, *looks)
    max_gap = max(0, round(config.max_gap_s * fps))
    people = _associate(boxes, cuts, max_gap)
    if not people:
        raise NoFaceError(f"{name}: no face was found in its {num_frames} frames. Is it turned away, or very small?")
    source = _Source(name, first_frame)
    followed = _choose(people, cuts, num_frames, config.face, source)
    _give_notice(people, cuts, source)

    landmarks = np.full((num_frames, 68, 2), np.nan)
    confidence = np.zeros(num_frames, np.float32)
    tracked = _fill_boxes(followed, num_frames, cuts, max_gap)
    _find_landmarks(
        read_frames,
        tracked,
        landmarker,
        config,
        landmarks,
        confidence,
        lambda n: report(num_frames + n, 2 * num_frames),
    )
    seen = confidence >= config.min_confidence
    for start, stop in _shots(cuts, num_frames):
        seen[start:stop] &= ~_is_outlier(landmarks[start:stop], seen[start:stop])
    if not seen.any():
        raise NoFaceError(no_landmarks(name, float(confidence.max()), config))
    present = np.zeros(num_frames, bool)
    smoothed = np.empty_like(landmarks)
    fallback = landmarks[np.flatnonzero(seen)[0]]
    for start, stop in _shots(cuts, num_frames):
        shot = slice(start, stop)
        present[shot] = _bridged(seen[shot], max_gap, config.on_missing)
        smoothed[shot] = _smooth(_interpolate(landmarks[shot], seen[shot], fallback), fps, config)
    if not present.all():
        missing = f"{name}: no face in frames {', '.join(frame_ranges(first_frame + np.flatnonzero(~present)))}"
        if config.on_missing == "fail":
            raise NoFaceError(f"{missing}. Trim the clip, or use --on-missing-face keep.")
        log.warning("%s; they stay as they are.", missing)
    return FaceTrack(smoothed.astype(np.float32), present, np.where(seen, confidence, 0), tuple(cuts), len(people))


def known_track(landmarks_px: np.ndarray) -> FaceTrack:
    """The track of landmarks that are known in every frame, `[T,68,2]`: where they jump as people do not, a new shot
    begins."""
    boxes = np.concatenate([landmarks_px.min(1), landmarks_px.max(1)], axis=1)  # [T, 4]
    cuts = [t for t in range(1, len(boxes)) if _jumps(boxes[t - 1 : t], boxes[t : t + 1])]
    return FaceTrack(landmarks_px, np.ones(len(landmarks_px), bool), cuts=tuple(cuts))


def no_landmarks(name: str, confidence: float, config: FaceConfig = DEFAULTS) -> str:
    """What is said where the detector sees a face, and the landmarker sees none."""
    return (
        f"{name}: something like a face was found, but no landmarks on it (confidence at most {confidence:.2f}, "
        f"expected {config.min_confidence:g}). Is the face turned away or covered?"
    )


def look_at_frame(frame: np.ndarray, detector, landmarker, config: FaceConfig = DEFAULTS) -> tuple[int, float]:
    """How many faces one frame, uint8 RGB `[H,W,3]`, shows, and how sure the landmarker is of the largest, 0 to 1."""
    boxes = detector.detect(frame[None])[0]
    if not len(boxes):
        return 0, 0.0
    quad = _fan_quad(max(boxes, key=_size), config.box_reference)
    _, peaks = _look_closely([frame], quad[None], landmarker, config)
    return len(boxes), float(peaks[0])


@dataclass(frozen=True)
class _Source:
    """What messages call the video, and which of its frames the first one here is."""

    name: str
    first_frame: int


@dataclass
class _Person:
    """One person's boxes: frame number -> [x0, y0, x1, y1, score]."""

    boxes: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def first(self) -> int:
        return next(iter(self.boxes))  # frames come in order

    @property
    def last(self) -> int:
        return next(reversed(self.boxes))

    @property
    def size_px(self) -> float:
        return float(np.median([_size(box) for box in self.boxes.values()]))


def _chunks(read_frames: ReadFrames, numbers: range, config: FaceConfig) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Consecutive frames in lists of bounded size, with the number of the first."""
    chunk: list[np.ndarray] = []
    first = numbers.start
    for frame in read_ahead(read_frames(numbers.start, numbers.stop)):
        chunk.append(frame)
        if len(chunk) >= min(config.chunk_frames, max(1, CHUNK_BYTES // frame.nbytes)):
            yield first, chunk
            first += len(chunk)
            chunk = []
    if chunk:
        yield first, chunk


def _detect_all(read_frames, num_frames, detector, config, report) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Boxes per frame and, to notice cuts, its colour histogram [T,512] and how much the picture changed [T]."""
    boxes, histograms, changes, before = [], [], [], None
    for first, frames in _chunks(read_frames, range(num_frames), config):
        for found in detector.detect(np.stack(frames)):
            boxes.append(np.asarray(found, np.float64).reshape(-1, 5))
        for frame in frames:
            step = max(1, min(frame.shape[:2]) // 48)
            small = frame[step // 2 :: step, step // 2 :: step].astype(np.int16)
            bins = (small >> 5) @ np.array([64, 8, 1], np.int16)
            histograms.append((np.bincount(bins.ravel(), minlength=512) / bins.size).astype(np.float16))
            changes.append(0.0 if before is None else float(np.abs(small - before).mean()))
            before = small
        report(first + len(frames))
    return boxes, np.stack(histograms), np.array(changes)


def _find_cuts(boxes: list[np.ndarray], histograms: np.ndarray, changes: np.ndarray) -> list[int]:
    """First frames of new shots: the colours change and stay changed, or face and picture jump at once."""

    def colours(a: int, b: int) -> float:
        return float(np.abs(histograms[a].astype(np.float32) - histograms[b]).sum() / 2)

    cuts: list[int] = []
    for t in range(1, len(boxes)):
        if cuts and t - cuts[-1] <= 2:
            continue
        earlier, later = max(t - 2, 0), min(t + 1, len(boxes) - 1)  # what goes back, as a flash does, is no cut
        pairs = [(t - 1, t), (t - 1, later), (earlier, t), (earlier, later)]
        if min(colours(*pair) for pair in pairs) > HISTOGRAM_JUMP:
            cuts.append(t)
            continue
        around = np.concatenate([changes[max(1, t - 8) : t], changes[t + 1 : t + 9]])
        sudden = changes[t] > 4 * (np.median(around) if len(around) else 0) + 2
        if sudden and all(_jumps(boxes[before], boxes[after]) for before, after in pairs):
            cuts.append(t)
    return cuts


def _jumps(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether none of the faces before has a successor nearby."""
    if not len(before) or not len(after):
        return False
    distance = np.linalg.norm(_centres(before)[:, None] - _centres(after)[None], axis=-1)
    sizes = np.sqrt(_areas(before)[:, None] * _areas(after)[None])
    ratio = np.sqrt(_areas(before)[:, None] / _areas(after)[None])
    return bool(((distance > POSITION_JUMP * np.sqrt(sizes)) | (ratio > 1.5) | (ratio < 1 / 1.5)).all())


def _associate(boxes: list[np.ndarray], cuts: list[int], max_gap: int) -> list[_Person]:
    """Detections joined to people, from left to right of where they first appear; flickers are dropped."""
    people: list[_Person] = []
    for start, stop in _shots(cuts, len(boxes)):
        active: list[_Person] = []
        for t in range(start, stop):
            active = [person for person in active if t - person.last <= max_gap + 1]
            found = boxes[t]
            taken = set()
            if active and len(found):
                cost = np.array([[_misfit(person.boxes[person.last], box) for box in found] for person in active])
                for row, column in zip(*linear_sum_assignment(cost), strict=True):
                    if cost[row, column] < 1:
                        active[row].boxes[t] = found[column]
                        taken.add(column)
            for column in sorted(set(range(len(found))) - taken):
                active.append(_Person({t: found[column]}))
                people.append(active[-1])
        people = _reunited(people, start)
    lasting = min(3, max(len(boxes) // 10, 1))
    people = [person for person in people if len(person.boxes) >= lasting] or people
    return sorted(people, key=lambda person: (_shot_of(person.first, cuts), _centre(person.boxes[person.first])[0]))


def _reunited(people: list[_Person], start: int) -> list[_Person]:
    """Those who come back after a longer gap in the shot that begins at `start`, joined to who they were before."""
    kept = [person for person in people if person.first < start]
    for person in sorted((p for p in people if p.first >= start), key=lambda p: p.first):
        before = [p for p in kept if p.first >= start and p.last < person.first]
        before = [p for p in before if 0.5 < p.size_px / person.size_px < 2]
        here = _centre(person.boxes[person.first])
        distance_px = [float(np.linalg.norm(_centre(p.boxes[p.last]) - here)) for p in before]
        if before and min(distance_px) < RETURN_REACH * person.size_px:
            before[int(np.argmin(distance_px))].boxes |= person.boxes
        else:
            kept.append(person)
    return kept


def _misfit(before: np.ndarray, after: np.ndarray) -> float:
    """0: the same box; 1 and more: another person."""
    size = np.sqrt(_size(before) * _size(after))
    distance = np.linalg.norm(_centre(before) - _centre(after)) / size
    growth = abs(np.log(_size(after) / _size(before)))
    return float(distance / 0.7 + growth / 0.6) / 1.5


def _choose(
    people: list[_Person], cuts: list[int], num_frames: int, face: str, source: _Source
) -> dict[int, np.ndarray]:
    """The followed person's boxes: of the wanted one in the first shot with faces, of the largest in the others."""
    followed: dict[int, np.ndarray] = {}
    for start, stop in _shots(cuts, num_frames):
        here = [person for person in people if start <= person.first < stop]
        if not here:
            continue
        person = _largest(here) if followed else _wanted(here, face, source)
        followed |= person.boxes
    return followed


def check_face(face: str) -> list[float]:
    """The numbers of `--face`: none for "largest", one for an index, two for a point. Raises UsageError."""
    if face == "largest":
        return []
    try:
        numbers = [float(part) for part in face.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2 and all(map(math.isfinite, numbers)) or len(numbers) == 1 and numbers[0].is_integer():
        return numbers
    raise UsageError(f"--face {face}: expected largest, the index of a face (0 is the leftmost) or a point x,y.")


def _wanted(people: list[_Person], face: str, source: _Source) -> _Person:
    numbers = check_face(face)
    if not numbers:
        return _largest(people)
    if len(numbers) == 1:
        if 0 <= numbers[0] < len(people):
            return people[int(numbers[0])]
        raise UsageError(f"{source.name}: there is no face {face}. There are: {_listing(people, source)}.")
    point = np.array(numbers)
    nearest = min(people, key=lambda p: np.linalg.norm(_centre(p.boxes[p.first]) - point) / _size(p.boxes[p.first]))
    box = nearest.boxes[nearest.first]
    if np.linalg.norm(_centre(box) - point) > _size(box):
        raise UsageError(f"{source.name}: no face near {face}. There are: {_listing(people, source)}.")
    return nearest


def _largest(people: list[_Person]) -> _Person:
    return max(people, key=lambda person: sum(_size(box) ** 2 for box in person.boxes.values()))


def _give_notice(people: list[_Person], cuts: list[int], source: _Source) -> None:
    if cuts:
        places = ", ".join(str(source.first_frame + cut) for cut in cuts[:8])
        log.warning(
            "%s: a new shot begins at frame %s; each is tracked by itself. One continuous shot works best: trim it.",
            *(source.name, places + (" and more" if len(cuts) > 8 else "")),
        )
    if len(people) > 1 and not cuts:
        log.warning("%s: several faces: %s. Choose with --face.", source.name, _listing(people, source))


def _listing(people: list[_Person], source: _Source) -> str:
    def line(index: int, person: _Person) -> str:
        x, y = _centre(person.boxes[person.first])
        first, last = (source.first_frame + frame for frame in (person.first, person.last))
        return f"{index} at {x:.0f},{y:.0f} ({person.size_px:.0f} px, frames {first}-{last})"

    return "; ".join(line(index, person) for index, person in enumerate(people))


def _fill_boxes(boxes: dict[int, np.ndarray], num_frames: int, cuts: list[int], max_gap: int) -> np.ndarray:
    """float64 [T,4], NaN where nobody is; short gaps interpolated, detector jitter smoothed."""
    filled = np.full((num_frames, 4), np.nan)
    for t, box in boxes.items():
        filled[t] = box[:4]
    for start, stop in _shots(cuts, num_frames):
        known = np.isfinite(filled[start:stop, 0])
        near = _bridged(known, max_gap, "keep")
        if known.any():
            whole = gaussian_filter1d(_interpolate(filled[start:stop], known, filled[start]), 1.5, axis=0)
            filled[start:stop] = np.where(near[:, None], whole, np.nan)
    return filled


def _find_landmarks(read_frames, boxes, landmarker, config, landmarks, confidence, report) -> None:
    """Fills `landmarks` (pixels of the frame) and `confidence` of the frames that have a box."""
    for first, frames in _chunks(read_frames, range(len(boxes)), config):
        rows = [k for k in range(len(frames)) if np.isfinite(boxes[first + k, 0])]
        if rows:
            quads = np.stack([_fan_quad(boxes[first + k], config.box_reference) for k in rows])
            points, peaks = _look_closely([frames[k] for k in rows], quads, landmarker, config)
            landmarks[[first + k for k in rows]] = points
            confidence[[first + k for k in rows]] = np.clip(peaks, 0, 1)
        report(first + len(frames))


def _fan_quad(box: np.ndarray, reference: float) -> np.ndarray:
    """FAN's own crop rule for a detector's box: 200 (w + h) / reference wide, its centre moved up by 0.12 h."""
    width, height = box[2] - box[0], box[3] - box[1]
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2 - 0.12 * height])
    half = 100 * (width + height) / reference
    return centre + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])


def _look_closely(
    frames: list[np.ndarray], quads: np.ndarray, landmarker, config: FaceConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks and peaks from the face turned upright and aligned, starting at FAN's upright crops; again where the
    head turned out to be tilted further."""
    points, peaks = _look_at(frames, quads, landmarker)
    rows = np.arange(len(frames))
    for _ in range(config.max_refinements):
        aligned = ffhq_quads(points[rows], config.refine_scale)
        aligned[[not _plausible(a, q) for a, q in zip(aligned, quads[rows], strict=True)]] = np.nan
        rows, aligned = rows[np.isfinite(aligned[:, 0, 0])], aligned[np.isfinite(aligned[:, 0, 0])]
        if not len(rows):
            break
        points[rows], peaks[rows] = _look_at([frames[k] for k in rows], aligned, landmarker)
        rows = rows[_turn_degrees(aligned, ffhq_quads(points[rows])) > SETTLED_DEGREES]
    return points, peaks


def _turn_degrees(quads: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Angle between squares, [N]."""
    a, b = quads[:, 3] - quads[:, 0], others[:, 3] - others[:, 0]
    return np.degrees(np.abs(np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1))))


def _plausible(aligned: np.ndarray, coarse: np.ndarray) -> bool:
    """Whether a look stays near the first: landmarks on noise give tiny or huge squares."""
    ratio = np.linalg.norm(aligned[3] - aligned[0]) / np.linalg.norm(coarse[3] - coarse[0])
    shift = np.linalg.norm(aligned.mean(0) - coarse.mean(0)) / np.linalg.norm(coarse[3] - coarse[0])
    return bool(0.25 < ratio < 3 and shift < 0.5)


@torch.inference_mode()
def _look_at(frames: list[np.ndarray], quads: np.ndarray, landmarker) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [N,68,2] in pixels of the frames and mean heat-map peaks [N]."""
    images = np.stack([crop_face(*pair, LANDMARKER_SIDE_PX) for pair in zip(frames, quads, strict=True)])
    parameter = next(iter(landmarker.parameters()), None) if hasattr(landmarker, "parameters") else None
    device = "cpu" if parameter is None else parameter.device
    points, peaks = [], []
    for batch in torch.from_numpy(images).split(8):
        heatmaps = landmarker.heatmaps(batch.to(device)).float()
        points.append(heatmaps_to_landmarks(heatmaps).cpu() - 0.5)  # pixel centres at whole numbers from here on
        peaks.append(heatmaps.amax((2, 3)).mean(1).cpu())
    return landmarks_to_frame(torch.cat(points).numpy(), quads, LANDMARKER_SIDE_PX), torch.cat(peaks).numpy()


def _is_outlier(landmarks: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Single frames whose landmarks leave the path that their neighbours agree on."""
    outlier = np.zeros(len(seen), bool)
    for t in range(1, len(seen) - 1):
        if seen[t - 1 : t + 2].all():
            before, here, after = landmarks[t - 1 : t + 2]
            size = np.ptp(before, axis=0).max()
            off = np.linalg.norm(here - (before + after) / 2, axis=-1).mean()
            outlier[t] = off > 0.12 * size and off > 2 * np.linalg.norm(after - before, axis=-1).mean()
    return outlier


def _bridged(seen: np.ndarray, max_gap: int, on_missing: str) -> np.ndarray:
    """`seen` with inner gaps of at most `max_gap` frames closed; all of them when they are to be interpolated."""
    if on_missing == "interpolate" and seen.any():
        return np.ones_like(seen)
    bridged = seen.copy()
    known = np.flatnonzero(seen)
    for before, after in zip(known[:-1], known[1:], strict=True):
        if after - before - 1 <= max_gap:
            bridged[before:after] = True
    return bridged


def _interpolate(values: np.ndarray, known: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Linear between known rows, constant beyond them."""
    if not known.any():
        return np.broadcast_to(fallback, values.shape).copy()
    flat = values.reshape(len(values), -1)
    times = np.flatnonzero(known)
    columns = [np.interp(np.arange(len(values)), times, flat[times, k]) for k in range(flat.shape[1])]
    return np.stack(columns, 1).reshape(values.shape)


def _smooth(landmarks: np.ndarray, fps: float, config: FaceConfig) -> np.ndarray:
    """Gaussians, which have no lag; a narrower one where the face moves fast."""
    smoothed = gaussian_filter1d(landmarks, max(config.smooth_sigma_s * fps, 1e-3), axis=0, mode="nearest")
    fast = max(config.smooth_mouth_eyes_sigma_s * fps, 1e-3)
    smoothed[:, MOUTH_AND_EYES] = gaussian_filter1d(landmarks[:, MOUTH_AND_EYES], fast, axis=0, mode="nearest")
    return smoothed


def _shots(cuts: list[int], num_frames: int) -> list[tuple[int, int]]:
    bounds = [0, *cuts, num_frames]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _shot_of(frame: int, cuts: list[int]) -> int:
    return sum(cut <= frame for cut in cuts)


def frame_ranges(numbers: Iterable[int]) -> list[str]:
    """[1, 2, 3, 7] -> ["1-3", "7"]."""
    numbers = np.array(sorted(numbers))
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs if len(run)]


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:4]) / 2


def _size(box: np.ndarray) -> float:
    return float(np.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-9)))


def _centres(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:4]) / 2


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-9)
