"""Who speaks in the corpus: a voice of a synthesiser, moved in formants and pitch, on a head of its own."""

from dataclasses import dataclass

import numpy as np

from scripts.speech.sentences import HELD_OUT, MORE, TRAIN, invented


@dataclass(frozen=True)
class Speaker:
    name: str
    split: str  # train, validation, test
    engine: str
    voice: str
    sentences: tuple[str, ...]
    rate: int = 170
    pitch: int = 50
    formant_ratio: float = 1.0
    pitch_st: float = 0.0
    articulation: float = 1.0
    head_seed: int = 0
    reader: bool = False  # says each sentence once, in one emotion; the others say each in all of them


ESPEAK = [
    *[("en-us", v) for v in ("m1", "f2", "klatt2", "Andy", "f5")],
    *[("en", v) for v in ("m3", "f1", "Annie", "m7")],
    *[("en-gb-scotland", v) for v in ("f4", "m8")],
    *[("de", v) for v in ("m2", "f3", "klatt")],
    *[("fr", v) for v in ("m4", "f2")],
    *[("es", v) for v in ("m5", "f1")],
    *[("it", v) for v in ("m6", "f4")],
    *[("nl", v) for v in ("m7", "f5")],
    *[("pt-br", v) for v in ("m1", "f3")],
    *[("fi", v) for v in ("m3",)],
    *[("sv", v) for v in ("f2", "m2")],
    *[("tr", v) for v in ("f4", "m5")],
    *[("cs", v) for v in ("m8",)],
    *[("ru", v) for v in ("f1", "m4")],
]
FLITE = [("slt", 1.0, 0), ("slt", 0.86, -7), ("slt", 1.08, 2), ("rms", 1.0, 0), ("rms", 1.14, 7), ("rms", 0.94, -2)]
FLITE += [("kal16", 1.0, 0), ("kal16", 1.12, 6), ("kal", 1.0, 2)]
FESTIVAL = [
    ("cmu_us_slt_arctic_hts", "en", 1.0, 0),
    ("cmu_us_slt_arctic_hts", "en", 0.9, -5),
    ("kal_diphone", "en", 1.0, 0),
    ("kal_diphone", "en", 1.15, 8),
    ("czech_ph", "cs", 1.0, 0),
    ("hy_fi_mv_diphone", "fi", 1.0, 0),
    ("suo_fi_lj_diphone", "fi", 1.0, 0),
    ("lp_diphone", "it", 1.0, 0),
    ("hindi_NSK_diphone", "hi", 1.0, 0),
    ("hindi_NSK_diphone", "hi", 1.15, 6),
    ("upc_ca_ona_hts", "ca", 1.0, 0),
    ("msu_ru_nsh_clunits", "ru", 1.0, 0),
]
VALIDATION = [
    ("espeak", "hr+f3", "hr", 1.0, 0),
    ("espeak", "en-us+klatt4", "en", 1.0, 0),
    ("festival", "pc_diphone", "it", 1.0, 0),
]
# Never trained on: flite's awb, a recorded Scottish speaker, and espeak-ng's Polish
TEST = [
    ("flite", "awb", "en", 1.0, 0),
    ("flite", "awb", "en", 1.1, 4),
    ("espeak", "pl+m3", "pl", 1.0, 0),
    ("espeak", "pl+f2", "pl", 1.0, 0),
]
# Added after the others, so that those stay what they were
LATER = [
    *[("flite", "slt", "en", ratio, st) for ratio, st in ((0.95, -2), (0.9, -4), (0.8, -9), (1.15, 4), (1.02, 1))],
    *[("flite", "rms", "en", ratio, st) for ratio, st in ((1.05, 3), (1.1, 4), (0.88, -4), (1.2, 10), (0.98, 1))],
    *[("flite", "kal16", "en", ratio, st) for ratio, st in ((0.92, -2), (1.06, 3), (1.18, 9))],
    *[("festival", "cmu_us_slt_arctic_hts", "en", ratio, st) for ratio, st in ((1.08, 3), (0.82, -8), (0.96, -1))],
    *[("festival", "kal_diphone", "en", ratio, st) for ratio, st in ((0.93, -2), (1.08, 4))],
    ("festival", "czech_ph", "cs", 1.12, 7),
    ("festival", "lp_diphone", "it", 0.87, -6),
    ("festival", "lp_diphone", "it", 1.06, 2),
    ("festival", "hindi_NSK_diphone", "hi", 0.92, -3),
    ("festival", "upc_ca_ona_hts", "ca", 0.88, -6),
    ("festival", "msu_ru_nsh_clunits", "ru", 1.1, 4),
    ("festival", "suo_fi_lj_diphone", "fi", 0.88, -6),
    *[("espeak", f"en-us+{v}", "en", 1.0, 0) for v in ("f4", "m2", "belinda", "klatt5", "Mike", "steph")],
    *[("espeak", f"en-gb-x-rp+{v}", "en", 1.0, 0) for v in ("m6", "f3", "Andrea")],
    *[("espeak", f"en+{v}", "en", 1.0, 0) for v in ("f5", "victor", "m8")],
    *[("espeak", f"de+{v}", "de", 1.0, 0) for v in ("f5", "m6")],
    *[("espeak", f"fr+{v}", "fr", 1.0, 0) for v in ("f5", "m8")],
    *[("espeak", f"es+{v}", "es", 1.0, 0) for v in ("f3", "m1")],
    *[("espeak", f"it+{v}", "it", 1.0, 0) for v in ("f2", "m3")],
    *[("espeak", f"cs+{v}", "cs", 1.0, 0) for v in ("f1", "m3")],
    *[("espeak", f"ru+{v}", "ru", 1.0, 0) for v in ("f4", "m2")],
]
# Say many sentences once: few sentences teach few neighbourhoods of sounds
READERS = [
    *[("flite", "slt", "en", ratio, st) for ratio, st in ((1.0, 1), (0.92, -3), (1.1, 3), (0.84, -8))],
    *[("flite", "rms", "en", ratio, st) for ratio, st in ((1.0, -1), (1.12, 5), (0.92, -3), (1.18, 8))],
    *[("flite", "kal16", "en", ratio, st) for ratio, st in ((1.03, 1), (0.95, -2))],
    *[("festival", "cmu_us_slt_arctic_hts", "en", ratio, st) for ratio, st in ((1.03, 1), (0.87, -6))],
    *[("festival", "kal_diphone", "en", ratio, st) for ratio, st in ((1.04, 2), (0.96, -2))],
    ("festival", "czech_ph", "cs", 1.05, 3),
    ("festival", "lp_diphone", "it", 0.96, -2),
    ("festival", "upc_ca_ona_hts", "ca", 1.05, 2),
    ("festival", "suo_fi_lj_diphone", "fi", 1.05, 1),
    *[("espeak", f"en-us+{v}", "en", 1.0, 0) for v in ("m4", "f1", "klatt3", "Alex")],
    *[("espeak", f"en-gb-scotland+{v}", "en", 1.0, 0) for v in ("m3", "f2")],
    *[
        ("espeak", f"{v}", v[:2], 1.0, 0)
        for v in ("de+m8", "fr+f1", "es+m7", "it+m1", "cs+f5", "nl+m3", "tr+m2", "fi+f2")
    ],
]
# Added last: four more recorded voices
LAST = [
    *[("festival", "ked_diphone", "en", ratio, st) for ratio, st in ((1.0, 0), (1.1, 5), (0.92, -3))],
    *[("festival", "czech_dita", "cs", ratio, st) for ratio, st in ((1.0, 0), (0.88, -5))],
    *[("festival", "czech_machac", "cs", ratio, st) for ratio, st in ((1.0, 0), (1.12, 6))],
    *[("festival", "czech_krb", "cs", ratio, st) for ratio, st in ((1.0, 0), (0.84, -7))],
]
LAST_READERS = [
    *[("festival", "ked_diphone", "en", ratio, st) for ratio, st in ((1.0, 1), (1.06, 3), (0.95, -2), (1.16, 8))],
    *[("festival", "czech_dita", "cs", ratio, st) for ratio, st in ((1.04, 1), (0.94, -2))],
    *[("festival", "czech_machac", "cs", ratio, st) for ratio, st in ((1.04, 2), (0.95, -1))],
    ("festival", "czech_krb", "cs", 0.92, -3),
]
# Kokoro's voices, in English and in their own language; two of them are heard by no training
KOKORO = {
    "en-us": "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sky am_adam am_echo "
    "am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa ef_dora em_alex em_santa ff_siwis hf_alpha hf_beta "
    "hm_omega hm_psi if_sara im_nicola jf_alpha jf_gongitsune jf_nezumi jf_tebukuro jm_kumo pf_dora pm_alex pm_santa "
    "zf_xiaobei zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunjian zm_yunxi zm_yunxia zm_yunyang",
    "en-gb": "bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george",
    "es": "ef_dora em_alex em_santa",
    "fr-fr": "ff_siwis",
    "it": "if_sara im_nicola",
    "pt-br": "pf_dora pm_alex pm_santa",
}
KOKORO_HELD_OUT = {"en-us": "af_sarah", "en-gb": "bm_lewis"}
# In English, and as persons between two of the first ones, moved in formants and pitch: from the voices as they come, a
# network learns these voices rather than speech
KOKORO_BETWEEN = 64
LOW = ("rms", "kal", "awb", "ked")
SENTENCES_PER_SPEAKER = 5
SENTENCES_PER_READER = 40
SENTENCES_PER_KOKORO = 16
KOKORO_EMPHASIS = 2.0  # they are a third of the speakers, and the nearest to people


def speakers() -> list[Speaker]:
    """All speakers, the same on every call: MEAD-like names, M or W and a number by split."""
    rng = np.random.default_rng(20)
    rows = [("train", "espeak", f"{language}+{variant}", language[:2], 1.0, 0) for language, variant in ESPEAK]
    rows += [("train", "flite", voice, "en", ratio, st) for voice, ratio, st in FLITE]
    rows += [("train", "festival", *row) for row in FESTIVAL]
    rows += [("validation", *row) for row in VALIDATION] + [("test", *row) for row in TEST]
    first_later, reads = len(rows), [False] * len(rows)
    for group, reader in ((LATER, False), (READERS, True), (LAST, False), (LAST_READERS, True)):
        rows += [("train", *row) for row in group]
        reads += [reader] * len(group)
    for split, voices in (("train", KOKORO), ("validation", KOKORO_HELD_OUT)):
        group = [
            (split, "kokoro", f"{k}+{name}", k[:2], 1.0, 0) for k, names in voices.items() for name in names.split()
        ]
        rows += group
        reads += [True] * len(group)
    between = np.random.default_rng(21)
    for _ in range(KOKORO_BETWEEN):
        language = ("en-us", "en-gb")[int(between.random() < 0.25)]
        pair = "~".join(between.choice(KOKORO["en-us"].split() + KOKORO["en-gb"].split(), 2, replace=False))
        ratio, pitch_st = float(np.exp(0.06 * between.normal())), float(2 * between.normal())
        rows.append(("train", "kokoro", f"{language}+{pair}", "en", ratio, pitch_st))
        reads.append(True)
    result = []
    for index, (reader, (split, engine, voice, language, ratio, pitch_st)) in enumerate(zip(reads, rows, strict=True)):
        texts = (TRAIN if split == "train" or language == "it" else HELD_OUT)[language]
        if index >= first_later:
            texts = MORE.get(language, texts)
        if reader:
            count = SENTENCES_PER_KOKORO if engine == "kokoro" else SENTENCES_PER_READER
            texts = invented((*TRAIN[language], *MORE.get(language, ())), count, rng)
        chosen = rng.permutation(len(texts))[: None if reader else SENTENCES_PER_SPEAKER]
        low_voice = any(part in voice for part in ("+m", "klatt", "machac", "m_")) or voice[:3] in LOW or ratio < 0.95
        result.append(
            Speaker(
                name=f"{'M' if low_voice else 'W'}{ {'train': 0, 'validation': 700, 'test': 800}[split] + index:03d}",
                split=split,
                engine=engine,
                voice=voice,
                sentences=tuple(texts[k] for k in chosen),
                rate=int(rng.integers(140, 200)),
                pitch=int(rng.integers(35, 65)),
                formant_ratio=ratio * (float(np.exp(0.05 * rng.normal())) if engine == "espeak" else 1.0),
                pitch_st=pitch_st,
                articulation=float(np.clip(1 + 0.12 * rng.normal(), 0.75, 1.25)),
                head_seed=1000 + index,
                reader=reader,
            )
        )
    return result
