"""Draws one head with exact landmarks and labels: render(params, assets)."""

from typing import NamedTuple

import cv2
import numpy as np

from . import shade
from .assets import (
    CLOTH,
    EYE_SOCKET,
    GLASSES,
    GUMS,
    HAIR,
    IRIS_BACK,
    MOUTH_SOCKET,
    SKIN_VERTICES,
    TEETH,
    HeadAssets,
    on_triangles,
)
from .backgrounds import paint_background
from .landmarks import LOOK_AT, pose_vertices
from .params import HeadParams
from .props import glasses_mesh
from .raster import blend_cards, blend_strands, compose_blend, rasterise, vertex_normals

LID_CM = 0.4  # how far a closed lid may lie below the eyeball
LASH_RGB = np.array([0.012, 0.010, 0.009], np.float32)
LENS_RGB = np.array([0.45, 0.475, 0.5], np.float32)
OPAQUE = np.full((4, 4), 255, np.uint8)


def render(params: HeadParams, assets: HeadAssets, size: int | tuple[int, int] = 256, supersample: int = 2) -> dict:
    """image: uint8 RGB [H,W,3]; labels: uint8 [H,W], CelebAMask numbers, l_ = the subject's own left; landmarks_px:
    float32 [68,2], (x, y), iBUG order, a pixel's centre at +0.5; gain: the exposure's factor (see HeadParams.gain);
    background: uint8 [6,6,3], the backdrop's mean colours as shown, where it is hidden too.

    size: the side in px, or (width, height)."""
    a, p = assets, params
    width, height = (size, size) if np.isscalar(size) else size
    picture = (height * supersample, width * supersample)
    model = build_model(p, a)
    view = View(np.asarray(p.camera.frame, np.float64) * picture[1], p.camera.distance)
    points = view.project(model.scene.positions)
    for side, vertices in a.eyeballs.items():  # some eyes bulge: a closing lid must stay in front of them
        blink = p.expression[a.expression_names.index("eyeBlink" + side)]
        points[vertices, 2] /= 1 + LID_CM * (0.25 + 0.75 * min(blink, 1)) * points[vertices, 2]
    depth, visible, bary = visible_surface(model, points, picture, p, a)
    light = light_scene(model, visible, p, a)
    image, labels = shade_picture(model, view, visible, bary, light, p, a)
    face = labels == shade.SKIN
    gain = p.gain or p.exposure / max(float(np.median(image[face].mean(1))) if face.any() else 0.3, 1e-3)
    backdrop = p.background
    if backdrop is None:
        backdrop = paint_background(np.random.default_rng(p.seed), picture[1], picture[0])
    backdrop = backdrop * np.float32(p.background_gain)
    np.copyto(image, backdrop / gain, where=(visible < 0)[..., None])
    add_soft_layers(image, labels, model, view, points, depth, light, p, a)

    # camera response
    image *= gain
    if p.blur > 0.4:
        image = cv2.GaussianBlur(image, (0, 0), p.blur)
    image = np.clip(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), 0, None)
    half = supersample // 2
    landmarks = a.landmarks.project_shape(model.shaped, p.pose, p.translation, p.camera.distance, p.body_follow)
    return {
        "image": develop(image, p.contrast),
        "labels": labels[half::supersample, half::supersample].copy(),
        "landmarks_px": (landmarks @ view.frame[:, :2].T + view.frame[:, 2]).astype(np.float32) / supersample,
        "gain": gain,
        "background": develop(cv2.resize(backdrop, (6, 6), interpolation=cv2.INTER_AREA), p.contrast),
    }


class View(NamedTuple):
    """The camera at the supersampled size: `frame` [2,3] takes the picture's plane in cm to pixels."""

    frame: np.ndarray
    distance: float

    @property
    def eye(self) -> np.ndarray:
        return LOOK_AT + np.array([0, 0, self.distance], np.float32)

    def project(self, x: np.ndarray) -> np.ndarray:
        """Positions [..,3] cm to (x px, y px, nearness)."""
        eye, frame = self.eye, self.frame
        nearness = 1 / (eye[2] - x[..., 2])
        u = (x[..., 0] - eye[0]) * nearness * self.distance
        v = (eye[1] - x[..., 1]) * nearness * self.distance
        px = [row[0] * u + row[1] * v + row[2] for row in frame]
        return np.stack([*px, nearness], -1).astype(np.float32)


class Model(NamedTuple):
    """The head as drawn: one mesh of head, cloth, glasses and hair, and what is needed beside it."""

    scene: shade.Scene
    shaped: np.ndarray  # [V,3] cm, the head's vertices before posing
    first_cloth: int  # number of the part's first triangle; likewise below
    first_glasses: int
    first_hair: int
    lenses: np.ndarray  # triangles [K,3]
    head_turn: np.ndarray
    hair_turn: np.ndarray  # turns (and mirrors) directions of the hair


class Lighting(NamedTuple):
    directions: np.ndarray  # of the lamps, [L,3]
    colours: np.ndarray
    glints: np.ndarray
    irradiance: np.ndarray  # of the sky on the vertices, [N,3]
    lit: np.ndarray  # with the key light, without its shadow
    key: shade.ShadowMap


def build_model(p: HeadParams, a: HeadAssets) -> Model:
    identity = (np.asarray(p.identity, np.float32) @ a.identity).reshape(-1, 3)
    weights = np.asarray(p.expression, np.float32)
    active = np.nonzero(weights)[0]
    shaped = a.neutral + identity + (weights[active] @ a.expression[active]).reshape(-1, 3)

    def posed(vertices, neutral_y):
        return pose_vertices(vertices, neutral_y, p.pose, p.translation, p.body_follow)[0]

    axes = pose_vertices(np.vstack([np.eye(3), np.zeros((1, 3))]), np.full(4, 99.0), p.pose, 0.0, 0.0)[0]
    head_turn = (axes[:3] - axes[3]).T
    cos, sin = np.cos(p.pose[0] * p.body_follow), np.sin(p.pose[0] * p.body_follow)
    body_turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], np.float32)
    flip = np.array([-1 if p.hair_flip else 1, 1, 1], np.float32)
    hair_turn = flip[:, None] * head_turn.T

    head, cloth, hair = posed(shaped, a.neutral[:, 1]), a.clothes[p.cloth], a.hair.get(p.hair)
    normals, rv = vertex_normals(head, a.geometry_triangles), a.render_vertex
    extra = a.neutral.copy()
    extra[:, 2] = 0
    if hair:
        extra[:SKIN_VERTICES, 2] = hair.scalp
    # per part: positions, normals, uv, extra, fades, triangles, material
    parts = [
        (head[rv], normals[rv], a.uv, extra[rv], np.ones((len(rv), 1)), a.triangles, a.material),
        (
            posed(cloth.follow(identity), np.minimum(cloth.vertices[:, 1], -9)),
            cloth.normals @ body_turn.T,
            cloth.uv,
            np.zeros_like(cloth.vertices),
            np.ones((len(cloth.vertices), 1)),
            cloth.triangles,
            np.full(len(cloth.triangles), CLOTH),
        ),
    ]
    lenses, bars = np.zeros((0, 3), np.int32), ()
    if p.glasses != "none":
        vertices, bars, lenses = glasses_mesh(p.glasses, (a.neutral + identity)[a.landmarks68], p.glasses_scale)
        vertices, nothing = posed(vertices, np.zeros(len(vertices))), np.zeros_like(vertices)
        lenses = lenses + sum(len(part[0]) for part in parts)
        fades, material = np.ones((len(vertices), 1)), np.full(len(bars), GLASSES)
        parts.append((vertices, vertex_normals(vertices, bars), nothing[:, :2], nothing, fades, bars, material))
    if hair:
        vertices = hair.follow(identity) + hair.from_skin * p.hair_volume
        fades = np.minimum(hair.fade, np.clip((vertices[:, 1] - p.hair_cut_y) / 2.0, 0, 1))[:, None]
        vertices, material = posed(vertices * flip, hair.vertices[:, 1]), np.full(len(hair.triangles), HAIR)
        tangents = hair.tangents @ hair_turn
        parts.append((vertices, hair.normals @ hair_turn, hair.uv, tangents, fades, hair.triangles, material))
    columns = list(zip(*parts, strict=True))
    first_vertex = np.cumsum([0] + [len(positions) for positions in columns[0][:-1]])
    triangles = np.vstack([t + first for t, first in zip(columns[5], first_vertex, strict=True)])
    scene = shade.Scene(
        *(np.vstack(column).astype(np.float32) for column in columns[:5]),
        triangles.astype(np.int32),
        np.concatenate(columns[6]).astype(np.uint8),
    )
    first_glasses = len(a.triangles) + len(cloth.triangles)
    return Model(
        scene, shaped, len(a.triangles), first_glasses, first_glasses + len(bars), lenses, head_turn, hair_turn
    )


def visible_surface(model: Model, points, picture, p: HeadParams, a: HeadAssets):
    """Per pixel: nearness, number of the visible triangle (-1: none), weights of its corners b and c."""
    scene, hair = model.scene, a.hair.get(p.hair)
    alpha = hair.alpha if hair else a.lash_alpha
    depth, visible = np.zeros(picture, np.float32), np.full(picture, -1, np.int32)
    bary = np.zeros((*picture, 2), np.float32)
    spans = (
        (0, a.first_lash, 0),
        (model.first_cloth, model.first_hair, 0),
        (model.first_hair, len(scene.triangles), 190),
    )
    for first, last, cut in spans:
        rasterise(points, scene.uv, scene.triangles, first, last, alpha, scene.fades, cut, depth, visible, bary)
    return depth, visible, bary


def light_scene(model: Model, visible, p: HeadParams, a: HeadAssets) -> Lighting:
    """A sky of directions spread evenly over the sphere, the side lamps blurred into it; and the key light."""
    scene, hair = model.scene, a.hair.get(p.hair)
    triangles, alpha = scene.triangles, hair.alpha if hair else a.lash_alpha
    needed = np.zeros(len(triangles), bool)
    needed[visible[visible >= 0]] = True
    needed[a.first_lash : model.first_cloth] = needed[model.first_hair :] = True
    used = np.zeros(len(scene.positions), bool)
    used[triangles[needed]] = True
    if p.beard != "none":
        used[a.triangles[a.beards[p.beard][1]]] = True

    directions, colours = (np.array([lamp[k] for lamp in p.light.lamps], np.float32) for k in (0, 1))
    glints = np.array([glint for _, _, glint in p.light.lamps], np.float32)
    i = np.arange(24) + 0.5
    up, ring = 1 - i / 12, np.sqrt(1 - (1 - i / 12) ** 2)
    sky = np.stack([ring * np.cos(i * 2.399963), up, ring * np.sin(i * 2.399963)], 1).astype(np.float32)
    sky = sky[sky[:, 2] > -0.6]
    radiance = p.light.sky * (0.5 + 0.5 * sky[:, 1:2]) + p.light.ground * (0.5 - 0.5 * sky[:, 1:2])
    for direction, colour in zip(directions[1:], colours[1:], strict=True):
        radiance = radiance + 1.6 * colour * np.exp(6 * ((sky @ direction)[:, None] - 1))
    cards = triangles[model.first_hair :]
    occluders = np.vstack([a.occluders, triangles[model.first_cloth : model.first_glasses], cards])
    irradiance = shade.sky_light(scene, used, occluders, sky, (radiance * 0.15).astype(np.float32), alpha)
    key = shade.ShadowMap(directions[0], scene.positions, 320)
    solid = np.vstack([a.occluders, triangles[model.first_cloth : model.first_hair]])
    key.draw(solid, scene.uv, alpha, scene.fades, 0)
    key.draw(cards, scene.uv, alpha, scene.fades, 110)
    lit = irradiance + colours[0] * 0.35 * np.clip(scene.normals @ directions[0] + 0.3, 0, 1)[:, None]
    return Lighting(directions, colours, glints, irradiance, lit, key)


def shade_picture(model: Model, view: View, visible, bary, light: Lighting, p: HeadParams, a: HeadAssets):
    """Linear RGB [H,W,3] of the solid surfaces and their labels [H,W]."""
    picture, skin, hair = visible.shape, a.skins[p.skin], a.hair.get(p.hair)
    look = complete_look(p, a)
    textures = shade.Textures(
        skin.face,
        skin.neck,
        skin.bump,
        a.brows[p.brow],
        a.brow_regions[p.brow],
        a.stubble,
        a.beards[p.beard][0] if p.beard != "none" else OPAQUE,
        a.face_labels,
        hair.brightness if hair else a.lash_alpha,
        a.clothes[p.cloth].texture,
    )
    surface = shade.Surface(
        np.full(picture, -1, np.int8), np.zeros(picture, np.float32), *np.zeros((5, *picture, 3), np.float32)
    )
    labels = np.zeros(picture, np.uint8)
    shade.fill_surface(visible, bary, model.scene, light.irradiance, textures, look, surface, labels)
    diffuse, specular = np.zeros((2, *picture, 3), np.float32)
    key, seed = light.key, p.seed & 0xFFFF
    lamps = (light.directions, light.colours, light.glints)
    shadow = (key.height, key.u, key.v, key.corner, key.texels_per_cm, float(p.light.softness))
    shade.shade_lights(surface, view.eye, *lamps, *shadow, look, seed, diffuse, specular)
    shade.scatter_skin(surface, diffuse, np.sqrt(abs(np.linalg.det(view.frame[:, :2]))))
    return surface.albedo * diffuse + specular, labels


def add_soft_layers(image, labels, model: Model, view: View, points, depth, light: Lighting, p, a: HeadAssets):
    """Lashes; beard; lenses; the feathered edge of the hair with its loose strands. Changes image and labels."""
    scene, look, hair = model.scene, p.look, a.hair.get(p.hair)
    triangles, uv, full = scene.triangles, scene.uv, np.ones_like(scene.fades)
    total, clear = np.zeros((*depth.shape, 4), np.float32), np.ones(depth.shape, np.float32)

    def compose(gain=1.0, label=None):
        compose_blend(image, total, clear, gain, labels, label)
        total[:], clear[:] = 0, 1

    lashes = triangles[a.first_lash : model.first_cloth]
    opacity = float(p.lash_opacity)
    blend_cards(
        points, uv, lashes, depth, 1.002, a.lash_alpha, full, OPAQUE, LASH_RGB, light.lit, opacity, total, clear
    )
    compose()
    if p.beard != "none":
        _, triangle, weight, offsets = a.beards[p.beard]
        corners = a.triangles[triangle]
        strands = on_triangles(scene.positions, corners, weight)[:, None]
        strands = strands + (offsets * np.float32(p.beard_length)) @ model.head_turn.T
        vary = np.random.default_rng(7).lognormal(0, 0.4, (len(corners), 1))
        rgb = on_triangles(light.lit, corners, weight) * (look.brow_rgb + 0.01) * 1.6 * vary
        blend_strands(view.project(strands), rgb.astype(np.float32), 0.35, depth, 1.003, total, clear)
        compose()
    if len(model.lenses):
        evenly, shine = np.ones_like(light.lit), float(p.lens_shine)
        blend_cards(points, uv, model.lenses, depth, 1.0, OPAQUE, full, OPAQUE, LENS_RGB, evenly, shine, total, clear)
        compose()
        blend_cards(points, uv, model.lenses, depth, 1.0, OPAQUE, full, OPAQUE, LENS_RGB, evenly, 1.0, total, clear)
        labels[clear < 0.5] = shade.GLASSES_LABEL
        total[:], clear[:] = 0, 1
    if hair:
        cards, hair_rgb = triangles[model.first_hair :], np.asarray(look.hair_rgb, np.float32)
        texture = (hair.alpha, scene.fades, hair.brightness)
        blend_cards(points, uv, cards, depth, 0.9994, *texture, hair_rgb, light.lit, 0.9, total, clear)
        corners, weight = cards[hair.strand_triangle], hair.strand_weight
        kept = on_triangles(scene.fades, corners, weight)[:, 0] > hair.strand_keep
        strands = on_triangles(scene.positions, corners, weight)[:, None] + hair.strand_offsets @ model.hair_turn
        rgb = on_triangles(light.lit, corners, weight) * (hair.strand_brightness[:, None] * hair_rgb * 1.25)
        blend_strands(view.project(strands[kept]), rgb[kept].astype(np.float32), 0.6, depth, 1.004, total, clear)
        compose(1.1, shade.HAIR_LABEL)


def complete_look(p: HeadParams, a: HeadAssets) -> shade.Look:
    key = sum(np.mean(colour) * max(0, direction[2]) for direction, colour, _ in p.light.lamps)
    flat = np.zeros((12, 3))
    flat[[MOUTH_SOCKET, GUMS]] = np.array([[0.24, 0.065, 0.06], [0.46, 0.16, 0.15]]) * p.look.gum
    flat[[EYE_SOCKET, TEETH, IRIS_BACK, GLASSES]] = (
        (0.35, 0.15, 0.12),
        p.look.teeth_rgb,
        (0.02, 0.02, 0.02),
        p.glasses_rgb,
    )
    look = p.look._replace(
        skin_gain=p.skin_rgb / a.skins[p.skin].median ** p.look.contrast,
        flat_rgb=flat,
        mouth_fill=0.3 * (np.mean(p.light.sky) + 0.5 * key),
    )
    return shade.Look(*(np.asarray(x, np.float32) if np.ndim(x) else float(x) for x in look))  # as numba compiled it


def develop(linear: np.ndarray, contrast: float) -> np.ndarray:
    """The camera's response: linear RGB to uint8."""
    shown = np.minimum(linear / (1 + linear * 0.25) * 1.12, 1) ** (1 / 2.2)
    return (np.clip((shown - 0.5) * contrast + 0.5, 0, 1) * 255 + 0.5).astype(np.uint8)
