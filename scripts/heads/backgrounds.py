"""Painted backgrounds in linear RGB: walls, rooms with windows and shelves, plants, bokeh; mostly out of focus."""

import cv2
import numpy as np

CANVAS = 160  # px; painted at this size, then enlarged


def paint_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A picture [height,width,3] float32, linear RGB, brightness about 0..2."""
    side = max(width, height)
    rows = int(np.ceil(CANVAS * height / side))
    columns = int(np.ceil(CANVAS * width / side))
    image = paint_wall(rng)
    kind = rng.choice(
        ["wall", "room", "shelves", "window", "plants", "bokeh", "boxes"], p=[0.2, 0.2, 0.13, 0.15, 0.1, 0.12, 0.1]
    )
    {
        "wall": lambda *_: None,
        "room": paint_room,
        "shelves": paint_shelves,
        "window": paint_window,
        "plants": paint_plants,
        "bokeh": paint_bokeh,
        "boxes": paint_boxes,
    }[kind](rng, image)
    sigma = rng.uniform(0.3, 1.5) if rng.random() < 0.2 else rng.uniform(1.5, 7)
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.35:  # grain of plaster or cloth, in focus or not
        grain = rng.standard_normal((CANVAS, CANVAS)).astype(np.float32)
        grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 2.5))
        image *= 1 + rng.uniform(0.01, 0.06) * (grain / grain.std())[..., None]
    y0, x0 = (CANVAS - rows) // 2, (CANVAS - columns) // 2
    image = np.clip(image[y0 : y0 + rows, x0 : x0 + columns], 0, 3)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def natural_colour(rng, low=0.05, high=0.9, chroma=0.10) -> np.ndarray:
    """Mostly greys and browns, now and then a strong colour."""
    spread = chroma * (3.0 if rng.random() < 0.12 else 1.0)
    warmth = rng.normal(0.04, 0.10)
    tint = np.clip(np.array([1 + warmth, 1, 1 - warmth]) + rng.normal(size=3) * spread * 0.6, 0.25, 1.7)
    return (np.exp(rng.uniform(np.log(low), np.log(high))) * tint).astype(np.float32)


def paint_wall(rng) -> np.ndarray:
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) / CANVAS - 0.5
    base, other = natural_colour(rng, 0.04, 0.9), natural_colour(rng, 0.04, 0.9)
    slope = rng.normal(size=2)
    t = np.clip(0.5 + (slope[0] * x + slope[1] * y) * rng.uniform(0.2, 1.2), 0, 1)[..., None]
    image = base * (1 - t) + (0.6 * base + 0.4 * other) * t
    centre, reach = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.3, 0.9)
    pool = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / reach**2)[..., None]  # light of a lamp on the wall
    return (image * (0.75 + rng.uniform(0, 0.7) * pool)).astype(np.float32)


def box(image, x, y, width, height, colour):
    """An upright rectangle with a slight slope of light."""
    x0, x1, y0, y1 = (int(np.clip(v, 0, CANVAS)) for v in (x, x + width, y, y + height))
    if x1 > x0 and y1 > y0:
        image[y0:y1, x0:x1] = colour * np.linspace(0.85, 1.15, x1 - x0, dtype=np.float32)[None, :, None]


def paint_room(rng, image):
    corner = rng.integers(-20, CANVAS + 20)
    image[:, max(corner, 0) :] *= rng.uniform(0.5, 1.4)
    if rng.random() < 0.7:
        box(image, rng.integers(-10, 120), rng.integers(-10, 60), *rng.integers(20, 60, 2), natural_colour(rng))
    for _ in range(rng.integers(2, 7)):  # furniture stands low, pictures hang high
        low = rng.random() < 0.6
        y = rng.integers(80, 140) if low else rng.integers(0, 60)
        box(image, rng.integers(-30, CANVAS), y, *rng.integers(14, 70, 2), natural_colour(rng, 0.03, 0.7))
    if rng.random() < 0.5:
        cv2.circle(
            image,
            rng.integers(0, CANVAS, 2).tolist(),
            int(rng.integers(6, 16)),
            (rng.uniform(0.8, 2) * np.array([1, 0.85, 0.6])).tolist(),
            -1,
        )


def paint_shelves(rng, image):
    wood = natural_colour(rng, 0.05, 0.5)
    spacing, y = int(rng.integers(28, 48)), int(rng.integers(-20, 10))
    while y < CANVAS:
        x = int(rng.integers(-8, 0))
        while x < CANVAS:
            wide = int(rng.integers(3, 10))
            if rng.random() < 0.88:
                tall = int(spacing * rng.uniform(0.55, 0.9))
                box(image, x, y + spacing - tall, wide, tall, natural_colour(rng, 0.03, 0.7, 0.2))
            x += wide
        box(image, 0, y + spacing, CANVAS, 4, wood)
        y += spacing


def paint_window(rng, image):
    x, y, width, height = (
        int(v) for v in (rng.integers(-30, 120), rng.integers(-20, 30), rng.integers(40, 90), rng.integers(70, 130))
    )
    sky = rng.uniform(0.7, 2.0) * np.array([0.85, 0.95, 1.1]) * rng.uniform(0.85, 1.1, 3)
    box(image, x - 4, y - 4, width + 8, height + 8, natural_colour(rng, 0.3, 0.9))
    box(image, x, y, width, height, sky.astype(np.float32))
    box(image, x, y + height * rng.uniform(0.4, 0.8), width, height, natural_colour(rng, 0.1, 0.6) * [0.7, 1, 0.6])
    for k in range(1, int(rng.integers(1, 4))):
        box(image, x + width * k / 3, y, 3, height, natural_colour(rng, 0.3, 0.8))
    if rng.random() < 0.5:
        cloth = natural_colour(rng, 0.1, 0.8)
        for fold in range(6):
            box(image, x - 22 + 4 * fold, y - 6, 4, height + 20, cloth * (0.8 + 0.4 * (fold % 2)))


def paint_plants(rng, image):
    root = np.array([rng.integers(0, CANVAS), rng.integers(90, CANVAS + 10)])
    for _ in range(rng.integers(40, 140)):
        shade = rng.uniform(0.03, 0.25)
        green = shade * np.array([rng.uniform(0.35, 0.9), 1.0, rng.uniform(0.15, 0.5)])
        place = root + rng.normal(size=2) * [45, 40] - [0, 30]
        axes = (int(rng.integers(6, 20)), int(rng.integers(2, 6)))
        cv2.ellipse(image, place.astype(int).tolist(), axes, float(rng.uniform(0, 360)), 0, 360, green.tolist(), -1)


def paint_bokeh(rng, image):
    image *= rng.uniform(0.15, 0.6)
    for _ in range(rng.integers(8, 40)):
        layer = image.copy()
        colour = rng.uniform(0.4, 2.2) * np.clip([1, rng.uniform(0.5, 1), rng.uniform(0.2, 1)], 0.1, 1)
        cv2.circle(layer, rng.integers(0, CANVAS, 2).tolist(), int(rng.integers(3, 14)), colour.tolist(), -1)
        cv2.addWeighted(layer, 0.6, image, 0.4, 0, image)


def paint_boxes(rng, image):
    for _ in range(rng.integers(6, 22)):
        box(image, *rng.integers(-20, CANVAS, 2), *rng.integers(10, 90, 2), natural_colour(rng, 0.03, 1.0, 0.15))
