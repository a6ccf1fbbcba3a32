"""Deferred shading: sky light with shadows, key and side lights on skin, eyes, mouth, hair and cloth.

Light and colours are linear RGB. Labels follow CelebAMask; l_ is the subject's own left (x > 0).
"""

from collections import namedtuple
from typing import NamedTuple

import cv2
import numpy as np

from .assets import CLOTH, FACE, GLASSES, GUMS, HAIR, IRIS_BACK, LASH, MOUTH_SOCKET, NECK, SCLERA, TEETH
from .raster import add, dot, jit, mix, rasterise, sample, unit

SKIN, L_BROW, R_BROW, L_EYE, R_EYE, GLASSES_LABEL = range(1, 7)
UPPER_LIP, LOWER_LIP, NECK_LABEL, CLOTH_LABEL, HAIR_LABEL = 12, 13, 14, 16, 17
LABEL_OF_MATERIAL = np.array(
    [SKIN, NECK_LABEL, 11, SKIN, 11, 11, R_EYE, R_EYE, 0, HAIR_LABEL, CLOTH_LABEL, GLASSES_LABEL], np.uint8
)
# mirror-like highlight (strength, exponent) of the materials that need no more than that
SHINE = np.zeros((12, 2), np.float32)
SHINE[[MOUTH_SOCKET, GUMS, TEETH, CLOTH, GLASSES]] = (14.4, 60), (14.4, 60), (21.6, 90), (0.4, 8), (9.0, 40)
BUMP = 0.012
OPEN_SKY = 2.4  # summed RGB of the sky light on an unoccluded surface
SCENE_CENTRE, SCENE_RADIUS_CM = np.array([0, -2, 0], np.float32), 24.0  # what the shadow maps cover
DISC = np.array([[((k + 0.5) / 10) ** 0.5 * f(k * 2.39996) for f in (np.cos, np.sin)] for k in range(10)])


class Look(NamedTuple):
    """Surface numbers of one head."""

    contrast: float = 1.1  # of the skin's texture
    gloss: float = 16.0  # exponent of the skin's broad highlight
    sheen: float = 0.5  # its strength
    oil: float = 0.1  # strength of the sharp one
    lip_tint: np.ndarray = np.array([1.0, 0.9, 0.9])
    stubble: float = 0.0
    beard: float = 0.0  # how densely the beard's style covers the skin
    brow_alpha: float = 0.85
    hair_rgb: np.ndarray = np.array([0.05, 0.025, 0.012])
    brow_rgb: np.ndarray = np.array([0.04, 0.02, 0.010])  # also of stubble and beard
    hair_sheen: float = 0.7
    eye_rgb: np.ndarray = np.array([0.09, 0.04, 0.015])
    iris_radius: float = 0.29  # in the eyeball's UV
    iris_phase: float = 0.0  # turns the fibres' pattern
    pupil: float = 0.35  # radius as a share of the iris
    sclera: float = 0.9
    teeth_rgb: np.ndarray = np.array([0.78, 0.74, 0.66])
    gum: float = 1.0
    cloth_rgb: np.ndarray = np.ones(3)
    cloth_gain: float = 0.8  # albedo = (texture * gain + lift) * rgb
    cloth_lift: float = 0.0
    # derived: filled in by render()
    skin_gain: np.ndarray = np.ones(3)  # albedo = gain * texture ** contrast
    flat_rgb: np.ndarray = np.zeros((12, 3))  # albedo of the materials without a texture
    mouth_fill: float = 0.0  # light in the open mouth that the shadow maps miss


# positions, normals float32 [N,3] cm; uv [N,2]; extra [N,3]: neutral x, y and the share of hair colour (head), or
# tangent (hair); fades [N,1]: how full the hair is
Scene = namedtuple("Scene", "positions normals uv extra fades triangles materials")
Textures = namedtuple("Textures", "face neck bump brow brow_region stubble beard face_labels hair cloth")
# what each pixel shows: material int8 [H,W], -1 background; height [H,W], bump; the rest float32 [H,W,3]
Surface = namedtuple("Surface", "material height albedo normal position extra sky")


class ShadowMap:
    """Orthographic height map towards a light."""

    def __init__(self, direction: np.ndarray, positions: np.ndarray, size: int):
        u = np.cross(direction, np.array([0.1, 1, 0.2]))
        u /= np.linalg.norm(u)
        self.direction, self.u, self.v = direction, u.astype(np.float32), np.cross(direction, u).astype(np.float32)
        self.corner = np.stack([SCENE_CENTRE @ self.u, SCENE_CENTRE @ self.v]) - np.float32(SCENE_RADIUS_CM)
        self.texels_per_cm = size / (2 * SCENE_RADIUS_CM)
        self.points = np.stack(
            [
                (positions @ self.u - self.corner[0]) * self.texels_per_cm,
                (positions @ self.v - self.corner[1]) * self.texels_per_cm,
                positions @ direction + 100,
            ],
            1,
        ).astype(np.float32)
        self.height = np.zeros((size, size), np.float32)

    def draw(self, triangles, uv, alpha, fades, cut):
        size = len(self.height)
        rasterise(
            self.points,
            uv,
            triangles,
            0,
            len(triangles),
            alpha,
            fades,
            cut,
            self.height,
            np.empty((size, size), np.int32),
            np.empty((size, size, 2), np.float32),
        )


def sky_light(scene: Scene, used, occluders, directions, radiance, alpha, size: int = 112) -> np.ndarray:
    """Irradiance [N,3] of the used vertices from a set of directions, each with its own small shadow map."""
    irradiance = np.zeros_like(scene.positions)
    for direction, colour in zip(directions, radiance, strict=True):
        shadow = ShadowMap(direction, scene.positions, size)
        shadow.draw(occluders, scene.uv, alpha, scene.fades, 0)
        add_sky_direction(
            shadow.points,
            scene.normals,
            used,
            shadow.u,
            shadow.v,
            direction,
            shadow.texels_per_cm,
            colour,
            shadow.height,
            irradiance,
        )
    return irradiance


@jit
def add_sky_direction(points, normals, used, u, v, direction, texels_per_cm, colour, height, irradiance):
    wrap, lift, bias, size = 0.15, 0.45, 0.35, height.shape[0]  # lift, bias: cm, prevent self-shadowing
    for i in range(points.shape[0]):
        facing = dot(normals[i], direction)
        amount = (facing + wrap) / (1 + wrap)
        if amount <= 0 or not used[i]:
            continue
        x = points[i, 0] + dot(normals[i], u) * lift * texels_per_cm - 0.5
        y = points[i, 1] + dot(normals[i], v) * lift * texels_per_cm - 0.5
        ix, iy = int(np.floor(x)), int(np.floor(y))
        if ix >= 0 and iy >= 0 and ix < size - 1 and iy < size - 1:
            lit = 0.0
            for px, py in ((ix, iy), (ix + 1, iy), (ix, iy + 1), (ix + 1, iy + 1)):
                if points[i, 2] + facing * lift + bias > height[py, px]:
                    lit += (1 - abs(x - px)) * (1 - abs(y - py))
            amount *= lit
        for k in range(3):
            irradiance[i, k] += colour[k] * amount


@jit
def fill_surface(visible, bary, scene, sky, textures, look, surface, labels):
    """Interpolates the visible triangles and evaluates their textures, into `surface` and `labels`."""
    albedo, face_labels, last = surface.albedo, textures.face_labels, textures.face_labels.shape[0] - 1
    for y in range(visible.shape[0]):
        for x in range(visible.shape[1]):
            t = visible[y, x]
            if t < 0:
                continue
            a, b, c, m = scene.triangles[t, 0], scene.triangles[t, 1], scene.triangles[t, 2], scene.materials[t]
            w1, w2 = bary[y, x, 0], bary[y, x, 1]
            for k in range(3):
                surface.normal[y, x, k] = mix(scene.normals, a, b, c, w1, w2, k)
                surface.position[y, x, k] = mix(scene.positions, a, b, c, w1, w2, k)
                surface.extra[y, x, k] = mix(scene.extra, a, b, c, w1, w2, k)
                surface.sky[y, x, k] = mix(sky, a, b, c, w1, w2, k)
            u, v = mix(scene.uv, a, b, c, w1, w2, 0), mix(scene.uv, a, b, c, w1, w2, 1)
            surface.material[y, x], label = m, LABEL_OF_MATERIAL[m]

            if m == FACE or m == NECK:
                brow, stubble, lip = 0.0, 0.0, False
                if m == FACE:
                    label = face_labels[min(int((1 - v) * (last + 1)), last), min(int(u * (last + 1)), last)]
                    lip = label == UPPER_LIP or label == LOWER_LIP
                    surface.height[y, x] = sample(textures.bump, u, v) - 128
                    stubble = (
                        max(sample(textures.stubble, u, v) * look.stubble, sample(textures.beard, u, v) * look.beard)
                        / 255
                    )
                    brow = sample(textures.brow, u, v) / 255 * look.brow_alpha
                    if sample(textures.brow_region, u, v) > 127:
                        label = R_BROW if u < 0.5 else L_BROW
                elif surface.extra[y, x, 1] > -3.5:
                    label = SKIN
                scalp = surface.extra[y, x, 2]
                for k in range(3):
                    texel = sample(textures.face[k], u, v) if m == FACE else sample(textures.neck[k], u, v)
                    value = (texel / 255) ** (2.2 * look.contrast) * look.skin_gain[k]
                    value *= look.lip_tint[k] if lip else 1
                    value += stubble * (min(0.2, look.brow_rgb[k] * 0.8 + 0.02) - value)
                    value += brow * (look.brow_rgb[k] - value)
                    value += scalp * (look.hair_rgb[k] * 0.8 - value)
                    albedo[y, x, k] = min(value, 1.0)
            elif m == SCLERA:
                shade_eye(u, v, look, albedo[y, x])
            elif m == HAIR:
                brightness = max(0.03, sample(textures.hair, u - np.floor(u), v - np.floor(v)) / 255)
                for k in range(3):
                    albedo[y, x, k] = look.hair_rgb[k] * brightness
            elif m == CLOTH:
                for k in range(3):
                    texel = (sample(textures.cloth[k], u - np.floor(u), v - np.floor(v)) / 255) ** 2.2
                    albedo[y, x, k] = (texel * look.cloth_gain + look.cloth_lift) * look.cloth_rgb[k]
            else:
                for k in range(3):
                    albedo[y, x, k] = look.flat_rgb[m, k]
            labels[y, x] = L_EYE if label == R_EYE and surface.extra[y, x, 0] > 0 else label


@jit
def shade_eye(u, v, look, albedo):
    """Iris, pupil, limbus and veined white, painted by radius and angle around the eyeball's pole."""
    radius, angle = ((u - 0.5) ** 2 + (v - 0.5) ** 2) ** 0.5 * 2, np.arctan2(v - 0.5, u - 0.5)
    if radius < look.iris_radius:
        q, phase = radius / look.iris_radius, look.iris_phase
        fibres = (
            0.5 * np.sin(angle * 23 + phase)
            + 0.3 * np.sin(angle * 41 + phase * 3)
            + 0.2 * np.sin(angle * 67 + phase * 2)
        )
        limbus = 1 - 0.75 * max(0.0, (q - 0.78) / 0.22)
        ring = 1 + 0.5 * np.exp(-(((q - look.pupil - 0.12) / 0.12) ** 2))
        value = (0.75 + 0.35 * fibres * (0.3 + 0.7 * q)) * limbus * ring * min(1.0, max(0.0, (q - look.pupil) / 0.06))
        for k in range(3):
            albedo[k] = max(0.004, look.eye_rgb[k] * value)
    else:
        q = min(1.0, (radius - look.iris_radius) / 0.5)
        veins = max(0.0, np.sin(angle * 9 + radius * 14 + np.sin(angle * 5) * 2) - 0.85) * 0.6 * q
        albedo[0] = 0.62 * look.sclera * (0.1 + 0.9 * min(1.0, (radius - look.iris_radius) / 0.05))
        albedo[1] = albedo[0] * (0.93 - 0.10 * q - veins)
        albedo[2] = albedo[0] * (0.90 - 0.13 * q - veins)


@jit
def shade_lights(
    surface,
    eye,
    directions,
    colours,
    glints,
    shadow,
    u,
    v,
    corner,
    texels_per_cm,
    softness,
    look,
    seed,
    diffuse,
    specular,
):
    """Sky and key light into diffuse [H,W,3], the highlights of all lights into specular. Light 0 is the key: only it
    has a sharp shadow; the others' diffuse part is in the sky light already."""
    material, height = surface.material, surface.height
    key, size, last_y, last_x = directions[0], shadow.shape[0], material.shape[0] - 1, material.shape[1] - 1
    for y in range(last_y + 1):
        for x in range(last_x + 1):
            m = material[y, x]
            if m < 0:
                continue
            n, position, tangent = surface.normal[y, x], surface.position[y, x], unit(surface.extra[y, x])
            x0, x1, y0, y1 = max(x - 1, 0), min(x + 1, last_x), max(y - 1, 0), min(y + 1, last_y)
            if m == FACE == material[y, x0] == material[y, x1] == material[y0, x] == material[y1, x]:
                n[0] -= (height[y, x1] - height[y, x0]) * BUMP
                n[1] += (height[y1, x] - height[y0, x]) * BUMP
            view, normal = unit(add(eye, position, -1.0)), unit(n)
            if m >= LASH and dot(normal, view) < 0:  # open meshes show both sides
                normal = (-normal[0], -normal[1], -normal[2])
            in_mouth = m == MOUTH_SOCKET or m == GUMS or m == TEETH

            # share of the key light that arrives: ten samples on a disc, turned differently at each pixel
            q = add(position, normal, 0.35)
            qa, qb = (dot(q, u) - corner[0]) * texels_per_cm, (dot(q, v) - corner[1]) * texels_per_cm
            turn, lit = (((x * 374761393) ^ (y * 668265263) ^ seed) & 1023) * 6.2832 / 1024, 0.0
            cos, sin = np.cos(turn) * softness, np.sin(turn) * softness
            for k in range(DISC.shape[0]):
                ia, ib = int(qa + cos * DISC[k, 0] - sin * DISC[k, 1]), int(qb + sin * DISC[k, 0] + cos * DISC[k, 1])
                if ia < 0 or ib < 0 or ia >= size or ib >= size or dot(q, key) + 100.25 > shadow[ib, ia]:
                    lit += 1 / DISC.shape[0]

            facing, wrap = dot(normal, key), 0.08 if m == FACE or m == NECK else 0.0
            amount = max(0.0, (facing + wrap) / (1 + wrap))
            if m == HAIR:
                amount = 0.6 * amount + 0.4 * max(0.0, 1 - dot(tangent, key) ** 2) ** 0.5 * max(0.0, facing + 0.4)
            openness = min(1.0, (surface.sky[y, x, 0] + surface.sky[y, x, 1] + surface.sky[y, x, 2]) / OPEN_SKY)
            for k in range(3):
                value = surface.sky[y, x, k] + colours[0, k] * amount * lit
                if m == TEETH:
                    value = value * (0.55 + 0.45 * openness) + look.mouth_fill * (0.35 + 0.65 * openness)
                elif in_mouth:
                    value = value * (0.45 + 0.55 * openness) + 0.4 * look.mouth_fill
                diffuse[y, x, k] = value

            for j in range(directions.shape[0]):
                half = unit(add(view, directions[j]))
                nh, nl = max(0.0, dot(normal, half)), max(0.0, dot(normal, directions[j]))
                fresnel = (0.04 + 0.96 * (1 - max(0.0, dot(half, view))) ** 5) * nl
                if m == FACE or m == NECK:
                    broad = nh**look.gloss
                    value = fresnel * look.gloss * 0.192 * (look.sheen * broad + 4 * look.oil * broad**4)
                elif m == SCLERA or m == IRIS_BACK:
                    value = fresnel * (7.0 if j == 0 else 3.0) * nh ** glints[j]
                elif m == HAIR:
                    across = max(0.0, 1 - dot(tangent, half) ** 2) ** 10
                    value = (0.05 * across**4 + 0.02 * across) * max(0.0, nl + 0.25) * look.hair_sheen
                else:
                    value = fresnel * SHINE[m, 0] * nh ** SHINE[m, 1]
                value *= (lit if j == 0 else openness) * (0.8 * openness if in_mouth else 1.0)
                for k in range(3):
                    specular[y, x, k] += colours[j, k] * value


def scatter_skin(surface: Surface, diffuse: np.ndarray, px_per_cm: float):
    """Blurs the light on skin, red furthest, as light below the skin does; at half resolution."""
    height, width = diffuse.shape[:2]
    skin = ((surface.material == FACE) | (surface.material == NECK)).astype(np.float32)
    for channel, radius_cm in enumerate((0.32, 0.16, 0.09)):
        light, weight = (
            cv2.GaussianBlur(
                cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
                (0, 0),
                max(radius_cm * px_per_cm / 2, 0.4),
            )
            for image in (diffuse[..., channel] * skin, skin)
        )
        light = light / (weight + 1e-4)
        light = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
        diffuse[..., channel] += (light - diffuse[..., channel]) * skin
