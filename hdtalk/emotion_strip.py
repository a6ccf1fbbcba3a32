"""From one emotion to another (the paper's figure 5): a strip of one moment, a video that moves between, landmarks."""

import io
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hdtalk.audio import read_speech
from hdtalk.crop import crop_faces
from hdtalk.data import FaceTrack, SpeechFeatures
from hdtalk.draw import draw_landmarks
from hdtalk.emotion import SPAN_FRAMES, mix_codes, named_code, parse_emotion, voice_code
from hdtalk.errors import NoFaceError, UsageError
from hdtalk.files import write_atomically
from hdtalk.job import Job, stoppable
from hdtalk.media import read_frames
from hdtalk.models.speech import EMOTIONS, SpeechModel
from hdtalk.outputs import check_outputs
from hdtalk.pipeline import EditResult, edit_prepared
from hdtalk.prepare import prepare_run
from hdtalk.run import STAGES, Run
from hdtalk.speech_landmarks import predict_landmarks
from hdtalk.squares import square_quads
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
    restart: bool = False,
    **arguments: Any,
) -> EmotionStrip:
    """Re-voices `video` with `speech` while its emotion moves from one end of `interp` to the other.

    `interp`: FIRST:SECOND, each an emotion (NAME or NAME:0..1) or a recording whose emotion is taken (`neutral:happy`,
    `a.wav:b.wav`). `output`: the video, by default VIDEO_FIRST-SECOND.mp4; strip and landmarks take its name with .png
    and .npz. `at_s`: moment of the strip, by default the widest open mouth of the speech's middle half. `restart`, and
    all other `arguments` but emotion and landmarks: as for `edit_video`. Raises UsageError for ends that are neither,
    and what `edit_video` raises.
    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: expected at least 2, the two ends.")
    run, ends, (first, second) = prepare_interpolation(video, speech, interp, output, at_s=at_s, **arguments)
    features, fps, forgotten = run.speech, run.info.fps, STAGES if restart else ()
    assert features is not None
    shares = np.linspace(0, 1, steps)
    with stoppable(run.job_folder, restart), Job(run.job_folder, restart=forgotten) as run.job:
        face = run.find_face()
        source_px, shot_speech = face.landmarks_px[run.order], run.shot_speech()

        def predict(codes: torch.Tensor) -> np.ndarray:
            return predict_landmarks(
                features, source_px, fps, model=run.bundle.speech, emotion_codes=codes, shot_speech=shot_speech,
                config=run.config.speech,
            )  # fmt: skip

        held = np.stack([predict(mix_codes(first, second, float(share))) for share in shares])
        moment = _moment(held[0], face.present[run.order], float(fps), at_s)
        moving = predict(moving_codes(first, second, features))
        pictures = _pictures(run, face, held[:, moment], int(run.order[moment]), forgotten)
    # the video comes last: a run that is stopped before finds no output in its way
    note = {"interp": interp, "steps": steps, "strip_at_s": round(moment / float(fps), 3)}
    names = {**run.names, "landmarks": "landmarks"}
    edit = edit_prepared(replace(run, landmarks_px=moving, names=names, emotion_note=note))
    strip, landmarks = _strip_path(run.output), _landmarks_path(run.output)
    _write_strip(pictures, held[:, moment], _labels(ends, shares), strip)
    arrays = io.BytesIO()
    np.savez(arrays, landmarks_px=held, moving_px=moving, shares=shares, fps=float(fps))
    write_atomically(landmarks, arrays.getvalue())
    return EmotionStrip(strip, run.output, landmarks, edit)


def prepare_interpolation(
    video: str | os.PathLike,
    speech: str | os.PathLike,
    interp: str,
    output: str | os.PathLike | None = None,
    *,
    at_s: float | None = None,
    **arguments: Any,
) -> tuple[Run, tuple[str, str], list[torch.Tensor]]:
    """A run of `interpolate_emotion` that has done nothing yet, the two ends, and their codes `[e]`. `arguments`: those
    of `prepare_run`. Raises what `interpolate_emotion` raises, before any heavy work."""
    ends = parse_ends(interp)
    names = "-".join(_name(end).replace(":", "") for end in ends)
    output = Path(output or Path(video).with_name(f"{Path(video).stem}_{names}.mp4"))
    recordings = [end for end in ends if not _is_emotion(end)]
    run = prepare_run(video, speech, output, inputs=recordings, **arguments)
    inputs = [video, speech, arguments.get("track"), *recordings]
    check_outputs([_strip_path(output), _landmarks_path(output)], inputs, run.config.overwrite)
    if at_s is not None:
        _frame_at(at_s, len(run.order), float(run.info.fps))
    return run, ends, [_code(run.bundle.speech, end) for end in ends]


def parse_ends(text: str) -> tuple[str, str]:
    """`FIRST:SECOND` -> the two, each an emotion (`NAME`, `NAME:0..1`) or an existing file. Raises UsageError."""
    parts = text.split(":")
    for cut in range(1, len(parts)):  # intensities and the names of files hold colons, too
        ends = ":".join(parts[:cut]), ":".join(parts[cut:])
        if all(_is_emotion(end) or Path(end).is_file() for end in ends):
            return ends
    raise UsageError(
        f"--interp {text}: expected FIRST:SECOND, each one of {', '.join(EMOTIONS)} (with :0..1 if wanted) or a "
        "recording that exists."
    )


def moving_codes(first: torch.Tensor, second: torch.Tensor, speech: SpeechFeatures) -> torch.Tensor:
    """Codes `[H, e]` in steps of SPAN_FRAMES that go from one code `[e]` to the other while the speech lasts."""
    count = max(2, num_video_frames(speech, STRETCH_FPS) // SPAN_FRAMES)
    shares = torch.linspace(0, 1, count, device=first.device)[:, None]
    return torch.lerp(first[None], second[None], shares)


def _is_emotion(end: str) -> bool:
    try:
        return bool(parse_emotion(end))
    except UsageError:
        return False


def _pictures(
    run: Run, face: FaceTrack, landmarks_px: np.ndarray, still: int, forgotten: Collection[str]
) -> list[np.ndarray]:
    """Source frame `still`, edited to each of the landmarks `[steps,68,2]` by itself, with the whole shot's inversion:
    a single frame's codes would not know how this face moves."""
    steps = len(landmarks_px)
    media = replace(run.config.media, codec="ffv1", pixel_format="auto")
    config = replace(run.config, media=media, overwrite=True, audio_mix="")
    output = run.job_folder / "strip" / "pictures.mkv"
    alone = replace(run, config=config, output=output, order=np.full(steps, still), landmarks_px=landmarks_px)
    alone.job, alone.video_hash = run.job, run.video_hash
    crops = alone.cut_crops(face)
    inversion = alone.invert(face, crops)
    targets = replace(alone.speak(face), cuts=tuple(range(1, steps)))
    with Job(output.parent, restart=forgotten) as alone.job:  # its own, so that the video's stages stay
        followed = alone.follow(crops, inversion, targets)
        alone.write(crops, alone.stitch(crops, inversion, targets, followed), inversion)
    return list(read_frames(output))


def _code(model: SpeechModel, end: str) -> torch.Tensor:
    return named_code(model, end) if _is_emotion(end) else voice_code(model, read_speech(end))


def _strip_path(output: Path) -> Path:
    return output.with_suffix(".png")


def _landmarks_path(output: Path) -> Path:
    return output.with_suffix(".npz")


def _name(end: str) -> str:
    return end.lower() if _is_emotion(end) else Path(end).stem


def _frame_at(at_s: float, num_frames: int, fps: float) -> int:
    """The output frame shown at `at_s`. Raises UsageError where the result has none."""
    frame = round(at_s * fps) if 0 <= at_s * fps <= num_frames else -1
    if not 0 <= frame < num_frames:
        raise UsageError(f"--at {at_s:g}: no frame there; the result lasts {num_frames / fps:.2f} s.")
    return frame


def _moment(landmarks_px: np.ndarray, shown: np.ndarray, fps: float, at_s: float | None) -> int:
    """The output frame of the strip. Raises UsageError when the wanted one does not show the face, NoFaceError when
    none does."""
    count = len(landmarks_px)
    if at_s is not None:
        wanted = _frame_at(at_s, count, fps)
        if not shown[wanted]:
            raise UsageError(f"--at {at_s:g}: no frame with the face there. Choose another moment.")
        return wanted
    opening = np.linalg.norm(landmarks_px[:, 66] - landmarks_px[:, 62], axis=-1)
    middle = np.flatnonzero(shown[count // 4 : max(count // 4 + 1, count - count // 4)]) + count // 4
    candidates = middle if len(middle) else np.flatnonzero(shown)
    if not len(candidates):
        raise NoFaceError("no face in any frame that the speech covers. Expected one talking head; try --face.")
    return int(candidates[opening[candidates].argmax()])


def _labels(ends: tuple[str, str], shares: np.ndarray) -> list[str]:
    names = [_name(end) for end in ends]
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
    write_atomically(path, data.tobytes())
