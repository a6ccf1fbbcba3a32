"""Many shots in one go: what is done is not done again, a clip that fails is noted and the next one begins."""

import csv
import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hdtalk.emotion import parse_emotion
from hdtalk.errors import HDTalkError, InputError, Stopped, UsageError
from hdtalk.job import write_atomically
from hdtalk.media import VIDEO_SUFFIXES
from hdtalk.options import resolve
from hdtalk.pipeline import EditResult, InversionResult, edit_video, invert_video

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", *VIDEO_SUFFIXES)

_NO_SETTINGS = ("bundle", "device", "emotion", "emotion_from", "progress", "restart")  # of `edit_video`'s options


@dataclass(frozen=True)
class Work:
    """One shot of a batch: its inversion alone where there is no `speech`."""

    name: str
    video: Path
    output: Path
    speech: Path | None = None
    track: Path | None = None


@dataclass(frozen=True)
class Row:
    """A line of the batch's table. `state`: made | there (from an earlier run) | failed, and then `reason`."""

    name: str
    state: str
    output: str
    seconds: float = 0.0
    psnr_db: float | None = None
    in_domain: bool | None = None
    reason: str = ""


def plan_batch(
    data: Path, out: Path, speech: str = "own", tracks: Path | None = None, shard: tuple[int, int] = (1, 1)
) -> list[Work]:
    """The shots of a folder (with its subfolders), in order; every `shard[1]`-th from the `shard[0]`-th on.

    `speech`: "own" (each video's own sound), "next" (that of the following video, the last one takes the first's),
    "none" (inversion only), a file for all, or a folder of files named like the videos. `tracks`: folder with NAME.npz
    of known landmarks. Raises UsageError or InputError."""
    number, count = shard
    if not 1 <= number <= count:
        raise UsageError(f"shard {number}/{count}: expected I/N with 1 <= I <= N.")
    videos = sorted(p for p in data.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if out.resolve() == data.resolve():
        raise UsageError(f"{out}: results there would count as clips the next time. Choose another folder.")
    if out.resolve().is_relative_to(data.resolve()):
        videos = [path for path in videos if not path.resolve().is_relative_to(out.resolve())]
    if not videos:
        raise InputError(f"{data}: no videos in it. Expected clips, as scripts/prepare_hdtf makes them.")
    speeches = _speeches(videos, speech)
    works = []
    for video, spoken in zip(videos, speeches, strict=True):
        name = video.relative_to(data).with_suffix("").as_posix().replace("/", "_")
        track = tracks / f"{video.stem}.npz" if tracks else None
        works.append(Work(name, video, out / f"{name}.mp4", spoken, track))
    if len({work.name for work in works}) < len(works):
        raise InputError(f"{data}: two of its videos would share one output. Rename one of them.")
    return works[number - 1 :: count]


def run_batch(
    works: Sequence[Work],
    table: Path,
    *,
    keep_jobs: bool = False,
    report: Callable[[int, Row], None] = lambda *_: None,
    **options: Any,
) -> list[Row]:
    """Works one after another, as `edit_video` or `invert_video` with `options`; `table` (CSV) is rewritten after each.

    A job's folder goes when its video is made, unless `keep_jobs`. `Stopped` ends the batch; the same call goes on.
    Raises UsageError before the first for settings that no clip could have."""
    resolve({name: value for name, value in options.items() if name not in _NO_SETTINGS})
    if options.get("emotion"):
        parse_emotion(options["emotion"])
    rows: list[Row] = []
    for work in works:
        rows.append(_done(work, keep_jobs, options))
        write_atomically(table, _to_csv(rows).encode())
        report(len(rows), rows[-1])
    return rows


def _done(work: Work, keep_jobs: bool, options: dict[str, Any]) -> Row:
    if work.output.exists() and not options.get("overwrite"):
        return Row(work.name, "there", str(work.output))
    begun = time.monotonic()
    result: EditResult | InversionResult
    try:
        if work.speech is None:
            result = invert_video(work.video, work.output, track=work.track, **options)
        else:
            result = edit_video(work.video, work.speech, work.output, track=work.track, **options)
    except Stopped:
        raise
    except HDTalkError as error:
        return Row(work.name, "failed", "", round(time.monotonic() - begun, 1), reason=str(error))
    if not keep_jobs:
        shutil.rmtree(result.job)
    seconds, psnr_db = round(time.monotonic() - begun, 1), result.scores["psnr_db"]
    return Row(work.name, "made", str(work.output), seconds, psnr_db, result.in_domain)


def _speeches(videos: list[Path], speech: str) -> list[Path | None]:
    if speech in ("own", "none"):
        return [path if speech == "own" else None for path in videos]
    if speech == "next":
        return [*videos[1:], *videos[:1]]
    if os.path.isfile(speech):
        return [Path(speech)] * len(videos)
    if not os.path.isdir(speech):
        raise UsageError(f"speech {speech}: expected own, next, none, a file or a folder that exists.")
    found = {p.stem: p for p in sorted(Path(speech).iterdir(), reverse=True) if p.suffix.lower() in SOUND_SUFFIXES}
    if missing := [path for path in videos if path.stem not in found]:
        raise InputError(f"{speech}: no sound named {missing[0].stem} for {missing[0]} ({len(missing)} missing).")
    return [found[path.stem] for path in videos]


def _to_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
