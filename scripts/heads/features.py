"""A head's parameters as one vector of numbers: everything that determines its clean picture but the fine grain."""

import numpy as np

from .assets import HeadAssets
from .params import HAIR_CHANCES, HeadParams
from .props import BEARD_STYLES, GLASSES_STYLES

MAX_LAMPS = 3


def encode(p: HeadParams, background: np.ndarray, a: HeadAssets) -> tuple[np.ndarray, list[dict]]:
    """The vector [P] float32 and its layout: per part its name, start, stop and kind.

    background: uint8 [6,6,3] from render(). Kinds: "gaussian": shifted and scaled to about mean 0, deviation 1;
    "positive": 0 means absent; "onehot": one choice of `values`."""
    parts: list[tuple[str, str, np.ndarray, list]] = []

    def gaussian(name, value, mean=0.0, deviation=1.0):
        parts.append((name, "gaussian", (np.atleast_1d(np.asarray(value, float)) - mean) / deviation, []))

    def onehot(name, value, values):
        values = list(values)
        parts.append((name, "onehot", np.eye(len(values))[values.index(value)], values))

    gaussian("identity", p.identity, 0, 0.9)
    parts.append(("expression", "positive", np.asarray(p.expression, float) / 0.25, []))
    gaussian("pose", p.pose, 0, [0.2, 0.12, 0.09])
    gaussian("translation", p.translation)
    gaussian("jitter", p.jitter, 0, [0.02, 0.02, 0.03, 0.026])
    gaussian("body_follow", p.body_follow, 0.3, 0.17)
    gaussian("distance", p.camera.distance, 87, 19)
    gaussian("skin_rgb", np.log(p.skin_rgb), np.log([0.3, 0.18, 0.12]), [0.75, 0.8, 0.85])
    k = p.look
    gaussian(
        "skin_look",
        [k.contrast, k.gloss, k.sheen, k.oil, *k.lip_tint],
        [1, 15, 0.4, 0.06, 1.02, 0.9, 0.87],
        [0.08, 4, 0.12, 0.035, 0.04, 0.08, 0.1],
    )
    gaussian("stubble", k.stubble, 0.12, 0.19)
    gaussian("beard_look", [k.beard, p.beard_length * (p.beard != "none")], [0.08, 0.06], [0.22, 0.2])
    gaussian("brow_look", [k.brow_alpha, *np.log(k.brow_rgb)], [0.83, -3.9, -4.4, -4.9], [0.08, 0.9, 0.9, 0.9])
    gaussian("hair_rgb", np.log(k.hair_rgb), [-3.2, -3.7, -4.2], [1.2, 1.2, 1.2])
    gaussian(
        "hair_look",
        [k.hair_sheen, p.hair_volume, 2.0 * p.hair_flip - 1, max(p.hair_cut_y, -24.0)],
        [0.7, 0.11, 0, -18],
        [0.23, 0.11, 1, 6],
    )
    gaussian("eye_rgb", np.log(k.eye_rgb), [-2.4, -2.7, -3.1], [0.5, 0.8, 1.1])
    gaussian(
        "eye_look",
        [k.iris_radius, np.cos(k.iris_phase), np.sin(k.iris_phase), k.pupil, k.sclera, p.lash_opacity],
        [0.29, 0, 0, 0.375, 0.87, 0.75],
        [0.0085, 0.7, 0.7, 0.07, 0.11, 0.115],
    )
    gaussian("mouth_look", [*k.teeth_rgb, k.gum], [0.865, 0.825, 0.76, 1.15], [0.05, 0.05, 0.055, 0.145])
    worn = p.glasses != "none"
    gaussian(
        "glasses_look",
        [*np.log(p.glasses_rgb) * worn, p.glasses_scale * worn, p.lens_shine * worn],
        0,
        [3, 3, 3, 1, 0.05],
    )
    gaussian(
        "cloth_look",
        [*np.log(k.cloth_rgb), k.cloth_gain, k.cloth_lift],
        [-0.9, -0.9, -0.9, 0.5, 0.13],
        [0.65, 0.65, 0.65, 0.28, 0.16],
    )
    gaussian(
        "light",
        [*np.log(p.light.sky), *np.log(p.light.ground), p.light.softness],
        [-0.5] * 3 + [-1.25] * 3 + [4],
        [0.34] * 3 + [0.4] * 3 + [1.7],
    )
    for i in range(MAX_LAMPS):
        direction, colour, glint = p.light.lamps[i] if i < len(p.light.lamps) else ((0, 0, 0), np.zeros(3), 300.0)
        gaussian(
            f"lamp{i}",
            [*direction, *np.sqrt(colour), np.log(glint)],
            [0, 0.4, 0.4, 0.8, 0.8, 0.8, 6],
            [0.6, 0.3, 0.5, 0.4, 0.4, 0.4, 0.5],
        )
    gaussian(
        "camera_look",
        [np.log(p.exposure), p.contrast, np.log(p.background_gain)],
        [-1.6, 1.035, -0.45],
        [0.5, 0.05, 0.3],
    )
    gaussian("background", background.ravel() / 255.0, 0.5, 0.25)
    onehot("skin", p.skin, sorted(a.skins))
    onehot("hair", p.hair, HAIR_CHANCES)
    onehot("cloth", p.cloth, sorted(a.clothes))
    onehot("brow", p.brow, range(len(a.brows)))
    onehot("glasses", p.glasses, GLASSES_STYLES)
    onehot("beard", p.beard, BEARD_STYLES)
    layout, start = [], 0
    for name, kind, values, choices in parts:
        entry = {"name": name, "start": start, "stop": start + len(values), "kind": kind}
        layout.append(entry | {"values": choices} if choices else entry)
        start += len(values)
    return np.concatenate([values for _, _, values, _ in parts]).astype(np.float32), layout
