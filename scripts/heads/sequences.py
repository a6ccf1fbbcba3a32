"""A person who speaks: smooth head motion, blinks, gaze and emotion over time, in front of a living background.

    shot = sample_scene(rng, assets, person, width=720, height=720, emotion="happy", intensity=0.5)
    take = perform(shot, phones, assets, fps=25, duration_s=3.5)
    for frame in render_take(shot, take, assets): frame["image"], frame["labels"], frame["landmarks_px"]

Two takes of one shot share head motion, blinks, gaze, camera, light, background and noise: they differ where speech
moves the face alone, so that their pictures can be compared pixel by pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from .assets import HeadAssets
from .backgrounds import paint_background
from .camera import Camera, whole_frame
from .params import EMOTIONS, HeadParams, sample_shot, set_eyes
from .render import render
from .visemes import emotion_weights, emotional_speech, speech_weights


@dataclass(frozen=True)
class Scene:
    """All that two takes share: the person in a shot, its size in px, and the seed of what moves."""

    params: HeadParams
    width: int
    height: int
    emotion: str
    intensity: float
    seed: int
    noise: float = 0.006  # of the camera, standard deviation of the shown picture


class Take(NamedTuple):
    """Per frame: expression [T,57], pose [T,3] rad, translation [T,3] cm, and the light's flicker [T]."""

    expression: np.ndarray
    pose: np.ndarray
    translation: np.ndarray
    flicker: np.ndarray


def sample_scene(
    rng: np.random.Generator,
    a: HeadAssets,
    person: HeadParams,
    width: int,
    height: int,
    emotion: str = "neutral",
    intensity: float = 0.5,
    face_share: float = 0.33,
) -> Scene:
    """A person in a frame of width x height px, their face about `face_share` of its height (chin to brow)."""
    shot = sample_shot(rng, a, person)
    zoom = face_share * height / width / 0.030 / 13  # 13 cm from chin to brow; widths per cm at zoom 1: 0.030
    offset = rng.uniform(-0.06, 0.06, 2) * [1, 0.3] + [0, -0.02 * height / width]
    if width > height:
        offset[0] += rng.choice([-1, 1]) * rng.uniform(0.03, 0.12)  # off the middle, as in an interview
    frame = whole_frame(zoom, tuple(offset), width / height)
    shot = replace(
        shot, camera=Camera(max(shot.camera.distance, 75.0), frame), body_follow=float(rng.uniform(0.1, 0.4))
    )
    return Scene(shot, width, height, emotion, intensity, int(rng.integers(1 << 30)))


def perform(scene: Scene, phones, a: HeadAssets, fps: float = 25.0, duration_s: float = 3.0) -> Take:
    """The scene's person says timed phones [(phone, start_s, end_s), ...]; see visemes.py."""
    names = a.expression_names
    at = {name: i for i, name in enumerate(names)}
    count = max(1, round(duration_s * fps))
    rng = np.random.default_rng([scene.seed, 1])

    def drift(channels, seconds):
        return smooth_noise(rng, count, channels, seconds * fps)

    pose = np.deg2rad(
        np.clip(rng.normal(size=3), -1.5, 1.5) * [5, 2, 1.5]
        + drift(3, 0.9) * [3.2, 2.0, 1.3]
        + drift(3, 0.25) * [0.5, 0.5, 0.3]
    )
    nods = nod_track(rng, count, fps)
    pose[:, 1] += np.deg2rad(3.0) * nods
    translation = drift(3, 1.2) * [0.25, 0.12, 0.3] - nods[:, None] * [0, 0.12, 0]
    swell = np.clip(0.85 + 0.15 * drift(1, 1.0)[:, 0], 0.4, 1.1)  # the emotion's strength varies a little
    emotion = emotion_weights(names)[EMOTIONS.index(scene.emotion)] * scene.intensity * swell[:, None]
    emotion[:, at["browInnerUp_L"]] += 0.18 * nods
    emotion[:, at["browInnerUp_R"]] += 0.18 * nods
    blink, gaze = blink_track(rng, count, fps), gaze_track(rng, count, fps)
    gaze -= pose[:, :2] * [-0.9, -0.6]  # the eyes hold on to the viewer while the head turns
    flicker = 1 + 0.006 * drift(1, 0.4)[:, 0]
    speech = (
        speech_weights(phones, names, fps, duration_s) if len(phones) else np.zeros((count, len(names)), np.float32)
    )
    weights = emotional_speech(emotion, speech, names)
    set_eyes(weights, at, blink, np.clip(gaze[:, 0], -0.8, 0.8), np.clip(gaze[:, 1], -0.5, 0.5))
    return Take(np.clip(weights, 0, 1.1).astype(np.float32), pose, translation, flicker)


def render_take(scene: Scene, take: Take, a: HeadAssets, supersample: int = 2) -> Iterator[dict]:
    """Frames as render() gives them, with the camera's noise; both takes of a scene have the same noise."""
    p = scene.params
    rest = replace(p, expression=np.zeros_like(p.expression), pose=tuple(take.pose[0]))
    gain = render(rest, a, (scene.width // 4, scene.height // 4), 1)["gain"]  # one exposure for both takes
    background = living_background(scene, supersample)
    for t in range(len(take.pose)):
        light = p.light._replace(sky=p.light.sky * take.flicker[t], ground=p.light.ground * take.flicker[t])
        moment = replace(
            p,
            expression=take.expression[t],
            pose=tuple(take.pose[t]),
            light=light,
            gain=gain,
            translation=tuple(take.translation[t]),
            background=next(background) * np.float32(take.flicker[t]),
        )
        frame = render(moment, a, (scene.width, scene.height), supersample)
        noise = np.random.default_rng([scene.seed, 3, t]).standard_normal(frame["image"].shape, dtype=np.float32)
        noisy = frame["image"] + noise * np.float32(255 * scene.noise) + np.float32(0.5)
        yield frame | {"image": np.clip(noisy, 0, 255).astype(np.uint8)}


def take_landmarks(scene: Scene, take: Take, a: HeadAssets) -> np.ndarray:
    """What render_take's frames say in landmarks_px, [T,68,2] float32, without drawing them."""
    p = scene.params
    shape = a.neutral + (np.asarray(p.identity, np.float32) @ a.identity).reshape(-1, 3)
    frame = np.asarray(p.camera.frame, np.float64) * scene.width
    points = []
    for weights, pose, translation in zip(take.expression, take.pose, take.translation, strict=True):
        shaped = shape + np.tensordot(weights, a.expression, 1).reshape(-1, 3)
        points.append(
            a.landmarks.project_shape(shaped, tuple(pose), tuple(translation), p.camera.distance, p.body_follow)
        )
    return (np.stack(points) @ frame[:, :2].T + frame[:, 2]).astype(np.float32)


def living_background(scene: Scene, supersample: int) -> Iterator[np.ndarray]:
    """Linear RGB pictures for ever: a still room in which soft shapes (people far away, leaves, traffic) move."""
    size = (scene.width * supersample, scene.height * supersample)
    small = (size[0] // 4, size[1] // 4)  # out of focus, so a quarter of the detail will do
    still = paint_background(np.random.default_rng(scene.params.seed), *small)
    rng = np.random.default_rng([scene.seed, 2])
    count = int(rng.integers(3, 6))
    y, x = np.mgrid[: small[1], : small[0]].astype(np.float32) / small[1]
    place = rng.random((count, 2)) * [small[0] / small[1], 1]
    speed, phase = rng.normal(0, 0.05, (count, 2)), rng.uniform(0, 6.28, (count, 2))
    reach = rng.uniform(0.05, 0.2, count)
    tint = np.exp(rng.normal(0, 0.25, (count, 3)))
    for t in range(1 << 30):
        picture = still.copy()
        for k in range(count):
            cx, cy = place[k] + speed[k] * t / 25 + 0.02 * np.sin(phase[k] + t / 25 * 2.2)
            soft = np.exp(-(((x - cx) ** 2 + 0.5 * (y - cy) ** 2) / reach[k] ** 2))[..., None]
            picture *= 1 + soft * (tint[k] - 1).astype(np.float32)
        yield cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)


def blink_track(rng: np.random.Generator, count: int, fps: float) -> np.ndarray:
    """Lids [count], 0 open to 1 shut: a blink every 2 to 5 s, shut within 0.1 s, open again within 0.2 s."""
    time, track = np.arange(count) / fps, np.full(count, rng.uniform(0, 0.08))
    start = rng.uniform(0.4, 2.0)
    while start < time[-1]:
        since = time - start
        lid = np.interp(since, [0, 0.09, 0.13, 0.32], [0, 1, 1, 0], left=0, right=0)
        track = np.maximum(track, lid)
        start += rng.uniform(1.8, 4.5)
    return track


def gaze_track(rng: np.random.Generator, count: int, fps: float) -> np.ndarray:
    """Gaze [count,2] across and up: fixations of 0.4 to 1.6 s with quick jumps between them."""
    track, t = np.zeros((count, 2)), 0
    while t < count:
        length = max(1, int(rng.uniform(0.4, 1.6) * fps))
        track[t : t + length] = rng.normal(size=2) * [0.10, 0.06]
        t += length
    return gaussian_filter1d(track, 0.02 * fps, axis=0)


def nod_track(rng: np.random.Generator, count: int, fps: float) -> np.ndarray:
    """Emphasis [count]: now and then a short nod, 0..1."""
    time, track = np.arange(count) / fps, np.zeros(count)
    at = rng.uniform(0.2, 1.0)
    while at < time[-1]:
        track += rng.uniform(0.3, 1.0) * np.exp(-(((time - at) / 0.18) ** 2))
        at += rng.uniform(0.7, 1.8)
    return np.clip(track, 0, 1)


def smooth_noise(rng: np.random.Generator, count: int, channels: int, frames: float) -> np.ndarray:
    """Gaussian noise [count,channels] of about unit deviation that changes over `frames`."""
    margin = int(4 * frames) + 1
    noise = gaussian_filter1d(rng.normal(size=(count + 2 * margin, channels)), frames, axis=0)
    return noise[margin:-margin] * np.sqrt(2 * np.sqrt(np.pi) * frames)
