"""From one emotion to another (the paper's figure 5): a strip of one moment, a video that moves between, landmarks."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hdtalk.audio import read_speech
from hdtalk.crop import crop_faces
from hdtalk.data import SpeechFeatures
from hdtalk.device import resolve_device
from hdtalk.draw import draw_landmarks
from hdtalk.emotion import SPAN_FRAMES, mix_codes, named_code, voice_code
from hdtalk.errors import UsageError
from hdtalk.instruments import face_tracker
from hdtalk.media import commit, probe, read_frames
from hdtalk.models.speech import EMOTIONS, SpeechModel
from hdtalk.options import resolve
from hdtalk.pipeline import EditResult, edit_video
from hdtalk.plan import frame_order, used_frames
from hdtalk.run import read_landmarks
from hdtalk.speech_landmarks import predict_landmarks
from hdtalk.squares import square_quads
from hdtalk.weights import load_bundle
from hdtalk.windows import STRETCH_FPS, num_video_frames

STRIP_PX, LABEL_PX, GAP_PX = 256, 28, 6
FACE_MARGIN = 1.7  # side of the strip's pictures over the longer side of the landmarks' box


@dataclass(frozen=True)
class EmotionStrip:
    """`strip`: PNG, edited faces over their landmarks, one column per step; `video`: its emotion moves linearly from
    the first to the second over the speech; `landmarks`: npz with landmarks_px [steps,T,68,2] (every step held for the
    whole speech), moving_px [T,68,2], shares [steps] and fps; `edit`: the video's run."""

    strip: Path
    video: Path
    landmarks: Path
    edit: EditResult


def interpolate_emotion(
    video: str | os.PathLike,
    speech: str | os.PathLike,
    interp: str,
    output: str | os.PathLike | None = None,
    *,
    steps: int = 5,
    at_s: float | None = None,
    track: str | os.PathLike | np.ndarray | None = None,
    bundle: str = "auto",
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> EmotionStrip:
    """Re-voices `video` with `speech` while its emotion moves from one end of `interp` to the other.

    `interp`: FIRST:SECOND, each the name of an emotion or a recording whose emotion is taken (`neutral:happy`,
    `a.wav:b.wav`). `output`: the video, by default VIDEO_FIRST-SECOND.mp4; strip and landmarks take its name with .png
    and .npz. `at_s`: moment of the strip, by default the widest open mouth of the speech's middle half.
    `track`: as for `edit_video`.
    `options` go to `edit_video`. Raises UsageError for ends that are neither, and what `edit_video` raises.
    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: expected at least 2, the two ends.")
    ends = parse_ends(interp)
    video = Path(video)
    default = video.with_name(f"{video.stem}_{'-'.join(Path(end).stem for end in ends)}.mp4")
    output = Path(output or default)
    networks = load_bundle(bundle, resolve_device(device))
    features, info, config = read_speech(speech), probe(video), resolve(options)
    first, second = (_code(networks.speech, end) for end in ends)
    start, stop = used_frames(info, config)
    track = read_landmarks(track) if track is not None else face_tracker(networks)(video, start, stop).landmarks_px
    assert track is not None
    num_output = num_video_frames(features, info.fps)
    order = frame_order(stop - start, num_output, config.audio_longer, config.audio_shorter)
    source_px = track[order]

    def predict(codes: torch.Tensor) -> np.ndarray:
        return predict_landmarks(features, source_px, info.fps, model=networks.speech, emotion_codes=codes)

    shares = np.linspace(0, 1, steps)
    held = np.stack([predict(mix_codes(first, second, float(share))) for share in shares])
    moving = predict(moving_codes(first, second, features))
    common = {"bundle": bundle, "device": device, "progress": progress, **options}
    edit = edit_video(video, speech, output, landmarks=moving, track=track, **common)

    moment = _moment(held[0], float(info.fps), at_s)
    still = int(order[moment])  # of the used part
    span = {"trim_start": (start + still) / float(info.fps), "trim_end": (start + still + 1) / float(info.fps)}
    pictures = edit.job / "strip" / "pictures.mkv"
    pictures.parent.mkdir(exist_ok=True)
    edit_video(
        video, speech, pictures, landmarks=held[:, moment], track=track[still : still + 1],
        **{**common, **span, "codec": "ffv1", "overwrite": True},
    )  # fmt: skip
    strip = output.with_suffix(".png")
    _write_strip(list(read_frames(pictures)), held[:, moment], _labels(ends, shares), strip)
    landmarks = output.with_suffix(".npz")
    np.savez(landmarks, landmarks_px=held, moving_px=moving, shares=shares, fps=float(info.fps))
    return EmotionStrip(strip, output, landmarks, edit)


def parse_ends(text: str) -> tuple[str, str]:
    """`FIRST:SECOND` -> the two, each the name of an emotion or an existing file. Raises UsageError."""
    parts = text.split(":")
    for cut in range(1, len(parts)):  # a file's name may hold colons
        ends = ":".join(parts[:cut]), ":".join(parts[cut:])
        if all(end.lower() in EMOTIONS or Path(end).is_file() for end in ends):
            return ends
    raise UsageError(
        f"--interp {text}: expected FIRST:SECOND, each one of {', '.join(EMOTIONS)} or a recording that exists."
    )


def moving_codes(first: torch.Tensor, second: torch.Tensor, speech: SpeechFeatures) -> torch.Tensor:
    """Codes `[H, e]` in steps of SPAN_FRAMES that go from one code `[e]` to the other while the speech lasts."""
    count = max(2, num_video_frames(speech, STRETCH_FPS) // SPAN_FRAMES)
    shares = torch.linspace(0, 1, count, device=first.device)[:, None]
    return torch.lerp(first[None], second[None], shares)


def _code(model: SpeechModel, end: str) -> torch.Tensor:
    return named_code(model, end) if end.lower() in EMOTIONS else voice_code(model, read_speech(end))


def _moment(landmarks_px: np.ndarray, fps: float, at_s: float | None) -> int:
    count = len(landmarks_px)
    if at_s is not None:
        return int(np.clip(round(at_s * fps), 0, count - 1))
    opening = np.linalg.norm(landmarks_px[:, 66] - landmarks_px[:, 62], axis=-1)
    middle = np.arange(count // 4, max(count // 4 + 1, count - count // 4))
    return int(middle[opening[middle].argmax()])


def _labels(ends: tuple[str, str], shares: np.ndarray) -> list[str]:
    names = [Path(end).stem for end in ends]
    return [names[0], *(f"{share:.2f}" for share in shares[1:-1]), names[1]]


def _write_strip(frames: list[np.ndarray], landmarks_px: np.ndarray, labels: list[str], path: Path) -> None:
    """Faces above their landmarks, all cut by the same square, with a label over each column."""
    low, high = landmarks_px.min(axis=(0, 1)).astype(float), landmarks_px.max(axis=(0, 1)).astype(float)
    half = FACE_MARGIN * (high - low).max() / 2
    quad = square_quads(((low + high) / 2)[None], np.array([[half, 0.0]]))
    quads = np.repeat(quad, len(frames), axis=0)
    drawn = [draw_landmarks(frame // 4, points) for frame, points in zip(frames, landmarks_px, strict=True)]
    rows = [crop_faces(pictures, quads, STRIP_PX).transpose(0, 2, 3, 1) for pictures in (frames, drawn)]
    columns = []
    for face, lines, label in zip(*rows, labels, strict=True):
        head = np.full((LABEL_PX, STRIP_PX, 3), 255, np.uint8)
        cv2.putText(head, label, (4, LABEL_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
        columns += [np.vstack([head, face, lines]), np.full((LABEL_PX + 2 * STRIP_PX, GAP_PX, 3), 255, np.uint8)]
    _, data = cv2.imencode(".png", np.hstack(columns[:-1])[..., ::-1])
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".png", delete=False) as file:
        file.write(data.tobytes())
    commit(Path(file.name), path, overwrite=True)
