"""Waveform -> MFCC, pitch, energy and pauses on a grid of 10 ms; `windows.py` cuts one window per video frame.

A file is decoded, resampled and analysed block by block: what stays in memory is about 7 kB per second of speech.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from scipy.fft import irfft, rfft
from scipy.ndimage import uniform_filter, uniform_filter1d
from scipy.signal import butter, sosfilt

from hdtalk.audio_bands import (
    INT16,
    MEL_FILTERS,
    NUM_FFT,
    PREEMPHASIS,
    ROUNDING_FLOOR,
    VOICE_BAND,
    cepstrum,
    full_scale_db,
)
from hdtalk.config import AudioConfig
from hdtalk.data import SpeechFeatures
from hdtalk.errors import InputError
from hdtalk.soundtrack import decode_audio, open_audio, reason_of, resampled
from hdtalk.windows import FRAME_SAMPLES, ROW_SAMPLES, SAMPLE_RATE, mfcc_windows, num_video_frames, silent_frames

logger = logging.getLogger(__name__)

__all__ = ["mfcc", "mfcc_windows", "num_video_frames", "read_audio", "read_speech", "silent_frames"]

_PITCH_FRAME, _PITCH_FFT, _PITCH_MIN_HZ, _PITCH_MAX_HZ = 640, 1024, 60.0, 500.0
_SWING_FRAME, _SWINGS_HZ = 1600, ((20, 30, 40, 50), (60, 70))  # roughness, slow and fast; low voices begin at 85 Hz
_SWING_BAND = butter(2, (300, 4000), "band", fs=SAMPLE_RATE, output="sos")


def read_shot_speech(video: str | os.PathLike, start_s: float = 0.0, stop_s: float = math.inf) -> SpeechFeatures | None:
    """What is said in a shot itself, or None where there is not a second of speech or no sound that can be read."""
    stop_s = min(stop_s, start_s + AudioConfig().max_duration_s)
    try:
        speech = read_speech(read_shot_audio(video, start_s, stop_s), warn=False)
    except InputError as error:
        logger.info("%s", error)
        return None
    return speech if (~speech.silent).sum() * ROW_SAMPLES >= SAMPLE_RATE else None


def read_speech(
    source: str | os.PathLike | np.ndarray, sample_rate: int = SAMPLE_RATE, *, warn: bool = True
) -> SpeechFeatures:
    """Analyses the speech of an audio or video file, or of a waveform (float in [-1,1] or an integer type, `[samples]`
    or `[samples, channels]`, at `sample_rate`). Raises InputError for audio that cannot be used; warns about clipping
    and silence (unless `warn` is off) and damaged ends and goes on."""
    name, blocks = _blocks_of(source, sample_rate)
    analysis, clipped, longest_clip = _Analysis(), 0, 0
    config = AudioConfig()
    for block in blocks:
        if not np.isfinite(block).all():
            raise InputError(f"{name}: the audio holds NaN or infinite samples. Expected finite ones; export it again.")
        if np.abs(block).max(initial=0) > config.max_sample:
            raise InputError(
                f"{name}: a sample is {np.abs(block).max():.3g}. Expected a waveform in [-1, 1]; export it again."
            )
        full_scale = np.abs(block) >= 0.999
        clipped += int(full_scale.sum())
        longest_clip = max(longest_clip, int((full_scale[2:] & full_scale[1:-1] & full_scale[:-2]).sum()))
        analysis.add(block)
        if analysis.num_samples > config.max_duration_s * SAMPLE_RATE:
            raise InputError(f"{name}: {_TOO_LONG.format(config.max_duration_s / 60)}")
    duration_s = analysis.num_samples / SAMPLE_RATE
    if duration_s < config.min_duration_s:
        raise InputError(
            f"{name}: the audio lasts {duration_s * 1000:.0f} ms; "
            f"expected at least {config.min_duration_s * 1000:.0f} ms."
        )
    if warn and longest_clip and clipped > 1e-3 * analysis.num_samples:
        logger.warning(
            "%s: %.1f %% of the samples are clipped; lips may follow less well.", name, clipped / duration_s / 160
        )
    speech = analysis.finish()
    if warn and speech.level_db < config.silent_level_db:
        logger.warning("%s: silent (%.0f dBFS); the mouth will stay closed.", name, speech.level_db)
    return speech


def read_audio(source: str | os.PathLike) -> np.ndarray:
    """The whole sound of an audio or video file as float32 mono `[samples]` at 16 kHz, unscaled. Raises InputError."""
    return np.concatenate([*_decode(Path(source)), np.zeros(0, np.float32)])


def read_shot_audio(video: str | os.PathLike, start_s: float = 0.0, stop_s: float = math.inf) -> np.ndarray:
    """The sound of this part of a video, float32 mono `[samples]` at 16 kHz, counted from its first picture: sound
    before that is left out, and silence stands where there is none yet. Nothing else is held. Raises InputError."""
    left, blocks = (stop_s - start_s) * SAMPLE_RATE, []
    with open_audio(video) as container:
        for block in decode_audio(container, SAMPLE_RATE, start_s):
            blocks.append(block.mean(0)[: None if left == math.inf else max(0, round(left))])
            left -= block.shape[1]
            if left <= 0:
                break
    if not blocks:
        raise InputError(f"{video}: there is no sound from {start_s:.2f} s on.")
    return np.concatenate(blocks)


def mfcc(signal: np.ndarray) -> np.ndarray:
    """Float64 `[rows, 13]` of a 16 kHz signal on the 16-bit scale: the values of python_speech_features.mfcc with its
    defaults (25 ms rectangular frames every 10 ms, 26 filters, pre-emphasis 0.97, lifter 22, c0 = log energy)."""
    signal = np.asarray(signal, np.float64)
    emphasised = np.append(signal[:1], signal[1:] - PREEMPHASIS * signal[:-1])
    num_rows = 1 + max(0, -(-(len(signal) - FRAME_SAMPLES) // ROW_SAMPLES))
    emphasised = np.pad(emphasised, (0, (num_rows - 1) * ROW_SAMPLES + FRAME_SAMPLES - len(signal)))
    filtered, energy = _filterbank(_frames(emphasised, FRAME_SAMPLES))
    epsilon = np.finfo(float).eps
    coefficients = cepstrum(np.where(filtered == 0, epsilon, filtered))
    coefficients[:, 0] = np.log(np.where(energy == 0, epsilon, energy))
    return coefficients


class _Frames:
    """Frames of a growing signal, around the rows' centres; what `analyse` makes of them is kept, row by row."""

    def __init__(self, length: int, analyse: Callable[[np.ndarray], np.ndarray]):
        self.length, self.analyse = length, analyse
        self.samples = np.zeros((length - FRAME_SAMPLES) // 2)
        self.rows: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> None:
        self.samples = np.append(self.samples, samples)

    def num_complete(self) -> int:
        return (len(self.samples) - self.length) // ROW_SAMPLES + 1

    def consume(self, num_rows: int) -> None:
        self.rows.append(self.analyse(_frames(self.samples[: (num_rows - 1) * ROW_SAMPLES + self.length], self.length)))
        self.samples = self.samples[num_rows * ROW_SAMPLES :]


class _Analysis:
    """Consumes float blocks in [-1,1] at 16 kHz; keeps per-row filter-bank energies, pitch and roughness only."""

    def __init__(self):
        self.num_samples = self.num_rows = 0
        self._last = 0.0
        self._emphasised = _Frames(FRAME_SAMPLES, lambda frames: _filterbank(frames)[0])
        self._plain = _Frames(_PITCH_FRAME, _pitch)
        self._loudness = _Frames(_SWING_FRAME, _swings)
        self._signals = (self._emphasised, self._plain, self._loudness)
        self._band_state = np.zeros((len(_SWING_BAND), 2))

    def add(self, block: np.ndarray) -> None:
        signal = block.astype(np.float64) * INT16
        if not len(signal):
            return
        previous = np.append(self._last if self.num_samples else 0.0, signal[:-1])
        self._last = signal[-1]
        self.num_samples += len(signal)
        self._emphasised.add(signal - PREEMPHASIS * previous)
        self._plain.add(signal)
        band, self._band_state = sosfilt(_SWING_BAND, signal, zi=self._band_state)
        self._loudness.add(np.abs(band))
        self._consume(min(frames.num_complete() for frames in self._signals))

    def finish(self) -> SpeechFeatures:
        left = 1 + max(0, -(-(self.num_samples - FRAME_SAMPLES) // ROW_SAMPLES)) - self.num_rows
        for frames in self._signals:
            frames.add(np.zeros(frames.length + left * ROW_SAMPLES))
        self._consume(left)
        filtered, pitch, swings = (np.concatenate(frames.rows) for frames in self._signals)
        # The spectrum of 16-bit rounding noise as floor: digital silence looks like a quiet room, not like zeros.
        floor = ROUNDING_FLOOR
        noise = _steady_noise(filtered)
        above_noise_db = _above_noise_db(filtered, noise)
        filtered = _without_noise(filtered, noise)
        rows = cepstrum(filtered + floor)[:, 1:].astype(np.float32)
        silent_row = cepstrum(floor[None])[0, 1:].astype(np.float32)
        energy_db = _voice_band_db(filtered)
        level_db, standing_out_db = _speech_level(energy_db), _speech_level(above_noise_db)
        energy = np.clip((energy_db - level_db) / 20, -3, 1.5)[:, None]
        prosody = np.concatenate([pitch[:, :2], energy, pitch[:, 2:], swings], -1).astype(np.float32)
        silent = _pauses(energy_db, level_db, above_noise_db, standing_out_db)
        return SpeechFeatures(rows, prosody, silent, silent_row, self.num_samples, level_db, standing_out_db)

    def _consume(self, num_rows: int) -> None:
        if num_rows > 0:
            for frames in self._signals:
                frames.consume(num_rows)
            self.num_rows += num_rows


def _frames(signal: np.ndarray, length: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(signal, length)[::ROW_SAMPLES]


def _filterbank(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    power = np.abs(rfft(frames, NUM_FFT, axis=-1)) ** 2 / NUM_FFT  # [rows, 257]
    return power @ MEL_FILTERS.T, power.sum(-1)


def _voice_band_db(filtered: np.ndarray) -> np.ndarray:
    """Energy per row `[rows]` in dB, roughly against full scale, in the voice band."""
    return 10 * np.log10(filtered[:, VOICE_BAND].sum(-1) + 1e-3) - full_scale_db()


def _steady_noise(filtered: np.ndarray) -> np.ndarray:
    """Mean filter energies `[26]` of the quietest rows of `[rows, 26]`."""
    loudness = uniform_filter1d(filtered[:, VOICE_BAND].sum(-1), 5, mode="constant")
    quietest = np.argsort(loudness, kind="stable")[: max(1, int(AudioConfig().noise_share * len(filtered)))]
    return filtered[quietest].mean(0)


def _above_noise_db(filtered: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """How far rows stand out of the noise `[26]`, `[rows]`: the mean ratio over the filters of the voice band, so that
    those count in which there is little of it; over five rows, as single ones of noise stand out, too."""
    power = uniform_filter1d(filtered, 5, axis=0, mode="nearest") + ROUNDING_FLOOR
    return 10 * np.log10((power / (noise + ROUNDING_FLOOR))[:, VOICE_BAND].mean(-1))


def _without_noise(filtered: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Filter energies `[rows, 26]` less the steady noise `[26]` under them: spectral subtraction of what it has above
    the rounding floor, with the power averaged over three rows and filters so that few tones of noise stay."""
    config = AudioConfig()
    if len(filtered) < config.noise_min_duration_s * SAMPLE_RATE / ROW_SAMPLES:
        return filtered
    distance_db = _speech_level(_voice_band_db(filtered)) - _voice_band_db(noise[None])[0]
    low, high = config.noise_below_level_db
    noise = np.maximum(noise - ROUNDING_FLOOR, 0) * np.clip((distance_db - low) / (high - low), 0, 1)
    power = uniform_filter(filtered, 3, mode="nearest") + ROUNDING_FLOOR
    noise = uniform_filter1d(noise, 3, mode="nearest")
    return filtered * np.maximum(1 - config.noise_factor * noise / power, config.noise_least_gain)


def _speech_level(energy_db: np.ndarray) -> float:
    """Mean level of the loud part of the speech: rows within 20 dB of the 98th percentile."""
    loud = energy_db[energy_db >= np.percentile(energy_db, 98) - 20]
    return float(10 * np.log10(np.mean(10 ** (loud / 10))))


def _pauses(energy_db: np.ndarray, level_db: float, above_noise_db: np.ndarray, standing_out_db: float) -> np.ndarray:
    """Rows in pauses: far quieter than the speech at `level_db`, or hardly above the noise that it stands out of by
    `standing_out_db`, for at least `min_pause_s`."""
    config = AudioConfig()
    if level_db < config.silent_level_db:
        return np.ones(len(energy_db), bool)
    smooth = 10 * np.log10(np.convolve(10 ** (energy_db / 10), np.ones(3) / 3, mode="same"))
    near_noise_db = np.clip(config.pause_above_noise * standing_out_db, *config.pause_above_noise_db)
    noise_only = above_noise_db < min(near_noise_db, standing_out_db - config.pause_below_loud_db)
    quiet = np.concatenate([[False], noise_only | (smooth < level_db - config.pause_below_level_db), [False]])
    starts, ends = np.flatnonzero(np.diff(quiet.astype(int)) == 1), np.flatnonzero(np.diff(quiet.astype(int)) == -1)
    silent = np.zeros(len(energy_db), bool)
    for start, end in zip(starts, ends, strict=True):
        at_edge = start == 0 or end == len(silent)
        silent[start:end] = at_edge or end - start >= config.min_pause_s * 100
    return silent


def _pitch(frames: np.ndarray) -> np.ndarray:
    """`[rows, 3]`: log2(pitch / 150 Hz), zero where unvoiced; voicing in [0,1]; and harmonicity in [0,1], the peak of
    the normalised autocorrelation."""
    frames = frames.astype(np.float32)
    windowed = (frames - frames.mean(-1, keepdims=True)) * np.hanning(_PITCH_FRAME).astype(np.float32)
    spectrum = np.abs(rfft(windowed, _PITCH_FFT, axis=-1))
    # Square-root compression flattens formants, which would otherwise win over the fundamental.
    correlation = irfft(spectrum, axis=-1)
    correlation /= correlation[:, :1] + 1e-6 * np.sqrt(_PITCH_FRAME) * 100
    low, high = int(SAMPLE_RATE / _PITCH_MAX_HZ), int(SAMPLE_RATE / _PITCH_MIN_HZ)
    # A slight slope prefers the first of the equally good multiples of the period.
    lag = low + np.argmax(correlation[:, low:high] - 2e-4 * np.arange(high - low), axis=-1)
    peak = np.take_along_axis(correlation, lag[:, None], -1)[:, 0]
    voicing = np.clip((peak - 0.15) / 0.3, 0, 1)
    return np.stack([np.where(voicing > 0.3, np.log2(SAMPLE_RATE / lag / 150), 0.0), voicing, np.clip(peak, 0, 1)], -1)


def _swings(frames: np.ndarray) -> np.ndarray:
    """Slow and fast roughness `[rows, 2]` of the rectified signal in frames of 100 ms: log10 of the squared depth to
    which it swings at the frequencies of each."""
    window = np.sin(np.pi * np.arange(_SWING_FRAME) / _SWING_FRAME) ** 2 * (2 / _SWING_FRAME)
    phase = 2j * np.pi * np.arange(_SWING_FRAME)[:, None] / SAMPLE_RATE
    frames = frames.astype(np.float32)
    mean = frames @ window.astype(np.float32)
    depths = []
    for swings_hz in _SWINGS_HZ:
        waves = window[:, None] * np.exp(phase * np.array(swings_hz))
        found = frames @ np.concatenate([waves.real, waves.imag], 1).astype(np.float32)
        depths.append(4 * (found**2).sum(1) / (mean**2 + 1))
    return np.log10(np.stack(depths, 1) + 1e-3)


def _blocks_of(source, sample_rate: int) -> tuple[str, Iterator[np.ndarray]]:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source), _decode(Path(source))
    samples = np.asarray(source)
    if samples.ndim == 2:
        samples = samples.mean(-1, dtype=np.float64).astype(samples.dtype)
    if samples.ndim != 1 or samples.dtype.kind not in "iuf":
        raise InputError(f"waveform: expected real samples [samples] or [samples, channels], got {samples.shape}.")
    if samples.dtype.kind == "i":
        samples = samples / float(-np.iinfo(samples.dtype).min)
    elif samples.dtype.kind == "u":
        half = (np.iinfo(samples.dtype).max + 1) / 2
        samples = samples / half - 1
    if sample_rate != SAMPLE_RATE:
        from scipy.signal import resample_poly

        ratio = Fraction(SAMPLE_RATE, int(sample_rate))
        samples = resample_poly(samples, ratio.numerator, ratio.denominator)
    blocks = range(0, len(samples), SAMPLE_RATE)
    return "waveform", (samples[start : start + SAMPLE_RATE].astype(np.float32) for start in blocks)


_TOO_LONG = "the audio is longer than {:.0f} minutes. Cut it into parts and edit them one by one."


def _decode(path: Path) -> Iterator[np.ndarray]:
    """Yields float32 mono blocks at 16 kHz, about a second each. Raises InputError."""
    with open_audio(path) as container:
        stream: Any = container.streams.audio[0]
        limit_s = AudioConfig().max_duration_s
        known_s = (container.duration or 0) / av.time_base
        if known_s > limit_s:
            raise InputError(f"{path}: {_TOO_LONG.format(limit_s / 60)}")
        stream.thread_type = "AUTO"
        pending, num_pending, num_total, failure = [], 0, 0, None
        try:
            for block in resampled(container.decode(stream), SAMPLE_RATE):
                pending.append(block.mean(0))
                num_pending += pending[-1].size
                if num_pending >= SAMPLE_RATE:
                    num_total += num_pending
                    yield np.concatenate(pending)
                    pending, num_pending = [], 0
        except (av.FFmpegError, ValueError) as error:
            failure = error
        num_total += sum(part.size for part in pending)
        if failure is not None:
            if num_total < AudioConfig().min_duration_s * SAMPLE_RATE:
                raise InputError(f"{path}: the sound cannot be decoded ({reason_of(failure)}).") from failure
            logger.warning("%s: damaged after %.2f s; going on with what was read.", path, num_total / SAMPLE_RATE)
        elif num_total == 0:
            raise InputError(f"{path}: the audio stream holds no samples.")
        if pending:
            yield np.concatenate(pending)
