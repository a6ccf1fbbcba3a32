"""edit_video and invert_video: the only place that knows the order of the stages."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdtalk.job import Job, stoppable
from hdtalk.plan import Plan
from hdtalk.prepare import prepare_run
from hdtalk.run import STAGES, Run

Progress = Callable[[str, int, int], None]  # stage, done, total
PathLike = str | os.PathLike


@dataclass(frozen=True)
class EditResult:
    """`output`, `manifest`, `comparison` (or None), `job`: paths. `num_frames` written, `num_edited` of them edited;
    `kept`: reason -> frames left as they are; `scores`: of inversion, optimisation and stitching; `in_domain`: whether
    the bundle knows this kind of face; `seconds`: stage -> time of this run (next to none: found in the job)."""

    output: Path
    manifest: Path
    comparison: Path | None
    job: Path
    num_frames: int
    num_edited: int
    kept: dict[str, list[int]]
    scores: dict[str, float]
    in_domain: bool
    seconds: dict[str, float]


@dataclass(frozen=True)
class InversionResult:
    """As `EditResult`; `output` shows the reconstruction in place of the face."""

    output: Path
    manifest: Path
    job: Path
    num_frames: int
    num_inverted: int
    kept: dict[str, list[int]]
    scores: dict[str, float]
    in_domain: bool
    seconds: dict[str, float]


def edit_video(
    video: PathLike,
    speech: PathLike,
    output: PathLike | None = None,
    *,
    bundle: str = "auto",
    emotion: str | None = None,
    emotion_from: PathLike | None = None,
    device: str = "auto",
    job: PathLike | None = None,
    restart: bool = False,
    landmarks: PathLike | np.ndarray | None = None,
    track: PathLike | np.ndarray | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> EditResult:
    """Re-voices a shot: same picture, same person, lips and face following `speech`.

    `output`: .mp4, .mov or .mkv, by default VIDEO_edited.mp4 beside the video. `bundle`: "auto", "demo", "ffhq" or a
    folder. `emotion`: NAME or NAME:0..1; `emotion_from`: a recording whose emotion is taken. `job`: folder of the
    stages' artefacts, by default OUTPUT.job; what it holds for the same inputs and settings is used again, and one that
    is given holds the whole shot, for other speech (`EditConfig.spare_s`); `restart` forgets it. `landmarks`: drive by
    these instead of by speech, float `[T, 68, 2]` in pixels of the full frame for every output frame (array, .npy, or
    .npz with `landmarks_px`); the sound is still `speech`. `track`: the same for the source's frames, instead of
    detecting them. `progress(stage, done, total)` is called as the work goes on.
    `options`: fields of `hdtalk.config.EditConfig`, see `hdtalk.options.resolve`.

    Raises UsageError, InputError, WeightsError, ResourceError or Stopped; the output appears only when it is complete.
    """
    run = prepare_run(
        video, speech, output, bundle=bundle, emotion=emotion, emotion_from=emotion_from, device=device, job=job,
        landmarks=landmarks, track=track, progress=progress, **options,
    )  # fmt: skip
    return edit_prepared(run, restart)


def edit_prepared(run: Run, restart: bool = False) -> EditResult:
    """`edit_video` from here on."""
    with stoppable(run.job_folder, restart), Job(run.job_folder, restart=STAGES if restart else ()) as run.job:
        face = run.find_face()
        crops = run.cut_crops(face)
        inversion = run.invert(face, crops)
        targets = run.speak(face)
        followed = run.follow(crops, inversion, targets)
        stitched = run.stitch(crops, inversion, targets, followed)
        num_edited, kept = run.write(crops, stitched, inversion)
        scores = {**inversion.scores, **followed.scores, **stitched.scores}
        comparison = run.compare(targets) if run.config.compare else None
        manifest = run.write_manifest(scores, inversion, kept, num_edited)
        if run.config.report:
            run.write_report(manifest, targets)
        run.job.release()
    return EditResult(
        run.output, manifest, comparison, run.job_folder, len(run.order), num_edited, kept, scores,
        inversion.in_domain, run.seconds,
    )  # fmt: skip


def invert_video(
    video: PathLike,
    output: PathLike | None = None,
    *,
    bundle: str = "auto",
    device: str = "auto",
    job: PathLike | None = None,
    restart: bool = False,
    track: PathLike | np.ndarray | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> InversionResult:
    """Finds the codes of a shot and a generator tuned to it; writes what they reconstruct, and its scores.

    The inversion stays in the job, where `edit_video` with the same job, settings and video takes it from. Arguments
    and errors as in `edit_video`; `output` by default VIDEO_inverted.mp4.
    """
    run = prepare_run(
        video, None, output, bundle=bundle, device=device, job=job, track=track, progress=progress, **options
    )
    with stoppable(run.job_folder, restart), Job(run.job_folder, restart=STAGES if restart else ()) as run.job:
        face = run.find_face()
        crops = run.cut_crops(face)
        inversion = run.invert(face, crops)
        num_inverted, kept = run.write(crops, None, inversion)
        manifest = run.write_manifest(inversion.scores, inversion, kept, num_inverted)
        run.job.release()
    return InversionResult(
        run.output, manifest, run.job_folder, len(run.order), num_inverted, kept, inversion.scores,
        inversion.in_domain, run.seconds,
    )  # fmt: skip


def plan_edit(video: PathLike, speech: PathLike | None, output: PathLike | None = None, **arguments: Any) -> Plan:
    """Checks everything that `edit_video` (or, without speech, `invert_video`) with these arguments checks first, and
    estimates its cost."""
    return prepare_run(video, speech, output, estimate=True, **arguments).plan
