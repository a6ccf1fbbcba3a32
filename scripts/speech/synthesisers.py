"""Free synthesisers as a source of speech with exact phone times: espeak-ng, flite and festival, on one interface.

    samples, sample_rate, phones = speak("espeak", "de+f2", "Guten Morgen.", rate=165, pitch=50)

`phones` is a list of (ipa, start_s, end_s); pauses are "sil". Debian packages: espeak-ng libespeak-ng1 flite festival
and the festvox voices.
"""

import ctypes
import io
import subprocess
import tempfile
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np

Phone = tuple[str, float, float]

# ARPAbet and its cousins, as flite and festival name their phones
ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "b": "b", "ch": "tʃ",
    "d": "d", "dh": "ð", "dx": "ɾ", "eh": "ɛ", "el": "l", "em": "m", "en": "n", "er": "ɝ", "ey": "eɪ", "f": "f",
    "g": "ɡ", "hh": "h", "hv": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n",
    "nx": "n", "ng": "ŋ", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t", "th": "θ",
    "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ", "pau": "sil", "h#": "sil", "brth": "sil",
    "ssil": "sil", "sil": "sil", "#": "sil",
}  # fmt: skip
# festival's voices of other languages: letters with a length or stress mark
LETTERS = {
    "a": "a", "e": "e", "i": "i", "o": "o", "u": "u", "y": "y", "ä": "æ", "ö": "ø", "{": "æ", "[": "ø", "@": "ə",
    "b": "b", "c": "ts", "d": "d", "f": "f", "g": "ɡ", "h": "h", "j": "j", "k": "k", "l": "l", "m": "m", "n": "n",
    "p": "p", "r": "r", "s": "s", "t": "t", "v": "v", "w": "w", "x": "x", "z": "z", "S": "ʃ", "Z": "ʒ", "N": "ŋ",
    "E": "ɛ", "O": "ɔ", "J": "ɲ", "L": "ʎ", "ts": "ts", "tS": "tʃ", "dz": "dz", "dZ": "dʒ", "nf": "ɱ", "ng": "ŋ",
}  # fmt: skip
# what a language spells otherwise, by a part of its voices' names; Hindi's names are mostly ARPAbet's
_ITALIC = {"rr": "r", "ax": "ə", "pau": "sil", "#": "sil"}
LANGUAGES = {
    "czech": {
        "ch": "x", "c~": "tʃ", "s~": "ʃ", "z~": "ʒ", "r~": "r̝", "r~*": "r̝", "dz~": "dʒ", "n~": "ɲ", "n*": "ŋ",
        "t~": "c", "d~": "ɟ", "_": "ʔ", "#": "sil",
    },
    "fi_": {"@": "æ", "7": "ø", "&": "ə", "T": "θ", "D": "ð", "L": "l", "#": "sil"},
    "lp_": _ITALIC, "pc_": _ITALIC, "upc_ca": _ITALIC,
    "msu_ru": {
        "y": "ɨ", "yy": "ɨ", "ae": "ə", "ay": "ɪ", "ur": "ʊ", "ch": "tɕ", "sch": "ɕ", "sh": "ʂ", "zh": "ʐ", "h": "x",
        "hh": "x", "pau": "sil",
    },
    "hindi": ARPABET | {
        "r": "ɾ", "R": "ɽ", "oh": "o", "oo": "o", "ee": "e", "j": "dʒ", "th": "t", "dh": "d", "tth": "t", "ddh": "d",
        "T": "ʈ", "D": "ɖ", "N": "ɳ", "L": "ɭ", "ksh": "kʂ", "sri": "ʃ",
    },
}  # fmt: skip
ENCODINGS = {"czech": "iso-8859-2", "fi_": "iso-8859-1", "lp_": "iso-8859-1", "pc_": "iso-8859-1", "ona": "iso-8859-1"}


def speak(engine: str, voice: str, text: str, rate: int = 170, pitch: int = 50) -> tuple[np.ndarray, int, list[Phone]]:
    """Float64 samples in [-1,1], their rate, and timed phones. `rate` in words a minute and `pitch` 0..99 are
    espeak's; the recorded voices of the others keep their own."""
    if engine == "espeak":
        return _espeak(voice, text, rate, pitch)
    return (_flite if engine == "flite" else _festival)(voice, text)


def _flite(voice: str, text: str) -> tuple[np.ndarray, int, list[Phone]]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        samples, sample_rate = _read_wav(file.name)
    ends = [token.rsplit(":", 1) for token in said.split()]
    # the diphone voices speak up to 3 % faster than their plan says
    pace = len(samples) / sample_rate / float(ends[-1][1])
    return samples, sample_rate, _phones([(name, float(end) * pace) for name, end in ends])


def _festival(voice: str, text: str) -> tuple[np.ndarray, int, list[Phone]]:
    with tempfile.TemporaryDirectory() as folder:
        quoted = text.replace("\\", "").replace('"', "")
        script = f"""(voice_{voice}) (set! utt (SynthText "{quoted}")) (utt.save.segs utt "{folder}/segments")
            (utt.save.wave utt "{folder}/sound.wav" (quote riff))"""
        encoding = next((code for part, code in ENCODINGS.items() if part in voice), "utf-8")
        for attempt in (1, 2, 3):  # now and then it dies of a segmentation fault, and the next try succeeds
            done = subprocess.run(["festival", "--pipe"], input=script.encode(encoding, "replace"), capture_output=True)
            if done.returncode == 0:
                break
            if attempt == 3:
                done.check_returncode()
        samples, sample_rate = _read_wav(f"{folder}/sound.wav")
        lines = Path(folder, "segments").read_text(errors="replace").split("#\n", 1)[1].split("\n")
    ends = [(f[2], float(f[0])) for f in map(str.split, lines) if len(f) >= 3]
    return samples, sample_rate, _phones(ends, voice)


def _phones(ends: list[tuple[str, float]], voice: str = "") -> list[Phone]:
    """Phones that end at these times; English ones, but for voices of LANGUAGES. An unknown name is a schwa."""
    language = next((own for part, own in LANGUAGES.items() if part in voice), None)
    alphabet = ARPABET if language is None else LETTERS | language
    phones, start = [], 0.0
    for name, end in ends:
        plain = name.rstrip("0123456789:") or name
        spellings = (name, plain, name[:1])  # long, stressed and soft sounds look like the plain ones
        phones.append((next((alphabet[s] for s in spellings if s in alphabet), "ə"), start, end))
        start = end
    return phones


def _read_wav(path: str) -> tuple[np.ndarray, int]:
    with wave.open(path) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, file.getnchannels())
        return samples[:, 0] / 32768.0, file.getframerate()


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("text", ctypes.c_char * 8),
    ]


@lru_cache
def _espeak_library():
    library = ctypes.CDLL("libespeak-ng.so.1")
    sample_rate = library.espeak_Initialize(2, 0, None, 1 | 2)  # synchronous; phoneme events, in IPA
    sound, events = io.BytesIO(), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
    def receive(samples, count, event):
        if samples and count > 0:
            sound.write(ctypes.string_at(samples, 2 * count))
        index = 0
        while event[index].type != 0:
            if event[index].type == 7:
                events.append((event[index].audio_position / 1000, event[index].text.decode("utf-8", "ignore")))
            index += 1
        return 0

    library.espeak_SetSynthCallback(receive)
    return library, sample_rate, sound, events, receive


def _espeak(voice: str, text: str, rate: int, pitch: int) -> tuple[np.ndarray, int, list[Phone]]:
    library, sample_rate, sound, events, _ = _espeak_library()
    sound.seek(0)
    sound.truncate()
    events.clear()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice}")
    for parameter, value in ((1, rate), (3, pitch)):
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    samples = np.frombuffer(sound.getvalue(), np.int16) / 32768.0
    times = [*events, (len(samples) / sample_rate, "")]
    phones: list[Phone] = []
    for (start, ipa), (end, _) in zip(times, times[1:], strict=False):
        ipa = ipa.strip("ˈˌ_: |;").replace("ː", "")
        if ipa or not phones:
            phones.append((ipa or "sil", start, end))
        elif end > start:
            phones.append(("sil", start, end))
    return samples, sample_rate, [phone for phone in phones if phone[2] > phone[1]]
