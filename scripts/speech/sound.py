"""First half of the corpus: every speaker says every sentence in eight emotions -> wav files and phone times."""

import json
import logging
import wave
from pathlib import Path

import numpy as np
import parselmouth
from parselmouth.praat import call
from scipy.signal import resample_poly

from scripts.speech.kokoro import Kokoro
from scripts.speech.speakers import Speaker
from scripts.speech.synthesisers import speak
from scripts.speech.voice_emotion import EMOTIONS, express

SAMPLE_RATE = 16000
MIN_CLOSURE_S = 0.06  # espeak's event marks the burst of some stops; the lips close before it


def record(speaker: Speaker, out: Path, kokoro: Kokoro | None = None) -> int:
    """Writes audio/EMOTION/level_N/NNN.wav and phones/.../NNN.json of one speaker; returns the number of clips."""
    rng = np.random.default_rng(speaker.head_seed)
    clips = 0
    for number, text in enumerate(speaker.sentences, 1):
        if speaker.engine == "kokoro":
            samples, sample_rate, phones = kokoro.speak(speaker.voice, text, speaker.rate)
        else:
            samples, sample_rate, phones = speak(speaker.engine, speaker.voice, text, speaker.rate, speaker.pitch)
        if speaker.formant_ratio != 1.0:
            sound = parselmouth.Sound(samples, sample_rate)
            samples = call(sound, "Change gender", 60, 500, speaker.formant_ratio, 0, 1, 1).values[0][: len(samples)]
        samples, phones = _trim(samples, sample_rate, phones)
        for emotion in EMOTIONS if not speaker.reader else [EMOTIONS[number % len(EMOTIONS)]]:
            level = 1 if emotion == "neutral" else int(rng.integers(1, 4))
            voiced, stretch = express(samples, sample_rate, emotion, level, rng, speaker.pitch_st)
            voiced = resample_poly(voiced, SAMPLE_RATE, sample_rate)
            before_s, after_s = rng.uniform(0.15, 0.6, 2)
            voiced = np.pad(voiced, (round(before_s * SAMPLE_RATE), round(after_s * SAMPLE_RATE)))
            voiced *= 0.9 / max(0.9, np.abs(voiced).max() * 1.05)
            folder = Path(emotion, f"level_{level}")
            _write_wav(out / "audio" / folder / f"{number:03d}.wav", voiced)
            timed = [(ipa, start * stretch + before_s, end * stretch + before_s) for ipa, start, end in phones]
            record = {"text": text, "duration_s": len(voiced) / SAMPLE_RATE, "phones": _closures(timed)}
            path = out / "phones" / folder / f"{number:03d}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, ensure_ascii=False))
            clips += 1
    logging.info("%s %s: %d clips", speaker.name, speaker.voice, clips)
    return clips


def _trim(samples, sample_rate: int, phones):
    """Cuts the silence that some synthesisers put around a sentence to 50 ms."""
    spoken = [phone for phone in phones if phone[0] != "sil"]
    start = max(0.0, spoken[0][1] - 0.05)
    end = min(len(samples) / sample_rate, spoken[-1][2] + 0.05)
    kept = [(ipa, max(a, start) - start, min(b, end) - start) for ipa, a, b in phones if b > start and a < end]
    return samples[round(start * sample_rate) : round(end * sample_rate)] * (0.15 / max(1e-4, samples.std())), kept


def _closures(phones):
    """Gives every /p b m/ at least MIN_CLOSURE_S, taken from the phone before."""
    out = []
    for ipa, start, end in phones:
        if ipa[:1] in ("p", "b", "m") and end - start < MIN_CLOSURE_S and out:
            start = max(out[-1][1] + 0.02, end - MIN_CLOSURE_S)
            out[-1] = (*out[-1][:2], min(out[-1][2], start))
        out.append((ipa, round(start, 4), round(end, 4)))
    return out


def _write_wav(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes())
