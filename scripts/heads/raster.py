"""Triangle rasteriser on the CPU (numba, one thread): visible surface, shadow depth maps, soft hair and lashes.

Screen vertices are rows (x px, y px, nearness = 1 / depth); a pixel's centre lies at +0.5. Shadow maps use the same
functions with (x texel, y texel, height towards the light). Textures are uint8; v runs upwards.
"""

import numpy as np
from numba import njit

jit = njit(cache=True, fastmath=True)
add = jit(lambda a, b, s=1.0: (a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]))
dot = jit(lambda a, b: a[0] * b[0] + a[1] * b[1] + a[2] * b[2])
unit = jit(lambda a: add((0.0, 0.0, 0.0), a, 1 / (dot(a, a) ** 0.5 + 1e-9)))
# value k of a triangle with corners a, b, c at a point with weights w1 of b, w2 of c
mix = jit(lambda values, a, b, c, w1, w2, k: (1 - w1 - w2) * values[a, k] + w1 * values[b, k] + w2 * values[c, k])


@jit
def sample(texture, u, v):
    """Bilinear value of a grey texture [H,W], clamped at its border."""
    height, width = texture.shape
    x = min(max(u * width - 0.5, 0.0), width - 1.01)
    y = min(max((1 - v) * height - 0.5, 0.0), height - 1.01)
    i, j = int(x), int(y)
    fx, fy = x - i, y - j
    return (texture[j, i] * (1 - fx) + texture[j, i + 1] * fx) * (1 - fy) + (
        texture[j + 1, i] * (1 - fx) + texture[j + 1, i + 1] * fx
    ) * fy


@jit
def pixel_box(points, a, b, c, width, height):
    """Columns and rows whose centres may lie inside the triangle, and 1 / (twice its signed area)."""
    x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area == 0:
        return 0, -1, 0, -1, 0.0
    left, right = int(np.ceil(min(x0, min(x1, x2)) - 0.5)), int(np.floor(max(x0, max(x1, x2)) - 0.5))
    top, bottom = int(np.ceil(min(y0, min(y1, y2)) - 0.5)), int(np.floor(max(y0, max(y1, y2)) - 0.5))
    return max(0, left), min(width - 1, right), max(0, top), min(height - 1, bottom), 1.0 / area


@jit
def hit(points, a, b, c, inverse_area, x, y):
    """Nearness and perspective-correct weights of corners b, c at the centre of pixel (x, y); -1 outside."""
    dx, dy = x + 0.5 - points[a, 0], y + 0.5 - points[a, 1]
    x1, y1 = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
    x2, y2 = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1]
    w1, w2 = (dx * y2 - x2 * dy) * inverse_area, (x1 * dy - dx * y1) * inverse_area
    w0 = 1 - w1 - w2
    if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
        return -1.0, 0.0, 0.0
    z = w0 * points[a, 2] + w1 * points[b, 2] + w2 * points[c, 2]
    return z, w1 * points[b, 2] / z, w2 * points[c, 2] / z


@jit
def repeated_uv(uv, a, b, c, w1, w2):
    u, v = mix(uv, a, b, c, w1, w2, 0), mix(uv, a, b, c, w1, w2, 1)
    return u - np.floor(u), v - np.floor(v)


@jit
def card_alpha(alpha, fades, a, b, c, u, v, w1, w2):
    """Opacity 0..255 of a card; where its fade is below 1 it thins out strand by strand."""
    value = sample(alpha, u, v)
    fade = mix(fades, a, b, c, w1, w2, 0)
    if fade < 0.999:
        pattern = 0.5 + 0.27 * np.sin(u * 811.0 + 2 * np.sin(u * 173.0)) + 0.23 * np.sin(u * 1733.0 + v * 9.0)
        value *= min(1.0, max(0.0, (fade * 1.5 - pattern) * 2.2))
    return value


@jit
def vertex_normals(vertices, triangles):
    normals = np.zeros_like(vertices)
    for i in range(triangles.shape[0]):
        origin = vertices[triangles[i, 0]]
        u, v = add(vertices[triangles[i, 1]], origin, -1.0), add(vertices[triangles[i, 2]], origin, -1.0)
        for k in range(3):
            for corner in triangles[i]:
                normals[corner, k] += u[(k + 1) % 3] * v[(k + 2) % 3] - u[(k + 2) % 3] * v[(k + 1) % 3]
    for i in range(normals.shape[0]):
        normals[i, 0], normals[i, 1], normals[i, 2] = unit(normals[i])
    return normals


@jit
def rasterise(points, uv, triangles, first, last, alpha, fades, cut, depth, visible, bary):
    """Draws triangles[first:last]; where cut > 0, only where `alpha` times fades [V,1] is above it. Keeps the
    nearest: depth [H,W] (nearness), visible [H,W] (triangle number), bary [H,W,2] (weights of corners b, c)."""
    height, width = depth.shape
    for i in range(first, last):
        a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
        left, right, top, bottom, inverse_area = pixel_box(points, a, b, c, width, height)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                z, w1, w2 = hit(points, a, b, c, inverse_area, x, y)
                if z <= depth[y, x]:
                    continue
                if cut > 0:
                    u, v = repeated_uv(uv, a, b, c, w1, w2)
                    if card_alpha(alpha, fades, a, b, c, u, v, w1, w2) <= cut:
                        continue
                depth[y, x], visible[y, x], bary[y, x, 0], bary[y, x, 1] = z, i, w1, w2


@jit
def blend_cards(
    points, uv, triangles, depth, depth_bias, alpha, fades, brightness, colour, light, opacity, total, clear
):
    """Accumulates textured transparent triangles in any order: total [H,W,4] (colour times alpha, alpha), clear
    [H,W] (what still shines through). light [V,3] is the irradiance of the vertices."""
    height, width = depth.shape
    for i in range(triangles.shape[0]):
        a, b, c = triangles[i, 0], triangles[i, 1], triangles[i, 2]
        left, right, top, bottom, inverse_area = pixel_box(points, a, b, c, width, height)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                z, w1, w2 = hit(points, a, b, c, inverse_area, x, y)
                if z * depth_bias <= depth[y, x]:
                    continue
                u, v = repeated_uv(uv, a, b, c, w1, w2)
                opaque = min(card_alpha(alpha, fades, a, b, c, u, v, w1, w2) / 255, opacity)
                if opaque < 0.02:
                    continue
                strength = opaque * max(0.03, sample(brightness, u, v) / 255)
                for k in range(3):
                    total[y, x, k] += strength * colour[k] * mix(light, a, b, c, w1, w2, k)
                total[y, x, 3] += opaque
                clear[y, x] *= 1 - opaque


@jit
def blend_strands(points, colours, opacity, depth, depth_bias, total, clear):
    """Accumulates thin lines, points [M,J,3], colours [M,3], fading towards their tips; total, clear as above."""
    height, width = depth.shape
    joints = points.shape[1]
    for i in range(points.shape[0]):
        for j in range(joints - 1):
            x0, y0, z0 = points[i, j, 0], points[i, j, 1], points[i, j, 2]
            dx, dy, dz = points[i, j + 1, 0] - x0, points[i, j + 1, 1] - y0, points[i, j + 1, 2] - z0
            steps = int(max(abs(dx), abs(dy))) + 1
            fade = opacity * (1 - 0.7 * (j + 0.5) / (joints - 1))
            for s in range(steps if steps < width // 8 else 0):
                x, y, z = int(x0 + dx * s / steps), int(y0 + dy * s / steps), (z0 + dz * s / steps) * depth_bias
                if 0 <= x < width and 0 <= y < height and z > depth[y, x]:
                    for k in range(3):
                        total[y, x, k] += fade * colours[i, k]
                    total[y, x, 3] += fade
                    clear[y, x] *= 1 - fade


def compose_blend(image, total, clear, gain, labels, label=None):
    """Lays accumulated cards or strands over the image; the label is written where they cover more than half."""
    touched = clear < 0.995
    t, colour = clear[touched][:, None], total[touched]
    image[touched] = image[touched] * t + (1 - t) * gain * colour[:, :3] / colour[:, 3:]
    if label is not None:
        labels[clear < 0.5] = label
