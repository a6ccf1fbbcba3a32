"""Video in and out: exact rational frame rates, display orientation, frames streamed one at a time, safe writing."""

import errno
import fcntl
import functools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from hdtalk.config import MediaConfig
from hdtalk.data import ColourTags, VideoInfo
from hdtalk.errors import DISK_FULL, HDTalkError, InputError, ResourceError, UsageError
from hdtalk.outputs import check_writable
from hdtalk.soundtrack import Soundtrack, decoded, has_sound, readable_packets
from hdtalk.tonemap import is_hdr, tone_map

log = logging.getLogger(__name__)

# without the bit-exact routines, rounding depends on where a picture lies in memory
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
DEFAULTS = MediaConfig()
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf"
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
EXPECTED = "Expected an mp4, mov, mkv, webm, avi or ts video."
STANDARD_RATES = [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)] + [
    Fraction(n) for n in (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)
]
# Containers and codecs in which one packet is one shown frame with its own time; others are decoded to be counted.
COUNTABLE_CONTAINERS = ("mov", "matroska", "mp4", "webm")
UNCOUNTABLE_CODECS = ("vp8", "mpeg4", "msmpeg4v3", "vc1")
UNINDEXED_CONTAINER = "mpeg"  # after a seek, most of its pictures bear times that are guessed anew, and shifted
MAX_REORDER = 16  # places that B-frames change at most
UNSPECIFIED = 2
LOST_WITHIN_S = 10  # damage is judged by at least so much of the video
MIN_FILLED = 0.8  # of the ticks of a constant rate; the frames that a recorder dropped are repeats
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")  # what a folder's videos are known by
CRF_ENCODERS = ("libx264", "libx265", "libsvtav1", "libaom-av1", "libvpx-vp9")  # they know a constant quality
SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


def probe(path: str | os.PathLike, config: MediaConfig = DEFAULTS) -> VideoInfo:
    """What the video holds, without decoding more than its first frame where its container is exact about times.

    The output grid is constant: frame k belongs to the time k / fps after the first frame. fps is the file's own rate
    where every frame sits on such a grid (a few dropped frames are repeats), else (variable rate) the average one,
    which keeps duration and number of frames. Each tick of the grid takes the frame nearest in time.
    Raises InputError for anything but a regular, readable video file.
    """
    return _scan_cached(path, config).info


def read_frames(
    path: str | os.PathLike, start: int = 0, stop: int | None = None, config: MediaConfig = DEFAULTS
) -> Iterator[np.ndarray]:
    """Yields frames start ... stop - 1 of the constant grid: uint8 RGB [H,W,3] in display orientation.

    Seeks to the key frame before `start`, so reading may begin anywhere; holds a few frames at a time. HDR is tone
    mapped to SDR. Always yields exactly stop - start frames or raises InputError: where frames are damaged the
    nearest readable one stands in, with a warning, up to `max_lost_fraction`.
    """
    scan = _scan_cached(path, config)
    stop = scan.info.num_frames if stop is None else stop
    if not 0 <= start <= stop <= scan.info.num_frames:
        raise UsageError(f"{path}: frames {start} to {stop} were asked for, it has 0 to {scan.info.num_frames}.")
    wanted = scan.source_pts[start:stop]
    if not len(wanted):
        return
    convert = _Converter(scan)
    held, shown_of, lost = None, None, 0
    judged_by = max(len(wanted), min(scan.info.num_frames, round(LOST_WITHIN_S * scan.info.fps)))
    allowed = 2 + config.max_lost_fraction * judged_by
    decoded = _decode_from(scan, int(wanted[0]))
    upcoming = next(decoded, None)
    for number, pts in enumerate(wanted, start):
        while upcoming is not None and (held is None or upcoming.pts <= pts):
            held, upcoming = upcoming, next(decoded, None)
        nearest = held
        if held is not None and upcoming is not None and upcoming.pts - pts < abs(pts - held.pts):
            nearest = upcoming
        if nearest is None:
            raise InputError(f"{path}: no frame from {number} on can be decoded; the file is damaged.")
        if nearest.pts != pts:
            lost += 1
            if lost == 1:
                log.warning("%s: frame %d is damaged; the nearest readable frame stands in.", path, number)
            if lost > allowed:
                raise InputError(f"{path}: damaged: too many frames around {number} cannot be decoded. Trim the clip.")
        if shown_of is None or shown_of[0] != nearest.pts:
            shown_of = (nearest.pts, convert(nearest))
        yield shown_of[1].copy()


def read_frames_in_order(
    path: str | os.PathLike, order: np.ndarray, config: MediaConfig = DEFAULTS, block: int = 16
) -> Iterator[np.ndarray]:
    """Yields the frames whose numbers `order` (int [N]) lists, as `read_frames` does. Runs are decoded in one go,
    backward runs block by block, so going there and back costs little and holds `block` frames at most."""
    order, start = np.asarray(order), 0
    while start < len(order):
        step = int(order[start + 1] - order[start]) if start + 1 < len(order) else 1
        step = step if step in (-1, 0, 1) else 1
        stop = start + 1
        while stop < len(order) and order[stop] - order[stop - 1] == step and (step >= 0 or stop - start < block):
            stop += 1
        low, high = int(order[start:stop].min()), int(order[start:stop].max())
        frames = read_frames(path, low, high + 1, config)
        if step == 0:
            frame = next(frames)
            yield from (frame.copy() for _ in range(start, stop))
        else:
            yield from (frames if step > 0 else reversed(list(frames)))
        start = stop


class VideoWriter:
    """Writes frames (uint8 RGB [H,W,3]) as video of exactly `like`'s frame rate, size and colour tags.

    Use as a context manager: frames go to a temporary file beside `path`, which takes its final name only when
    everything was written, flushed and counted; after an error nothing is left. 4:2:0 needs even sides, so videos of
    odd size are written as 4:4:4 rather than padded: the size stays the source's. HDR sources become BT.709.
    `soundtrack` is muxed alongside. Raises UsageError (output exists, suffix), InputError (frame of another size),
    ResourceError (disk full), HDTalkError where another run is writing the same file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        like: VideoInfo,
        soundtrack: Soundtrack | None = None,
        overwrite: bool = False,
        config: MediaConfig = DEFAULTS,
    ):
        self.path, self.info, self.overwrite, self.num_written = Path(path), like, overwrite, 0
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._soundtrack, self._config = soundtrack, config
        check_output(self.path, overwrite)

    def __enter__(self) -> "VideoWriter":
        with _disk_errors(self.path):
            self._lock = open(self._partial, "ab")  # noqa: SIM115 (held until the end: two runs would mix their frames)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._lock.close()
                raise HDTalkError(f"{self.path}: another run is writing it. Wait, or choose another name.") from error
            options = {"movflags": "+faststart"} if SUFFIXES[self.path.suffix.lower()] != "matroska" else {}
            self._container = av.open(
                os.fspath(self._partial.absolute()), "w", SUFFIXES[self.path.suffix.lower()], options=options
            )
        try:
            self._stream = _add_video_stream(self._container, self.info, self._config)
            self._reformatter = VideoReformatter()
            if self._soundtrack:
                self._soundtrack.open(self._container)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        if frame.shape != (self.info.height, self.info.width, 3) or frame.dtype != np.uint8:
            size = f"{self.info.height}x{self.info.width}x3"
            raise InputError(f"{self.path}: a frame is {frame.dtype} {frame.shape}, expected uint8 {size}.")
        context = self._stream.codec_context
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24"),
            format=context.pix_fmt,
            dst_colorspace=swscale_matrix(context.colorspace, self.info.height),
            dst_color_range=context.color_range or ColorRange.MPEG,
            interpolation=EXACT | Interpolation.FULL_CHR_H_INP,
            threads=1,
        )
        picture.pts, picture.time_base = self.num_written, 1 / self.info.fps
        with _disk_errors(self.path):
            self._container.mux(self._stream.encode(picture))
            self.num_written += 1
            if self._soundtrack:
                self._soundtrack.write_until(self._container, self.num_written / self.info.fps)

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is not None:
            self._discard()
            return
        try:
            with _disk_errors(self.path):
                if not self.num_written:
                    raise InputError(f"{self.path}: no frame was given to write.")
                self._container.mux(self._stream.encode(None))
                if self._soundtrack:
                    self._soundtrack.finish(self._container)
                self._container.close()
                self._verify()
                commit(self._partial, self.path, self.overwrite)
        except BaseException:
            self._discard()
            raise
        self._lock.close()

    def _verify(self) -> None:
        with _open(self._partial) as container:
            stream = container.streams.video[0]
            count = sum(1 for packet in container.demux(stream) if packet.size)
        if count != self.num_written:
            raise ResourceError(
                f"{self.path}: {self.num_written} frames were written, {count} arrived. Check the disk and run again."
            )

    def _discard(self) -> None:
        try:
            self._container.close()
        except (OSError, ValueError, RuntimeError) as failure:
            log.debug("closing the unfinished %s: %s", self._partial, failure)
        if self._soundtrack:
            self._soundtrack.close()
        self._partial.unlink(missing_ok=True)
        self._lock.close()


def check_output(path: str | os.PathLike, overwrite: bool) -> None:
    """Raises UsageError when `path` cannot become a video: suffix, folder missing or read-only, a file in the way."""
    check_suffix(path)
    check_writable(path, overwrite)


def check_suffix(path: str | os.PathLike) -> None:
    """Raises UsageError when no container that is written has this suffix."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: the output must end in {', '.join(SUFFIXES)}.")


def check_encoder(
    config: MediaConfig = DEFAULTS, path: str | os.PathLike | None = None, like: VideoInfo | None = None
) -> None:
    """Raises UsageError when the codec is none that can be written here. Given `path` and `like`, as for VideoWriter,
    two frames are written to a temporary file of that suffix, and whatever stops them is named: a missing GPU, a
    container, size, rate or pixel format that the codec does not go with. ResourceError when the disk is full."""
    try:
        codec = av.Codec(config.codec, "w")
    except (ValueError, av.error.FFmpegError):
        codec = None
    if codec is None or codec.type != "video":
        raise UsageError(f"the codec {config.codec!r} cannot be written here. Try libx264, libx265 or ffv1.")
    if (encoder := _encoder_name(config)).startswith("libx26") and config.crf > 51:
        raise UsageError(f"media.crf: {config.crf} is not possible with {encoder}; expected at most 51.")
    if path is None or like is None:
        return
    check_suffix(path)
    frame = np.zeros((like.height, like.width, 3), np.uint8)
    try:
        with tempfile.TemporaryDirectory() as folder:
            with VideoWriter(Path(folder, "trial").with_suffix(Path(path).suffix), like, config=config) as writer:
                writer.write(frame)
                writer.write(frame)
    except (InputError, av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        pixel_format, formats = _pixel_format(like, config), [known.name for known in codec.video_formats or ()]
        cause, cure = getattr(error, "strerror", None) or str(error), "--set media.codec=libx264"
        if formats and pixel_format not in formats:
            cause, cure = f"it takes no {pixel_format}", f"--set media.pixel_format={formats[0]}"
        elif config.codec == "libx264":
            cure = "--set media.preset=medium --set media.pixel_format=auto"
        raise UsageError(
            f"{path}: the codec {config.codec!r} cannot write {like.width}x{like.height} {pixel_format} "
            f"at {float(like.fps):.3f} fps to {Path(path).suffix} here ({cause.splitlines()[0]}). Try {cure}."
        ) from error


def commit(partial: Path, path: Path, overwrite: bool) -> None:
    """Flushes a finished file to disk and gives it its final name, in one step."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    if path.exists() and not overwrite:
        raise UsageError(f"{path} appeared while HDTalk was at work; it was left alone. Choose another name.")
    os.replace(partial, path)


def swscale_matrix(matrix: int, height: int) -> int:
    """The YCbCr matrix to use: the one that the video names, else BT.709 for HD and BT.601 below."""
    if matrix in (1, 4, 5, 6, 7, 9):
        return 5 if matrix == 6 else matrix
    return 1 if height >= 720 else 5


@dataclass(frozen=True)
class _Scan:
    info: VideoInfo
    source_pts: np.ndarray  # int64 [num_frames]: which decoded frame each tick of the grid shows
    keys: np.ndarray  # int64 [K,2]: (pts, dts) of the key frames; empty: decode from the beginning
    given_pts: np.ndarray  # int64: of all decoded frames in their order, where their own are wrong; else empty
    stream_index: int
    coded_size: tuple[int, int]
    orientation: tuple[bool, bool, bool]  # transpose, then flip x, then flip y


def _scan_cached(path: str | os.PathLike, config: MediaConfig) -> _Scan:
    """Scans a file once while it does not change."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file. Check the name.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({error}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file. {EXPECTED}")
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty. {EXPECTED}")
    return _scan(os.fspath(path), status.st_size, status.st_mtime_ns, config)


@functools.lru_cache(maxsize=8)
def _scan(path: str, size: int, modified_ns: int, config: MediaConfig) -> _Scan:
    with _open(path) as container:
        stream = _video_stream(container, path, config)
        first = _first_frame(container, stream, path)
        countable = any(name in COUNTABLE_CONTAINERS for name in container.format.name.split(","))
        if countable and stream.codec.canonical_name not in UNCOUNTABLE_CODECS:
            pts, keys, last_duration, trusted = _index_by_packets(container, stream)
        else:
            pts, keys, last_duration, trusted = _index_by_decoding(container, stream)
        if not len(pts):
            raise InputError(f"{path}: no frame of the video can be decoded. {EXPECTED}")
        if first.pts is None or not trusted or container.format.name == UNINDEXED_CONTAINER:
            keys = keys[:0]
        time_base: Any = stream.time_base
        declared = stream.frames
        fps, num_frames, variable = _constant_rate(pts, time_base, last_duration, stream)
        orientation = _orientation(first)
        width, height = stream.codec_context.width, stream.codec_context.height
        aspect = stream.sample_aspect_ratio or Fraction(1)
        info = VideoInfo(
            path=path,
            width=height if orientation[0] else width,
            height=width if orientation[0] else height,
            fps=fps,
            num_frames=num_frames,
            duration_s=float(num_frames / fps),
            has_audio=has_sound(container),
            colour=ColourTags(first.color_primaries, first.color_trc, first.colorspace, first.color_range),
            pixel_aspect=1 / aspect if orientation[0] else aspect,
            codec=stream.codec.name,
            pixel_format=first.format.name,
            variable_rate=variable,
            hdr=is_hdr(first.color_trc),
            interlaced=first.interlaced_frame,
        )
        scan = _Scan(
            info,
            _nearest_pts(pts, time_base, fps, num_frames),
            keys,
            pts[:0] if trusted else pts,
            stream.index,
            (width, height),
            orientation,
        )
    _give_notice(info, len(pts), declared)
    if not len(keys):
        log.warning("%s: cannot be entered midway, so each part is decoded from the start. An mp4 is faster.", path)
    return scan


def _open(path: str | os.PathLike) -> av.container.InputContainer:
    try:
        return av.open(os.path.abspath(path), options=dict(OPEN_OPTIONS), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, PermissionError):
            raise InputError(f"{path}: may not be read (permission denied).") from None
        if _lacks_index(path):
            raise InputError(
                f"{path}: the recording was cut off before its index ('moov') was written; nothing can be read. "
                "Copy the file again or repair it with a tool made for that."
            ) from None
        raise InputError(f"{path}: is not a video, is damaged, or is of a kind that is not read. {EXPECTED}") from None


def _lacks_index(path: str | os.PathLike) -> bool:
    """Walks the top-level boxes of an ISO file: True when it is one and has no 'moov'."""
    kinds: list[bytes] = []
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while position + 8 <= size and len(kinds) < 1000:
            file.seek(position)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            kinds.append(kind)
            if length < 8:
                break
            position += length
    return kinds[:1] == [b"ftyp"] and b"moov" not in kinds


def _video_stream(container, path: str, config: MediaConfig) -> av.video.stream.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path}: has no video stream. {EXPECTED}")
    stream = streams[0]
    if stream.codec_context is None:
        raise InputError(f"{path}: its video codec is not known here. Convert the clip to H.264.")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > config.max_pixels or min(width, height) < 1:
        raise InputError(
            f"{path}: a picture of {width}x{height} is not supported (at most {config.max_pixels} pixels)."
        )
    stream.thread_type = "AUTO"
    return stream


def _first_frame(container, stream, path: str) -> av.VideoFrame:
    for frame in decoded(container, stream):
        return frame
    raise InputError(f"{path}: no frame of the video can be decoded; the file is damaged or cut off. {EXPECTED}")


def _index_by_packets(container, stream) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Times of the frames from the container alone: sorted pts, (pts, dts) of key frames, last frame's duration, and
    whether decoded frames bear these pts."""
    _rewind(container, stream)
    rows = []
    for packet in readable_packets(container, stream):
        if packet.size and not packet.is_discard and not packet.is_corrupt and packet.pts is not None:
            rows.append((packet.pts, packet.dts if packet.dts is not None else packet.pts, packet.is_keyframe))
            last = packet.duration or 0
    if not rows:
        return _index_by_decoding(container, stream)
    table = np.array(rows, np.int64)
    keys = table[table[:, 2] == 1, :2]
    return np.unique(table[:, 0]), keys[np.argsort(keys[:, 0])], last, True


def _index_by_decoding(container, stream) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """The same by decoding all. Frames are decoded in the order in which they are shown: where their pts contradict
    it (H.264 in AVI) or are missing, it is the order that counts, and the last value is False."""
    _rewind(container, stream)
    found, keys, duration = [], [], 0
    for frame in decoded(container, stream):
        found.append(frame.pts)
        duration = frame.duration or duration
        if frame.key_frame and frame.pts is not None:
            keys.append((frame.pts, frame.dts if frame.dts is not None else frame.pts))
    known = [pts for pts in found if pts is not None]
    if len(known) < len(found) / 2 or any(later < pts for pts, later in pairwise(known)):
        return _pts_by_order(found, stream), np.zeros((0, 2), np.int64), duration, False
    return np.unique(np.array(known, np.int64)), np.array(keys, np.int64).reshape(-1, 2), duration, True


def _pts_by_order(found: list[int | None], stream) -> np.ndarray:
    """Ever later pts for frames in their order: their own ones sorted, where B-frames swapped them, else even ones."""
    if None not in found and len(set(found)) == len(found):
        places = np.argsort(np.array(found, np.int64))
        if np.abs(places - np.arange(len(found))).max() <= MAX_REORDER:
            return np.array(found, np.int64)[places]
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
    return np.rint(np.arange(len(found)) / float(rate * stream.time_base)).astype(np.int64)


def _rewind(container, stream) -> None:
    start = stream.start_time if stream.start_time is not None else 0
    container.seek(min(start, 0), stream=stream, backward=True)


def _constant_rate(pts, time_base, last_duration: int, stream) -> tuple[Fraction, int, bool]:
    """Frame rate and length of the constant grid, and whether the file's own rate varies."""
    named = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    if len(pts) == 1:
        return (named[0] if named else Fraction(25)), 1, False
    times = (pts - pts[0]) * float(time_base)
    tolerance = 1.01 * max(float(time_base), 0.001)
    usual = 1 / Fraction(float(np.median(np.diff(times))))
    for rate in [*named, *sorted(STANDARD_RATES, key=lambda rate: abs(rate - usual))[:2]]:
        ticks = np.rint(times * float(rate))
        on_grid = np.abs(times - ticks / float(rate)).max() <= tolerance and np.diff(ticks).min() > 0
        if on_grid and len(pts) >= MIN_FILLED * (ticks[-1] + 1):
            return rate, int(ticks[-1]) + 1, False
    last = Fraction(last_duration) * time_base
    if last <= 0 or last > 2:
        last = Fraction(int(pts[-1] - pts[0])) * time_base / (len(pts) - 1)
    duration = Fraction(int(pts[-1] - pts[0])) * time_base + last
    average = len(pts) / duration
    closest = min(STANDARD_RATES, key=lambda rate: abs(rate - average))
    fps = closest if abs(closest / average - 1) < 4e-4 else average.limit_denominator(1001)
    return fps, max(1, round(duration * fps)), True


def _nearest_pts(pts: np.ndarray, time_base: Fraction, fps: Fraction, num_frames: int) -> np.ndarray:
    if num_frames == len(pts) == 1:
        return pts
    times = (pts - pts[0]) * float(time_base)
    ticks = np.arange(num_frames) / float(fps)
    middles = (times[1:] + times[:-1]) / 2
    return pts[np.searchsorted(middles, ticks - 1e-6)]


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn decoded pictures upright, from the file's display matrix: transpose?, flip x?, flip y?"""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.int64)
    if abs(a) >= abs(b):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _give_notice(info: VideoInfo, num_stored: int, num_declared: int) -> None:
    if num_stored < num_declared - 2:
        log.warning("%s: cut off: %d of %d frames are there; those are used.", info.path, num_stored, num_declared)
    if num_stored < info.num_frames and not info.variable_rate:
        log.info("%s: %d dropped frames are repeats of their neighbours.", info.path, info.num_frames - num_stored)
    if info.variable_rate:
        log.warning(
            "%s: the frame rate varies; %d frames become %d at a constant %.3f per second.",
            *(info.path, num_stored, info.num_frames, float(info.fps)),
        )
    if info.hdr:
        log.warning("%s: HDR; it is tone mapped, and the output is SDR (BT.709).", info.path)
    if info.pixel_aspect != 1:
        log.warning(
            "%s: its pixels are %.3g times as wide as high, and the networks see faces so. Square ones are better.",
            *(info.path, float(info.pixel_aspect)),
        )
    if info.interlaced:
        log.warning("%s: interlaced; its two fields stay woven. De-interlaced footage gives better lips.", info.path)


class _Converter:
    """Decoded frame -> upright uint8 RGB."""

    def __init__(self, scan: _Scan):
        self._scan, self._reformatter = scan, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        scan = self._scan
        width, height = scan.coded_size
        picture = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if scan.info.hdr else "rgb24",
            src_colorspace=swscale_matrix(frame.colorspace, height),
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT | Interpolation.FULL_CHR_H_INT,
            threads=1,
        ).to_ndarray()
        if scan.info.hdr:
            picture = tone_map(picture, frame.color_trc, frame.color_primaries)
        transpose, flip_x, flip_y = scan.orientation
        if transpose:
            picture = picture.transpose(1, 0, 2)
        if flip_x:
            picture = picture[:, ::-1]
        if flip_y:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)


def _decode_from(scan: _Scan, pts: int) -> Iterator[av.VideoFrame]:
    """Decoded frames from the one at `pts` on (or the nearest before it). Tries ever earlier key frames when the
    container lands too late, and the beginning in the end. What a decoder shows ahead of a key frame is left out."""
    before = np.flatnonzero(scan.keys[:, 0] <= pts)[::-1] if len(scan.keys) else np.zeros(0, int)
    keys = set(scan.keys[:, 0].tolist())
    starts = [*(int(scan.keys[k].min()) for k in before[:3]), None]
    for start in starts:
        container = _open(scan.info.path)
        try:
            stream: Any = container.streams[scan.stream_index]
            stream.thread_type = "AUTO"
            frames = decoded(container, stream)
            if len(scan.given_pts):
                frames = _with_pts(frames, scan.given_pts)
            frames = (frame for frame in frames if frame.pts is not None)
            if start is not None:
                container.seek(start, stream=stream, backward=True)
                frames = dropwhile(lambda frame: frame.pts not in keys, frames)
            first: Any = next(frames, None)
            if first is None or (first.pts > pts and start is not None):
                continue
            yield first
            yield from frames
            return
        finally:
            container.close()


def _with_pts(frames: Iterator[av.VideoFrame], pts: np.ndarray) -> Iterator[av.VideoFrame]:
    for frame, given in zip(frames, pts.tolist(), strict=False):
        frame.pts = given
        yield frame


def _add_video_stream(container, info: VideoInfo, config: MediaConfig) -> av.video.stream.VideoStream:
    check_encoder(config)
    stream = container.add_stream(config.codec, rate=info.fps, options=_encoder_options(config))
    stream.width, stream.height = info.width, info.height
    context = stream.codec_context
    context.thread_count = config.encoder_threads
    context.pix_fmt = _pixel_format(info, config)
    if context.pix_fmt == "yuv444p" and config.pixel_format == "auto":
        log.warning("%dx%d is odd: written as 4:4:4, which some players do not show.", info.width, info.height)
    context.time_base = 1 / info.fps
    context.sample_aspect_ratio = info.pixel_aspect
    if _encoder_name(config) == "libx265":
        context.codec_tag = "hvc1"
    colour = ColourTags(1, 1, 1, 1) if info.hdr else info.colour
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    if context.pix_fmt.startswith("yuv"):
        context.colorspace = colour.matrix if colour.matrix in (1, 4, 5, 6, 7, 9) else UNSPECIFIED
        context.color_range = colour.range
    return stream


def _encoder_name(config: MediaConfig) -> str:
    """What a codec's name, such as h264, stands for here."""
    return av.Codec(config.codec, "w").name


def _encoder_options(config: MediaConfig) -> dict[str, str]:
    encoder = _encoder_name(config)
    if encoder not in CRF_ENCODERS:
        return {}
    options = {"crf": str(config.crf)}
    if not encoder.startswith("libx26"):
        return options
    import torch  # it takes seconds, and reading needs none of it

    options["preset"] = config.preset
    if encoder.startswith("libx264") and torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        # its AVX-512 code reads memory that nobody has set, so that no two runs write the same bits
        options["x264-params"] = "asm=avx2"
    return options


def _pixel_format(info: VideoInfo, config: MediaConfig) -> str:
    if config.pixel_format != "auto":
        return config.pixel_format
    if config.codec == "ffv1":
        return "bgr0"  # lossless RGB
    if info.width % 2 or info.height % 2:
        return "yuv444p"
    return "yuv420p"


class _disk_errors:
    """Turns a full disk, met anywhere below, into ResourceError."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, error_type, error, traceback) -> None:
        if isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EFBIG):
            raise ResourceError(f"{self._path}: the disk is full. Free some space and run again.") from error
