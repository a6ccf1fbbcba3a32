"""A shot's codes from its landmarks: a known law is found again, what it does not explain stays, nothing runs away."""

import numpy as np
import pytest
import torch

from hdtalk.config import OptimiseConfig
from hdtalk.follow import _around
from hdtalk.landmark_codes import LandmarkCodes, OtherMouths, lips_closed
from hdtalk.models.mouth_codes import MouthCodes

SIDE, NUM_WS = 256, 4
CONFIG = OptimiseConfig(start_ridge=1e-3)


def talking(rng, frames: int) -> np.ndarray:
    """Landmarks of a face whose mouth opens, widens and whose jaw follows, float32 [frames, 68, 2]."""
    opening, width = rng.normal(0, 3, frames), rng.normal(0, 2, frames)
    face = np.tile(np.random.default_rng(0).uniform(60, 200, (68, 2)), (frames, 1, 1))
    face[:, 54:60, 1] += opening[:, None]
    face[:, 5:12, 1] += 0.7 * opening[:, None]
    face[:, 48, 0] -= width
    face[:, 54, 0] += width
    return face.astype(np.float32)


def codes_of(landmarks_px: np.ndarray) -> torch.Tensor:
    """A law: codes linear in the landmarks, float32 [n, NUM_WS, 512]."""
    mixing = np.random.default_rng(1).normal(size=(136, NUM_WS * 512)) / 20
    codes = (landmarks_px - 130).reshape(len(landmarks_px), -1) @ mixing
    return torch.from_numpy(codes.astype(np.float32)).reshape(-1, NUM_WS, 512)


def test_a_law_between_landmarks_and_codes_is_found_again():
    rng = np.random.default_rng(2)
    shot, source, target = (talking(rng, n) for n in (60, 20, 20))
    codes, shown_px = LandmarkCodes(shot, codes_of(shot), SIDE, CONFIG).starts(
        codes_of(source), source, target, smooth=False
    )
    missed = (codes - codes_of(target)).norm() / (codes_of(source) - codes_of(target)).norm()
    assert missed < 0.03
    assert np.abs(shown_px - target).max() < 0.3


def test_it_is_kernel_ridge_regression():
    rng = np.random.default_rng(3)
    config = OptimiseConfig(start_ridge=0.2, start_scale=0.03, start_length=0.9, start_weight=0.25)
    shot, wanted = talking(rng, 7), talking(rng, 1)
    pivots = torch.from_numpy(rng.normal(size=(7, NUM_WS, 512)).astype(np.float32))

    def inner(a, b):
        a, b = (np.concatenate([p[:48] * 0.25, p[48:]]).ravel() for p in (a - shot.mean(0), b - shot.mean(0)))
        a, b = a / (0.03 * SIDE), b / (0.03 * SIDE)
        return a @ b + np.exp(-((a - b) ** 2).sum() / (2 * 0.9**2))

    gram = np.array([[inner(a, b) for b in shot] for a in shot])
    share = np.array([inner(wanted[0], b) for b in shot]) @ np.linalg.inv(gram + 0.2 * np.eye(7))
    mean = pivots.numpy().mean(0)
    expected = np.einsum("n,nld->ld", share, pivots.numpy() - mean) + mean
    own = torch.from_numpy(expected[None].astype(np.float32))  # a pivot that its landmarks explain wholly
    codes, _ = LandmarkCodes(shot, pivots, SIDE, config).starts(own, wanted, wanted, smooth=False)
    torch.testing.assert_close(codes, own, atol=1e-4, rtol=0)
    codes, _ = LandmarkCodes(shot, pivots, SIDE, config).starts(pivots[:1], shot[:1], wanted, smooth=False)
    first = np.einsum("n,nld->ld", gram[0] @ np.linalg.inv(gram + 0.2 * np.eye(7)), pivots.numpy() - mean) + mean
    np.testing.assert_allclose(codes[0], expected + pivots[0].numpy() - first, atol=1e-4)


def test_what_landmarks_do_not_explain_stays_without_its_flicker():
    rng = np.random.default_rng(4)
    shot, source, target = (talking(rng, n) for n in (60, 40, 40))
    learned = LandmarkCodes(shot, codes_of(shot), SIDE, CONFIG)
    light = torch.linspace(-1, 1, 40)[:, None, None] * torch.randn(
        NUM_WS, 512, generator=torch.Generator().manual_seed(0)
    )
    noise = torch.from_numpy(rng.normal(0, 0.5, (40, NUM_WS, 512)).astype(np.float32))
    plain, lit, noisy = (learned.starts(codes_of(source) + rest, source, target)[0] for rest in (0, light, noise))
    torch.testing.assert_close((lit - plain)[8:-8], light[8:-8], atol=0.05, rtol=0)
    ratio = (noisy - plain).diff(dim=0).std() / noise.diff(dim=0).std()
    assert ratio < 0.15  # white noise under a Gaussian of two frames: 0.094


@pytest.mark.parametrize("config", [OptimiseConfig(), OptimiseConfig(rest_smooth_frames=4.0)], ids=["default", "wide"])
@pytest.mark.parametrize("chunk", [(0, 12), (12, 24), (24, 40)])
def test_a_chunk_with_its_context_starts_as_in_the_whole_shot(chunk, config):
    rng = np.random.default_rng(5)
    source, target = talking(rng, 40), talking(rng, 40)
    pivots = codes_of(source) + torch.from_numpy(rng.normal(size=(40, NUM_WS, 512)).astype(np.float32))
    learned = LandmarkCodes(source, pivots, SIDE, config)
    whole, _ = learned.starts(pivots, source, target)
    rows = np.arange(*chunk)
    around = _around(rows, np.arange(40), learned.context_frames)
    part, _ = learned.starts(pivots[around], source[around], target[around])
    torch.testing.assert_close(part[rows[0] - around[0] :][: len(rows)], whole[rows], atol=1e-5, rtol=1e-5)


def test_targets_far_outside_the_shot_are_drawn_in_and_said_to_be():
    rng = np.random.default_rng(6)
    shot = talking(rng, 60)
    mean = shot.mean(0)
    farthest = np.abs(shot - mean).max()
    learned = LandmarkCodes(shot, codes_of(shot), SIDE)
    far = (mean + 40 * (shot[:1] - mean)).astype(np.float32)
    assert learned.beyond_reach(np.concatenate([far, shot])).tolist() == [True] + [False] * 60
    codes, shown_px = learned.starts(codes_of(shot[:1]), shot[:1], far)
    spread = (codes_of(shot) - codes_of(shot).mean(0)).flatten(1).norm(dim=1).max()
    assert (codes - codes_of(shot).mean(0)).norm() < 1.6 * spread
    assert np.abs(shown_px - mean).max() < 1.6 * farthest


def test_a_shot_whose_face_stands_still_teaches_nothing():
    rng = np.random.default_rng(7)
    still = np.tile(talking(rng, 1), (30, 1, 1)) + rng.normal(0, 0.05, (30, 68, 2)).astype(np.float32)
    pivots = torch.from_numpy(rng.normal(0, 0.1, (30, NUM_WS, 512)).astype(np.float32))
    target = still[:1] + np.float32(5)
    codes, shown_px = LandmarkCodes(still, pivots, SIDE).starts(pivots[:1], still[:1], target)
    assert (codes - pivots[:1]).norm() < 3 * pivots[0].norm()
    assert np.abs(shown_px - still.mean(0)).max() < 1.0


def other_heads(rng, frames: int = 300) -> OtherMouths:
    """Heads whose codes obey the same law."""
    faces = talking(rng, frames)
    codes = codes_of(faces).flatten(1).double().numpy()
    closed = lips_closed(faces)
    codes = codes - codes[closed].mean(0)
    lengths, basis = np.linalg.svd(codes, full_matrices=False)[1:]
    basis = basis[:4]
    samples = MouthCodes(frames, len(basis), NUM_WS)
    samples.moves = torch.from_numpy((faces - faces[closed].mean(0)) / SIDE)
    samples.coordinates = torch.from_numpy((codes @ basis.T).astype(np.float32))
    samples.basis = torch.from_numpy(basis.reshape(-1, NUM_WS, 512).astype(np.float32))
    assert lengths[4] < 1e-3 * lengths[0]
    return OtherMouths(samples, CONFIG)


def test_a_still_face_is_moved_by_what_other_heads_know():
    rng = np.random.default_rng(8)
    still = talking(rng, 40)
    still = still[lips_closed(still)[:1]]
    target = talking(rng, 5) - talking(rng, 1)[:, :1] + still[:, :1]
    codes, shown_px = LandmarkCodes(still, codes_of(still), SIDE, CONFIG, other_heads(rng)).starts(
        codes_of(still).expand(5, -1, -1), np.tile(still, (5, 1, 1)), target, smooth=False
    )
    missed = (codes - codes_of(target)).flatten(1).norm(dim=1) / (codes_of(still) - codes_of(target)).flatten(1).norm(
        dim=1
    )
    assert missed.max() < 0.1
    assert np.abs(shown_px - target).max() < 0.1 * np.abs(target - still).max()


def test_what_a_shot_shows_itself_is_not_asked_of_others():
    rng = np.random.default_rng(9)
    shot = talking(rng, 60)
    near, far = shot[:3], (shot.mean(0) + 40 * (shot[:1] - shot.mean(0))).astype(np.float32)
    alone, helped = (LandmarkCodes(shot, codes_of(shot), SIDE, CONFIG, others) for others in (None, other_heads(rng)))
    for target, same in ((near, True), (far, False)):
        given = codes_of(target), target, target, False
        assert torch.equal(alone.starts(*given)[0], helped.starts(*given)[0]) == same
    error = [np.abs(one.starts(codes_of(far), far, far, False)[1] - far).max() for one in (alone, helped)]
    assert error[1] < error[0] / 4


def test_closed_lips_are_the_closest():
    faces = talking(np.random.default_rng(10), 64)
    faces[:, 65:68, 1] += np.linspace(0, 30, 64)[:, None]
    faces[5, 65:68, 1] -= 100
    assert lips_closed(faces).tolist() == [5, 0, 1, 2] and sorted(lips_closed(faces[:2])) == [0, 1]
