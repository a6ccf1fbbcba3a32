"""Phones to mouth shapes: one table of visemes on the head's expression shapes, and coarticulation over time.

    weights = speech_weights([("HH", 0.10, 0.16), ("AH", 0.16, 0.25), ...], expression_names, fps=25, duration_s=3.2)

gives the speech part of the expression, [T,57] float32, frame t at time (t + 0.5) / fps. Phones are IPA (espeak-ng) or
ARPAbet (flite, festival: upper or lower case, stress digits allowed). Needs numpy alone.
"""

import unicodedata
from functools import cache, lru_cache

import numpy as np

# weights 0..1 on the expression shapes; a name without _L/_R means both sides. Each viseme: its shapes, how firmly it
# holds its place against its neighbours, and how long it starts before its sound (s)
VISEME_TABLE = {
    "sil": ({}, 0.8, 0.02),
    "PP": (
        {"mouthClose": 0.06, "jawOpen": 0.06, "mouthPress": 0.45, "mouthRollLower": 0.30, "mouthRollUpper": 0.28},
        12.0,
        0.02,
    ),
    "FF": ({"jawOpen": 0.09, "mouthRollLower": 0.75, "mouthUpperUp": 0.38, "mouthShrugLower": 0.25}, 9.0, 0.02),
    "TH": ({"jawOpen": 0.14, "mouthLowerDown": 0.35, "mouthUpperUp": 0.2}, 0.9, 0.02),
    "DD": ({"jawOpen": 0.11, "mouthLowerDown": 0.38, "mouthUpperUp": 0.2}, 0.7, 0.02),
    "kk": ({"jawOpen": 0.20, "mouthLowerDown": 0.25, "mouthUpperUp": 0.15}, 0.45, 0.02),
    "CH": ({"mouthFunnel": 0.62, "jawOpen": 0.10, "mouthUpperUp": 0.2, "mouthLowerDown": 0.2}, 1.6, 0.04),
    "SS": (
        {"mouthStretch": 0.35, "jawOpen": 0.04, "mouthLowerDown": 0.42, "mouthUpperUp": 0.28, "mouthSmile": 0.12},
        1.4,
        0.02,
    ),
    "nn": ({"jawOpen": 0.12, "mouthLowerDown": 0.24, "mouthUpperUp": 0.12}, 0.6, 0.02),
    "RR": ({"mouthPucker": 0.35, "mouthFunnel": 0.28, "jawOpen": 0.12}, 0.9, 0.04),
    "aa": ({"jawOpen": 0.58, "mouthLowerDown": 0.25, "mouthUpperUp": 0.18}, 1.2, 0.03),
    "E": (
        {"jawOpen": 0.30, "mouthStretch": 0.30, "mouthLowerDown": 0.33, "mouthUpperUp": 0.22, "mouthSmile": 0.18},
        1.0,
        0.03,
    ),
    "ih": ({"jawOpen": 0.17, "mouthSmile": 0.32, "mouthLowerDown": 0.33, "mouthUpperUp": 0.22}, 0.9, 0.03),
    "oh": ({"jawOpen": 0.38, "mouthFunnel": 0.62, "mouthPucker": 0.15}, 1.3, 0.05),
    "ou": ({"jawOpen": 0.13, "mouthPucker": 0.78, "mouthFunnel": 0.32}, 1.5, 0.07),
}
VISEMES = tuple(VISEME_TABLE)
EMOTION_TABLE = {
    "neutral": {},
    "happy": {"mouthSmile": 0.75, "cheekSquint": 0.6, "eyeSquint": 0.35, "mouthUpperUp": 0.2, "mouthDimple": 0.2},
    "sad": {"mouthFrown": 0.75, "browInnerUp": 0.8, "mouthShrugLower": 0.35, "eyeSquint": 0.15},
    "angry": {
        "browDown": 0.95,
        "noseSneer": 0.4,
        "eyeSquint": 0.5,
        "mouthPress": 0.35,
        "mouthFrown": 0.3,
        "mouthStretch": 0.15,
    },
    "surprised": {"browInnerUp": 0.85, "browOuterUp": 0.9, "eyeWide": 0.85, "jawOpen": 0.30},
    "fear": {"browInnerUp": 0.9, "browDown": 0.25, "eyeWide": 0.8, "mouthStretch": 0.55, "jawOpen": 0.12},
    "disgust": {"noseSneer": 0.85, "mouthUpperUp": 0.45, "browDown": 0.5, "eyeSquint": 0.4, "mouthFrown": 0.3},
    "contempt": {"mouthSmile_L": 0.5, "mouthDimple_L": 0.6, "eyeSquint": 0.2, "browOuterUp_R": 0.3},
}


ARPABET = {
    "AA": "aa",
    "AE": "E",
    "AH": "aa",
    "AX": "kk",
    "AO": "oh",
    "AW": "aa ou",
    "AY": "aa ih",
    "EH": "E",
    "ER": "RR",
    "AXR": "RR",
    "EY": "E ih",
    "IH": "ih",
    "IX": "ih",
    "IY": "ih",
    "OW": "oh ou",
    "OY": "oh ih",
    "UH": "ou",
    "UW": "ou",
    "B": "PP",
    "P": "PP",
    "M": "PP",
    "F": "FF",
    "V": "FF",
    "TH": "TH",
    "DH": "TH",
    "T": "DD",
    "D": "DD",
    "DX": "DD",
    "N": "nn",
    "L": "nn",
    "NG": "kk",
    "K": "kk",
    "G": "kk",
    "HH": "kk",
    "CH": "CH",
    "JH": "CH",
    "SH": "CH",
    "ZH": "CH",
    "S": "SS",
    "Z": "SS",
    "R": "RR",
    "W": "ou",
    "Y": "ih",
    "PAU": "sil",
    "SIL": "sil",
    "H#": "sil",
    "SP": "sil",
    "BRTH": "sil",
    "SSIL": "sil",
    "_": "sil",
}
IPA = {
    viseme: set(letters)
    for viseme, letters in {
        "PP": "pbmɓ",
        "FF": "fvɱʋɸβ",
        "TH": "θð",
        "DD": "tdɾɖʈ",
        "kk": "kgɡxɣqχhɦcɟŋəɘɵɤʔʕħʁʀ",
        "CH": "ʃʒɕʑʂʐç",
        "SS": "sz",
        "nn": "nlɲɳʎɭɫrɬɮ",
        "RR": "ɹɻɚɝɜ",
        "aa": "aɑʌɒɐα",
        "E": "eɛæœøɞ",
        "ih": "iɪjɨ",
        "oh": "oɔɶ",
        "ou": "uʊwyʏɯʉɥʍ",
        "sil": "_|‖#.",
    }.items()
}
VOWELS = ("aa", "E", "ih", "oh", "ou", "RR")
REACH_S, CLOSURE_REACH_S = 0.05, 0.020  # how far a mouth shape spreads beyond its sound
OPENING_SHAPES = ("jawOpen", "mouthUpperUp", "mouthStretch", "mouthLowerDown")
FULL_OPENING = 0.25  # of the jaw, by the speech
CLOSURES = ("PP", "FF")  # reached in full, however short
STEPS = 4  # times per frame at which the mouth is worked out


def speech_weights(phones, names: list[str], fps: float = 25.0, duration_s: float | None = None) -> np.ndarray:
    """Expression weights [T,57] float32 of timed speech, by dominance functions (Cohen and Massaro 1993): each sound
    pulls the mouth towards its shape, the more firmly the more its shape matters, and spreads into its neighbours.

    phones: (phone, start_s, end_s) in order; silence may be left out. names: HeadLandmarks.expression_names.
    duration_s: of the result; the last phone's end if None."""
    duration_s = max((end for _, _, end in phones), default=0.0) if duration_s is None else duration_s
    count = max(1, round(duration_s * fps))
    shares = viseme_shares(phones, (np.arange(count * STEPS) + 0.5) / (fps * STEPS)).reshape(count, STEPS, -1)
    mean, peak = shares.mean(1), shares.max(1)
    closed = [VISEMES.index(name) for name in CLOSURES]
    held = np.clip(0.65 * (peak + mean)[:, closed] - 0.1, 0, 1)  # one between two frames would be lost
    held /= np.maximum(held.sum(1, keepdims=True), 1)
    mean[:, closed] = 0
    mean *= (1 - held.sum(1, keepdims=True)) / np.maximum(mean.sum(1, keepdims=True), 1e-6)
    mean[:, closed] = held
    return (mean @ viseme_weights(names)).astype(np.float32)


def emotional_speech(emotion, speech, names: list[str], articulation: float = 1.0) -> np.ndarray:
    """What the mouth says and the emotion on the face, expression weights [T,57] each, together. Shapes of the emotion
    that part the lips count only as far as the speech opens the mouth, so lips still meet for /p b m/ and in pauses.
    `articulation`: factor on what the mouth says."""
    opening = [name.removesuffix("_L").removesuffix("_R") in OPENING_SHAPES for name in names]
    openness = np.clip(speech[:, names.index("jawOpen")] / FULL_OPENING, 0, 1)[:, None]
    return articulation * speech + np.where(opening, emotion * openness, emotion)


def viseme_shares(phones, times_s: np.ndarray) -> np.ndarray:
    """How much each viseme holds the mouth, [len(times_s),15], rows sum to 1."""
    pulls = np.zeros((len(times_s), len(VISEMES)))
    for viseme, start, end in viseme_segments(phones, float(times_s[-1])):
        _, firmness, lead = VISEME_TABLE[viseme]
        before, after = np.maximum(start - lead - times_s, 0), np.maximum(times_s - end, 0)
        inside = np.minimum(1.0, (end - start + lead) / 0.06)  # a hurried sound is not reached in full
        reach = REACH_S
        if viseme in CLOSURES:
            inside, reach = 1.0, CLOSURE_REACH_S
        pulls[:, VISEMES.index(viseme)] += firmness * inside * np.exp(-(((before + after) / reach) ** 1.3))
    pulls[:, 0] += 1e-4  # far from every sound: closed and at rest
    return pulls / pulls.sum(1, keepdims=True)


def viseme_segments(phones, until_s: float) -> list[tuple[str, float, float]]:
    """(viseme, start_s, end_s) of timed phones, diphthongs parted, silence filled in."""
    segments, last = [], 0.0
    for phone, start, end in phones:
        if start > last + 0.03:
            segments.append(("sil", last, start))
        visemes = visemes_of(phone)
        length = (end - start) / len(visemes)
        segments += [(v, start + k * length, start + (k + 1) * length) for k, v in enumerate(visemes)]
        last = max(last, end)
    if until_s > last:
        segments.append(("sil", last, until_s))
    return segments


@cache
def visemes_of(phone: str) -> tuple[str, ...]:
    """The visemes of one phone: one, or two for diphthongs. Unknown signs count as a weak, half-open mouth."""
    plain = phone.strip().rstrip("012")
    if not plain:
        return ("sil",)
    if plain.isascii() and (len(plain) > 1 or plain.isupper()) and plain.upper() in ARPABET:
        return tuple(ARPABET[plain.upper()].split())
    found = []
    for letter in unicodedata.normalize("NFD", plain):
        viseme = next((name for name, letters in IPA.items() if letter in letters), None)
        if viseme and (not found or found[-1] != viseme):
            found.append(viseme)
    if len(found) > 1 and any(v not in VOWELS for v in found):  # affricates: their second part shows
        found = [v for v in found if v not in ("DD", "kk")] or found[:1]
    return tuple(found[:2]) or ("kk",)


@lru_cache
def _table(kind: str, names: tuple) -> np.ndarray:
    entries = [row[0] for row in VISEME_TABLE.values()] if kind == "viseme" else list(EMOTION_TABLE.values())
    table = np.zeros((len(entries), len(names)), np.float32)
    for row, shapes in zip(table, entries, strict=True):
        for shape, value in shapes.items():
            row[[i for i, name in enumerate(names) if name in (shape, shape + "_L", shape + "_R")]] += value
    return table


def viseme_weights(names: list[str]) -> np.ndarray:
    """Expression weights [15,57] of the visemes, in the order of VISEMES."""
    return _table("viseme", tuple(names))


def emotion_weights(names: list[str]) -> np.ndarray:
    """Expression weights [8,57] of the emotions at full intensity, in the order of EMOTION_TABLE."""
    return _table("emotion", tuple(names))
