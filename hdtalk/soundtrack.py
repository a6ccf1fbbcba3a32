"""The sound of the output: the new speech at its own rate and channels, copied where possible, or mixed."""

import logging
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np

from hdtalk.config import MediaConfig
from hdtalk.errors import InputError

log = logging.getLogger(__name__)

AUDIO_FORMATS = (
    "wav,w64,rf64,flac,mp3,mov,mp4,m4a,3gp,3g2,mj2,aac,ogg,opus,matroska,webm,aiff,au,caf,avi,mpegts,mpeg,flv,asf,mxf,"
    "amr,ac3,eac3"
)
COPIED = {
    "mp4": ("aac",),
    "mov": ("aac", "pcm_s16le"),
    "matroska": ("aac", "mp3", "flac", "opus", "vorbis", "ac3", "pcm_s16le"),
}
EXPECTED = "Expected wav, flac, mp3, m4a or ogg, or a video with sound."
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
COVER = av.stream.Disposition.attached_pic
BLOCK = 1024  # samples of an AAC frame
MAX_AHEAD_S = 0.15  # copied packets may begin that much before the picture: an encoder's run-up, which is not shown


class Soundtrack:
    """Speech for `VideoWriter`, optionally over the source's own sound lowered by `background_db` (say -12).

    Speech begins with its first sample, as the lips do, whatever time its file gives that. A shot's own sound keeps
    its place under the picture instead: `start_s` (of `speech`) and `background_start_s` are the seconds after the
    file's first picture at which the output begins, and `background_length_s` how much of it is heard at most. Sound
    is cut where the picture ends. Alone and not cut at its start, it is stream-copied when its codec may live in the
    container, else encoded as AAC of the same rate and channels. `open` raises InputError for files without sound.
    """

    def __init__(
        self,
        speech: str | os.PathLike,
        background: str | os.PathLike | None = None,
        background_db: float = -12.0,
        background_start_s: float = 0.0,
        config: MediaConfig = MediaConfig(),  # noqa: B008 (frozen)
        start_s: float | None = None,
        background_length_s: float | None = None,
    ):
        self._start_s, self._background_length_s = start_s, background_length_s
        self._speech, self._background, self._config = speech, background, config
        self._gain, self._background_start_s = 10 ** (background_db / 20), background_start_s
        self._opened: list = []

    def open(self, container) -> None:
        """Adds the audio stream to an output container."""
        source = open_audio(self._speech)
        self._opened.append(source)
        audio = source.streams.audio[0]
        self._written, self._clipped, self._packets = 0, 0, None
        sound_s, picture_s = first_times_s(self._speech)
        self._origin_s = sound_s if self._start_s is None else picture_s + Fraction(self._start_s)
        whole = self._background is None and not self._start_s and self._origin_s - sound_s < MAX_AHEAD_S
        if whole and audio.codec.canonical_name in COPIED[container.format.name]:
            self._stream = container.add_stream_from_template(audio)
            self._packets = self._moved_packets(source, audio)
            self._pending = next(self._packets, None)
            return
        self.rate = min((rate for rate in AAC_RATES if rate >= audio.rate), default=AAC_RATES[-1])
        self._layout = LAYOUTS.get(audio.layout.nb_channels, "stereo")
        channels = av.AudioLayout(self._layout).nb_channels
        self._stream = container.add_stream("aac", rate=self.rate, layout=self._layout)
        self._stream.bit_rate = min(self._config.audio_bitrate_per_channel * channels, 6 * self.rate * channels)
        self._inputs = [_SampleStream(decode_audio(source, self.rate, self._start_s), channels)]
        if self._background is not None:
            background = open_audio(self._background)
            self._opened.append(background)
            blocks = decode_audio(background, self.rate, self._background_start_s)
            if self._background_length_s is not None:
                blocks = _beginning(blocks, round(self._background_length_s * self.rate))
            self._inputs.append(_SampleStream(blocks, channels))

    def write_until(self, container, time_s: Fraction, last: bool = False) -> None:
        """Muxes all sound up to `time_s`, in whole packets."""
        self._until_s = time_s
        if self._packets is not None:
            while self._pending is not None and (self._pending.pts or 0) * self._pending.time_base < time_s:
                self._pending.stream = self._stream
                container.mux(self._pending)
                self._pending = next(self._packets, None)
            return
        until = int(time_s * self.rate)
        while self._written < until and (last or until - self._written >= BLOCK):
            block = self._mix(min(BLOCK, until - self._written))
            if not block.shape[1]:
                return
            packed = np.ascontiguousarray(block.T).reshape(1, -1)  # not planar: see `resampled`
            frame = av.AudioFrame.from_ndarray(packed, "flt", self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self._written, Fraction(1, self.rate)
            container.mux(self._stream.encode(frame))
            self._written += block.shape[1]

    def finish(self, container) -> None:
        """Muxes what is left and releases the inputs."""
        self.write_until(container, self._until_s, last=True)
        if self._packets is None:
            container.mux(self._stream.encode(None))
            if self._clipped:
                log.warning("the mixed sound was clipped in %d samples; lower the background.", self._clipped)
        self.close()

    def close(self) -> None:
        for source in self._opened:
            source.close()
        self._opened.clear()

    def _moved_packets(self, source, audio) -> Iterator[av.Packet]:
        """The file's packets, so that `_origin_s` becomes 0; what an encoder puts before its first sample stays."""
        for packet in readable_packets(source, audio):
            if packet.size and packet.pts is not None:
                origin = round(self._origin_s / packet.time_base)
                packet.pts -= origin
                packet.dts = packet.pts if packet.dts is None else packet.dts - origin
                yield packet

    def _mix(self, num_samples: int) -> np.ndarray:
        speech, *background = [source.read(num_samples) for source in self._inputs]
        if not background:
            return speech
        length = max(speech.shape[1], background[0].shape[1])
        mixed = np.zeros((speech.shape[0], length), np.float32)
        mixed[:, : speech.shape[1]] = speech
        mixed[:, : background[0].shape[1]] += np.float32(self._gain) * background[0]
        self._clipped += int((np.abs(mixed) > 1).sum())
        return np.clip(mixed, -1, 1)


def _beginning(blocks: Iterator[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    """The first samples of blocks [channels, samples]."""
    for block in blocks:
        yield block[:, :num_samples]
        num_samples -= block.shape[1]
        if num_samples <= 0:
            return


def open_audio(path: str | os.PathLike) -> av.container.InputContainer:
    """Opens a local file for its sound; raises InputError when there is none."""
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "there is no such file"
        raise InputError(f"{path}: {what}. {EXPECTED}")
    if not os.path.getsize(path):
        raise InputError(f"{path}: the file is empty. {EXPECTED}")
    options = {"protocol_whitelist": "file", "format_whitelist": AUDIO_FORMATS}
    try:
        container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise InputError(f"{path}: is not a sound file or is damaged ({reason_of(error)}). {EXPECTED}") from error
    if not has_sound(container):
        reason = "sound in a format that cannot be decoded" if container.streams.audio else "no sound"
        container.close()
        raise InputError(f"{path}: holds {reason}. {EXPECTED}")
    return container


def reason_of(error: Exception) -> str:
    """FFmpeg's words for what went wrong."""
    return getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__


def has_sound(container: av.container.InputContainer) -> bool:
    """Whether there is a sound that can be decoded; one of an unknown kind counts as none."""
    return bool(container.streams.audio) and container.streams.audio[0].codec_context is not None


def decode_audio(container, rate: int, start_s: float | None = None) -> Iterator[np.ndarray]:
    """Blocks of float32 [channels, samples] at `rate`, channels as in the file; damaged packets are skipped.

    They begin with the first sample, or `start_s` seconds after the file's first picture: sound before that is left
    out, and silence stands where there is none yet. Raises InputError when the file has gone.
    """
    ahead = 0 if start_s is None else round((sound_offset_s(container.name) - start_s) * rate)  # silence; < 0: cut
    for samples in resampled(decoded(container, container.streams.audio[0]), rate):
        while ahead > 0:
            yield np.zeros((len(samples), min(ahead, rate)), np.float32)
            ahead -= min(ahead, rate)
        if -ahead < samples.shape[1]:
            yield samples[:, -ahead:]
        ahead = min(0, ahead + samples.shape[1])


def resampled(frames: Iterable[av.AudioFrame], rate: int) -> Iterator[np.ndarray]:
    """Blocks of float32 [channels, samples] at `rate`, whatever the frames' own format, channels and rate are; these
    may change in the middle."""
    resampler, kind = av.AudioResampler("flt", None, rate), None
    for frame in chain(frames, [None]):
        now = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != kind:
            if kind is not None:
                yield from map(_samples, resampler.resample(None))
            # packed: PyAV reads planar sound beyond its own memory where there are more than seven channels
            resampler, kind = av.AudioResampler("flt", None, rate), now
        if frame is not None:
            frame.pts = None  # gaps in a file's time stamps must not stop the resampler
            yield from map(_samples, resampler.resample(frame))


def _samples(block: av.AudioFrame) -> np.ndarray:
    return block.to_ndarray().reshape(-1, block.layout.nb_channels).T


def sound_offset_s(path: str | os.PathLike) -> float:
    """Seconds from a file's first picture to its first sample, 0 where it has no pictures. Raises InputError."""
    sound_s, picture_s = first_times_s(path)
    return float(sound_s - picture_s)


def first_times_s(path: str | os.PathLike) -> tuple[Fraction, Fraction]:
    """The file's own times, in seconds, of its first sample that is heard and of its first picture (where it has none,
    of that sample again). Raises InputError for a file without sound."""
    sound_s = _first_s(path, "audio") or Fraction(0)
    picture_s = _first_s(path, "video")
    return sound_s, sound_s if picture_s is None else picture_s


def _first_s(path: str | os.PathLike, kind: str) -> Fraction | None:
    """Time of the first frame that decodes; a stream's own start time is wrong for some short files."""
    with open_audio(path) as container:
        streams = [stream for stream in getattr(container.streams, kind) if not stream.disposition & COVER]
        frames = decoded(container, streams[0]) if streams and streams[0].codec_context else iter(())
        return next((frame.pts * frame.time_base for frame in frames if frame.pts is not None), None)


def readable_packets(container, stream) -> Iterator[av.Packet]:
    """The stream's packets, from where the container stands to where it cannot be read any further."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as error:
        log.debug("demuxing stopped: %s", error)


def decoded(container, stream) -> Iterator[Any]:
    """All frames of it that decode; damaged packets are skipped."""
    for packet in readable_packets(container, stream):
        try:
            yield from stream.decode(packet)
        except av.error.FFmpegError as error:
            log.debug("a damaged packet was skipped: %s", error)


class _SampleStream:
    """Reads an iterator of blocks in any other block size and number of channels."""

    def __init__(self, blocks: Iterator[np.ndarray], channels: int):
        self._blocks, self._channels, self._rest = blocks, channels, np.zeros((channels, 0), np.float32)

    def read(self, num_samples: int) -> np.ndarray:
        """The next [channels, num_samples], fewer at the end."""
        parts, length = [self._rest], self._rest.shape[1]
        while length < num_samples:
            block = next(self._blocks, None)
            if block is None:
                break
            if len(block) != self._channels:  # the mean keeps the level of a voice in the middle
                block = np.tile(block.mean(0, keepdims=True), (self._channels, 1))
            parts.append(block)
            length += block.shape[1]
        joined = np.concatenate(parts, 1)
        self._rest = joined[:, num_samples:]
        return np.ascontiguousarray(joined[:, :num_samples])
