"""Glasses as a mesh and beards as masks with strands; both follow the head's shape."""

import cv2
import numpy as np

GLASSES_STYLES = ("none", "thin", "dark", "round", "square")
BEARD_STYLES = ("none", "full", "goatee", "moustache", "strap")
# half width, half height (cm), exponent of the superellipse, radius of the rim (cm)
RIMS = {
    "thin": (2.45, 1.75, 3.0, 0.07),
    "dark": (2.5, 1.9, 3.6, 0.19),
    "round": (2.2, 2.1, 2.0, 0.09),
    "square": (2.6, 1.65, 5.0, 0.15),
}


def glasses_mesh(style: str, landmarks_cm: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [N,3] cm, triangles of frame [M,3] and of lenses [K,3], on a neutral head with landmarks [68,3]."""
    half_width, half_height, power, radius = RIMS[style]
    half_width, half_height = half_width * scale, half_height * scale
    right, left = landmarks_cm[36:42].mean(0), landmarks_cm[42:48].mean(0)
    middle_x, eye_y = (right[0] + left[0]) / 2, (right[1] + left[1]) / 2
    front = max(landmarks_cm[27, 2] + 0.25, max(right[2], left[2]) + 1.5)
    reach = max((left[0] - right[0]) / 2, half_width + 0.75)
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    curve = np.stack(
        [
            np.sign(cos) * np.abs(cos) ** (2 / power) * half_width,
            np.sign(sin) * np.abs(sin) ** (2 / power) * half_height,
        ],
        1,
    )
    vertices, frame, lenses = [], [], []

    def add(points, triangles, to):
        to.append(triangles + sum(map(len, vertices)))
        vertices.append(points)

    for side in (-1, 1):
        x = middle_x + side * reach + curve[:, 0] * side
        rim = np.stack([x, eye_y - 0.3 + curve[:, 1], front - 0.02 * (x - middle_x) ** 2], 1)
        add(*tube(rim, radius, closed=True), frame)
        fan = np.stack([np.arange(36), np.roll(np.arange(36), -1), np.full(36, 36)], 1)
        add(np.vstack([rim, rim.mean(0)]), fan, lenses)
        hinge = rim[np.argmax(side * rim[:, 0])] + [0, 0.4 * half_height, 0]
        ear = landmarks_cm[0 if side < 0 else 16] + [side * 0.45, 0.6, -1.5]
        ear[1] = max(ear[1], eye_y + 0.2)
        add(*tube(np.linspace(hinge, ear, 5), max(radius, 0.1)), frame)
    inner = [middle_x - (reach - half_width), middle_x + (reach - half_width)]
    arch = np.linspace(0, np.pi, 7)
    bridge = np.stack([np.linspace(*inner, 7), eye_y + 0.15 + 0.25 * np.sin(arch), front + 0.1 * np.sin(arch)], 1)
    add(*tube(bridge, radius), frame)
    return np.vstack(vertices).astype(np.float32), np.vstack(frame).astype(np.int32), np.vstack(lenses).astype(np.int32)


def tube(path: np.ndarray, radius: float, closed: bool = False, sides: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A round bar along points [K,3]."""
    count = len(path)
    along = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, np.where(np.abs(along[:, 2:]) > 0.8, [[1.0, 0, 0]], [[0, 0, 1.0]]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    third = np.cross(along, across)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    points = path[:, None] + radius * (np.cos(turn) * across[:, None] + np.sin(turn) * third[:, None])
    i, j = np.meshgrid(np.arange(count if closed else count - 1), np.arange(sides), indexing="ij")

    def at(along, around):
        return (along % count) * sides + around % sides

    quads = [(at(i, j), at(i + 1, j), at(i + 1, j + 1)), (at(i, j), at(i + 1, j + 1), at(i, j + 1))]
    triangles = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in quads])
    return points.reshape(-1, 3), triangles


def beard_masks(landmarks_uv: np.ndarray, face_labels: np.ndarray) -> dict[str, np.ndarray]:
    """Masks uint8 [1024,1024] by style over the face's texture; landmarks_uv [68,2] in its pixels, y down."""
    q, size = landmarks_uv, face_labels.shape[0]
    moustache = [
        q[48] + [-30, 26],
        q[48] + [-34, -12],
        q[31] + [-30, 14],
        q[33] + [0, 10],
        q[35] + [30, 14],
        q[54] + [34, -12],
        q[54] + [30, 26],
        q[54] + [4, 0],
        q[52],
        q[51],
        q[50],
        q[48] + [-4, 0],
    ]
    chin = [q[48] + [-24, 0], q[59] + [-10, 30], q[6], q[7], q[8], q[9], q[10], q[55] + [10, 30], q[54] + [24, 0]]
    jaw = [*q[2:15], q[54] + [55, -30], q[54] + [20, 0], q[48] + [-20, 0], q[48] + [-55, -30]]

    def mask(*outlines, blur=9):
        image = np.zeros((size, size), np.uint8)
        for outline in outlines:
            cv2.fillPoly(image, [np.array(outline).astype(np.int32)], 255)
        image[(face_labels == 12) | (face_labels == 13)] = 0
        return cv2.GaussianBlur(image, (0, 0), blur)

    strap = np.zeros((size, size), np.uint8)
    cv2.polylines(strap, [q[1:16].astype(np.int32)], False, 255, 64)
    return {
        "full": mask(jaw, moustache),
        "goatee": mask(moustache, chin, blur=7),
        "moustache": mask(moustache, blur=5),
        "strap": np.maximum(cv2.GaussianBlur(strap, (0, 0), 10), mask(moustache, blur=6)),
    }


def grow_beard(rng, mask, triangles, render_vertex, uv, neutral, normals, roots: int = 9000):
    """Strands on the face: triangles [M] (row numbers), corner weights [M,3], offsets [M,4,3] in cm for length 1."""
    corners = neutral[render_vertex[triangles]]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    middle = uv[triangles].mean(1)
    size = mask.shape[0]
    row = ((1 - middle[:, 1]) * (size - 1)).astype(int).clip(0, size - 1)
    column = (middle[:, 0] * (size - 1)).astype(int).clip(0, size - 1)
    chance = area * (mask[row, column] / 255.0) ** 1.5
    triangle = rng.choice(len(triangles), roots, p=chance / chance.sum())
    r1, r2 = np.sqrt(rng.random(roots)), rng.random(roots)
    weight = np.stack([1 - r1, r1 * (1 - r2), r1 * r2], 1)
    normal = np.einsum("ms,msc->mc", weight, normals[render_vertex[triangles[triangle]]])
    down = np.array([0, -0.8, 0.1]) + rng.normal(size=(roots, 3)) * 0.3
    down -= normal * (down * normal).sum(1, keepdims=True) * 0.9
    length = rng.uniform(0.4, 1.0, roots)[:, None, None]
    s = np.linspace(0, 1, 4)[:, None]
    offsets = (down[:, None] * s + normal[:, None] * (0.05 + 0.45 * s * (1 - 0.5 * s))) * length
    return triangle, weight.astype(np.float32), offsets.astype(np.float32)
