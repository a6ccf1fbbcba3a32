"""The 68 landmarks of a head from its parameters alone, without rendering: fast, for any number of frames at once.

    model = HeadLandmarks(assets_folder)
    plane_cm = model.project(identity, weights, poses)             # [T,68,2], iBUG order
    frontal_cm = model.project(identity, weights, np.zeros(3))     # the same sentence without head motion

`plane_cm` is the picture's plane in centimetres at the depth of LOOK_AT: x to the image's right, y down, (0, 0) on the
camera's axis. A camera's `frame` (camera.py) takes it to pixels. Points 0..16 slide along the visible outline of the
face as the head turns, as annotators of iBUG pictures place them; the other points stay on the skin.
"""

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

NECK_PIVOT = np.array([0, -9, -1.5], np.float32)  # cm; the head turns about this point
LOOK_AT = np.array([0, 1, 4], np.float32)  # cm; the point on the camera's axis
OUTLINE_STEPS = 14  # places that an outline point can take
OUTLINE_REACH = 0.55  # how far inwards they go, as a share of the way in UV
OUTLINE_SHARPNESS_CM = 0.05  # of the choice among them


class HeadLandmarks:
    """Landmarks of heads made of the assets' head.npz (see its README for the arrays)."""

    def __init__(self, assets: Path | str):
        head = np.load(Path(assets) / "head.npz")
        self.expression_names = [str(name) for name in head["expression_names"]]
        corners, weights = outline_points(head)  # [17,S,3] vertices and weights
        wanted, index = np.unique(np.concatenate([corners.ravel(), head["landmarks68"][17:]]), return_inverse=True)
        self._outline, self._outline_weight = index[: corners.size].reshape(corners.shape), weights
        self._inner = index[corners.size :]
        self._neutral = (head["verts"] + head["torso_shrink"].astype(np.float32))[wanted]
        self._identity = head["identity"][:, wanted].astype(np.float32).reshape(100, -1)
        self._expression = head["expression"][:, wanted].astype(np.float32).reshape(57, -1)
        self._wanted = wanted

    def project(self, identity, weights, poses, translations=0.0, distance_cm: float = 80.0, body_follow: float = 0.3):
        """Landmarks [T,68,2] float32 in `plane_cm` (see above).

        identity: [100], about N(0,1) each. weights: [T,57] (or [57]) expression weights 0..1 in the order of
        `expression_names`. poses: [T,3] or [3], yaw, pitch, roll in radians. translations: [T,3] or [3], cm.
        distance_cm: from the camera to LOOK_AT."""
        weights = np.atleast_2d(np.asarray(weights, np.float32))
        shaped = self._neutral.ravel() + np.asarray(identity, np.float32) @ self._identity + weights @ self._expression
        return self._project(shaped.reshape(len(weights), -1, 3), poses, translations, distance_cm, body_follow)

    def project_shape(self, shaped, pose, translation, distance_cm: float, body_follow: float) -> np.ndarray:
        """The same [68,2] for one head whose unposed vertices [V,3] are known."""
        return self._project(shaped[self._wanted][None], pose, translation, distance_cm, body_follow)[0]

    def _project(self, shaped, poses, translations, distance_cm, body_follow):
        vertices = pose_vertices(shaped, self._neutral[:, 1], poses, translations, body_follow)
        plane = project_plane(vertices, distance_cm)
        outline = np.einsum("ksc,tkscd->tksd", self._outline_weight, plane[:, self._outline])  # [T,17,S,2]
        inner = plane[:, self._inner]
        # the outermost of each point's places, seen from the middle of the face
        outwards = outline[:, :, 0] - inner[:, [30 - 17]]
        outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
        reach = np.einsum("tksd,tkd->tks", outline, outwards)
        share = np.exp((reach - reach.max(-1, keepdims=True)) / OUTLINE_SHARPNESS_CM)
        outline = np.einsum("tks,tksd->tkd", share / share.sum(-1, keepdims=True), outline)
        return np.concatenate([outline, inner], 1).astype(np.float32)


def pose_vertices(vertices, neutral_y, poses, translations, body_follow: float) -> np.ndarray:
    """Turns [..,V,3] vertices by the head's pose; below the chin the neck passes over to the body's smaller turn."""
    poses = np.asarray(poses, np.float64).reshape(-1, 3)
    head = Rotation.from_euler("YXZ", poses).as_matrix().astype(np.float32)
    body = Rotation.from_euler("Y", poses[:, :1] * body_follow).as_matrix().astype(np.float32)
    t = np.clip((neutral_y + 15) / 8, 0, 1).astype(np.float32)[:, None]
    t, v = t * t * (3 - 2 * t), vertices - NECK_PIVOT
    shift = np.asarray(translations, np.float32)
    shift = shift[:, None] if shift.ndim == 2 else shift
    turned = v @ head.transpose(0, 2, 1) * t + v @ body.transpose(0, 2, 1) * (1 - t) + NECK_PIVOT + shift
    return turned.astype(np.float32)


def project_plane(positions, distance_cm: float) -> np.ndarray:
    """Positions [..,3] in cm to the picture's plane [..,2] in cm at LOOK_AT, y down."""
    scale = distance_cm / (LOOK_AT[2] + distance_cm - positions[..., 2])
    return np.stack([(positions[..., 0] - LOOK_AT[0]) * scale, (LOOK_AT[1] - positions[..., 1]) * scale], -1)


def outline_points(head) -> tuple[np.ndarray, np.ndarray]:
    """For each outline landmark, places on a line over the skin from the jaw's edge inwards: the vertices [17,S,3] of
    the triangle that holds each place, and their weights [17,S,3]."""
    triangles = head["tris"][head["tri_material"] == 0]
    uv, vertex_of = head["rv_uv"].astype(np.float64), head["rv_vertex"]
    corner = triangles.ravel()
    uv_of = np.zeros((len(head["verts"]), 2))
    uv_of[vertex_of[corner]] = uv[corner]
    start = uv_of[head["landmarks68"][:17]]
    # towards the middle of the face, but the upper ones level: across the cheek, not over the eye
    middle = np.stack([np.full(17, 0.5), np.clip(start[:, 1], uv_of[head["landmarks68"][51], 1], 0.64)], 1)
    steps = np.linspace(0, OUTLINE_REACH, OUTLINE_STEPS)[None, :, None]
    places = (start[:, None] * (1 - steps) + middle[:, None] * steps).reshape(-1, 2)
    p0, p1, p2 = (uv[triangles[:, k]] for k in range(3))
    _, near = cKDTree((p0 + p1 + p2) / 3).query(places, k=12)
    e1, e2 = (p1 - p0)[near], (p2 - p0)[near]
    d = places[:, None] - p0[near]
    area = e1[..., 0] * e2[..., 1] - e1[..., 1] * e2[..., 0]
    area = np.where(np.abs(area) < 1e-15, 1e-15, area)
    w1 = (d[..., 0] * e2[..., 1] - d[..., 1] * e2[..., 0]) / area
    w2 = (e1[..., 0] * d[..., 1] - e1[..., 1] * d[..., 0]) / area
    weights = np.stack([1 - w1 - w2, w1, w2], -1)
    best = weights.min(-1).argmax(-1)  # the triangle around the place
    rows = np.arange(len(places))
    weight = np.clip(weights[rows, best], 0, 1)
    weight /= weight.sum(-1, keepdims=True)
    shape = (17, OUTLINE_STEPS, 3)
    return vertex_of[triangles[near[rows, best]]].reshape(shape), weight.reshape(shape).astype(np.float32)
