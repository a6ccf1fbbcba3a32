"""Many shots in one go: what is done is not done again, a clip that fails is noted and the next one begins."""

import csv
import io
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hdtalk.device import resolve_device
from hdtalk.emotion import parse_emotion
from hdtalk.errors import DISK_FULL, HDTalkError, InputError, ResourceError, Stopped, UsageError
from hdtalk.files import file_hash, write_atomically
from hdtalk.inputs import read_landmarks
from hdtalk.job import array_hash, folder_beside, is_claimed
from hdtalk.media import VIDEO_SUFFIXES
from hdtalk.options import resolve
from hdtalk.outputs import manifest_path
from hdtalk.pipeline import EditResult, InversionResult, edit_video, invert_video
from hdtalk.soundtrack import open_audio
from hdtalk.weights import load_bundle, without_judges

log = logging.getLogger(__name__)

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

    @property
    def job(self) -> Path:
        """Where the clip's run keeps its intermediate results, as `edit_video` chooses it."""
        return folder_beside(self.output)


@dataclass(frozen=True)
class Row:
    """A line of the batch's table. `state`: made | there (from an earlier run) | failed, and then `reason`.

    `seconds`: wall clock of the run that made the video."""

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
    "none" (inversion only), a file for all, or a folder of files named like the videos. `tracks`: folder with files of
    known landmarks (.npz), named like the videos. The video happy/001.mp4 becomes OUT/happy_001.mp4; its sound or
    landmarks are called happy_001 or happy/001, or 001 where only one clip is called so. Files whose name begins with
    a dot do not count. Raises UsageError (options, a file that several clips could mean) or InputError (no videos,
    files missing, two videos of one name)."""
    number, count = shard
    if not 1 <= number <= count:
        raise UsageError(f"shard {number}/{count}: expected I/N with 1 <= I <= N.")
    videos = _files(data, VIDEO_SUFFIXES)
    if out.resolve() == data.resolve():
        raise UsageError(f"{out}: results there would count as clips the next time. Choose another folder.")
    if out.resolve().is_relative_to(data.resolve()):
        videos = [path for path in videos if not path.resolve().is_relative_to(out.resolve())]
    if not videos:
        raise InputError(f"{data}: no videos in it. Expected clips, as scripts/prepare_hdtf makes them.")
    clips = [_clip(video, data) for video in videos]
    names = [_name(clip) for clip in clips]
    if len(set(names)) < len(names):
        raise InputError(f"{data}: two of its videos would share one output. Rename one of them.")
    speeches = _speeches(videos, clips, speech)
    known = _named_like(clips, tracks, (".npz",), "landmarks") if tracks else [None] * len(clips)
    works = [
        Work(name, video, out / f"{name}.mp4", spoken, track)
        for name, video, spoken, track in zip(names, videos, speeches, known, strict=True)
    ]
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

    What an earlier call's table says of clips that are there, or not reached yet, is kept. Any error of one clip is
    noted and the next one begins; `Stopped`, Ctrl-C and a full disk (ResourceError) end the batch, and the same call
    goes on. With `overwrite` the same call makes all clips again, those made before it was stopped too. A job's folder
    goes when its video is made, unless `keep_jobs`. Raises UsageError before the first for settings that no clip could
    have, and for clips that are there but were made with others."""
    resolve_device(options.get("device", "auto"))
    config = resolve({name: value for name, value in options.items() if name not in _NO_SETTINGS})
    if options.get("emotion"):
        parse_emotion(options["emotion"])
    if not config.overwrite:
        wanted = {
            **_flat(json.loads(json.dumps(asdict(config)))),
            "bundle": without_judges(load_bundle(options.get("bundle", "auto"), "cpu").hashes),
            "emotion": options.get("emotion"),
        }
        emotion_from = Path(options["emotion_from"]) if options.get("emotion_from") else None
        for work in works:
            if _is_finished(work) and (changed := _changed(work, wanted, emotion_from)):
                raise UsageError(
                    f"{work.output}: made with other settings ({', '.join(changed)}). Choose another --out, or add "
                    "--overwrite."
                )
    earlier = _read_table(table)
    lines, rows = dict(earlier), []
    for work in works:
        row = _done(work, earlier.get(work.name), keep_jobs, options)
        rows.append(row)
        lines[work.name] = row
        write_atomically(table, _to_csv([lines[w.name] for w in works if w.name in lines]).encode())
        report(len(rows), row)
    return rows


def _done(work: Work, earlier: Row | None, keep_jobs: bool, options: dict[str, Any]) -> Row:
    if _is_finished(work) and not options.get("overwrite"):
        return _there(work, earlier)
    if work.job.is_dir():  # a run was stopped here: what it left may be replaced
        options = options | {"overwrite": True}
    begun = time.monotonic()
    result: EditResult | InversionResult
    try:
        if work.speech is None:
            result = invert_video(work.video, work.output, track=work.track, **options)
        else:
            result = edit_video(work.video, work.speech, work.output, track=work.track, **options)
        if not keep_jobs:
            shutil.rmtree(result.job)
    except Stopped:
        raise
    except Exception as error:
        if _is_disk_full(error):
            raise
        log.debug("%s failed", work.name, exc_info=True)
        reason = str(error) if isinstance(error, HDTalkError) else f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - begun, 1)
        return Row(work.name, "failed", "", seconds, reason=" ".join(reason.split()))
    seconds, psnr_db = round(time.monotonic() - begun, 1), result.scores["psnr_db"]
    return Row(work.name, "made", str(work.output), seconds, psnr_db, result.in_domain)


def _is_disk_full(error: Exception) -> bool:
    """Whether every other clip would fail for the same reason."""
    cause = error.__cause__ if isinstance(error, ResourceError) else error
    return isinstance(cause, OSError) and cause.errno in DISK_FULL


def _is_finished(work: Work) -> bool:
    """Whether video and manifest, which is written last, are there, and not left by a run that had more to do."""
    both = work.output.exists() and manifest_path(work.output).exists()
    return both and not is_claimed(work.job, work.output)


def _changed(work: Work, wanted: dict[str, Any], emotion_from: Path | None) -> list[str]:
    """What a finished clip was made with that is not what is `wanted` now; nothing where its manifest does not say."""
    try:
        manifest = json.loads(manifest_path(work.output).read_text())
        inputs, had = manifest["inputs"], _flat(manifest["configuration"])
        had |= {"bundle": without_judges(manifest["bundle"]["sha256"])}
        if "emotion_from" not in inputs:
            had["emotion"] = manifest["emotion"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    given = {"video": work.video, "speech": work.speech, "emotion_from": emotion_from}
    files = [kind for kind, path in given.items() if not _is_file(inputs.get(kind), path)]
    if not _is_track(inputs.get("track"), work.track):
        files.append("track")
    return files + [name for name, value in wanted.items() if had.get(name, value) != value]


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """`{"seed": 0, "overwrite": ..., "invert": {"steps": 5}}` -> `{"seed": 0, "invert.steps": 5}`."""
    groups = {name: value for name, value in settings.items() if isinstance(value, dict)}
    single = {name: value for name, value in settings.items() if name not in groups and name != "overwrite"}
    return single | {f"{group}.{name}": value for group, own in groups.items() for name, value in own.items()}


def _is_file(known: dict[str, str] | None, path: Path | None) -> bool:
    """Whether a manifest's record of an input means this file, wherever it was; or both are none."""
    if known is None or path is None:
        return known is None and path is None
    return known["sha256"] == file_hash(path, missing_ok=True)


def _is_track(known: dict[str, str] | None, path: Path | None) -> bool:
    """Whether a manifest's record of a track means these landmarks, or both are none."""
    if known is None or path is None:
        return known is None and path is None
    try:
        track_px = read_landmarks(path)
    except InputError:
        return False
    return track_px is not None and known["sha256"] == array_hash(track_px)


def _there(work: Work, earlier: Row | None) -> Row:
    """The row of a finished clip, with the table's values, or else the manifest's (seconds: of its stages)."""
    if earlier is not None and earlier.psnr_db is not None:
        return replace(earlier, state="there", output=str(work.output), reason="")
    row = Row(work.name, "there", str(work.output))
    try:
        manifest = json.loads(manifest_path(work.output).read_text())
        seconds, psnr_db = round(sum(manifest["seconds"].values()), 1), manifest["scores"]["psnr_db"]
        return replace(row, seconds=seconds, psnr_db=psnr_db, in_domain=manifest["domain"]["inside"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("%s: no scores in its manifest (%s)", work.output, error)
        return row


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """A folder's files of these kinds, with its subfolders', in order; ._NAME (of macOS) and the like are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _clip(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _name(clip: str) -> str:
    return clip.replace("/", "_")


def _speeches(videos: list[Path], clips: list[str], speech: str) -> list[Path | None]:
    if speech in ("own", "none"):
        return [path if speech == "own" else None for path in videos]
    if speech == "next":
        return [*videos[1:], *videos[:1]]
    if os.path.isfile(speech):
        open_audio(speech).close()  # refused once, not for every clip
        return [Path(speech)] * len(videos)
    if not os.path.isdir(speech):
        raise UsageError(f"speech {speech}: expected own, next, none, a file or a folder that exists.")
    return _named_like(clips, Path(speech), SOUND_SUFFIXES, "sound")


def _named_like(clips: list[str], folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path | None]:
    """Each clip's file in `folder`, by its whole name, or by its bare one where that can mean no other clip."""
    found = {_clip(path, folder): path for path in reversed(_files(folder, suffixes))}
    meanings = Counter(name for clip in clips for name in {_name(clip), Path(clip).name})
    chosen: list[Path | None] = []
    missing = []
    for clip in clips:
        path, bare = found.get(_name(clip)) or found.get(clip), Path(clip).name
        if path is None and bare in found:
            if meanings[bare] > 1:
                wanted = f"Name it {_name(clip)}{found[bare].suffix}, if it is for {clip}"
                raise UsageError(f"{found[bare]}: {meanings[bare]} clips could be meant. {wanted}, and so on.")
            path = found[bare]
        if path is None:
            missing.append(clip)
        chosen.append(path)
    if missing:
        raise InputError(f"{folder}: no {what} named {_name(missing[0])} ({len(missing)} of {len(clips)} missing).")
    return chosen


def _read_table(table: Path) -> dict[str, Row]:
    """An earlier call's rows by name; none where the table is not there, or is no table of ours."""
    try:
        with open(table, newline="", encoding="utf-8") as file:
            return {line["name"]: _row(line) for line in csv.DictReader(file)}
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        log.warning("%s: damaged (%s); it is begun anew", table, error)
        return {}


def _row(line: dict[str, str]) -> Row:
    psnr_db = float(line["psnr_db"]) if line["psnr_db"] else None
    in_domain = {"True": True, "False": False, "": None}[line["in_domain"]]
    values: dict[str, Any] = {**line, "seconds": float(line["seconds"]), "psnr_db": psnr_db, "in_domain": in_domain}
    return Row(**values)


def _to_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
