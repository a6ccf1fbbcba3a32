"""Bending a picture's mouth to where its landmarks shall be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hdtalk.crop import landmarks_to_crop
from hdtalk.mouth_warp import HELD, MOUTH, carrying_fields, closest_mouths, warp, warp_fields
from hdtalk.squares import ffhq_quads

SIDE = 256
REACH = 0.03
SAMPLE = Path(__file__).parent.parent / "pretrained" / "demo" / "samples" / "anna_landmarks.npz"


@pytest.fixture(scope="module")
def faces_px() -> np.ndarray:
    """Landmarks of a talking face, float32 [T, 68, 2] in pixels of its crops."""
    frame_px = np.load(SAMPLE)["landmarks_px"]
    return landmarks_to_crop(frame_px, ffhq_quads(frame_px), SIDE).astype(np.float32)


def dots(points_px: np.ndarray) -> torch.Tensor:
    """Blurred dots at points (x, y), one channel each: [1, N, SIDE, SIDE]."""
    places = torch.arange(SIDE, dtype=torch.float32)
    across = [(-((places[None] - torch.from_numpy(points_px[:, k : k + 1])) ** 2) / 8).exp() for k in (0, 1)]
    return (across[1][:, :, None] * across[0][:, None, :])[None]


def centres(images: torch.Tensor) -> np.ndarray:
    places, mass = torch.arange(SIDE, dtype=torch.float32), images[0].sum((1, 2))
    x, y = ((images[0].sum(axis) * places).sum(1) / mass for axis in (1, 2))
    return torch.stack([x, y], 1).numpy()


def smiling(face_px: np.ndarray, up_px: float = 3.0) -> np.ndarray:
    """Corners of the mouth out and up, the rest of it in proportion to its distance from the middle."""
    target = face_px.copy()
    aside = face_px[MOUTH, 0] - face_px[MOUTH, 0].mean()
    share = aside / np.abs(aside).max()
    target[MOUTH] += np.stack([2.0 * share, -up_px * share**2], 1)
    return target


def test_the_mouth_goes_where_it_shall_and_nothing_else_moves(faces_px):
    shown = faces_px[:1]
    target = smiling(shown[0])[None]
    bent = warp(dots(shown[0]), torch.from_numpy(warp_fields(shown, target, SIDE, REACH)))
    found = centres(bent.clamp(min=0))
    moved = np.linalg.norm(target - shown, axis=-1)[0, MOUTH].mean()
    assert np.linalg.norm(found - target[0], axis=-1)[MOUTH].mean() < 0.2 * moved
    assert np.abs(found - shown[0])[HELD].max() < 0.35


def test_where_no_landmark_moves_the_picture_stays_as_it_is(faces_px):
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    still = warp_fields(faces_px[:1], faces_px[:1], SIDE, REACH)
    assert np.abs(still).max() < 1e-6
    torch.testing.assert_close(warp(image, torch.from_numpy(still)), image, atol=1e-3, rtol=0)
    smile = torch.from_numpy(warp_fields(faces_px[:1], smiling(faces_px[0])[None], SIDE, REACH))
    bent = warp(image, smile)
    eyes = int(faces_px[0, 36:48, 1].max())
    assert torch.equal(bent[..., :eyes, :], image[..., :eyes, :]) and not torch.equal(bent, image)


def test_far_targets_are_drawn_in_as_a_whole(faces_px):
    near, far = (warp_fields(faces_px[:1], smiling(faces_px[0], up)[None], SIDE, 0.02) for up in (30.0, 60.0))
    lengths = [np.linalg.norm(field, axis=1).max() for field in (near, far)]
    assert max(lengths) < 1.2 * 0.02 and min(lengths) > 0.6 * 0.02


def test_small_moves_count_as_noise_and_long_ones_stay(faces_px):
    shown, target = faces_px[:1], smiling(faces_px[0])[None]
    noise = shown.copy()
    noise[:, MOUTH] += np.random.default_rng(0).uniform(-0.6, 0.6, (1, 20, 2)).astype(np.float32)
    assert not warp_fields(shown, noise, SIDE, REACH, 0.004).any() and warp_fields(shown, noise, SIDE, REACH).any()
    whole, careful = (warp_fields(shown, target, SIDE, REACH, beyond) for beyond in (0.0, 0.004))
    assert 0.75 < np.abs(careful).max() / np.abs(whole).max() < 1.0


def test_fields_do_not_depend_on_the_resolution(faces_px):
    target = smiling(faces_px[0])[None]
    small = warp_fields(faces_px[:1], target, SIDE, REACH)
    large = warp_fields((faces_px[:1] + 0.5) * 4 - 0.5, (target + 0.5) * 4 - 0.5, 4 * SIDE, REACH)
    np.testing.assert_allclose(large, small, atol=1e-5)


def test_landmarks_that_contradict_each_other_do_not_tear_the_picture(faces_px):
    """Lips that touch and shall part: the map stays one-to-one."""
    shown = faces_px[:1].copy()
    shown[:, 65:68] = shown[:, 63:60:-1]  # the lower inner lip on the upper one
    target = shown.copy()
    target[:, 65:68, 1] += 4
    field = warp_fields(shown, target, SIDE, REACH)[0] * 64  # in nodes
    stretch_x = 1 - np.diff(field[0], axis=1)
    stretch_y = 1 - np.diff(field[1], axis=0)
    assert stretch_x.min() > 0.3 and stretch_y.min() > 0.2


def test_warping_has_a_gradient(faces_px):
    image = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
    bent = warp(image, torch.from_numpy(warp_fields(faces_px[:1], smiling(faces_px[0])[None], SIDE, REACH)))
    (gradient,) = torch.autograd.grad(bent.square().sum(), image)
    assert gradient.isfinite().all() and (gradient.abs() > 0).float().mean() > 0.9


def test_a_picture_is_carried_to_other_landmarks_and_the_crop_s_edge_stays(faces_px):
    opening = np.linalg.norm(faces_px[:, 66] - faces_px[:, 62], axis=1)
    closed, open_ = faces_px[[opening.argmin()]], faces_px[[opening.argmax()]]
    fields = carrying_fields(closed, open_, SIDE)
    found = centres(warp(dots(closed[0]), torch.from_numpy(fields)).clamp(min=0))
    moved = np.linalg.norm(open_ - closed, axis=-1)[0]
    assert moved.max() > 8  # pixels: a mouth that opens
    # inner lips that touched are torn apart: what was one place is then many
    assert np.linalg.norm(found - open_[0], axis=-1)[:60].mean() < 0.2 * moved[:60].mean()
    edge = np.concatenate([fields[0, :, [0, -1]].ravel(), fields[0, :, :, [0, -1]].ravel()])
    assert np.abs(edge).max() * SIDE < 0.1 * moved.max()


def test_the_closest_mouth_is_found_wherever_the_head_is(faces_px):
    shot = faces_px[::3]
    wanted = np.arange(len(shot))[::-1]
    moved = shot[wanted] + np.linspace(-9, 9, len(wanted))[:, None, None].astype(np.float32)
    moved[:, :17] += 5.0  # the jaw has no say in it
    np.testing.assert_array_equal(closest_mouths(shot, moved), wanted)
