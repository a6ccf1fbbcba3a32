"""Draws one head with exact landmarks and labels: render(params, assets)."""
import cv2
import numpy as np

from . import shade
from .assets import CLOTH, EYE_SOCKET, GLASSES, GUMS, HAIR, IRIS_BACK, MOUTH_SOCKET, SKIN_VERTICES, TEETH, HeadAssets
from .backgrounds import paint_background
from .landmarks import LOOK_AT, pose_vertices
from .params import HeadParams
from .props import glasses_mesh
from .raster import blend_cards, blend_strands, compose_blend, rasterise, vertex_normals

LID_CM = 0.4                                               # how far a closed lid may lie below the eyeball
LASH_RGB = np.array([0.012, 0.010, 0.009], np.float32)
LENS_RGB = np.array([0.9, 0.95, 1.0], np.float32)
OPAQUE = np.full((4, 4), 255, np.uint8)


def render(params: HeadParams, assets: HeadAssets, size: int | tuple[int, int] = 256, supersample: int = 2) -> dict:
    """image: uint8 RGB [H,W,3]; labels: uint8 [H,W], CelebAMask numbers, l_ = the subject's own left; landmarks_px:
    float32 [68,2], (x, y), iBUG order, a pixel's centre at +0.5; gain: the exposure's factor (see HeadParams.gain);
    background: uint8 [6,6,3], the backdrop's mean colours as shown, where it is hidden too.

    size: the side in px, or (width, height)."""
    a, p = assets, params
    width, height = (size, size) if np.isscalar(size) else size
    full_width, full_height = width * supersample, height * supersample
    picture = (full_height, full_width)
    look, hair, skin = complete_look(p, a), a.hair.get(p.hair), a.skins[p.skin]
    scene, shaped, ends, lenses, head_turn, hair_turn = build_scene(p, a)
    first_cloth, first_glasses, first_hair = ends
    triangles, uv, fades = scene.triangles, scene.uv, scene.fades
    lashes, cards = triangles[a.first_lash:first_cloth], triangles[first_hair:]
    alpha, brightness = (hair.alpha, hair.brightness) if hair else (a.lash_alpha, a.lash_alpha)

    # camera and visible surface
    frame = np.asarray(p.camera.frame, np.float64) * full_width
    eye = LOOK_AT + np.array([0, 0, p.camera.distance], np.float32)

    def project(x):
        nearness = 1 / (eye[2] - x[..., 2])
        u = (x[..., 0] - eye[0]) * nearness * p.camera.distance
        v = (eye[1] - x[..., 1]) * nearness * p.camera.distance
        return np.stack([frame[0, 0] * u + frame[0, 1] * v + frame[0, 2],
                         frame[1, 0] * u + frame[1, 1] * v + frame[1, 2], nearness], -1).astype(np.float32)

    points = project(scene.positions)
    for side, vertices in a.eyeballs.items():              # some eyes bulge: a closing lid must stay in front of them
        blink = p.expression[a.expression_names.index("eyeBlink" + side)]
        points[vertices, 2] /= 1 + LID_CM * (0.25 + 0.75 * min(blink, 1)) * points[vertices, 2]
    depth, visible = np.zeros(picture, np.float32), np.full(picture, -1, np.int32)
    bary = np.zeros((*picture, 2), np.float32)
    for first, last, cut in ((0, a.first_lash, 0), (first_cloth, first_hair, 0), (first_hair, len(triangles), 190)):
        rasterise(points, uv, triangles, first, last, alpha, fades, cut, depth, visible, bary)
    background = visible < 0
    needed = np.zeros(len(triangles), bool)
    needed[visible[~background]] = needed[a.first_lash:first_cloth] = needed[first_hair:] = True
    used = np.zeros(len(points), bool)
    used[triangles[needed]] = True
    if p.beard != "none":
        beard_mask, beard_triangle, beard_weight, beard_offsets = a.beards[p.beard]
        used[a.triangles[beard_triangle]] = True

    # light: a sky of directions spread evenly over the sphere, the side lamps blurred into it; the key light
    directions, colours = (np.array([lamp[k] for lamp in p.light.lamps], np.float32) for k in (0, 1))
    glints = np.array([glint for _, _, glint in p.light.lamps], np.float32)
    i = np.arange(24) + 0.5
    up, ring = 1 - i / 12, np.sqrt(1 - (1 - i / 12) ** 2)
    sky = np.stack([ring * np.cos(i * 2.399963), up, ring * np.sin(i * 2.399963)], 1).astype(np.float32)
    sky = sky[sky[:, 2] > -0.6]
    radiance = p.light.sky * (0.5 + 0.5 * sky[:, 1:2]) + p.light.ground * (0.5 - 0.5 * sky[:, 1:2])
    for direction, colour in zip(directions[1:], colours[1:], strict=True):
        radiance = radiance + 1.6 * colour * np.exp(6 * ((sky @ direction)[:, None] - 1))
    occluders = np.vstack([a.occluders, triangles[first_cloth:first_glasses], cards])
    irradiance = shade.sky_light(scene, used, occluders, sky, (radiance * 0.15).astype(np.float32), alpha)
    key = shade.ShadowMap(directions[0], scene.positions, 320)
    key.draw(np.vstack([a.occluders, triangles[first_cloth:first_hair]]), uv, alpha, fades, 0)
    key.draw(cards, uv, alpha, fades, 110)

    # shading
    surface = shade.Surface(np.full(picture, -1, np.int8), np.zeros(picture, np.float32),
                            *np.zeros((5, *picture, 3), np.float32))
    labels = np.zeros(picture, np.uint8)
    beard_mask = beard_mask if p.beard != "none" else OPAQUE
    textures = shade.Textures(skin.face, skin.neck, skin.bump, a.brows[p.brow], a.stubble, beard_mask, a.face_labels,
                              brightness, a.clothes[p.cloth].texture)
    shade.fill_surface(visible, bary, scene, irradiance, textures, look, surface, labels)
    diffuse, specular = np.zeros((2, *picture, 3), np.float32)
    shade.shade_lights(surface, eye, directions, colours, glints, key.height, key.u, key.v, key.corner,
                       key.texels_per_cm, float(p.light.softness), look, p.seed & 0xFFFF, diffuse, specular)
    shade.scatter_skin(surface, diffuse, np.sqrt(abs(np.linalg.det(frame[:, :2]))))
    image = surface.albedo * diffuse + specular
    face = labels == shade.SKIN
    gain = p.gain or p.exposure / max(float(np.median(image[face].mean(1))) if face.any() else 0.3, 1e-3)
    backdrop = p.background
    if backdrop is None:
        backdrop = paint_background(np.random.default_rng(p.seed), full_width, full_height)
    backdrop = backdrop * np.float32(p.background_gain)
    np.copyto(image, backdrop / gain, where=background[..., None])

    # soft layers: lashes; beard; lenses; the feathered edge of the hair with its loose strands
    lit = irradiance + colours[0] * 0.35 * np.clip(scene.normals @ directions[0] + 0.3, 0, 1)[:, None]
    total, clear = np.zeros((*picture, 4), np.float32), np.ones(picture, np.float32)
    full_fades = np.ones_like(fades)
    blend_cards(points, uv, lashes, depth, 1.002, a.lash_alpha, full_fades, OPAQUE, LASH_RGB, lit,
                float(p.lash_opacity), total, clear)
    compose_blend(image, total, clear, 1.0, labels)
    if p.beard != "none":
        total[:], clear[:] = 0, 1
        corners = a.triangles[beard_triangle]
        root = lambda values: np.einsum("ms,msc->mc", beard_weight, values[corners])
        strands = root(scene.positions)[:, None] + (beard_offsets * np.float32(p.beard_length)) @ head_turn.T
        vary = np.random.default_rng(7).lognormal(0, 0.4, (len(corners), 1))
        strand_rgb = root(lit) * (look.brow_rgb + 0.01) * 1.6 * vary
        blend_strands(project(strands), strand_rgb.astype(np.float32), 0.35, depth, 1.003, total, clear)
        compose_blend(image, total, clear, 1.0, labels)
    if len(lenses):
        total[:], clear[:] = 0, 1
        blend_cards(points, uv, lenses, depth, 1.0, OPAQUE, full_fades, OPAQUE, LENS_RGB * np.float32(0.5),
                    np.ones_like(lit), float(p.lens_shine), total, clear)
        compose_blend(image, total, clear, 1.0, labels)
    if hair:
        total[:], clear[:] = 0, 1
        blend_cards(points, uv, cards, depth, 0.9994, alpha, fades, brightness, look.hair_rgb, lit, 0.9, total, clear)
        corners = cards[hair.strand_triangle]
        at_root = lambda values: np.einsum("ms,msc->mc", hair.strand_weight, values[corners])
        strands = at_root(scene.positions)[:, None] + hair.strand_offsets @ hair_turn
        strand_rgb = at_root(lit) * (hair.strand_brightness[:, None] * look.hair_rgb * 1.25)
        kept = at_root(fades)[:, 0] > hair.strand_keep     # fewer strands where the hair thins out
        blend_strands(project(strands[kept]), strand_rgb[kept].astype(np.float32), 0.6, depth, 1.004, total, clear)
        compose_blend(image, total, clear, 1.1, labels, shade.HAIR_LABEL)

    # camera response
    image *= gain
    if p.blur > 0.4:
        image = cv2.GaussianBlur(image, (0, 0), p.blur)
    shown = lambda x: np.clip((tone(x) - 0.5) * p.contrast + 0.5, 0, 1)
    image = shown(np.clip(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), 0, None))
    thumbnail = shown(cv2.resize(backdrop, (6, 6), interpolation=cv2.INTER_AREA))
    half = supersample // 2
    landmarks = a.landmarks.project_shape(shaped, p.pose, p.translation, p.camera.distance, p.body_follow)
    return {"image": (image * 255 + 0.5).astype(np.uint8), "labels": labels[half::supersample, half::supersample].copy(),
            "landmarks_px": (landmarks @ frame[:, :2].T + frame[:, 2]).astype(np.float32) / supersample,
            "gain": gain, "background": (thumbnail * 255 + 0.5).astype(np.uint8)}


def tone(linear: np.ndarray) -> np.ndarray:
    return np.minimum(linear / (1 + linear * 0.25) * 1.12, 1) ** (1 / 2.2)


def complete_look(p: HeadParams, a: HeadAssets) -> shade.Look:
    key = sum(np.mean(colour) * max(0, direction[2]) for direction, colour, _ in p.light.lamps)
    flat = np.zeros((12, 3))
    flat[[MOUTH_SOCKET, GUMS]] = np.array([[0.24, 0.065, 0.06], [0.46, 0.16, 0.15]]) * p.look.gum
    flat[[EYE_SOCKET, TEETH, IRIS_BACK, GLASSES]] = (0.35, 0.15, 0.12), p.look.teeth_rgb, (.02, .02, .02), p.glasses_rgb
    look = p.look._replace(skin_gain=p.skin_rgb / a.skins[p.skin].median**p.look.contrast, flat_rgb=flat,
                           mouth_fill=0.3 * (np.mean(p.light.sky) + 0.5 * key))
    return shade.Look(*(np.asarray(x, np.float32) if np.ndim(x) else float(x) for x in look))    # as numba compiled it


def build_scene(p: HeadParams, a: HeadAssets) -> tuple:
    """Head, cloth, glasses and hair in one mesh; the head's shape before posing; the first triangle of cloth, glasses
    and hair; the lenses' triangles; the matrix that turns the head; and the one that turns (and mirrors) directions of
    the hair."""
    identity = (np.asarray(p.identity, np.float32) @ a.identity).reshape(-1, 3)
    weights = np.asarray(p.expression, np.float32)
    active = np.nonzero(weights)[0]
    shaped = a.neutral + identity + (weights[active] @ a.expression[active]).reshape(-1, 3)
    posed = lambda vertices, neutral_y: pose_vertices(vertices, neutral_y, p.pose, p.translation, p.body_follow)[0]
    turn = lambda vector: pose_vertices(vector, np.full(len(vector), 99.0), p.pose, 0.0, 0.0)[0]
    head_turn = (turn(np.eye(3, dtype=np.float32)) - turn(np.zeros((1, 3), np.float32))).T
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
    part = lambda *arrays, material, fade=1.0: (*arrays, np.full((len(arrays[0]), 1), fade, np.float32), material)
    parts = [part(head[rv], normals[rv], a.uv, extra[rv], a.triangles, material=a.material),
             part(posed(cloth.follow(identity), np.minimum(cloth.vertices[:, 1], -9)), cloth.normals @ body_turn.T,
                  cloth.uv, np.zeros_like(cloth.vertices), cloth.triangles,
                  material=np.full(len(cloth.triangles), CLOTH))]
    lenses = np.zeros((0, 3), np.int32)
    if p.glasses != "none":
        still = (a.neutral + identity)[a.landmarks68]
        vertices, bars, lenses = glasses_mesh(p.glasses, still, p.glasses_scale)
        vertices = posed(vertices, np.zeros(len(vertices)))
        lenses = lenses + sum(len(each[0]) for each in parts)
        parts.append(part(vertices, vertex_normals(vertices, bars), np.zeros((len(vertices), 2), np.float32),
                          np.zeros_like(vertices), bars, material=np.full(len(bars), GLASSES)))
    if hair:
        vertices = hair.follow(identity) + hair.from_skin * p.hair_volume
        fade = np.minimum(hair.fade, np.clip((vertices[:, 1] - p.hair_cut_y) / 2.0, 0, 1))[:, None]
        parts.append((posed(vertices * flip, hair.vertices[:, 1]), hair.normals @ hair_turn, hair.uv,
                      hair.tangents @ hair_turn, hair.triangles, fade.astype(np.float32),
                      np.full(len(hair.triangles), HAIR)))
    first_vertex = np.cumsum([0] + [len(each[0]) for each in parts])
    stack = lambda k: np.vstack([each[k] for each in parts]).astype(np.float32)
    scene = shade.Scene(stack(0), stack(1), stack(2), stack(3), stack(5),
                        np.vstack([each[4] + first for each, first in zip(parts, first_vertex, strict=False)]
                                  ).astype(np.int32),
                        np.concatenate([each[6] for each in parts]).astype(np.uint8))
    ends = np.cumsum([len(each[4]) for each in parts]).tolist()
    first_hair = ends[1] + (ends[2] - ends[1] if p.glasses != "none" else 0)
    return scene, shaped, (ends[0], ends[1], first_hair), lenses, head_turn, hair_turn
