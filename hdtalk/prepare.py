"""Before a run: everything that can be refused is refused here, and what the run will do is planned."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hdtalk import audio, face_landmarks, media
from hdtalk.config import EditConfig
from hdtalk.data import VideoInfo
from hdtalk.device import resolve_device, resolve_precision
from hdtalk.errors import InputError, NoFaceError, UsageError
from hdtalk.files import file_hash
from hdtalk.inputs import (
    PathLike,
    background_level_db,
    read_emotion,
    read_landmarks_of,
    source_name,
)
from hdtalk.job import check_stage_folders, folder_beside, held_bytes, is_claimed
from hdtalk.memory import keep_large_buffers
from hdtalk.options import resolve
from hdtalk.outputs import check_outputs, comparison_path, manifest_path, report_path
from hdtalk.plan import (
    Plan,
    estimate_bytes,
    estimate_seconds,
    frame_order,
    frames_looked_at,
    require_disk,
    used_frames,
)
from hdtalk.run import STAGES, Progress, Run
from hdtalk.soundtrack import open_audio
from hdtalk.weights import Bundle, load_bundle

log = logging.getLogger(__name__)

EDITS_ALONE = ("compare", "report", "audio_mix")  # settings that an inversion has no use for


def prepare_run(
    video: PathLike,
    speech: PathLike | None,
    output: PathLike | None = None,
    *,
    bundle: str = "auto",
    emotion: str | None = None,
    emotion_from: PathLike | None = None,
    device: str = "auto",
    job: PathLike | None = None,
    landmarks: PathLike | np.ndarray | None = None,
    track: PathLike | np.ndarray | None = None,
    progress: Progress | None = None,
    inputs: Iterable[Any] = (),
    estimate: bool = False,
    **options: Any,
) -> Run:
    """A run of `edit_video` (which tells what the arguments are) or, without speech, of `invert_video`, that has done
    nothing yet. `inputs`: other files that no output may replace; `estimate`: its plan also tells whether faces are
    found and how long the work will take. Raises what `edit_video` raises, before any heavy work."""
    config = resolve(options)
    if speech is None and (asked := [name for name in EDITS_ALONE if getattr(config, name)]):
        raise UsageError(f"{asked[0]}: only an edit has it. Leave it out.")
    background_level_db(config.audio_mix)
    face_landmarks.check_face(config.faces.face)
    video = Path(video)
    output = Path(output or video.with_name(f"{video.stem}_{'edited' if speech else 'inverted'}.mp4"))
    job_folder = Path(job) if job is not None else folder_beside(output)
    given = [video, speech, emotion_from, landmarks, track, *inputs]
    config, notes = _claim_outputs(output, job_folder, given, config)
    emotion_speech = read_emotion(emotion, emotion_from, landmarks)
    info = media.probe(video, config.media)
    media.check_encoder(config.media, output, info)
    first, stop = used_frames(info, config)
    names = {name: source_name(v) for name, v in (("landmarks", landmarks), ("track", track)) if v is not None}
    landmarks_px = read_landmarks_of(info, landmarks)
    track_px = read_landmarks_of(info, track, stop - first)
    features = None
    if speech is not None:
        open_audio(speech).close()
        features = audio.read_speech(speech) if landmarks_px is None else None
    heard = {"speech": speech, "emotion_from": emotion_from}
    hashes = {name: file_hash(Path(path)) for name, path in heard.items() if path is not None}
    wanted = stop - first
    if landmarks_px is not None:
        wanted = len(landmarks_px)
    elif features is not None:
        wanted = audio.num_video_frames(features, info.fps)
    order = frame_order(stop - first, wanted, config.audio_longer, config.audio_shorter)
    if landmarks_px is not None and len(landmarks_px) < len(order):
        raise InputError(
            f"{names['landmarks']}: {len(landmarks_px)} frames of landmarks for {len(order)} frames of video. "
            "Give all of them, or --audio-shorter trim."
        )
    num_source = stop - first
    if job is None:  # a job that was asked for serves other speech, too
        num_source = frames_looked_at(order, num_source, info, config)
    if wanted != stop - first and speech is not None:
        notes.append(_length_note(wanted, stop - first, info, config))
    if num_source < stop - first:
        notes.append(f"only the first {num_source} of {stop - first} frames are looked at (spare_s; --job DIR: all)")
    if config.audio_mix and not info.has_audio:
        log.warning("%s has no sound that could be kept: --audio-mix changes nothing", video)
    device_used = resolve_device(device)
    dtype = resolve_precision(config.precision, device_used)
    networks = load_bundle(bundle, device_used)
    _require_networks(networks, config, speech is not None, features is not None, track_px is None)
    keep_large_buffers()
    check_stage_folders(job_folder / stage for stage in STAGES)
    memory, disk = estimate_bytes(networks, config, num_source, len(order))
    require_disk(job_folder, disk - held_bytes(job_folder, STAGES))
    seconds = {}
    if estimate:
        notes += [] if track_px is not None else look_for_faces(video, first, first + num_source, networks, config)
        seconds = estimate_seconds(networks, config, num_source, len(order), device_used, dtype)
        if speech is None:
            seconds = {stage: seconds[stage] for stage in ("faces", "inversion", "writing")}
    for note in notes:
        log.info(note)
    plan = Plan(
        str(video), str(speech or landmarks or ""), str(output), str(job_folder), info, networks.name,
        networks.resolution, str(device_used), str(dtype).removeprefix("torch."), num_source, order, seconds, memory,
        disk, tuple(notes),
    )  # fmt: skip
    return Run(
        config, video, None if speech is None else Path(speech), features, output, job_folder, info, first,
        num_source, order, networks, device_used, dtype, landmarks_px,
        None if track_px is None else track_px[:num_source], progress or (lambda *_: None), plan, {},
        emotion=emotion, emotion_from=emotion_from, emotion_speech=emotion_speech, heard_hashes=hashes, names=names,
    )  # fmt: skip


def _claim_outputs(output: Path, job_folder: Path, given: list, config: EditConfig) -> tuple[EditConfig, list[str]]:
    """The configuration, which may overwrite what this job's stopped run wrote, and notes on files of earlier runs.
    Raises UsageError when an output cannot be written."""
    media.check_suffix(output)
    others = {comparison_path(output): config.compare, report_path(output): config.report}
    outputs = [output, manifest_path(output), *(path for path, wanted in others.items() if wanted)]
    there = [path for path in outputs if path.exists()]
    if there and all(is_claimed(job_folder, path) for path in there):
        config = dataclasses.replace(config, overwrite=True)
    check_outputs(outputs, given, config.overwrite)
    if any(job_folder.resolve() == path.resolve() for path in outputs):
        raise UsageError(f"--job {job_folder}: an output has this name. Choose another folder.")
    stale = [path for path, wanted in others.items() if path.exists() and not wanted]
    return config, [f"{path} is an earlier run's and stays" for path in stale]


def _require_networks(networks: Bundle, config: EditConfig, edits: bool, hears: bool, looks: bool) -> None:
    """Raises WeightsError for a bundle without a network that is needed for an edit (or an inversion), to hear speech
    and to look for faces, and for speech networks or mouth codes that cannot be used."""
    roles = {"generator", "encoder", "perceptual"} | ({"landmarker", "parser"} if edits else set())
    roles |= {"detector", "landmarker"} if looks else set()
    for role in sorted(roles):
        networks.entry(role)
    if hears:
        networks.speech  # noqa: B018 (loads it)
    if networks.has("mouth_codes") and (edits or config.invert.lambda_mouths > 0):
        networks.mouth_codes  # noqa: B018


def look_for_faces(video: Path, first: int, stop: int, bundle: Bundle, config: EditConfig) -> list[str]:
    """Notes on how many of a few frames show a face; where none does, more are looked at. Raises `NoFaceError` when
    none of these does either."""
    for looks in (5, 40):
        found, most, surest = 0, 0, 0.0
        places = np.unique(np.linspace(first, stop - 1, looks).round().astype(int))
        for place in places:
            frame = next(media.read_frames(video, int(place), int(place) + 1, config.media))
            count, confidence = face_landmarks.look_at_frame(frame, bundle.detector, bundle.landmarker, config.faces)
            most, surest = max(most, count), max(surest, confidence)
            found += count > 0 and confidence >= config.faces.min_confidence
        if found:
            break
    if most and not found:
        raise NoFaceError(face_landmarks.no_landmarks(str(video), surest, config.faces))
    if not found:
        raise NoFaceError(f"{video}: no face in the {len(places)} frames looked at. Expected one talking head.")
    notes = [f"a face was found in {found} of the {len(places)} frames looked at"]
    index = face_landmarks.check_face(config.faces.face)
    if len(index) == 1 and not 0 <= index[0] < most:
        notes.append(f"--face {config.faces.face}: none of them shows more than {most}; the leftmost is 0")
    return notes


def _length_note(wanted: int, num_source: int, info: VideoInfo, config: EditConfig) -> str:
    speech_s, shot_s = float(wanted / info.fps), float(num_source / info.fps)
    if wanted > num_source:
        return f"the speech ({speech_s:.2f} s) outlasts the shot ({shot_s:.2f} s): --audio-longer {config.audio_longer}"
    return f"the speech ({speech_s:.2f} s) is shorter than the shot ({shot_s:.2f} s): {config.audio_shorter}"
