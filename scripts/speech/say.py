"""One sentence in an emotion's voice, with timed phones: what the test set and the measure of landmarks are made of."""

import numpy as np

from scripts.speech.synthesisers import Phone, speak
from scripts.speech.voice_emotion import express

SAMPLE_RATE = 16000
LEAD_S, TAIL_S = 0.2, 0.25  # of silence around the speech


def say(voice: str, text: str, emotion: str, level: int, seed: int) -> tuple[np.ndarray, list[Phone], float]:
    """flite's `voice` says `text`: samples at 16 kHz with silence before them, phones (name, start_s, end_s), and the
    time in seconds at which the silence after them ends."""
    samples, rate, phones = speak("flite", voice, text)
    if rate != SAMPLE_RATE:
        raise SystemExit(f"flite's voice {voice} speaks at {rate} Hz; expected {SAMPLE_RATE}.")
    samples, stretch = express(samples, rate, emotion, level, np.random.default_rng([seed, len(text), level]))
    spoken = [(phone, start * stretch, end * stretch) for phone, start, end in phones if phone != "sil"]
    first, last = spoken[0][1], spoken[-1][2]
    samples = samples[int(first * rate) : int((last + 0.05) * rate)]
    samples = np.concatenate([np.zeros(int(LEAD_S * rate)), 0.7 * samples / np.abs(samples).max()])
    return samples, [(p, a - first + LEAD_S, b - first + LEAD_S) for p, a, b in spoken], last - first + LEAD_S + TAIL_S
