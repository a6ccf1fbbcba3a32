"""The sound of the output: the new speech at its own rate and channels, copied where possible, or mixed."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from hdtalk.config import MediaConfig
from hdtalk.errors import InputError

log = logging.getLogger(__name__)

AUDIO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,wav,w64,flac,mp3,aac,ogg,avi,mpegts,mpeg,flv,asf,mxf,aiff,caf,au"
COPIED = {
    "mp4": ("aac",),
    "mov": ("aac", "pcm_s16le"),
    "matroska": ("aac", "mp3", "flac", "opus", "vorbis", "ac3", "pcm_s16le"),
}
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
BLOCK = 1024  # samples of an AAC frame


class Soundtrack:
    """Speech for `VideoWriter`, optionally over the source's own sound lowered by `background_db` (say -12).

    Sound is cut where the picture ends. Alone and from its start, the speech is stream-copied when its codec may live
    in the container, else encoded as AAC of the same rate and channels. `start_s`: how much of it is left out first.
    """

    def __init__(
        self,
        speech: str | os.PathLike,
        background: str | os.PathLike | None = None,
        background_db: float = -12.0,
        background_start_s: float = 0.0,
        config: MediaConfig = MediaConfig(),  # noqa: B008 (frozen)
        start_s: float = 0.0,
    ):
        self._start_s = start_s
        self._speech, self._background, self._config = speech, background, config
        self._gain, self._background_start_s = 10 ** (background_db / 20), background_start_s
        self._opened: list = []

    def open(self, container) -> None:
        """Adds the audio stream to an output container."""
        source = open_audio(self._speech)
        self._opened.append(source)
        audio = source.streams.audio[0]
        self._written, self._clipped, self._packets = 0, 0, None
        if self._background is None and not self._start_s and audio.codec.name in COPIED[container.format.name]:
            self._stream = container.add_stream_from_template(audio)
            self._packets = (packet for packet in source.demux(audio) if packet.size and packet.pts is not None)
            self._pending = next(self._packets, None)
            self._first_pts = max(self._pending.pts or 0, 0) if self._pending else 0
            return
        self.rate = min((rate for rate in AAC_RATES if rate >= audio.rate), default=AAC_RATES[-1])
        self._layout = LAYOUTS.get(audio.layout.nb_channels, "stereo")
        channels = av.AudioLayout(self._layout).nb_channels
        self._stream = container.add_stream("aac", rate=self.rate, layout=self._layout)
        self._stream.bit_rate = min(self._config.audio_bitrate_per_channel * channels, 6 * self.rate * channels)
        self._inputs = [_SampleStream(decode_audio(source, self.rate), channels)]
        self._inputs[0].read(round(self._start_s * self.rate))
        if self._background is not None:
            background = open_audio(self._background)
            self._opened.append(background)
            self._inputs.append(_SampleStream(decode_audio(background, self.rate), channels))
            self._inputs[1].read(round(self._background_start_s * self.rate))

    def write_until(self, container, time_s: Fraction, last: bool = False) -> None:
        """Muxes all sound up to `time_s`, in whole packets."""
        self._until_s = time_s
        if self._packets is not None:
            while self._pending is not None and self._time_s(self._pending) < time_s:
                self._pending.stream = self._stream
                container.mux(self._pending)
                self._pending = next(self._packets, None)
            return
        until = int(time_s * self.rate)
        while self._written < until and (last or until - self._written >= BLOCK):
            block = self._mix(min(BLOCK, until - self._written))
            if not block.shape[1]:
                return
            frame = av.AudioFrame.from_ndarray(block, "fltp", self._layout)
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

    def _time_s(self, packet) -> Fraction:
        return (packet.pts - self._first_pts) * packet.time_base

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


def open_audio(path: str | os.PathLike) -> av.container.InputContainer:
    """Opens a local file for its sound; raises InputError when there is none."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such file.")
    options = {"protocol_whitelist": "file", "format_whitelist": AUDIO_FORMATS}
    try:
        container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError):
        raise InputError(f"{path}: is not a sound file or is damaged. Expected wav, flac, mp3, m4a or ogg.") from None
    if not container.streams.audio:
        container.close()
        raise InputError(f"{path}: holds no sound.")
    return container


def decode_audio(container, rate: int) -> Iterator[np.ndarray]:
    """Blocks of float32 [channels, samples] at `rate`, channels as in the file; damaged packets are skipped."""
    resampler = av.AudioResampler("fltp", None, rate)
    stream = container.streams.audio[0]
    for packet in container.demux(stream):
        try:
            for frame in stream.decode(packet):
                yield from (block.to_ndarray() for block in resampler.resample(frame))
        except av.error.FFmpegError as error:
            log.debug("a damaged packet was skipped: %s", error)
    yield from (block.to_ndarray() for block in resampler.resample(None))


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
