"""Speech features and a shot's landmarks -> the landmarks of the same person, in the same pose, saying the new words.

Displacements from the speech move the person's own neutral face, which is turned to each frame's pose: by a map that is
fitted to the shot with the alignment network's support, or (`carry` off, as published) by that network alone.
Nothing here grows with the length of the speech except the landmarks themselves.
"""

import logging
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from hdtalk.audio_bands import tract_map
from hdtalk.config import SpeechConfig
from hdtalk.data import SpeechFeatures
from hdtalk.emotion import SPAN_FRAMES, named_code, shared_code, voice_code, voice_codes
from hdtalk.errors import InputError
from hdtalk.face_units import (
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    STILL_POINTS,
    close_lips,
    from_face_units,
    lip_gap,
    mouth_width,
    neutral_face,
    ridge,
    to_face_units,
    without_opening,
)
from hdtalk.models.speech import EMOTIONS, SpeechModel
from hdtalk.windows import (
    STRETCH_FPS,
    STRETCH_ROWS,
    WINDOW_ROWS,
    exact_fps,
    num_video_frames,
    silence_row,
    silent_frames,
    stretch_of_rows,
)

logger = logging.getLogger(__name__)

# Share of each point that comes from the network as it is; the rest follows the shot's own point, moved by the emotion.
_SPOKEN = np.zeros(68, np.float32)
_SPOKEN[48:] = 1.0
_SPOKEN[2:15] = (0.33, 0.66, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.66, 0.33)
_LOWER, _UPPER = [*range(17), *range(48, 68)], [*range(17, 48)]
_INNER_LIPS = tuple(zip(LIPS_INNER_UPPER, LIPS_INNER_LOWER, strict=True))
_LIDS = {36: (37, 38, 40, 41), 42: (43, 44, 46, 47)}


def predict_landmarks(
    speech: SpeechFeatures,
    landmarks_px: np.ndarray,
    fps: Fraction | float,
    *,
    model: SpeechModel,
    emotion: str | None = None,
    emotion_from: SpeechFeatures | None = None,
    emotion_codes: torch.Tensor | None = None,
    shot_speech: SpeechFeatures | None = None,
    config: SpeechConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Float32 `[T,68,2]` full-frame pixels: `landmarks_px` `[T,68,2]` of a shot at `fps`, re-voiced by `speech`, which
    starts with the first frame (HDTalk paper, III.A). Frames beyond the speech keep a closed mouth.

    `emotion`: `NAME` or `NAME:0..1`; `emotion_from`: features of another recording whose emotion is taken;
    `emotion_codes`: `[e]`, or `[H, e]` in steps of `SPAN_FRAMES` for an emotion that changes; none of them: the emotion
    of the voice, as it changes. `shot_speech`: what is said in the shot itself, from its first frame on. It shows the
    person's habit: what predicted landmarks constantly miss, and how far the lips open. And the emotion that a new
    voice has in common with it is on the face already and does not come on top (a chosen one does). Brows, lids and
    nose keep the person's own motion and get the emotion's on top.
    Raises InputError for landmarks that are empty or not finite, and for a frame rate that is no rate."""
    config = config or SpeechConfig()
    landmarks_px = np.asarray(landmarks_px, np.float32)
    if landmarks_px.ndim != 3 or landmarks_px.shape[1:] != (68, 2) or not len(landmarks_px):
        raise InputError(f"landmarks: expected [T,68,2] with T >= 1, got {list(landmarks_px.shape)}.")
    if not np.isfinite(landmarks_px).all():
        raise InputError("landmarks: some are NaN or infinite. Interpolate the frames without a face first.")
    if not 0 < float(fps) < float("inf"):
        raise InputError(f"fps: {fps}; expected frames per second, more than 0.")
    local, _ = to_face_units(landmarks_px)
    neutral, calm_frames = neutral_face(local, config.neutral_share, config.neutral_within)
    turn = _turned if config.carry else _aligned
    turned, bias = turn(model, local, neutral, calm_frames, config)
    emotions = None if emotion_codes is None else emotion_codes.reshape(-1, model.emotion_codes.shape[1])
    if emotions is None:
        emotions = _emotion_track(model, speech, emotion, emotion_from, config)
    source = DisplacementStream(model, speech, neutral, emotions, config)
    habit, opening = np.zeros((68, 2), np.float32), 1.0
    shot_voice = None if shot_speech is None else voice_code(model, shot_speech)
    if shot_voice is not None and config.own_words:
        codes = named_code(model, "neutral"), shot_voice
        own = [_own_words(model, shot_speech, code, local, neutral, turned + bias, fps, config) for code in codes]
        habit, opening = _habit(own[0], config), _opening(own, neutral, config)
    heard = emotion is None and emotion_from is None and emotion_codes is None
    if shot_voice is not None and config.shot_emotion and heard:
        source.wear(shared_code(model, emotions.mean(0), shot_voice))
    times_s = (np.arange(len(local)) + 0.5) / float(exact_fps(fps))
    lids_open = {corner: max(1e-3, np.median(_lid_gap(local, corner))) for corner in _LIDS}
    out = np.empty_like(landmarks_px)
    for start in range(0, len(local), config.chunk_frames):
        part = slice(start, start + config.chunk_frames)
        displacement, resting, meeting = source.at(times_s[part])
        face = _spoken_face(neutral, config.strength * displacement + habit, resting, meeting, config)
        face = close_lips(face, 1 - opening, _lip_rest(neutral))
        moved = _revoice(model, local[part], neutral, turned[part], bias, face, lids_open, config)
        _, similarity = to_face_units(landmarks_px[part])
        out[part] = from_face_units(moved, similarity)
        if progress:
            progress(min(len(local), part.stop), len(local))
    return out


class DisplacementStream:
    """Displacements of the neutral face over time, computed in chunks at the predictor's own rate. Times must rise."""

    def __init__(
        self, model, speech: SpeechFeatures, neutral: np.ndarray, emotions: torch.Tensor, config: SpeechConfig
    ):
        self.model, self.speech, self.config = model, speech, config
        device = model.emotion_codes.device
        self.reach = model.landmark_predictor.reach
        self.neutral = torch.from_numpy(neutral).to(device)[None]
        self.emotions = emotions  # [H, e], one per `SPAN_FRAMES`, or a single one
        spread = config.tract_spread
        factors = (1.0, 1 - spread, 1 + spread) if spread else (1.0,)
        maps = np.stack([np.eye(12) if factor == 1 else tract_map(factor) for factor in factors]).astype(np.float32)
        rows = (speech.mfcc[~speech.silent] if (~speech.silent).sum() >= 10 else speech.mfcc) @ maps
        self.tracts = torch.from_numpy(maps).to(device)  # [K, 12, 12]
        self.mean = torch.from_numpy(rows.mean(1, keepdims=True)).to(device)
        self.scale = torch.from_numpy(rows.std(1, keepdims=True) + 1.0).to(device)
        self.num_frames = num_video_frames(speech, STRETCH_FPS)
        self.state = None
        self.first = 0  # index of the first frame that is kept
        self.kept = np.zeros((0, 68, 2), np.float32)
        self.resting = closing_curve(silent_frames(speech, STRETCH_FPS), STRETCH_FPS, config.closing_s)
        self.worn = np.zeros((68, 2), np.float32)  # displacement that the person's face shows without words
        self.lip_rest = _lip_rest(neutral)
        self.heard = _ramp(speech.above_noise_db, *config.lips_heard_db)

    def wear(self, code: torch.Tensor) -> None:
        """From now on leaves out what the emotion of this code `[e]` does to a face in a pause."""
        self.worn = self._pause(code) - self._pause(named_code(self.model, "neutral"))

    @torch.no_grad()
    def _pause(self, code: torch.Tensor, num_frames: int = 50) -> np.ndarray:
        """Displacement `[68,2]` in this emotion after so many frames of silence."""
        num_rows = STRETCH_ROWS * (num_frames + self.reach - 1) + WINDOW_ROWS
        silence = np.repeat(silence_row(self.speech)[None], num_rows, 0)
        return self._predict(silence, code.expand(num_frames, -1))[0][-1]

    def _predict(self, rows: np.ndarray, emotion: torch.Tensor, state=None, margin: int = 0):
        """Displacements `[T,68,2]` for MFCC and prosody rows of T frames, those that the predictor looks ahead and
        `margin` more on either side, and emotion codes `[T, e]`: the mean over the vocal tracts. And the predictor's
        state."""
        own = torch.from_numpy(rows).to(self.mean.device).expand(len(self.tracts), -1, -1)
        heard = torch.cat([own[..., :12] @ self.tracts, own[..., 12:]], -1)
        content = self.model.content(heard, self.mean, self.scale)[:, margin : margin + len(emotion) + self.reach]
        neutral, emotion = (x.expand(len(heard), *x.shape[-2:]) for x in (self.neutral, emotion))
        predicted, state = self.model.landmark_predictor(neutral, content, emotion, state)
        return predicted.mean(0).cpu().numpy(), state

    def at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Displacements `[T,68,2]` at `times_s` `[T]`, and how far the lips come to rest in a pause and how far they
        meet for a sound, `[T]` each: 0 where they are as predicted."""
        position = times_s * STRETCH_FPS - 0.5
        near = _dip_frames(self.config)
        low, high = int(np.floor(position[0])) - 2 - near, int(np.ceil(position[-1])) + 3 + near
        while self.first + len(self.kept) < min(high + 1, self.num_frames):
            self._extend()
        drop = max(0, min(low - self.first, len(self.kept) - max(4, near + 1)))
        self.first, self.kept = self.first + drop, self.kept[drop:]
        known = np.arange(self.first, self.first + len(self.kept))
        inside = np.clip(position, known[0], known[-1])
        if len(known) == 1:
            displacement = np.repeat(self.kept, len(times_s), 0)
        else:
            displacement = PchipInterpolator(known, self.kept, axis=0)(inside).astype(np.float32)
        gap = lip_gap(self.neutral[0].cpu().numpy() + self.config.strength * self.kept) - self.lip_rest
        resting = np.interp(position, np.arange(len(self.resting)), self.resting)
        meeting = np.interp(position, known, self.heard * contact(gap, self.config))
        # beyond its end the speech is silent: the lips rest within the closing time
        end = (position - (self.num_frames - 1)) / max(1e-3, self.config.closing_s * STRETCH_FPS)
        return displacement, np.maximum(resting, np.clip(end, 0, 1)).astype(np.float32), meeting.astype(np.float32)

    @torch.no_grad()
    def _extend(self) -> None:
        start = self.first + len(self.kept)
        count = min(self.config.chunk_frames, self.num_frames - start)
        # two frames more on either side, so that chunks join without a seam
        rows = stretch_of_rows(self.speech, count + self.reach + 4, start - 2)
        half = (np.arange(start, start + count) + 0.5) / SPAN_FRAMES - 0.5
        half = np.clip(half, 0, len(self.emotions) - 1)
        below = torch.from_numpy(np.floor(half).astype(np.int64)).to(self.emotions.device)
        share = torch.from_numpy((half - np.floor(half)).astype(np.float32)).to(self.emotions.device)[:, None]
        above = (below + 1).clamp(max=len(self.emotions) - 1)
        emotion = torch.lerp(self.emotions[below], self.emotions[above], share)
        predicted, self.state = self._predict(rows, emotion, self.state, margin=2)
        self.kept = np.concatenate([self.kept, predicted - self.worn])


def closing_curve(silent: np.ndarray, fps: float, closing_s: float) -> np.ndarray:
    """Float32 `[T]` in [0,1]: 1 inside pauses (bool `[T]`), with linear ramps of `closing_s` inside their ends, so that
    the lips have parted again when the speech goes on. A pause at the start or the end has no ramp there."""
    silent = np.asarray(silent, bool)
    frame = np.arange(len(silent))
    speaking = np.flatnonzero(~silent)
    if len(speaking) == 0:
        return np.ones(len(silent), np.float32)
    after = np.searchsorted(speaking, frame)
    before_gap = np.where(after > 0, frame - speaking[np.maximum(after - 1, 0)], np.inf)
    after_gap = np.where(after < len(speaking), speaking[np.minimum(after, len(speaking) - 1)] - frame, np.inf)
    nearest = np.minimum(before_gap, after_gap)
    return np.where(silent, np.clip(nearest / max(1.0, closing_s * fps), 0, 1), 0).astype(np.float32)


def contact(gap: np.ndarray, config: SpeechConfig) -> np.ndarray:
    """How far lips with these predicted gaps `[T]` at 25 fps close, `[T]` in 0..1: where the gap is small, and wider
    both before and after. A mean over what a mouth might do never quite shuts. Beyond both ends counts as wide."""
    near = _dip_frames(config)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(gap, near, constant_values=np.inf), near + 1).max(-1)
    depth = np.minimum(around[: len(gap)], around[near:]) - gap
    small = np.clip((config.lips_free_above - gap) / max(1e-6, config.lips_free_above - config.lips_meet_below), 0, 1)
    return small * np.clip(depth / max(1e-6, config.lips_dip), 0, 1)


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on."""
    return float(np.clip((value - low) / max(1e-6, high - low), 0, 1))


def _dip_frames(config: SpeechConfig) -> int:
    return max(0, round(config.lips_dip_s * STRETCH_FPS))


def _lip_rest(neutral: np.ndarray) -> float:
    """Gap of closed lips: some persons' landmarks overlap at rest."""
    return min(0.0, float(lip_gap(neutral)))


def _emotion_track(model, speech, emotion, emotion_from, config: SpeechConfig) -> torch.Tensor:
    """Emotion codes `[H, e]`, one per `SPAN_FRAMES`, or one for all."""
    if emotion is not None:
        return named_code(model, emotion)[None]
    if emotion_from is not None:
        return voice_code(model, emotion_from)[None]
    sums, counts = voice_codes(model, speech)
    reach = max(0, round(config.emotion_span_s * STRETCH_FPS / SPAN_FRAMES / 2))
    frames = torch.from_numpy(counts).to(sums)
    total, number = (torch.cumsum(torch.cat([x[:1] * 0, x]), 0) for x in (sums, frames))
    index = torch.arange(len(sums), device=sums.device)
    low, high = (index - reach).clamp(min=0), (index + reach + 1).clamp(max=len(sums))
    weight = number[high] - number[low]
    everywhere = sums.sum(0) / frames.sum() if frames.sum() > 0 else model.emotion_codes[EMOTIONS.index("neutral")]
    whole = config.emotion_whole_s * STRETCH_FPS
    return (total[high] - total[low] + whole * everywhere) / (weight + whole)[:, None]


@torch.no_grad()
def _align(model: SpeechModel, pose: np.ndarray, face: np.ndarray) -> np.ndarray:
    device = model.emotion_codes.device
    faces = (torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device) for x in (pose, face))
    return model.alignment(*faces).cpu().numpy()


def _aligned(model, local, neutral, calm_frames, config) -> tuple[np.ndarray, np.ndarray]:
    """The neutral face `[68,2]` in the pose of each frame, `[T,68,2]`, as the alignment network turns it, and what that
    constantly gets wrong about this person, `[68,2]`: it shows on calm frames, where the answer is known."""
    parts = [local[start : start + config.chunk_frames] for start in range(0, len(local), config.chunk_frames)]
    turned = np.concatenate([_align(model, part, np.repeat(neutral[None], len(part), 0)) for part in parts])
    return turned, np.median(close_lips(local[calm_frames], 1.0) - turned[calm_frames], axis=0)


def _turned(model, local, neutral, calm_frames, config) -> tuple[np.ndarray, np.ndarray]:
    """The neutral face `[68,2]` in the pose of each frame, `[T,68,2]`, by a quadratic map of the pose: the first two
    principal components of the points that no expression moves. And what is constantly wrong about it, `[68,2]`.

    The alignment network's answers give the map, and the shot's own landmarks correct its linear part by ridge
    regression: the network is right about faces in general and is swayed by the mouth of the frame, the shot knows this
    face. What the mouth does meanwhile is told from the pose by regressing on the lips' gap and the mouth's width, too;
    half of what they leave at the calm frames' gap and width is wrong about the neutral face, which few frames made.
    """
    pose = local[:, STILL_POINTS].reshape(len(local), -1)
    directions = np.linalg.svd(pose - pose.mean(0), full_matrices=False)[2][:2]
    turn = (pose - pose[calm_frames].mean(0)) @ directions.T
    # ten times the products: about as large as the pose itself, so that the ridge weighs them alike
    bend = 10 * np.stack([turn[:, i] * turn[:, j] for i in range(turn.shape[1]) for j in range(i + 1)], 1)
    mouth = np.stack([lip_gap(local), mouth_width(local)], 1)
    mouth, bend = (x - x[calm_frames].mean(0) for x in (mouth, bend))
    straight, bent = np.hstack([np.ones((len(local), 1)), mouth, turn]), np.hstack([turn, bend])
    some = np.unique(np.linspace(0, len(local) - 1, 512).round().astype(int))
    network = _align(model, local[some], np.repeat(neutral[None], len(some), 0)) - neutral
    general = np.tensordot(bent, ridge(np.hstack([straight, bend])[some], network)[3:], 1)
    left = local - np.median(local[calm_frames], 0) - general
    own = ridge(straight, left, [4, 0, 0, *[config.turn_prior] * turn.shape[1]])
    return neutral + general + np.tensordot(turn, own[3:], 1), own[0] / 2


def _habit(own, config) -> np.ndarray:
    """What the predicted landmarks of the shot's own words constantly miss of the mouth and jaw that say them, `[68,2]`
    in face units; nothing where these do not move with the words."""
    missed, gaps = own
    return (config.own_words * _told(gaps, config) * without_opening(missed) * _SPOKEN[:, None]).astype(np.float32)


def _opening(own, neutral, config) -> float:
    """How far the person opens the lips over what is predicted of the shot's own words: least squares through closed
    lips, with a prior that it is as far. The shot's emotion opens them, too, and is heard with errors: of the words
    said without any and with the one that is heard, those count that ask for less, and none if they disagree."""
    factors = []
    for _, gaps in own:
        shown, said = np.maximum(gaps - _lip_rest(neutral), 0)
        factor = (shown @ said + config.opening_prior) / (said @ said + config.opening_prior)
        factors.append(1 + _told(gaps, config) * (factor - 1))
    low, high = sorted(factors)
    return float(np.clip(np.clip(1, low, high), *config.opening_range))


def _own_words(model, shot_speech, code, local, neutral, calm, fps, config) -> tuple[np.ndarray, np.ndarray]:
    """What the predicted landmarks of the shot's own words, with the emotion of this code `[e]`, miss on the mean,
    `[68,2]` in face units, and the lips' gaps that the shot shows and that are predicted, `[2,T]`. `calm`: the neutral
    face as each frame turns it."""
    count = min(len(local), num_video_frames(shot_speech, fps))
    stream = DisplacementStream(model, shot_speech, neutral, code[None], config)
    missed, gaps = np.zeros((68, 2)), [np.zeros((2, 0))]
    for start in range(0, count, config.chunk_frames):
        part = slice(start, min(count, start + config.chunk_frames))
        displacement, resting, meeting = stream.at((np.arange(part.start, part.stop) + 0.5) / float(exact_fps(fps)))
        face = _spoken_face(neutral, config.strength * displacement, resting, meeting, config)
        said = calm[part] + _carried(face - neutral, neutral, calm[part])
        missed += (local[part] - said).sum(0)
        gaps.append(np.stack([lip_gap(local[part]), lip_gap(said)]))
    return missed / max(1, count), np.concatenate(gaps, 1)


def _told(gaps: np.ndarray, config: SpeechConfig) -> float:
    """How far the lips' gaps that a shot shows follow those that are predicted (`[2,T]`), in 0..1."""
    if gaps.shape[1] < 2 or not gaps.std(1).all():
        return 0.0
    return _ramp(np.corrcoef(gaps)[0, 1], *config.own_words_heard)


def _spoken_face(neutral, displacement, resting, meeting, config) -> np.ndarray:
    """The neutral face `[68,2]` moved by displacements `[T,68,2]`, its lips closed as far as `at` says, `[T,68,2]`."""
    rest = _lip_rest(neutral)
    return close_lips(close_lips(neutral + displacement, resting, rest + config.pause_gap), meeting, rest)


def _revoice(model, local, neutral, turned, bias, face, lids_open, config) -> np.ndarray:
    """Face units of the shot `[T,68,2]` and of its neutral face in the same poses, with the bias that is still to be
    added to these, `[68,2]`, and the face that speaks, frontal `[T,68,2]` -> the re-voiced face, face units."""
    overlap = np.minimum([neutral[lower, 1] - neutral[upper, 1] for upper, lower in _INNER_LIPS], 0)
    calm = (turned + bias).astype(np.float32)
    # A rigid error shows at points that no expression moves; take it out everywhere.
    calm += (local - calm)[:, STILL_POINTS].mean(1, keepdims=True)
    if config.carry:
        calm = _join_lips(calm, overlap)
        change = _carried(face - neutral, neutral, calm)
    else:
        change = _align(model, local, face) - turned
        change -= change[:, STILL_POINTS].mean(1, keepdims=True)
    emotional = change.copy()
    emotional[:, STILL_POINTS] = 0
    for corner, lids in _LIDS.items():  # a closed eye stays closed
        openness = np.clip(_lid_gap(local, corner) / lids_open[corner], 0, 1)
        emotional[:, lids] *= openness[:, None, None]
    own = local + emotional
    moved = own + (calm + change - own) * _SPOKEN[:, None]
    return _part_lips(moved, overlap)


def _carried(displacement: np.ndarray, neutral: np.ndarray, posed: np.ndarray) -> np.ndarray:
    """Displacements `[T,68,2]` of the neutral face, turned and foreshortened by the affine maps that best take the
    neutral face `[68,2]` to its posed image `[T,68,2]`: one for mouth and jaw, one for the rest."""
    out = np.zeros_like(displacement)
    for region in (_LOWER, _UPPER):
        centred = neutral[region] - neutral[region].mean(0)
        maps = np.linalg.pinv(centred) @ (posed[:, region] - posed[:, region].mean(1, keepdims=True))  # [T, 2, 2]
        out[:, region] = displacement[:, region] @ maps
    return out.astype(np.float32)


def _join_lips(local: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Closes the inner lips of a face at rest point by point, on their middle; `overlap` `[3]` <= 0: how far the
    person's landmarks cross there."""
    for (upper, lower), own in zip(_INNER_LIPS, overlap, strict=True):
        local[:, upper] = local[:, lower] = (local[:, upper] + local[:, lower]) / 2
        local[:, upper, 1] -= own / 2
        local[:, lower, 1] += own / 2
    return local


def _part_lips(local: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Inner lips that cross further than at rest do so no more."""
    for (upper, lower), own in zip(_INNER_LIPS, overlap, strict=True):
        excess = np.minimum(local[:, lower, 1] - local[:, upper, 1] - own, 0) / 2
        local[:, upper, 1] += excess
        local[:, lower, 1] -= excess
    return local


def _lid_gap(local: np.ndarray, corner: int) -> np.ndarray:
    upper, lower = local[:, [corner + 1, corner + 2], 1], local[:, [corner + 5, corner + 4], 1]
    return np.maximum((lower - upper).mean(-1), 0)
