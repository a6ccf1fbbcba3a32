"""Gives a recording an emotion's voice: pitch level and range, rate, energy, spectral tilt, breathiness, roughness.

Directions and sizes follow the common findings on vocal emotion; every value scatters around its mean, so that the
emotions overlap as voices do. Pitch and time are changed by Praat's overlap-add (praat-parselmouth).
"""

from dataclasses import dataclass, replace

import numpy as np
import parselmouth
from parselmouth.praat import call
from scipy.signal import butter, sosfilt

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
LEVELS = {1: 0.55, 2: 0.78, 3: 1.0}  # how much of the full change a level takes


@dataclass(frozen=True)
class VoiceChange:
    """Against neutral, at full strength."""

    pitch_st: float = 0.0  # semitones up
    range_log: float = 0.0  # log of the factor on excursions around the median pitch
    rate_log: float = 0.0  # log of the tempo factor
    energy_db: float = 0.0
    tilt_db: float = 0.0  # above 1.2 kHz against below
    breath_db: float = -60.0  # noise in the envelope of the voice, against the voice
    jitter_st: float = 0.0  # random pitch perturbation
    tremor_st: float = 0.0  # 6 Hz pitch wobble
    ending_st: float = 0.0  # slope over the last third
    rough: float = 0.0  # depth of amplitude modulation ...
    rough_hz: float = 40.0  # ... at this rate
    nasal_db: float = 0.0  # dip around 1 kHz with a lift around 300 Hz


CHANGES = {
    "angry": VoiceChange(3, 0.35, 0.12, 7, 8, rough=0.45, rough_hz=75, ending_st=-2),
    "contempt": VoiceChange(-2, -0.1, -0.14, -1, -1, ending_st=-6, nasal_db=9),
    "disgusted": VoiceChange(-4, -0.4, -0.26, -1, 1, rough=0.65, rough_hz=32),
    "fear": VoiceChange(5, 0.05, 0.24, 1, 2, breath_db=-17, jitter_st=0.9, tremor_st=1.3),
    "happy": VoiceChange(5, 0.6, 0.1, 3, 4, ending_st=1),
    "neutral": VoiceChange(),
    "sad": VoiceChange(-2, -0.8, -0.3, -6, -8, breath_db=-13, ending_st=-1),
    "surprised": VoiceChange(6, 0.75, -0.04, 2, 2, ending_st=9),
}


def express(
    samples: np.ndarray, sample_rate: int, emotion: str, level: int, rng: np.random.Generator, pitch_st: float = 0.0
) -> tuple[np.ndarray, float]:
    """The recording in the emotion's voice, and the factor by which times grew. `pitch_st` moves the whole voice."""
    change = _scattered(CHANGES[emotion], LEVELS[level], rng)
    change = replace(change, pitch_st=change.pitch_st + pitch_st)
    stretch = float(np.exp(-change.rate_log))
    voiced = _move_pitch_and_time(samples, sample_rate, change, stretch, rng)
    length = round(len(samples) * stretch)
    voiced = np.pad(voiced, (0, max(0, length - len(voiced))))[:length]
    voiced = _colour(voiced, sample_rate, change, rng)
    return voiced * 10 ** (change.energy_db / 20), stretch


def _scattered(change: VoiceChange, strength: float, rng: np.random.Generator) -> VoiceChange:
    strength = strength * np.exp(0.12 * rng.normal())
    scatter = {
        "pitch_st": 0.6, "range_log": 0.1, "rate_log": 0.05, "energy_db": 1.0, "tilt_db": 1.0, "ending_st": 0.8,
    }  # fmt: skip
    values = {name: getattr(change, name) * strength + s * rng.normal() for name, s in scatter.items()}
    for name in ("jitter_st", "tremor_st", "rough", "nasal_db"):
        values[name] = max(0.0, getattr(change, name) * strength * np.exp(0.15 * rng.normal()))
    weaker_db = 20 * np.log10(min(strength, 1.2))
    return replace(change, **values, breath_db=change.breath_db + weaker_db + 1.5 * rng.normal())


def _move_pitch_and_time(samples, sample_rate, change: VoiceChange, stretch: float, rng) -> np.ndarray:
    sound = parselmouth.Sound(np.asarray(samples, np.float64), sample_rate)
    manipulation = call(sound, "To Manipulation", 0.01, 60, 500)
    tier = call(manipulation, "Extract pitch tier")
    count = int(call(tier, "Get number of points"))
    if count:
        times = np.array([call(tier, "Get time from index", k + 1) for k in range(count)])
        pitches = 12 * np.log2([call(tier, "Get value at index", k + 1) for k in range(count)])
        middle = np.median(pitches)
        moved = middle + change.pitch_st + (pitches - middle) * np.exp(change.range_log)
        where = (times - times[0]) / max(1e-3, times[-1] - times[0])
        moved += change.ending_st * np.clip(3 * where - 2, 0, 1)
        moved += change.tremor_st * np.sin(2 * np.pi * (6 * times * stretch + rng.random()))
        moved += change.jitter_st * rng.normal(size=count)
        new = call("Create PitchTier", "new", 0, sound.duration)
        for time, pitch in zip(times, np.clip(2 ** (moved / 12), 60, 520), strict=True):
            call(new, "Add point", float(time), float(pitch))
        call([new, manipulation], "Replace pitch tier")
    duration = call("Create DurationTier", "stretch", 0, sound.duration)
    call(duration, "Add point", 0, stretch)
    call([duration, manipulation], "Replace duration tier")
    return call(manipulation, "Get resynthesis (overlap-add)").values[0]


def _colour(samples, sample_rate, change: VoiceChange, rng) -> np.ndarray:
    frequency = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    tilt = change.tilt_db / (1 + (1200 / np.maximum(frequency, 1)) ** 2)
    nasal = change.nasal_db * (
        np.exp(-(((frequency - 300) / 120) ** 2)) - np.exp(-((np.log2(np.maximum(frequency, 1) / 1000) / 0.4) ** 2))
    )
    out = np.fft.irfft(np.fft.rfft(samples) * 10 ** ((tilt + nasal) / 20), len(samples))
    time = np.arange(len(out)) / sample_rate
    if change.rough > 0.02:
        drift = np.cumsum(rng.normal(size=len(out))) / sample_rate**0.5 * 0.5
        out = out * (
            1 - np.clip(change.rough, 0, 0.9) * (0.5 + 0.5 * np.sin(2 * np.pi * change.rough_hz * time + drift))
        )
    if change.breath_db > -45:
        low = butter(2, 20, fs=sample_rate, output="sos")
        envelope = np.sqrt(np.maximum(sosfilt(low, out**2), 0))
        hiss = sosfilt(
            butter(2, [1500, min(7000, 0.45 * sample_rate)], "band", fs=sample_rate, output="sos"),
            rng.normal(size=len(out)),
        )
        out = out + hiss / hiss.std() * envelope * 10 ** (change.breath_db / 20)
    return out
