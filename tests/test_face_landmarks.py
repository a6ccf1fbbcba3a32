"""Tracking, on drawn faces whose colours are their own coordinates: red across, green down, blue marks a face.

So a detector (blue patches) and a landmarker (where the colours are those of landmark k) can be written in a few
lines that really look at the pictures, under any shift, scale and turn.
"""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import find_objects, label, rotate

from hdtalk.config import FaceConfig
from hdtalk.errors import InputError, UsageError
from hdtalk.face_landmarks import known_track, track_face
from hdtalk.models.fan import heatmaps_to_landmarks

HEIGHT, WIDTH, FPS = 180, 260, 25.0


def template():
    """68 points in the unit square of a face, iBUG order."""
    across = np.linspace(-1, 1, 17)
    jaw = np.stack([0.5 + 0.42 * across, 0.4 + 0.52 * np.sqrt(1 - 0.96 * across**2)], 1)
    brows = [(x, 0.28 - 0.03 * np.sin(np.pi * k / 4)) for k, x in enumerate(np.linspace(0.16, 0.42, 5))]
    brows += [(1 - x, y) for x, y in reversed(brows)]
    nose = [(0.5, y) for y in np.linspace(0.36, 0.54, 4)] + [(x, 0.6) for x in np.linspace(0.42, 0.58, 5)]
    ring = np.array([(-1, 0), (-0.5, -0.5), (0.5, -0.5), (1, 0), (0.5, 0.5), (-0.5, 0.5)])
    eyes = [ring * 0.07 + (0.3, 0.38), ring * 0.07 + (0.7, 0.38)]
    angles = np.pi + 2 * np.pi * np.arange(12) / 12
    lips = np.stack([0.5 + 0.14 * np.cos(angles), 0.74 + 0.06 * np.sin(angles)], 1)
    angles = np.pi + 2 * np.pi * np.arange(8) / 8
    inner = np.stack([0.5 + 0.1 * np.cos(angles), 0.74 + 0.02 * np.sin(angles)], 1)
    return np.concatenate([jaw, brows, nose, *eyes, lips, inner])


TEMPLATE = template()


class Face:
    """A face at `centre`, `size` pixels wide and high, turned; `drop` moves all below the mouth's middle down."""

    def __init__(self, centre, size=80.0, degrees=0.0, drop=0.0):
        turn = np.radians(degrees)
        self.axes = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        self.centre, self.drop = np.asarray(centre, float), drop

    def landmarks_px(self):
        return (self._dropped(TEMPLATE) - 0.5) @ self.axes.T + self.centre

    def draw(self, frame):
        rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
        place = np.stack([columns, rows], -1) - self.centre
        local = place @ np.linalg.inv(self.axes).T + 0.5
        heights = np.linspace(-0.2, 1.2, 1401)
        before = np.interp(local[..., 1], self._dropped(np.stack([heights, heights], 1))[:, 1], heights)
        inside = (np.abs(local - 0.5) < 0.5).all(-1)
        colours = np.stack([local[..., 0] * 250, before * 250, np.full(before.shape, 250)], -1)
        frame[inside] = np.clip(colours[inside], 0, 255)

    def _dropped(self, points):
        lower = np.clip((points[:, 1] - 0.7) / 0.08, 0, 1)
        return points + np.stack([np.zeros(len(points)), self.drop * lower], 1)


def shot(faces, background=0, light=None):
    """Frames of lists of faces; `background` seeds the scenery, `light` scales single frames."""
    scenery = np.random.default_rng(background).integers(0, 120, (HEIGHT // 20, WIDTH // 20, 3))
    scenery = scenery.repeat(20, 0).repeat(20, 1)
    scenery[..., 2] //= 2
    frames = []
    for t, present in enumerate(faces):
        frame = scenery.astype(np.uint8)
        for face in present:
            face.draw(frame)
        frames.append(frame if light is None else np.clip(frame * light[t], 0, 255).astype(np.uint8))
    return frames


class BlueDetector:
    def detect(self, frames):
        found = []
        for frame in frames:
            parts, _ = label(frame[..., 2] > 200)
            boxes = [(s[1].start, s[0].start, s[1].stop, s[0].stop, 0.9) for s in find_objects(parts)]
            found.append(np.array([b for b in boxes if b[2] - b[0] > 12], np.float32).reshape(-1, 5))
        return found


class ColourLandmarker:
    """Heat map k is high where red and green are the coordinates of point k of the template."""

    def __init__(self, noise=0.0):
        self.rng = torch.Generator().manual_seed(0)
        self.noise = noise

    def heatmaps(self, images):
        assert images.shape[1:] == (3, 256, 256) and images.abs().max() <= 1.001
        levels = F.avg_pool2d((images + 1) * 127.5, 4)
        targets = torch.from_numpy(TEMPLATE * 250).float()
        if self.noise:
            targets = targets + self.noise * torch.randn(len(images), 68, 2, generator=self.rng)
        else:
            targets = targets.expand(len(images), 68, 2)
        red = levels[:, None, 0] - targets[..., 0, None, None]
        green = levels[:, None, 1] - targets[..., 1, None, None]
        return (1 - (red.square_() + green.square_()) / 200).clamp_(min=0) * (levels[:, None, 2] > 200)


def track(frames, config=FaceConfig(), landmarker=None, detector=None, **options):  # noqa: B008 (frozen)
    def read(start, stop):
        yield from (frame.copy() for frame in frames[start:stop])

    detector, landmarker = detector or BlueDetector(), landmarker or ColourLandmarker()
    return track_face(read, len(frames), FPS, detector, landmarker, config, "talk.mp4", **options)


def errors_px(found, faces):
    return np.linalg.norm(found.landmarks_px - np.stack([face.landmarks_px() for face in faces]), axis=-1)


@pytest.mark.parametrize("degrees", [0, 40, -65])
def test_landmarks_of_a_moving_tilted_face(degrees):
    faces = [Face((90 + 3 * t, 90 - t), 80, degrees + t) for t in range(12)]
    found = track(shot([[face] for face in faces]))
    assert found.landmarks_px.shape == (12, 68, 2) and found.landmarks_px.dtype == np.float32
    assert found.present.all() and found.cuts == () and found.num_faces == 1
    assert errors_px(found, faces)[1:-1].mean() < 0.6
    assert found.confidence.min() > 0.7


def test_the_second_look_is_finer_than_the_first():
    faces = [Face((130, 90), 90, 50)] * 4
    first = track(shot([[face] for face in faces]), FaceConfig(max_refinements=0))
    second = track(shot([[face] for face in faces]))
    assert errors_px(second, faces).mean() < errors_px(first, faces).mean()


class UprightLandmarker(ColourLandmarker):
    """Like a trained one: a face turned further than 25 degrees is found as if it were turned by 25 only."""

    def heatmaps(self, images):
        maps = super().heatmaps(images)
        turned = []
        for one in maps:
            centres = heatmaps_to_landmarks(one[None])[0]
            right, left = centres[42:48].mean(0), centres[36:42].mean(0)
            angle = float(torch.rad2deg(torch.atan2(*(right - left).flip(0))))
            excess = np.sign(angle) * max(abs(angle) - 25, 0)
            turned.append(rotate(one.numpy(), excess, axes=(1, 2), reshape=False, order=1))
        return torch.from_numpy(np.stack(turned))


@pytest.mark.parametrize("degrees", [-60, 70])
def test_looks_are_repeated_until_the_head_is_upright(degrees):
    face = Face((130, 90), 80, degrees)
    frames = shot([[face]])
    once = track(frames, FaceConfig(max_refinements=1), UprightLandmarker())
    often = track(frames, FaceConfig(), UprightLandmarker())
    assert errors_px(once, [face]).mean() > 3 > 1 > errors_px(often, [face]).mean()


def test_smoothing_takes_jitter_and_adds_no_lag():
    faces = [Face((80 + 2.0 * t, 90)) for t in range(18)]
    frames = shot([[face] for face in faces])
    rough = track(frames, FaceConfig(smooth_sigma_s=0, smooth_mouth_eyes_sigma_s=0), ColourLandmarker(noise=4))
    smooth = track(frames, FaceConfig(), ColourLandmarker(noise=4))

    def shake(found):
        return np.abs(np.diff(found.landmarks_px[:, :27], 2, axis=0)).mean()

    assert shake(smooth) < 0.5 * shake(rough)
    drift = (track(frames).landmarks_px - np.stack([face.landmarks_px() for face in faces]))[4:-4]
    assert np.abs(drift.mean((0, 1))).max() < 0.3


def test_a_closure_of_two_frames_survives():
    opening = np.full(14, 0.1)
    opening[8:10] = 0
    faces = [Face((130, 90), 100, drop=drop) for drop in opening]
    frames = shot([[face] for face in faces])

    def swing_px(config):
        gap_px = np.diff(track(frames, config).landmarks_px[:, [51, 57], 1])[:, 0]
        return gap_px[5] - gap_px[8:10].mean()

    assert swing_px(FaceConfig()) > 0.93 * swing_px(FaceConfig(smooth_mouth_eyes_sigma_s=0)) > 6


@pytest.mark.parametrize("on_missing, present_in_gap", [("keep", False), ("interpolate", True)])
def test_short_gaps_are_bridged_and_long_ones_kept_or_interpolated(on_missing, present_in_gap, caplog):
    faces = [Face((80 + 3 * t, 90)) for t in range(26)]
    shown = [[] if t in (5, 6) or 10 <= t < 16 else [face] for t, face in enumerate(faces)]
    with caplog.at_level(logging.WARNING):
        found = track(shot(shown), FaceConfig(max_gap_s=0.16, on_missing=on_missing))
    expected = np.ones(26, bool)
    expected[10:16] = present_in_gap
    np.testing.assert_array_equal(found.present, expected)
    assert ("10-15" in caplog.text) == (not present_in_gap)
    assert errors_px(found, faces)[2:-2].mean() < 1.0 and found.num_faces == 1
    assert (found.confidence[[5, 6, 10, 15]] == 0).all()


def test_a_missing_face_can_be_an_error():
    shown = [[Face((130, 90))] if t < 8 else [] for t in range(14)]
    with pytest.raises(InputError, match=r"talk\.mp4: no face in frames 8-13"):
        track(shot(shown), FaceConfig(on_missing="fail"))


def test_messages_count_frames_from_the_videos_first(caplog):
    """The shot may begin in the middle of the file."""
    shown = [[Face((130, 90))] if t < 8 else [] for t in range(14)]
    with pytest.raises(InputError, match=r"talk\.mp4: no face in frames 108-113"):
        track(shot(shown), FaceConfig(on_missing="fail"), first_frame=100)
    with caplog.at_level(logging.WARNING):
        track(two_people()[2], first_frame=100)
        track(shot([[Face((50, 60))]] * 9 + [[Face((200, 120))]] * 9), first_frame=100)
    assert "frames 100-111" in caplog.text and "begins at frame 109" in caplog.text


def test_a_face_that_comes_late_and_leaves_early():
    faces = [Face((100 + t, 90)) for t in range(16)]
    found = track(shot([[face] if 4 <= t < 11 else [] for t, face in enumerate(faces)]))
    np.testing.assert_array_equal(found.present, [4 <= t < 11 for t in range(16)])
    assert np.isfinite(found.landmarks_px).all()


def test_no_face_at_all_names_the_file():
    with pytest.raises(InputError, match=r"talk\.mp4: no face"):
        track(shot([[]] * 6))


def test_a_box_without_a_face_in_it_is_no_face():
    frames = [np.full((HEIGHT, WIDTH, 3), 30, np.uint8) for _ in range(5)]
    for frame in frames:
        frame[60:120, 60:120, 2] = 255
        frame[60:120, 60:120, :2] = 255
    with pytest.raises(InputError, match="no landmarks"):
        track(frames)


def two_people(count=12):
    left = [Face((60 + t, 90), 60) for t in range(count)]
    right = [Face((190 - t, 95), 80) for t in range(count)]
    return left, right, shot([[a, b] for a, b in zip(left, right, strict=True)])


@pytest.mark.parametrize("face, wanted", [("largest", 1), ("0", 0), ("1", 1), ("62,88", 0), ("185, 100", 1)])
def test_which_face_is_followed(face, wanted, caplog):
    *people, frames = two_people()
    with caplog.at_level(logging.WARNING):
        found = track(frames, FaceConfig(face=face))
    assert errors_px(found, people[wanted]).mean() < 1.0
    assert found.num_faces == 2 and "several faces" in caplog.text and "0 at 6" in caplog.text


@pytest.mark.parametrize("face", ["2", "-1", "0.5", "130,5", "nobody", "1,2,3", ""])
def test_a_face_that_is_not_there_is_refused(face):
    frames = two_people(4)[2]
    with pytest.raises(UsageError, match="face"):
        track(frames, FaceConfig(face=face))


def test_people_that_pass_each_other_are_not_swapped():
    near = [Face((40 + 9 * t, 70), 56) for t in range(20)]
    far = [Face((220 - 9 * t, 134), 44) for t in range(20)]
    found = track(shot([[b, a] for a, b in zip(near, far, strict=True)]), FaceConfig(face="0"))
    assert errors_px(found, near).mean() < 1.5


@pytest.mark.parametrize("away_px, people", [(40, 1), (180, 2)])
def test_who_appears_far_from_where_somebody_left_is_somebody_else(away_px, people):
    """Both while the gap lasts longer than one that is bridged."""
    first, second = Face((40, 90), 44), Face((40 + away_px, 90), 44)
    frames = shot([[first]] * 10 + [[]] * 10 + [[second]] * 16)
    found = track(frames, FaceConfig(max_gap_s=0.16, on_missing="keep"))
    assert found.num_faces == people
    assert found.present[20:].all() and (found.present[:10].all() == (people == 1))
    if people == 2:
        earlier = track(frames, FaceConfig(max_gap_s=0.16, on_missing="keep", face="0"))
        assert earlier.present[:10].all() and not earlier.present[10:].any()


def test_a_passer_by_does_not_take_over():
    stays = [Face((80, 90), 70)] * 16
    passes = [Face((200, 90 - 2 * t), 90) if t >= 10 else None for t in range(16)]
    found = track(shot([[a] if b is None else [a, b] for a, b in zip(stays, passes, strict=True)]))
    assert errors_px(found, stays).mean() < 1.0


def test_cuts_are_noticed_and_not_smoothed_over(caplog):
    first, second = [Face((70, 70), 60)] * 8, [Face((180, 100), 90)] * 8
    frames = shot([[face] for face in first]) + shot([[face] for face in second], background=9)
    with caplog.at_level(logging.WARNING):
        found = track(frames)
    assert found.cuts == (8,) and "frame 8" in caplog.text
    assert errors_px(found, first + second).max() < 3


def test_a_jump_within_the_same_scenery_is_a_cut():
    faces = [Face((70, 80), 70)] * 9 + [Face((190, 90), 70)] * 9
    assert track(shot([[face] for face in faces])).cuts == (9,)


def test_a_flash_and_a_fast_head_are_no_cuts():
    light = np.ones(16)
    light[7] = 2.2
    faces = [Face((60 + 8 * t, 90), 80, 3 * t) for t in range(16)]
    found = track(shot([[face] for face in faces], light=light), FaceConfig(max_gap_s=0.2))
    assert found.cuts == () and found.present.all()


def test_a_single_wild_frame_is_repaired():
    faces = [Face((130, 90), 80)] * 11
    frames = shot([[face] for face in faces])
    frames[5] = shot([[Face((158, 60), 80)]])[0]
    found = track(frames)
    assert found.cuts == () and errors_px(found, faces).max() < 2


def test_memory_is_bounded_by_the_chunk():
    frames = shot([[Face((130, 90))]] * 30)
    alive, peak = set(), 0

    def read(start, stop):
        nonlocal peak
        for t in range(start, stop):
            frame = frames[t].copy()
            alive.add(t)
            weakref.finalize(frame, alive.discard, t)
            peak = max(peak, len(alive))
            yield frame
            del frame

    track_face(read, 30, FPS, BlueDetector(), ColourLandmarker(), FaceConfig(chunk_frames=4))
    gc.collect()
    assert peak <= 13  # two chunks, and what is read ahead


def test_progress_ends_at_the_total():
    seen = []
    track(
        shot([[Face((130, 90))]] * 9),
        FaceConfig(chunk_frames=4),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 18), (8, 18), (9, 18), (13, 18), (17, 18), (18, 18)]


def test_one_frame_is_enough():
    face = Face((130, 90))
    found = track(shot([[face]]))
    assert found.present.all() and errors_px(found, [face]).mean() < 0.8


def test_known_landmarks_begin_a_new_shot_where_they_jump():
    points = np.stack([Face((90 + 3 * t, 90), 80, 0).landmarks_px() for t in range(12)])
    assert known_track(points).cuts == () and known_track(points).present.all()
    points[7:] += [60, 0]
    points[9:] = points[9:] * 1.7
    assert known_track(points).cuts == (7, 9)
