"""Makes clean recordings sound like real ones: equalisers, rooms, noise, music, babble, bands, codecs, clipping."""

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

SAMPLE_RATE = 16000


def worsen(samples: np.ndarray, rng: np.random.Generator, babble: np.ndarray | None = None, hard: float = 0.5):
    """Float32 `[samples]` of the same length and timing. `hard` 0..1: how far it may go. `babble`: other speech to
    mix in. What delays the sound is left out or compensated, so lips stay in time."""
    out = samples.astype(np.float64)
    level = out.std() + 1e-6
    if rng.random() < 0.7:
        out = _equalise(out, rng, 4 + 6 * hard)
    if rng.random() < 0.3 + 0.3 * hard:
        out = _room(out, rng, hard)
    if rng.random() < 0.8:
        snr_db = rng.uniform(22 - 16 * hard, 40 - 20 * hard)
        noise = _noise(len(out), rng) if babble is None or rng.random() < 0.75 else np.resize(babble, len(out))
        out = out + noise / (noise.std() + 1e-9) * level * 10 ** (-snr_db / 20)
    if rng.random() < 0.15 + 0.2 * hard:
        music = _music(len(out), rng)
        out = out + music / music.std() * level * 10 ** (-rng.uniform(22 - 14 * hard, 30) / 20)
    if rng.random() < 0.15 + 0.25 * hard:
        out = _band(out, rng)
    if rng.random() < 0.3:
        out = _codec(out, rng)
    if rng.random() < 0.1 + 0.1 * hard:
        limit = np.quantile(np.abs(out), rng.uniform(0.98, 0.999))
        out = np.clip(out, -limit, limit)
    return (out / (np.abs(out).max() + 1e-9) * rng.uniform(0.1, 0.99)).astype(np.float32)


def _equalise(samples, rng, depth_db: float):
    knots = np.linspace(0, 1, 7)
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    position = np.log2(1 + frequency / 100) / np.log2(1 + SAMPLE_RATE / 200)
    curve_db = np.interp(position, knots, rng.normal(size=7) * depth_db / 2)
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (curve_db / 20), len(samples))


def _room(samples, rng, hard: float):
    decay_s = rng.uniform(0.1, 0.25 + 0.5 * hard)
    time = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.normal(size=len(time)) * 10 ** (-3 * time / decay_s)
    tail[: int(0.004 * SAMPLE_RATE)] = 0
    wet = rng.uniform(0.1, 0.3 + 0.5 * hard) / (np.linalg.norm(tail) + 1e-9)
    return samples + wet * fftconvolve(samples, tail)[: len(samples)]


def _noise(count: int, rng):
    """Noise with a spectrum between white and brown, sometimes with hum, sometimes coming and going."""
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.normal(size=count)) / np.maximum(frequency, 40) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, count)
    noise /= noise.std()
    if rng.random() < 0.2:
        time = np.arange(count) / SAMPLE_RATE
        noise += sum(rng.uniform(0, 1) * np.sin(2 * np.pi * 50 * k * time) for k in (1, 2, 3, 5))
    if rng.random() < 0.3:
        noise *= np.interp(np.arange(count), np.linspace(0, count, 8), rng.uniform(0.2, 1.5, 8))
    return noise


def _music(count: int, rng):
    """A few plucked chords with overtones, over and over."""
    out = np.zeros(count + SAMPLE_RATE)
    since = np.arange(SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    envelope, chords = np.exp(-since * rng.uniform(1, 5)), []
    for root in 110 * 2 ** (rng.integers(0, 24, 3) / 12):
        tones = root * 2 ** (np.array([0, rng.choice([3, 4]), 7]) / 12)
        phases = np.float32(2 * np.pi) * since * tones[:, None].astype(np.float32)
        chords.append(envelope * sum(np.sin(k * phases).sum(0) / k for k in (1, 2, 3, 4)))
    for start in np.arange(0, count, int(rng.uniform(0.3, 0.8) * SAMPLE_RATE)):
        out[start : start + SAMPLE_RATE] += chords[rng.integers(3)]
    return out[:count] + 1e-9


def _band(samples, rng):
    kind = rng.integers(3)
    if kind == 0:
        sos = butter(6, [300, 3400], "band", fs=SAMPLE_RATE, output="sos")
    elif kind == 1:
        sos = butter(8, rng.uniform(3300, 4000), fs=SAMPLE_RATE, output="sos")
    else:
        sos = butter(2, rng.uniform(80, 250), "high", fs=SAMPLE_RATE, output="sos")
    return sosfilt(sos, samples)


def _codec(samples, rng):
    """What low bit rates do: mu-law steps, or weak parts of the spectrum dropped frame by frame."""
    peak = np.abs(samples).max() + 1e-9
    if rng.random() < 0.4:
        scaled = np.sign(samples) * np.log1p(255 * np.abs(samples) / peak) / np.log(256)
        steps = np.round(scaled * 127) / 127
        return np.sign(steps) * np.expm1(np.abs(steps) * np.log(256)) / 255 * peak
    hop = 256
    padded = np.pad(samples, (hop, 2 * hop))
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop))
    out = np.zeros_like(padded)
    drop_db = rng.uniform(18, 40)
    for start in range(0, len(padded) - 2 * hop + 1, hop):
        spectrum = np.fft.rfft(padded[start : start + 2 * hop] * window)
        spectrum[np.abs(spectrum) < np.abs(spectrum).max() * 10 ** (-drop_db / 20)] = 0
        out[start : start + 2 * hop] += np.fft.irfft(spectrum) * window
    return out[hop : hop + len(samples)]
