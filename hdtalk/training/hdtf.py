"""HDTF from its published lists and the user's own downloads: talking-head clips of 512 px, by both published methods.

HDTF is not distributed as video. Its lists, five text files per subset (RD, WDA, WRA), name the sources, the seconds in
which somebody talks, and a square around the face. Method 1 crops the published square from a video of the published
height (squares are scaled when the download has another height). Method 2 finds the face itself in the best download:
the union of the face's box over the clip, made square and enlarged by the published ratio.
"""

import json
import tempfile
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from hdtalk.data import FaceTrack, VideoInfo
from hdtalk.errors import InputError, NoFaceError, UsageError
from hdtalk.files import write_atomically
from hdtalk.media import VIDEO_SUFFIXES, VideoWriter, probe, read_frames
from hdtalk.soundtrack import Soundtrack, decode_audio, open_audio

LISTING = "hdtf.json"
SUBSETS = ("RD", "WDA", "WRA")
SIDE_PX = 512


@dataclass(frozen=True)
class HDTFClip:
    """One talking interval. `window_px`: published square (x, y, width, height) at `height_px`; `ratio`: how much
    method 2 enlarges its own square; None where the lists have no such line."""

    subset: str
    video: str
    index: int
    start_s: float
    stop_s: float
    url: str = ""
    height_px: int | None = None
    window_px: tuple[int, int, int, int] | None = None
    ratio: float | None = None

    @property
    def name(self) -> str:
        return f"{self.video}_{self.index}"


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: the file and the square that was cut from the download, or why there is none; `note`: what
    the user should know about the file."""

    clip: str
    path: str = ""
    window_px: tuple[int, int, int, int] | None = None
    reason: str = ""
    note: str = ""


def read_lists(folder: str | Path) -> list[HDTFClip]:
    """All intervals of the lists in `folder` (HDTF_dataset/ of the published repository), in their order.

    Raises InputError for a missing list, or a line that cannot be read, with its number.
    """
    folder, clips = Path(folder), []
    subsets = [subset for subset in SUBSETS if (folder / f"{subset}_annotion_time.txt").is_file()]
    if not subsets:
        raise InputError(f"{folder}: no lists of HDTF there. Expected RD_annotion_time.txt and its neighbours.")
    for subset in subsets:
        urls = _table(folder / f"{subset}_video_url.txt", lambda fields: fields[0])
        heights = _table(folder / f"{subset}_resolution.txt", lambda fields: int(fields[0]))
        windows = _table(folder / f"{subset}_crop_wh.txt", _window)
        ratios = _table(folder / f"{subset}_crop_ratio.txt", lambda fields: float(fields[0]))
        intervals = _table(folder / f"{subset}_annotion_time.txt", lambda fields: list(map(_interval, fields)))
        for video, times in intervals.items():
            for index, (start_s, stop_s) in enumerate(times):
                clip = HDTFClip(subset, video, index, start_s, stop_s, urls.get(video, ""), heights.get(video))
                clips.append(replace(clip, window_px=windows.get(clip.name), ratio=ratios.get(clip.name)))
    return clips


def choose_videos(clips: list[HDTFClip], videos: Sequence[str]) -> list[HDTFClip]:
    """The clips of these videos, named as in the lists. Raises UsageError for a name that no list has."""
    wanted = {video.removesuffix(".mp4") for video in videos}
    if unknown := wanted - {clip.video for clip in clips}:
        names = ", ".join(sorted(unknown))
        raise UsageError(f"{names}: the lists have no such video. Names are the first words of their lines.")
    return [clip for clip in clips if clip.video in wanted]


def prepare_hdtf(
    clips: list[HDTFClip],
    downloads: str | Path,
    out: str | Path,
    method: int = 1,
    track: Callable[[Path, int, int], FaceTrack] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Outcome]:
    """Cuts every clip whose video is in `downloads` (NAME.mp4, also below RD/, WDA/, WRA/) to OUT/SUBSET/NAME_i.mp4.

    `track(video, first, last)` finds the face in frames first ... last - 1; method 2 needs it. Clips that are there
    already are kept, unless OUT/hdtf.json has them with another window. It lists all outcomes, those of earlier calls
    too. What cannot be made is reported, not fatal.
    """
    downloads, out = Path(downloads), Path(out)
    if not downloads.is_dir():
        raise InputError(
            f"{downloads}: there is no such folder. Expected the downloaded videos, named as in the lists."
        )
    out.mkdir(parents=True, exist_ok=True)
    listing = _read_listing(out / LISTING)
    for number, clip in enumerate(clips):
        if progress:
            progress(number, len(clips), clip.name)
        before = listing.get(clip.name, Outcome(clip.name))
        try:
            listing[clip.name] = _prepare_clip(clip, downloads, out, method, track, before)
        except InputError as error:
            kept = before.path and (out / before.path).is_file()
            failed = replace(before, note=f"left as it was: {error}") if kept else Outcome(clip.name, reason=str(error))
            listing[clip.name] = failed
        _write_listing(out / LISTING, listing)  # at once: a stopped run must know the windows of what it made
    return [listing[clip.name] for clip in clips]


def square_around(track: FaceTrack, ratio: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Method 2's square (x, y, side, side): the union of the face's boxes, made square, times `ratio`, moved (and as a
    last resort shrunk) to fit into the picture. Raises NoFaceError when the face is never seen."""
    if not track.present.any():
        raise NoFaceError("no face found in the whole interval.")
    points = track.landmarks_px[track.present]
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    side = min(round(float((high - low).max()) * ratio), width, height)
    corner = np.clip(np.round((low + high - side) / 2), 0, [width - side, height - side]).astype(int)
    return int(corner[0]), int(corner[1]), side, side


def _read_listing(path: Path) -> dict[str, Outcome]:
    """Clip -> what became of it in earlier calls."""
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text())
        return {
            row["clip"]: Outcome(**row | {"window_px": row["window_px"] and tuple(row["window_px"])}) for row in rows
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}). Remove it; the clips beside it are kept.") from None


def _write_listing(path: Path, listing: Mapping[str, Outcome]) -> None:
    rows = [asdict(outcome) for outcome in listing.values()]
    write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())


def _prepare_clip(clip: HDTFClip, downloads: Path, out: Path, method: int, track, before: Outcome) -> Outcome:
    target = out / clip.subset / f"{clip.name}.mp4"
    if method == 1 and clip.window_px is None:
        raise InputError("the lists have no window for it.")
    if method == 2 and clip.ratio is None:
        raise InputError("the lists have no ratio for it.")
    source = _download(downloads, clip)
    if source is None:
        raise InputError(f"not downloaded: expected {clip.video}.mp4 (from {clip.url or 'an unknown address'}).")
    info = probe(source)
    first, stop = round(clip.start_s * info.fps), round(clip.stop_s * info.fps)
    last = min(stop, info.num_frames)
    if last - first < 1:
        raise InputError(f"{source.name} ends after {info.duration_s:.0f} s, before the interval.")
    if method == 1:
        window = _scaled(clip, info)
    else:
        assert clip.ratio is not None
        window = square_around(track(source, first, last), clip.ratio, info.width, info.height)
    made = bool(before.path) and target.exists()
    outdated = made and (before.window_px != window or probe(target).num_frames < last - first)
    if outdated or not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _cut(source, info, first, last, window, target)
    lacking_s = float((stop - last) / info.fps)
    note = f"{lacking_s:.2f} s shorter than in the lists: {source.name} ends before the interval" if lacking_s else ""
    return Outcome(clip.name, str(target.relative_to(out)), window, note=note)


def _download(downloads: Path, clip: HDTFClip) -> Path | None:
    names = [folder / f"{clip.video}{s}" for folder in (downloads, downloads / clip.subset) for s in VIDEO_SUFFIXES]
    return next((path for path in names if path.is_file()), None)


def _scaled(clip: HDTFClip, info: VideoInfo) -> tuple[int, int, int, int]:
    """The published square in pixels of this download."""
    factor = Fraction(info.height, clip.height_px) if clip.height_px else Fraction(1)
    assert clip.window_px is not None
    x, y, width, height = (round(value * factor) for value in clip.window_px)
    side = min(width, height, info.width - x, info.height - y)
    if x < 0 or y < 0 or side < 0.9 * min(width, height):
        raise InputError(f"its window {clip.window_px} does not fit into {info.width}x{info.height}; another video?")
    return x, y, side, side


def _cut(source: Path, info: VideoInfo, first: int, last: int, window: tuple[int, int, int, int], target: Path) -> None:
    x, y, width, height = window
    interpolation = cv2.INTER_AREA if width > SIDE_PX else cv2.INTER_CUBIC
    like = replace(info, width=SIDE_PX, height=SIDE_PX)
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        if info.has_audio:
            _cut_sound(source, first / info.fps, last / info.fps, sound)
        with VideoWriter(target, like, Soundtrack(sound) if info.has_audio else None, overwrite=True) as writer:
            for frame in read_frames(source, first, last):
                face = frame[y : y + height, x : x + width]
                writer.write(cv2.resize(face, (SIDE_PX, SIDE_PX), interpolation=interpolation))


def _cut_sound(source: Path, start_s: Fraction, stop_s: Fraction, target: Path) -> None:
    """The interval's sound at its own rate and channels, as 16-bit WAV."""
    with open_audio(source) as container:
        rate = container.streams.audio[0].rate
        first, last, position = round(start_s * rate), round(stop_s * rate), 0
        with wave.open(str(target), "wb") as file:
            for block in decode_audio(container, rate, 0.0):  # [channels, samples]
                if position == 0:
                    file.setparams((block.shape[0], 2, rate, 0, "NONE", ""))
                part = block[:, max(first - position, 0) : max(last - position, 0)]
                position += block.shape[1]
                file.writeframes(np.round(part.T.clip(-1, 1) * 32767).astype("<i2").tobytes())
                if position >= last:
                    break


def _table(path: Path, parse: Callable[[list[str]], object]) -> dict:
    """NAME -> parsed rest of its line; names lose their .mp4, files may begin with a byte order mark."""
    if not path.is_file():
        raise InputError(f"{path}: this list is missing. Copy all five lists of the subset.")
    table = {}
    for number, fields in _lines(path):
        try:
            table[fields[0].removesuffix(".mp4")] = parse(fields[1:])
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {number}: cannot be read: {' '.join(fields)[:60]!r}.") from None
    return table


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if fields := line.split():
            yield number, fields


def _window(fields: list[str]) -> tuple[int, int, int, int]:
    """The lists' order is x, width, y, height."""
    x, width, y, height = map(int, fields[:4])
    return x, y, width, height


def _interval(text: str) -> tuple[float, float]:
    start_s, stop_s = map(_seconds, text.split("-"))
    if stop_s <= start_s:
        raise ValueError(text)
    return start_s, stop_s


def _seconds(text: str) -> float:
    """mm:ss or h:mm:ss"""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
