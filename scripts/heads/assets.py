"""Loads the head assets (see their README.md) and prepares them for rendering."""

from collections import namedtuple
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from .landmarks import HeadLandmarks
from .props import BEARD_STYLES, beard_masks, grow_beard
from .raster import vertex_normals

(FACE, NECK, MOUTH_SOCKET, EYE_SOCKET, GUMS, TEETH, SCLERA, IRIS_BACK, LASH, HAIR, CLOTH, GLASSES) = range(
    12
)  # materials
UV_SIZE = 1024
SKIN_VERTICES = 11248  # face, head and neck come first in the vertex list


# face, neck: uint8 RGB planes [3,H,W]; bump: uint8 [1024,1024], 128 is flat; median: linear RGB of cheeks and forehead
Skin = namedtuple("Skin", "face neck bump median")


class Layer:
    """A garment: a mesh in the head's neutral space that follows the identity of the skin below it."""

    def __init__(self, folder: Path, name: str, skin_tree: cKDTree, neighbours: int):
        mesh = np.load(folder / f"{name}.npz")
        self.name = name
        self.vertices, self.uv = mesh["verts"].astype(np.float32), mesh["uv"].astype(np.float32)
        self.from_skin = self.vertices - skin_tree.data[skin_tree.query(self.vertices)[1]].astype(np.float32)
        self.triangles = mesh["tris"].astype(np.int32)
        self.texture = read_planes(folder / f"{name}_rgb.jpg")
        distance, self.near = skin_tree.query(self.vertices, k=neighbours)
        weight = 1 / (distance + 0.3)
        self.near_weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
        # smooth over vertices that coincide (split at UV seams)
        same = np.unique(np.round(self.vertices, 4), axis=0, return_inverse=True)[1].ravel()
        joined = np.zeros((same.max() + 1, 3), np.float32)
        np.add.at(joined, same, vertex_normals(self.vertices, self.triangles))
        self.normals = unit(joined[same]).astype(np.float32)

    def follow(self, displacement: np.ndarray) -> np.ndarray:
        return self.vertices + np.einsum("nk,nkc->nc", self.near_weight, displacement[self.near])


class HairStyle(Layer):
    """Hair cards with an alpha texture, and loose strands that grow on them and soften the outline."""

    def __init__(self, folder: Path, name: str, skin_tree: cKDTree, brow_y: float, seed: int):
        super().__init__(folder, name, skin_tree, neighbours=6)
        self.alpha = cv2.imread(str(folder / f"{name}_alpha.png"), cv2.IMREAD_GRAYSCALE)
        linear = ((self.texture / 255.0) ** 2.2).mean(0)
        self.brightness = np.clip(linear / np.percentile(linear[self.alpha > 128], 60) * 80, 0, 255).astype(np.uint8)
        outwards = unit(self.vertices - np.array([0, 4, -1]))  # normals of the volume, not the cards
        facing = np.where((self.normals * outwards).sum(1, keepdims=True) < 0, -1, 1)
        self.normals = unit(self.normals * facing * 0.55 + outwards * 0.45).astype(np.float32)
        corners, uv = self.vertices[self.triangles], self.uv[self.triangles]
        e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        d1, d2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
        scale = d1[:, :1] * d2[:, 1:] - d2[:, :1] * d1[:, 1:]
        along_v = unit((e2 * d1[:, :1] - e1 * d2[:, :1]) / np.where(np.abs(scale) < 1e-12, 1e-12, scale))
        self.tangents = np.zeros_like(self.vertices)
        for k in range(3):
            np.add.at(self.tangents, self.triangles[:, k], along_v)
        if name == "short02":  # v turns from patch to patch there, which showed as seams: flow from the crown
            away = self.vertices - np.array([0, 11, -3], np.float32)
            self.tangents = away - self.normals * (away * self.normals).sum(1, keepdims=True)
        visible_area = np.linalg.norm(np.cross(e1, e2), axis=1) * (corners[:, :, 1].mean(1) > -14)
        rng = np.random.default_rng(seed)
        self._find_hairline(rng, visible_area / visible_area.sum(), skin_tree.data, brow_y)
        self._grow_strands(rng, visible_area / visible_area.sum())

    def _find_hairline(self, rng, chances, skin, brow_y: float, samples: int = 24000):
        """How thin the cards are at the forehead (`fade` [N], 1: full), and how much hair colour the skin below and
        just before them takes (`scalp`, per skin vertex)."""
        triangle, weight, _, _ = self._scatter(rng, chances, samples)
        hair = on_triangles(self.vertices, self.triangles[triangle], weight)

        def towards(points):
            return unit(points - np.array([0, 4, 0]))  # directions from the head's middle

        gap_cm = 9 * cKDTree(towards(hair)).query(towards(skin))[0]  # from a skin vertex to the nearest hair
        bare = (gap_cm > 0.55) & (skin[:, 1] > brow_y - 2) & (skin[:, 2] > -2)
        if not bare.any():
            bare = gap_cm >= gap_cm.max()
        bare_tree = cKDTree(towards(skin[bare]))
        inside_cm = 9 * bare_tree.query(towards(self.vertices))[0]
        self.fade = smoothstep(inside_cm, 0.05, 1.15).astype(np.float32)
        depth_cm = 9 * bare_tree.query(towards(skin))[0]
        high = smoothstep(skin[:, 1], brow_y - 1.5, brow_y + 1.0)
        behind = smoothstep(-skin[:, 2], -2.0, 0.0) * (np.abs(skin[:, 0]) < 7.0)
        cover = smoothstep(depth_cm, -0.25, 1.05) * (gap_cm < 0.55)
        cover = np.maximum(cover, 0.25 * np.exp(-np.maximum(gap_cm - 0.4, 0) / 0.25))
        self.scalp = (0.9 * cover * np.maximum(high, behind)).astype(np.float32)

    def _grow_strands(self, rng: np.random.Generator, chances: np.ndarray, candidates: int = 9000):
        triangle, weight, row, column = self._scatter(rng, chances, candidates)
        corners, count, short = self.triangles[triangle], len(triangle), self.name in ("short01", "short02", "short03")
        tangent = unit(on_triangles(self.tangents, corners, weight))
        tangent *= np.where(tangent[:, 1:2] > 0, -1, 1)  # strands hang down
        length = (rng.uniform(0.4, 1.3, count) if short else rng.uniform(1, 4, count))[:, None, None]
        direction = tangent + rng.normal(size=(count, 3)) * (0.35 if short else 0.07)
        lift = (rng.gamma(2, 0.12, count) if short else rng.gamma(1.5, 0.06, count))[:, None, None]
        curl = rng.normal(size=(count, 1, 3)) * (0.12 if short else 0.10)
        s = np.linspace(0, 1, 5)[:, None]  # root to tip
        normal = on_triangles(self.normals, corners, weight)[:, None]
        offsets = (direction[:, None] + curl * s) * s * length + normal * (0.03 + lift * s)
        brightness = np.clip(self.brightness[row, column] / 255.0, 0.05, 1) * rng.lognormal(0, 0.35, count)
        self.strand_triangle, self.strand_weight = triangle, weight.astype(np.float32)
        self.strand_offsets = offsets.astype(np.float32)  # [M,5,3] cm from the root
        self.strand_brightness = brightness.astype(np.float32)
        self.strand_keep = rng.random(count) * 0.8  # drawn where the cards' fade is above this

    def _scatter(self, rng: np.random.Generator, chances: np.ndarray, count: int):
        """Random places on the cards' opaque texels: triangle, corner weights, row and column in the texture."""
        triangle = rng.choice(len(chances), count, p=chances)
        r1, r2 = np.sqrt(rng.random(count)), rng.random(count)
        weight = np.stack([1 - r1, r1 * (1 - r2), r1 * r2], 1)
        u, v = on_triangles(self.uv, self.triangles[triangle], weight).T % 1
        row, column = ((1 - v) * (UV_SIZE - 1)).astype(int), (u * (UV_SIZE - 1)).astype(int)
        on_hair = self.alpha[row, column] > 120
        return triangle[on_hair], weight[on_hair], row[on_hair], column[on_hair]


class HeadAssets:
    def __init__(self, root: Path | str):
        root = Path(root)
        head, brows = np.load(root / "head.npz"), np.load(root / "brows.npz")
        self.neutral = head["verts"] + head["torso_shrink"].astype(np.float32)  # [V,3] cm
        self.identity = head["identity"].astype(np.float32).reshape(100, -1)  # [100,V*3] cm
        self.expression = head["expression"].astype(np.float32).reshape(57, -1)  # [57,V*3] cm
        self.expression_names = [str(n) for n in head["expression_names"]]
        self.render_vertex, self.uv = head["rv_vertex"], head["rv_uv"].astype(np.float32)
        self.triangles = head["tris"].astype(np.int32)  # over render vertices
        self.material = head["tri_material"].astype(np.uint8)
        self.geometry_triangles = self.render_vertex[self.triangles].astype(np.int32)
        self.first_lash = int(np.argmax(self.material == LASH))  # lashes come last
        self.occluders = self.triangles[self.material <= NECK]
        eyes = np.unique(self.triangles[(self.material == SCLERA) | (self.material == IRIS_BACK)])
        left = self.neutral[self.render_vertex[eyes], 0] > 0
        self.eyeballs = {"_L": eyes[left], "_R": eyes[~left]}  # render vertices
        self.landmarks68, self.face_labels = head["landmarks68"], head["face_label_uv"]
        self.landmarks = HeadLandmarks(root)
        self.brows = np.zeros((len(brows["alpha"]), UV_SIZE, UV_SIZE), np.uint8)
        self.brows[:, int(brows["row0"]) : int(brows["row0"]) + brows["alpha"].shape[1]] = brows["alpha"]
        self.brow_regions = np.stack([brow_region(alpha) for alpha in self.brows])
        self.lash_alpha = draw_lashes()
        self._make_beards()
        tree = cKDTree(self.neutral[:SKIN_VERTICES])
        skins = sorted(path.name.removesuffix("_face.jpg") for path in (root / "skins").glob("*_face.jpg"))
        self.skins = {name: self._load_skin(root / "skins" / name) for name in skins}
        clothes = sorted(path.stem for path in (root / "cloth").glob("*.npz"))
        self.clothes = {name: Layer(root / "cloth", name, tree, neighbours=24) for name in clothes}
        brow_y = float(self.neutral[self.landmarks68[17:27], 1].mean())
        styles = sorted(path.stem for path in (root / "hair").glob("*.npz"))
        self.hair = {name: HairStyle(root / "hair", name, tree, brow_y, seed=11 + k) for k, name in enumerate(styles)}

    def _load_skin(self, path: Path) -> Skin:
        planes = [read_planes(f"{path}_{part}.jpg") for part in ("face", "headneck")]
        grey = planes[0].mean(0, dtype=np.float32)
        bump = np.clip((grey - cv2.GaussianBlur(grey, (0, 0), 6)) * 3 + 128, 0, 255).astype(np.uint8)
        middle = (slice(300, 750), slice(250, UV_SIZE - 250))
        cheeks = planes[0][(slice(None), *middle)][:, self.face_labels[middle] == 1]
        median = (np.median(cheeks, axis=1) / 255) ** 2.2
        if median[2] < 0.1:  # dark textures: green and blue are faint and blotchy; half of the hue is the median's
            for k, texture in enumerate(planes):
                linear = (texture / np.float32(255)) ** 2.2
                smooth = median[:, None, None] * linear.mean(0) / median.mean()
                planes[k] = np.clip((linear * smooth) ** (0.5 / 2.2) * 255, 0, 255).astype(np.uint8)
        return Skin(*planes, bump, median)

    def _make_beards(self):
        """Stubble: the beard's region of the face in UV, speckled, uint8 [1024,1024]; beards: mask and strands."""
        corner = self.triangles[self.material == FACE].ravel()
        uv = np.zeros((len(self.neutral), 2), np.float32)
        uv[self.render_vertex[corner]] = self.uv[corner] * [1, -1] + [0, 1]
        q = uv[self.landmarks68] * UV_SIZE
        outline = [*q[1:16], q[54] + [60, -60], q[35] + [30, 6], q[33] + [0, 6], q[31] + [-30, 6], q[48] + [-60, -60]]
        mask = cv2.fillPoly(np.zeros((UV_SIZE, UV_SIZE), np.uint8), [np.array(outline).astype(np.int32)], 255)
        mask[(self.face_labels == 12) | (self.face_labels == 13)] = 0  # lips
        speckle = cv2.GaussianBlur(np.random.default_rng(0).random(mask.shape).astype(np.float32), (0, 0), 0.8)
        speckle = (speckle - speckle.mean()) / speckle.std()
        speckle = np.clip(0.55 + 0.3 * speckle, 0, 1)
        self.stubble = (cv2.GaussianBlur(mask, (0, 0), 14) * speckle).astype(np.uint8)
        face = self.triangles[self.material == FACE]
        normals = vertex_normals(self.neutral, self.geometry_triangles)
        self.beards = {}
        for k, (name, region) in enumerate(beard_masks(q, self.face_labels).items()):
            strands = grow_beard(
                np.random.default_rng(31 + k), region, face, self.render_vertex, self.uv, self.neutral, normals
            )
            self.beards[name] = ((region * np.clip(speckle + 0.3, 0, 1)).astype(np.uint8), *strands)
        assert tuple(self.beards) == BEARD_STYLES[1:]


def draw_lashes() -> np.ndarray:
    """Alpha of the lash strips: 2 x 6 in UV, rows 0..2 lower lid, 3..5 upper; tapered lines from root to tip."""
    width, height = 1024, 1536
    alpha, rng = np.zeros((height, width), np.uint8), np.random.default_rng(5)
    for row in range(6):
        count, longest = (34, 1.0) if row >= 3 else (22, 0.65)
        for start, end in ((0.012, 0.49), (0.51, 0.99)):
            for i in range(count):
                x = start + (end - start) * (i + rng.uniform(0.1, 0.9)) / count
                length, slant, t = rng.uniform(0.7, 1) * longest, rng.normal() * 0.012, np.linspace(0, 1, 7)
                v = (row + 0.92 - 0.84 * t * length) / 6  # 0.92 is the root, 0.08 the tip
                line = np.stack([(x + slant * t * t) * width, (1 - v) * height], 1).astype(int).tolist()
                for j in range(6):
                    cv2.line(alpha, line[j], line[j + 1], 255, max(1, int(4 - j * 0.6)), cv2.LINE_AA)
    return cv2.resize(alpha, (512, 768), interpolation=cv2.INTER_AREA)


def brow_region(alpha: np.ndarray) -> np.ndarray:
    """The area that the hairs of a brow fill, as people outline it: uint8 0 or 255, from their opacity."""
    density = cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 6)
    return np.where(density > 0.3 * density.max(), 255, 0).astype(np.uint8)


def read_planes(path: Path | str) -> np.ndarray:
    """RGB image as planes [3,H,W]."""
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1].transpose(2, 0, 1))


def on_triangles(values: np.ndarray, corners: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Vertex values [V,C] at places on triangles: corners [M,3], their weights [M,3] -> [M,C]."""
    return np.einsum("ms,msc->mc", weight, values[corners])


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)


@lru_cache(maxsize=1)
def load_assets(root: str) -> HeadAssets:
    """The assets of a folder, read once."""
    return HeadAssets(root)
