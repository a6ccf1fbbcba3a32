"""Phones to mouth shapes: one table of visemes on the head's expression shapes, and coarticulation over time.

    weights = speech_weights([("HH", 0.10, 0.16), ("AH", 0.16, 0.25), ...], expression_names, fps=25, duration_s=3.2)

gives the speech part of the expression, [T,57] float32, frame t at time (t + 0.5) / fps. Phones are IPA (espeak-ng) or
ARPAbet (flite, festival: upper or lower case, stress digits allowed). Needs numpy alone.
"""
from functools import lru_cache

import numpy as np

# weights 0..1 on the expression shapes; a name without _L/_R means both sides. Each viseme: its shapes, how firmly it
# holds its place against its neighbours (0..1), and how far ahead of its sound it starts (s)
VISEME_TABLE = {
    "sil": ({}, 0.25, 0.08),
    "PP": ({"mouthClose": 0.06, "jawOpen": 0.06, "mouthPress": 0.45, "mouthRollLower": 0.30, "mouthRollUpper": 0.28},
           1.0, 0.05),
    "FF": ({"jawOpen": 0.09, "mouthRollLower": 0.75, "mouthUpperUp": 0.38, "mouthShrugLower": 0.25}, 0.95, 0.05),
    "TH": ({"jawOpen": 0.14, "mouthLowerDown": 0.35, "mouthUpperUp": 0.2}, 0.6, 0.05),
    "DD": ({"jawOpen": 0.11, "mouthLowerDown": 0.38, "mouthUpperUp": 0.2}, 0.5, 0.05),
    "kk": ({"jawOpen": 0.20, "mouthLowerDown": 0.25, "mouthUpperUp": 0.15}, 0.35, 0.05),
    "CH": ({"mouthFunnel": 0.62, "jawOpen": 0.10, "mouthUpperUp": 0.2, "mouthLowerDown": 0.2}, 0.8, 0.07),
    "SS": ({"mouthStretch": 0.35, "jawOpen": 0.04, "mouthLowerDown": 0.42, "mouthUpperUp": 0.28, "mouthSmile": 0.12},
           0.75, 0.05),
    "nn": ({"jawOpen": 0.12, "mouthLowerDown": 0.24, "mouthUpperUp": 0.12}, 0.4, 0.05),
    "RR": ({"mouthPucker": 0.35, "mouthFunnel": 0.28, "jawOpen": 0.12}, 0.6, 0.08),
    "aa": ({"jawOpen": 0.58, "mouthLowerDown": 0.25, "mouthUpperUp": 0.18}, 0.7, 0.08),
    "E": ({"jawOpen": 0.30, "mouthStretch": 0.30, "mouthLowerDown": 0.33, "mouthUpperUp": 0.22, "mouthSmile": 0.18},
          0.6, 0.07),
    "ih": ({"jawOpen": 0.17, "mouthSmile": 0.32, "mouthLowerDown": 0.33, "mouthUpperUp": 0.22}, 0.55, 0.07),
    "oh": ({"jawOpen": 0.38, "mouthFunnel": 0.62, "mouthPucker": 0.15}, 0.75, 0.10),
    "ou": ({"jawOpen": 0.13, "mouthPucker": 0.78, "mouthFunnel": 0.32}, 0.8, 0.12),
}
VISEMES = tuple(VISEME_TABLE)
EMOTION_TABLE = {
    "neutral": {},
    "happy": {"mouthSmile": 0.75, "cheekSquint": 0.6, "eyeSquint": 0.35, "mouthUpperUp": 0.2, "mouthDimple": 0.2},
    "sad": {"mouthFrown": 0.75, "browInnerUp": 0.8, "mouthShrugLower": 0.35, "eyeSquint": 0.15},
    "angry": {"browDown": 0.95, "noseSneer": 0.4, "eyeSquint": 0.5, "mouthPress": 0.35, "mouthFrown": 0.3,
              "mouthStretch": 0.15},
    "surprised": {"browInnerUp": 0.85, "browOuterUp": 0.9, "eyeWide": 0.85, "jawOpen": 0.30},
    "fear": {"browInnerUp": 0.9, "browDown": 0.25, "eyeWide": 0.8, "mouthStretch": 0.55, "jawOpen": 0.12},
    "disgust": {"noseSneer": 0.85, "mouthUpperUp": 0.45, "browDown": 0.5, "eyeSquint": 0.4, "mouthFrown": 0.3},
    "contempt": {"mouthSmile_L": 0.5, "mouthDimple_L": 0.6, "eyeSquint": 0.2, "browOuterUp_R": 0.3},
}


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
