"""Is this folder MEAD, whole and unpacked? Unpacks the actors' archives and lists what is irregular, actor by actor."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hdtalk.errors import InputError
from hdtalk.models.speech import EMOTIONS
from hdtalk.training.mead import VIEWS, Clip, read_mead

NUM_LEVELS = 3
READ_AS_EMOTION = ("disgust", "anger")  # other spellings that read_mead takes


@dataclass(frozen=True)
class ActorReport:
    """`takes`: takes with sound; `views`: view -> videos; `emotions`: emotion -> takes; `remarks`: what is irregular or
    missing, one sentence each. Irregular does not mean unusable: MEAD itself has most of these."""

    actor: str
    takes: int
    views: dict[str, int]
    emotions: dict[str, int]
    remarks: list[str] = field(default_factory=list)


def check_mead(root: str | Path) -> list[ActorReport]:
    """One report per actor. Raises InputError when there is no usable take at all."""
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder. Expected MEAD's actors (M003, W009, ...) in it.")
    if packed := list(_packed(root)):
        names = ", ".join(str(path.relative_to(root)) for path in packed[:3])
        raise InputError(f"{root}: {len(packed)} archives are still packed ({names} ...). Run again with --unpack.")
    by_actor: dict[str, list[Clip]] = {}
    for clip in read_mead(root):
        by_actor.setdefault(clip.actor, []).append(clip)
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [_report(root / name, by_actor.get(name, [])) for name in folders]


def unpack_mead(root: str | Path) -> list[Path]:
    """Unpacks every actor's archives beside themselves and returns them; links and paths that lead outside are refused
    (InputError names the archive). An archive that was unpacked before is passed over."""
    unpacked = []
    for archive in _packed(Path(root)):
        try:
            with tarfile.open(archive) as tar:
                tops = {name.removeprefix("./").split("/")[0] for name in tar.getnames()} - {"."}
                has_own_folder = tops == {archive.stem} or tops <= {"video", "audio"}
                tar.extractall(archive.parent if has_own_folder else archive.with_suffix(""), filter="data")
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{archive}: cannot be unpacked ({error}). Fetch it again.") from None
        _marker(archive).touch()
        unpacked.append(archive)
    return unpacked


def _packed(root: Path) -> Iterator[Path]:
    for pattern in ("*/video*.tar", "*/audio*.tar", "*/video/*.tar"):  # M042 has video_1.tar, W021 video/1.tar
        yield from (path for path in sorted(root.glob(pattern)) if not _marker(path).exists())


def _marker(archive: Path) -> Path:
    return archive.with_name(f".{archive.name}.unpacked")


def _report(folder: Path, clips: list[Clip]) -> ActorReport:
    views = Counter(view for clip in clips for view in clip.videos)
    emotions = Counter(clip.emotion for clip in clips)
    if not clips:
        return ActorReport(folder.name, 0, {}, {}, ["no take with sound: not an actor's folder, or incomplete"])
    return ActorReport(
        folder.name,
        len(clips),
        {view: views[view] for view in VIEWS if views[view]},
        {emotion: emotions[emotion] for emotion in EMOTIONS if emotions[emotion]},
        list(_remarks(folder, clips, views, emotions)),
    )


def _remarks(folder: Path, clips: list[Clip], views: Counter, emotions: Counter) -> Iterator[str]:
    if absent := [view for view in VIEWS if not views[view]]:
        yield f"no view {', '.join(absent)}"
    if absent := [emotion for emotion in EMOTIONS if not emotions[emotion]]:
        yield f"no emotion {', '.join(absent)}"
    levels = {emotion: {clip.level for clip in clips if clip.emotion == emotion} for emotion in emotions}
    for emotion, found in sorted(levels.items()):
        expected = {1} if emotion == "neutral" else set(range(1, NUM_LEVELS + 1))
        if found != expected:
            yield f"{emotion} has level {_listed(found)} instead of {_listed(expected)}"
    unseen = sum(not clip.videos for clip in clips)
    if unseen:
        yield f"{unseen} takes have sound but no video"
    gaps = _gaps(clips)
    if gaps:
        yield f"numbers are not contiguous in {', '.join(gaps[:4])}{' ...' if len(gaps) > 4 else ''}"
    if strangers := sorted(_strangers(folder)):
        yield f"unknown folders: {', '.join(strangers[:4])}{' ...' if len(strangers) > 4 else ''}"
    if silent := _videos_without_sound(folder, clips):
        yield f"{silent} videos have no sound beside them"
    if parts := sorted(path.name for path in folder.glob("video_*") if path.is_dir()):
        yield f"video in parts: {', '.join(parts)}"


def _gaps(clips: list[Clip]) -> list[str]:
    numbers: dict[str, list[int]] = {}
    for clip in clips:
        numbers.setdefault(f"{clip.emotion}/level_{clip.level}", []).append(int(clip.number))
    return [name for name, found in sorted(numbers.items()) if sorted(found) != list(range(1, len(found) + 1))]


def _strangers(folder: Path) -> set[str]:
    """Folders where a view or an emotion was expected."""
    found = set()
    for video in folder.glob("video*"):
        for view in (path for path in video.iterdir() if path.is_dir()) if video.is_dir() else ():
            if view.name not in VIEWS and not view.name.isdigit():
                found.add(f"{video.name}/{view.name}")
    for emotion in (path for path in folder.glob("audio/*") if path.is_dir()):
        if emotion.name.lower() not in (*EMOTIONS, *READ_AS_EMOTION):
            found.add(f"audio/{emotion.name}")
    return found


def _videos_without_sound(folder: Path, clips: list[Clip]) -> int:
    heard = {(clip.emotion, f"level_{clip.level}", clip.number) for clip in clips}
    videos = {(*path.parts[-3:-1], path.stem) for path in folder.glob("video*/**/level_*/*.mp4")}
    videos = {take for take in videos if take[0] in EMOTIONS}
    return len(videos - heard)


def _listed(numbers: set[int]) -> str:
    return " and ".join(map(str, sorted(numbers)))
