"""Kokoro-82M as a source of speech with phone times: a neural synthesiser whose fifty voices sound like people.

    kokoro = Kokoro(folder)
    samples, sample_rate, phones = kokoro.speak("en-us+af_heart", "Good morning.")

The network says itself how long each sound lasts. Model and voices are Apache-2.0 (hexgrad/Kokoro-82M), the ONNX export
is MIT (thewh1teagle/kokoro-onnx); espeak-ng spells the sentence.
"""

import json
import re
import subprocess
from pathlib import Path

import numpy as np

from hdtalk.errors import UsageError
from scripts.speech.synthesisers import Phone

SAMPLE_RATE = 24000
FRAME_S = 600 / SAMPLE_RATE  # durations are counted in these
# a sound is heard this much before its turn; measured against the loudness of 21 sentences in seven voices
LAG_S = 0.06
DURATIONS = "/encoder/Clip_output_0"  # of each token, in frames; inside the export's graph
PAUSE_S = 0.1  # a shorter gap between words belongs to their sounds
# What the network's alphabet writes in one letter
LETTERS = {
    "eɪ": "A", "aɪ": "I", "oʊ": "O", "əʊ": "Q", "aʊ": "W", "ɔɪ": "Y", "dʒ": "ʤ", "tʃ": "ʧ", "dz": "ʣ", "ts": "ʦ",
    "əl": "ᵊl", "ɚ": "əɹ", "ɜː": "ɜɹ", "g": "ɡ",
}  # fmt: skip


class Kokoro:
    """folder: kokoro.onnx, the model's config.json ("vocab": sign -> number) and voices/NAME.bin, float32 [510,1,256]
    each, one style for each number of tokens. Raises UsageError where one of them lacks."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        for name in ("kokoro.onnx", "config.json", "voices"):
            if not (self.folder / name).exists():
                raise UsageError(f"{folder}: there is no {name}; make_speech_corpus --help says where it comes from.")
        import onnx
        import onnxruntime

        self.numbers = json.loads((self.folder / "config.json").read_text())["vocab"]
        self.styles: dict[str, np.ndarray] = {}
        model = onnx.load(self.folder / "kokoro.onnx")
        model.graph.output.append(onnx.ValueInfoProto(name=DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def speak(self, voice: str, text: str, rate: int = 170) -> tuple[np.ndarray, int, list[Phone]]:
        """Float64 samples, 24000 Hz, and (ipa, start_s, end_s) with "sil" for pauses. `voice` is LANGUAGE+NAME, or
        LANGUAGE+NAME~NAME~... for a voice in the middle of several, a person of its own."""
        language, names = voice.split("+")
        signs = _signs(text, language)
        tokens = [[self.numbers[letter] for letter in letters if letter in self.numbers] for _, letters in signs]
        flat = [number for group in tokens for number in group]
        styles = np.mean([self._styles(name) for name in names.split("~")], 0)
        inputs = {
            "tokens": np.array([[0, *flat, 0]]),
            "style": styles[min(len(flat), len(styles)) - 1],
            "speed": np.array([rate / 170], np.float32),
        }
        sound, frames = self.session.run(["audio", DURATIONS], inputs)
        ends_s = np.cumsum(frames.ravel()) * FRAME_S - LAG_S
        phones: list[Phone] = [("sil", 0.0, float(ends_s[0]))]
        first = 1
        for (ipa, _), group in zip(signs, tokens, strict=True):
            if group:
                phones.append((ipa, phones[-1][2], float(ends_s[first + len(group) - 1])))
                first += len(group)
        phones.append(("sil", phones[-1][2], float(sound.size / SAMPLE_RATE)))
        return sound.ravel().astype(np.float64), SAMPLE_RATE, _close_gaps(phones)

    def _styles(self, name: str) -> np.ndarray:
        if name not in self.styles:
            self.styles[name] = np.fromfile(self.folder / "voices" / f"{name}.bin", np.float32).reshape(-1, 1, 256)
        return self.styles[name]


def _signs(text: str, language: str) -> list[tuple[str, str]]:
    """(phone in IPA, the letters that the network reads for it); spaces and punctuation are "sil"."""
    signs = []
    for clause in re.findall(r"[^,;:.!?]+[,;:.!?]*", text):
        command = ["espeak-ng", "-q", "--ipa", "--sep=_", "-v", language, clause.strip()]
        spelt = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for word in re.sub(r"\([a-z-]+\)", "", spelt).split():
            for sound in word.strip("_").split("_"):
                plain = sound.strip("ˈˌ-")
                if not plain:
                    continue
                stress = sound[: len(sound) - len(sound.lstrip("ˈˌ"))]
                letters = LETTERS.get(plain, LETTERS.get(plain.rstrip("ː"), plain))
                if language.startswith("en"):  # the network's English has no length marks
                    letters = letters.replace("ː", "")
                signs.append((plain.replace("ː", ""), stress + letters))
            signs.append(("sil", " "))
        mark = clause.strip()[-1]
        if mark in ",;:.!?" and signs:
            signs[-1] = ("sil", mark + " ")
    signs[-1] = ("sil", signs[-1][1].strip())
    return signs


def _close_gaps(phones: list[Phone]) -> list[Phone]:
    """Shares what lies between two words, but for a pause, between the sounds beside it."""
    phones, out = list(phones), list[Phone]()
    for index, (ipa, start, end) in enumerate(phones):
        if ipa == "sil" and out and index + 1 < len(phones) and end - start < PAUSE_S:
            middle = (start + end) / 2
            out[-1] = (*out[-1][:2], middle)
            phones[index + 1] = (phones[index + 1][0], middle, phones[index + 1][2])
        elif end > start:
            out.append((ipa, max(0.0, start), end))
    return out
