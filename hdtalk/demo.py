"""The demo: a sample shot of the bundle says another sentence, and the result is scored against its true video."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from hdtalk.crop import crop_faces
from hdtalk.device import resolve_device
from hdtalk.errors import InputError, UsageError
from hdtalk.evaluate import evaluate, face_boxes
from hdtalk.files import file_hash, write_atomically
from hdtalk.instruments import installed_instruments
from hdtalk.job import folder_beside, is_claimed
from hdtalk.media import read_frames
from hdtalk.outputs import manifest_path
from hdtalk.pairs import Pair
from hdtalk.pipeline import EditResult, edit_video
from hdtalk.scores import Evaluation
from hdtalk.weights import demo_folder

SHEET_FRAMES = 8


@dataclass(frozen=True)
class DemoResult:
    """`edit`: the edited video and its comparison; `sheet`: rows source, edited, truth; `scores`: of the edited and of
    the unedited shot against the truth."""

    edit: EditResult
    sheet: Path
    scores: Evaluation


def sample_shots() -> dict[str, dict]:
    """Name -> description of the sample shots that ship; file names are relative to the samples' folder.

    Raises InputError when they are not installed."""
    listing = demo_folder() / "samples" / "samples.json"
    if not listing.is_file():
        raise InputError(f"{listing}: the sample shots are not installed. Install HDTalk from a complete checkout.")
    return {shot["name"]: shot for shot in json.loads(listing.read_text())["shots"]}


def run_demo(
    out: Path,
    shot: str | None = None,
    *,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    **options,
) -> DemoResult:
    """Edits a sample shot (the first by default) to the words of its true second take; writes everything into `out`.

    An earlier demo's files are replaced. `options` go to `edit_video`. Raises UsageError for an unknown shot and
    where a video of its name is no demo's, and what `edit_video` raises.
    """
    shots = sample_shots()
    name = shot or next(iter(shots))
    if name not in shots:
        raise UsageError(f"no sample shot called {name}; there are {', '.join(shots)}.")
    output = out / f"{name}.mp4"
    at = {key: demo_folder() / "samples" / str(shots[name][key]) for key in ("video", "other_video", "other_audio")}
    if output.exists() and not (is_claimed(folder_beside(output), output) or _is_edit_of(output, at["video"])):
        raise UsageError(f"{output} is there and not from an earlier demo. Choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    edit = edit_video(
        at["video"],
        at["other_audio"],
        output,
        bundle="demo",
        device=device,
        progress=progress,
        **{"compare": True, "overwrite": True, **options},
    )
    instruments = installed_instruments("demo", resolve_device(device))
    assert instruments.track is not None, "the demo bundle finds faces"
    track = cache(instruments.track)
    made = {"edited": edit.output, "unedited": at["video"]}
    pairs = {method: [Pair(name, path, at["other_video"])] for method, path in made.items()}
    scores = evaluate(pairs, replace(instruments, track=track))
    sheet, videos = out / f"{name}_sheet.png", [at["video"], edit.output, at["other_video"]]
    _write_sheet(videos, track(at["other_video"]).landmarks_px, sheet)
    return DemoResult(edit, sheet, scores)


def _is_edit_of(output: Path, video: Path) -> bool:
    """Whether the output's manifest says that it was made of this video."""
    try:
        return json.loads(manifest_path(output).read_text())["inputs"]["video"]["sha256"] == file_hash(video)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_sheet(videos: list[Path], landmarks_px: np.ndarray, path: Path) -> None:
    """Faces at evenly spaced frames, one row per video."""
    from PIL import Image

    chosen = np.linspace(0, len(landmarks_px) - 1, SHEET_FRAMES + 2).astype(int)[1:-1]
    quads = face_boxes(landmarks_px[chosen], 1.3)
    wanted = {int(index): k for k, index in enumerate(chosen)}
    rows = []
    for video in videos:
        frames = [frame for index, frame in enumerate(read_frames(video)) if index in wanted]
        frames += [frames[-1]] * (len(chosen) - len(frames))
        rows.append(np.hstack(list(crop_faces(frames, quads, 256).transpose(0, 2, 3, 1))))
    data = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(data, "png")
    write_atomically(path, data.getvalue())
