"""The filter bank and cepstrum of MFCC (the values of python_speech_features), as plain arrays."""

import numpy as np
from scipy.fft import dct

from hdtalk.windows import FRAME_SAMPLES, SAMPLE_RATE

NUM_COEFFICIENTS = 12
INT16 = 32768.0  # python_speech_features is fed 16-bit integers; the same scale gives the same log energies
NUM_FFT, NUM_FILTERS, LIFTER, PREEMPHASIS = 512, 26, 22, 0.97
VOICE_BAND = slice(2, 19)  # filters between about 150 Hz and 4 kHz: telephone speech has them all


def cepstral_basis() -> np.ndarray:
    """`[12, 26]`: log filter energies times its transpose are MFCC 1 to 12."""
    return cepstrum(np.exp(np.eye(NUM_FILTERS)))[:, 1:].T


def centres_hz() -> np.ndarray:
    """Middle frequencies of the filters `[26]`, evenly spaced in mel."""
    return 700 * (10 ** (np.arange(1, NUM_FILTERS + 1) / (NUM_FILTERS + 1) * np.log10(1 + SAMPLE_RATE / 2 / 700)) - 1)


def tract_map(factor: float) -> np.ndarray:
    """`[12, 12]`: MFCC 1 to 12 times it are about those of the same words from a vocal tract `factor` times as long:
    every filter hears what lay at `factor` times its frequency."""
    mel_of = np.log10(1 + factor * centres_hz() / 700) * ((NUM_FILTERS + 1) / np.log10(1 + SAMPLE_RATE / 2 / 700)) - 1
    positions = np.clip(mel_of, 0, NUM_FILTERS - 1)
    moved = np.stack([np.interp(positions, np.arange(NUM_FILTERS), band) for band in np.eye(NUM_FILTERS)])
    basis = cepstral_basis()
    return np.linalg.pinv(basis).T @ moved @ basis.T


def full_scale_db() -> float:
    """Energy per row that counts as 0 dBFS."""
    return float(10 * np.log10(INT16**2 / 4 * FRAME_SAMPLES))


def cepstrum(filtered: np.ndarray) -> np.ndarray:
    """Liftered cosine transform of log filter energies `[rows, 26]` -> `[rows, 13]`."""
    order = np.arange(NUM_COEFFICIENTS + 1)
    lifter = 1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER)
    return dct(np.log(filtered), type=2, axis=-1, norm="ortho")[:, : NUM_COEFFICIENTS + 1] * lifter


def _mel_filters() -> np.ndarray:
    """Triangles `[26, 257]` between 0 and 8 kHz, corners on whole bins as python_speech_features has them."""
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, NUM_FILTERS + 2) / 2595) - 1)
    corners = np.floor((NUM_FFT + 1) * corners_hz / SAMPLE_RATE)
    bins = np.arange(NUM_FFT // 2 + 1)
    low, mid, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising = (bins - low) / np.maximum(mid - low, 1)
    falling = (high - bins) / np.maximum(high - mid, 1)
    return np.where((bins >= low) & (bins < mid), rising, np.where((bins >= mid) & (bins < high), falling, 0.0))


def _rounding_floor() -> np.ndarray:
    angle = 2 * np.pi * np.arange(NUM_FFT // 2 + 1) / NUM_FFT
    response = np.abs(1 - PREEMPHASIS * np.exp(-1j * angle)) ** 2
    return MEL_FILTERS @ (response * FRAME_SAMPLES / NUM_FFT / 12)


MEL_FILTERS = _mel_filters()
ROUNDING_FLOOR = _rounding_floor()
