"""What a rendered head is made of, and how heads are drawn at random: sample_identity, sample_shot, sample_still."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from . import shade
from .assets import HeadAssets
from .camera import Camera, aligned_frame
from .landmarks import HeadLandmarks
from .props import BEARD_STYLES, GLASSES_STYLES
from .visemes import VISEMES, emotion_weights, viseme_weights

SKIN_TONES = np.array(
    [[0.045, 0.025, 0.016], [0.105, 0.055, 0.034], [0.22, 0.118, 0.071], [0.43, 0.257, 0.168], [0.63, 0.41, 0.29]]
)
HAIR_RGB = np.array(
    [
        [0.012, 0.009, 0.008],
        [0.02, 0.012, 0.008],
        [0.05, 0.025, 0.012],
        [0.09, 0.045, 0.02],
        [0.16, 0.085, 0.04],
        [0.35, 0.22, 0.10],
        [0.5, 0.38, 0.22],
        [0.28, 0.09, 0.03],
        [0.35, 0.35, 0.34],
        [0.6, 0.6, 0.58],
    ]
)
HAIR_RGB_CHANCES = np.array([0.16, 0.16, 0.17, 0.14, 0.12, 0.07, 0.05, 0.03, 0.06, 0.04])
EYE_RGB = np.array(
    [
        [0.09, 0.04, 0.015],
        [0.05, 0.022, 0.01],
        [0.14, 0.08, 0.03],
        [0.10, 0.12, 0.05],
        [0.08, 0.13, 0.17],
        [0.10, 0.17, 0.24],
        [0.14, 0.17, 0.18],
    ]
)
# how often a style is drawn (men, women); "none": bald. bob02's and short03's fringes hide an eye; braid01 is poor
HAIR_CHANCES = {
    "none": (0.35, 0.02),
    "short01": (1, 0.25),
    "short02": (0.9, 0.5),
    "short04": (1, 0.4),
    "short03": (0.15, 0.2),
    "ponytail01": (0.12, 1),
    "long01": (0.12, 1.3),
    "bob02": (0, 0.35),
}
SPLITS = ("train", "validation", "test")
EMOTIONS = ("neutral", "happy", "sad", "angry", "surprised", "fear", "disgust", "contempt")


class Light(NamedTuple):
    """Linear RGB. A lamp is (direction towards it, colour, sharpness of its glint in the eye); the first is the key
    light, the only one with a sharp shadow."""

    sky: np.ndarray = np.full(3, 0.6)
    ground: np.ndarray = np.full(3, 0.3)
    lamps: tuple = (((0.35, 0.45, 0.82), (1.2, 1.2, 1.2), 400.0),)
    softness: float = 3.0  # of the key light's shadow


@dataclass(frozen=True)
class HeadParams:
    identity: np.ndarray = field(default_factory=lambda: np.zeros(100))  # about N(0,1) each
    expression: np.ndarray = field(default_factory=lambda: np.zeros(57))  # weights, in HeadAssets.expression_names
    # yaw, pitch, roll in radians; > 0: to the image's right, downwards, crown to the image's left
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)  # cm: right, up, towards the camera
    body_follow: float = 0.3  # share of the yaw that the shoulders follow
    female: bool = False
    skin: str = "young_lightskinned_male3"
    skin_rgb: np.ndarray = field(default_factory=lambda: skin_colour(0.85))  # median of the skin
    brow: int = 0
    hair: str = "short01"  # "none": bald
    hair_flip: bool = False
    hair_volume: float = 0.0  # share by which the hair stands further off the skin
    hair_cut_y: float = -40.0  # cm; long hair ends here
    glasses: str = "none"
    glasses_rgb: np.ndarray = field(default_factory=lambda: np.full(3, 0.02))
    glasses_scale: float = 1.0
    lens_shine: float = 0.05
    beard: str = "none"
    beard_length: float = 0.5  # cm
    lash_opacity: float = 0.75
    cloth: str = "male_casualsuit04"
    look: shade.Look = shade.Look()  # colours of hair, eyes, teeth, cloth; shine; stubble
    camera: Camera = Camera()
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # of the aligned crop; see aligned_frame
    light: Light = Light()
    background: np.ndarray | None = None  # float32 linear RGB; None paints one from the seed
    background_gain: float = 0.7
    exposure: float = 0.28  # median linear brightness of the skin in the image
    gain: float | None = None  # replaces exposure: one factor for all frames of a video
    blur: float = 0.45  # px of the supersampled image
    contrast: float = 1.03
    seed: int = 0  # background, shadow dither


def skin_colour(tone: float) -> np.ndarray:
    """Linear RGB reflectance; tone 0 is the darkest skin, 1 the lightest."""
    return np.array([np.interp(tone, np.linspace(0, 1, len(SKIN_TONES)), channel) for channel in SKIN_TONES.T])


def split_of(skin: str, hair: str, a: HeadAssets) -> str:
    """The only split in which this pair of skin and hair style occurs: 1 of 8 pairs each for validation and test."""
    code = (3 * sorted(a.skins).index(skin) + 5 * sorted(HAIR_CHANCES).index(hair)) % 8
    return {0: "test", 4: "validation"}.get(code, "train")


def sample_identity(rng: np.random.Generator, a: HeadAssets, split: str) -> HeadParams:
    """A person: shape, skin, hair, brows, eyes, beard, glasses. Pairs of skin and hair belong to one split only."""
    uniform = rng.uniform
    skins, styles = sorted(a.skins), list(HAIR_CHANCES)
    while True:
        skin = str(rng.choice(skins))
        female = "female" in skin
        consistent = rng.random() > 0.06  # now and then a hair style that is rare for the sex
        chances = np.array(list(HAIR_CHANCES.values()))[:, int(female if consistent else not female)]
        hair = styles[rng.choice(len(styles), p=chances / chances.sum())]
        if split_of(skin, hair, a) == split:
            break
    dark_texture = "dark" in skin
    if dark_texture:
        tone = uniform(0.05, 0.55)
    else:  # no dark female texture exists: light ones are darkened
        tone = uniform(0.15, 0.6) if rng.random() < (0.35 if female else 0.1) else uniform(0.6, 1.0)
    dark, made_up = tone < 0.5, 0.68 if female else 0.88
    contrast = uniform(0.8, 1.05) if dark_texture else uniform(0.9, 1.15) * (0.85 if dark else 1)
    lip_tint = [1.1, 0.9, 0.75] if dark_texture else [1, uniform(made_up, 1.03), uniform(made_up, 1.03)]
    if dark or rng.random() < 0.3:
        hair_rgb = HAIR_RGB[rng.integers(4)]
    else:
        hair_rgb = HAIR_RGB[rng.choice(len(HAIR_RGB), p=HAIR_RGB_CHANCES)]
    hair_rgb = hair_rgb * uniform(0.7, 1.2)
    beard, glasses = "none", "none"
    if not female and rng.random() < 0.2:
        beard = str(rng.choice(BEARD_STYLES[1:], p=[0.4, 0.3, 0.15, 0.15]))
        if beard == "moustache" and hair == "short03":  # a slanting fringe over a moustache: not a look to spread
            beard = "goatee"
    if rng.random() < 0.12:
        glasses = str(rng.choice(GLASSES_STYLES[1:]))
    look = shade.Look(
        contrast=contrast,
        gloss=uniform(8, 22),
        sheen=uniform(0.2, 0.6),
        oil=uniform(0, 0.12),
        lip_tint=np.array(lip_tint),
        brow_alpha=uniform(0.7, 0.97),
        stubble=0 if female or rng.random() < 0.5 else uniform(0.1, 0.6),
        beard=uniform(0.6, 0.9) * (beard != "none"),
        hair_rgb=hair_rgb,
        brow_rgb=np.minimum(hair_rgb * uniform(0.5, 0.9), 0.4 * skin_colour(tone) + 0.005),
        hair_sheen=uniform(0.3, 1.1),
        eye_rgb=EYE_RGB[rng.integers(2 if dark else len(EYE_RGB))] * uniform(0.7, 1.4),
        iris_radius=0.29 * uniform(0.95, 1.05),
        iris_phase=uniform(0, 6),
        pupil=uniform(0.25, 0.5),
        sclera=uniform(0.75, 1.05) * (0.8 if dark else 1),
        gum=uniform(0.9, 1.4),
        teeth_rgb=uniform(0.78, 0.95) * np.array([1, uniform(0.93, 0.98), uniform(0.82, 0.94)]),
    )
    return HeadParams(
        identity=np.clip(rng.normal(size=100) * 0.9, -2.2, 2.2),
        female=female,
        skin=skin,
        skin_rgb=skin_colour(tone) * np.clip(rng.normal(1, [0.025, 0.015, 0.04]), 0.92, 1.08),
        brow=int(rng.integers(len(a.brows))),
        hair=hair,
        hair_flip=bool(rng.random() < 0.5),
        hair_volume=uniform(-0.08, 0.3),
        hair_cut_y=uniform(-22, -8) if rng.random() < 0.6 else -40.0,
        glasses=glasses,
        glasses_scale=uniform(0.92, 1.06),
        lens_shine=uniform(0.0, 0.10),
        glasses_rgb=np.exp(uniform(np.log(0.008), np.log(0.25))) * np.clip(rng.normal(1, 0.15, 3), 0.6, 1.4),
        beard=beard,
        beard_length=uniform(0.2, 1.1),
        lash_opacity=uniform(0.55, 0.95),
        look=look,
        exposure=0.08 * (0.40 / 0.08) ** tone,
    )


def sample_shot(rng: np.random.Generator, a: HeadAssets, person: HeadParams) -> HeadParams:
    """Clothes, light, camera distance and background for a person; neutral and frontal."""
    uniform = rng.uniform
    fitting = [name for name in sorted(a.clothes) if name.startswith("female") == person.female]
    cloth = str(rng.choice(fitting if rng.random() < 0.9 else sorted(a.clothes)))
    plain = rng.random() < 0.5
    hue = np.clip(rng.normal(1, 0.25 if rng.random() < 0.6 else 0.05, 3), 0.35, 1.6)
    look = person.look._replace(
        cloth_rgb=hue * np.exp(uniform(np.log(0.15), np.log(1.2))),
        cloth_gain=uniform(0.1, 0.4) if plain else uniform(0.5, 1),
        cloth_lift=plain * uniform(0.01, 0.5),
    )
    return replace(
        person,
        cloth=cloth,
        look=look,
        light=sample_light(rng),
        background_gain=uniform(0.35, 1.0),
        camera=Camera(uniform(55, 120)),
        exposure=person.exposure * uniform(0.75, 1.2),
        contrast=uniform(0.95, 1.12),
        seed=int(rng.integers(1 << 30)),
    )


def sample_still(rng: np.random.Generator, a: HeadAssets, person: HeadParams) -> tuple[HeadParams, dict]:
    """A person in a random shot, pose and expression, seen by a camera whose image is the jittered aligned crop.
    Returns the parameters and what was drawn: emotion, viseme (numbers)."""
    shot = sample_shot(rng, a, person)
    expression, drawn = sample_expression(rng, a.expression_names)
    pose = tuple(np.clip(np.deg2rad(rng.normal(size=3) * [12, 7, 5]), -0.42, 0.42))
    shot = replace(shot, expression=expression, pose=pose, body_follow=rng.uniform(0, 0.6))
    jitter = tuple(np.clip(rng.normal(size=4), -2, 2) * [0.02, 0.02, 0.03, np.deg2rad(1.5)])
    return aligned(shot, a.landmarks, jitter), drawn


def aligned(p: HeadParams, landmarks: HeadLandmarks, jitter=(0.0, 0.0, 0.0, 0.0)) -> HeadParams:
    """The same head, the camera's frame set to its aligned crop."""
    plane = landmarks.project(p.identity, p.expression, p.pose, p.translation, p.camera.distance, p.body_follow)[0]
    return replace(p, camera=p.camera._replace(frame=aligned_frame(plane, jitter)), jitter=tuple(map(float, jitter)))


def sample_expression(rng: np.random.Generator, names: list[str]) -> tuple[np.ndarray, dict]:
    """An emotion, a mixture of two visemes (as coarticulation gives), blink, gaze, small shapes: weights [57]."""
    at = {name: i for i, name in enumerate(names)}
    emotion = int(rng.choice(len(EMOTIONS), p=[0.3] + [0.1] * 7))
    intensity = rng.uniform(0.3, 1.0)
    first, second = (int(k) for k in rng.choice(len(VISEMES), 2))
    share = rng.uniform(0.5, 1.0)
    table = viseme_weights(names)
    speech = (share * table[first] + (1 - share) * table[second]) * rng.uniform(0.5, 1.15)
    if rng.random() < 0.22:  # a silent, closed mouth
        first, speech = 0, np.zeros(len(names), np.float32)
    if rng.random() < 0.06:
        speech[at["jawOpen"]] = rng.uniform(0.5, 1.0)
    small = (rng.random(len(names)) < 0.07) * rng.uniform(0, 0.22, len(names))
    for name, i in at.items():
        if name.startswith(("eye", "jaw", "mouthLeft", "mouthRight", "mouthClose", "Pupil", "mouthRoll")):
            small[i] = 0
    if rng.random() < 0.1:
        small[at[str(rng.choice(["jawLeft", "jawRight", "mouthLeft", "mouthRight"]))]] = rng.uniform(0, 0.3)
    weights = combine(emotion_weights(names)[emotion] * intensity, speech, names) + small
    blink = rng.uniform(0.3, 1) if rng.random() < 0.1 else rng.uniform(0, 0.15)
    set_eyes(weights, at, blink, rng.normal() * 0.3, rng.normal() * 0.2)
    return np.clip(weights, 0, 1.1).astype(np.float32), {"emotion": emotion, "viseme": first}


def combine(emotion, speech, names: list[str]):
    """Adds speech to a face's emotion, [..,57] each: what opens or parts the lips in the emotion yields while the
    speech closes them."""
    emotion, speech = np.array(emotion, np.float32), np.array(speech, np.float32)
    at = {name: i for i, name in enumerate(names)}
    closing = np.clip(2.0 * speech[..., at["mouthClose"]] + speech[..., at["mouthRollLower"]], 0, 1)[..., None]
    for name in (
        "jawOpen",
        "mouthUpperUp_L",
        "mouthUpperUp_R",
        "mouthLowerDown_L",
        "mouthLowerDown_R",
        "mouthShrugLower",
        "mouthStretch_L",
        "mouthStretch_R",
    ):
        emotion[..., at[name]] *= 1 - closing[..., 0]
    rounding = np.clip(speech[..., at["mouthPucker"]] + 0.6 * speech[..., at["mouthFunnel"]], 0, 1)
    for name in ("mouthSmile_L", "mouthSmile_R", "mouthStretch_L", "mouthStretch_R", "mouthFrown_L", "mouthFrown_R"):
        emotion[..., at[name]] *= 1 - 0.5 * rounding
    return emotion + speech


def set_eyes(weights, at: dict, blink, across, up):
    """Writes blink 0..1 and gaze (across > 0: to the subject's left) into weights [..,57]."""
    for side, outwards in (("_L", across), ("_R", -across)):
        index = at["eyeBlink" + side]
        weights[..., index] = np.maximum(weights[..., index], blink)
        weights[..., at["eyeWide" + side]] *= 1 - 0.9 * np.asarray(blink)
        weights[..., at["eyeSquint" + side]] *= 1 - 0.7 * np.asarray(blink)
        weights[..., at["eyeLookOut" + side]] = np.maximum(0, outwards)
        weights[..., at["eyeLookIn" + side]] = np.maximum(0, np.negative(outwards))
        weights[..., at["eyeLookUp" + side]] = np.maximum(0, up)
        weights[..., at["eyeLookDown" + side]] = np.maximum(0, np.negative(up))


def sample_light(rng: np.random.Generator) -> Light:
    """Sky and ground light, a key lamp and up to two more."""

    def lamp(azimuth, elevation, strength, warmth, glint):
        direction = (np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
        warmth *= np.clip(rng.normal(), -2, 2)
        return direction, strength * np.array([1 + warmth, 1, 1 - warmth]), glint

    uniform = rng.uniform
    lamps = [lamp(rng.normal() * 0.8, uniform(0.05, 0.95), uniform(0.3, 2.2), 0.09, uniform(150, 900))]
    for _ in range(rng.integers(1, 3)):
        lamps.append(lamp(uniform(-2.6, 2.6), uniform(-0.3, 1.1), uniform(0.1, 0.9), 0.12, uniform(100, 600)))
    sky, ground = np.clip(rng.normal(1, [[0.04], [0.05]], (2, 3)), 0.8, 1.2)
    return Light(uniform(0.3, 1.0) * sky, uniform(0.12, 0.5) * ground, tuple(lamps), uniform(1, 7))
