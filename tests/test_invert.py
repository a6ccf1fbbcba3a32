"""Inversion: pivots, equation (4), and going on from a checkpoint bit for bit."""

import dataclasses

import numpy as np
import pytest
import skimage.metrics
import torch

from hdtalk import invert
from hdtalk.config import InvertConfig
from hdtalk.errors import ResourceError
from hdtalk.images import to_images

CONFIG = InvertConfig(steps=6, batch_size=3, checkpoint_s=0.0, lambda_locality=10.0, locality_every=2, refine_steps=8)


class Memory:
    """Checkpoints in a dictionary."""

    def __init__(self):
        self.states = {}

    def load(self):
        return max(self.states.items()) if self.states else None

    def save(self, step, arrays):
        self.states[step] = {name: np.array(array) for name, array in arrays.items()}


def weights_of(generator):
    return {name: p.detach().clone() for name, p in generator.named_parameters()}


def test_pivots_are_the_encoder_s_answer_whatever_the_batch(tiny_networks, tiny_crops):
    crops, _ = tiny_crops
    with torch.no_grad():
        expected = tiny_networks.encoder(to_images(crops, torch.device("cpu")))
    got = invert.encode_pivots(tiny_networks.encoder, crops, batch_size=4)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_refinement_brings_the_untuned_pictures_nearer(tiny_networks, tiny_crops):
    crops, ws = tiny_crops
    start = ws + 0.5 * torch.randn(ws.shape, generator=torch.Generator().manual_seed(0))
    moved = invert.refine_pivots(tiny_networks.generator, tiny_networks.perceptual, crops, start, CONFIG)
    target = to_images(crops, torch.device("cpu"))
    error = [
        (invert.reconstruct(tiny_networks.generator, codes, 3) - target).square().mean() for codes in (start, moved)
    ]
    assert error[1] < error[0]
    same = dataclasses.replace(CONFIG, refine_steps=0)
    kept = invert.refine_pivots(tiny_networks.generator, tiny_networks.perceptual, crops, start, same)
    torch.testing.assert_close(kept, start, rtol=0, atol=0)


def test_frames_between_refined_ones_go_along(tiny_networks, tiny_crops):
    crops, ws = (array[:6] for array in tiny_crops)
    networks = tiny_networks.generator, tiny_networks.perceptual
    every, some = (dataclasses.replace(CONFIG, refine_every=every) for every in (1, 3))
    chosen = np.array([0, 3, 5])
    alone = invert.refine_pivots(*networks, crops[chosen], ws[chosen] + 0.3, every) - (ws[chosen] + 0.3)
    moves = invert.refine_pivots(*networks, crops, ws + 0.3, some) - (ws + 0.3)
    assert alone.norm() > 0.01
    torch.testing.assert_close(moves[chosen], alone, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(moves[1], (2 * moves[0] + moves[3]) / 3, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moves[4], (moves[3] + moves[5]) / 2, atol=1e-5, rtol=1e-4)


def test_one_offset_for_all_frames_is_found(tiny_networks, tiny_crops):
    crops, ws = tiny_crops
    lacking = 0.5 * torch.randn(1, *ws.shape[1:], generator=torch.Generator().manual_seed(0))
    config = dataclasses.replace(CONFIG, shared_steps=30, refine_rate=0.03, refine_pull=0.0)
    networks = tiny_networks.generator, tiny_networks.perceptual
    offset = invert.shared_offset(*networks, ws + lacking, lambda i: crops[i], config)
    assert offset.shape == lacking.shape
    target = to_images(crops, torch.device("cpu"))
    error = [
        (invert.reconstruct(networks[0], ws + lacking + given, 3) - target).square().mean() for given in (0, offset)
    ]
    assert error[1] < error[0]


def test_tuning_lowers_equation_4_and_leaves_the_given_generator_and_the_mapping_alone(tiny_networks, tiny_crops):
    crops, ws = tiny_crops
    before = weights_of(tiny_networks.generator)
    pivots = ws.roll(1, 0)  # each picture with another's code
    made = invert.tune_generator(
        tiny_networks.generator, tiny_networks.perceptual, pivots, lambda i: crops[i],
        dataclasses.replace(CONFIG, steps=25, learning_rate=5e-3),
    )  # fmt: skip
    assert len(made.losses) == 25 and np.mean(made.losses[-4:]) < 0.9 * np.mean(made.losses[:4])
    after, tuned = weights_of(tiny_networks.generator), weights_of(made.generator)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(before[name], tuned[name]) == name.startswith("style.") for name in before)
    assert not any(p.requires_grad for p in made.generator.parameters())


def test_a_tuned_generator_remembers_mouths_that_the_shot_does_not_show(tiny_networks, tiny_crops):
    """What an offset of the codes changes of the picture stays nearer to what it changed before."""
    crops, ws = (array[:1] for array in tiny_crops)
    networks = tiny_networks.generator, tiny_networks.perceptual
    offsets = 0.5 * torch.randn(3, *ws.shape[1:], generator=torch.Generator().manual_seed(3))
    config = dataclasses.replace(CONFIG, steps=30, lambda_locality=0.0, lambda_mouths=100.0, pivot_rate=0.0)

    def change(generator):
        with torch.no_grad():
            return torch.stack([generator.synthesise(ws + d) - generator.synthesise(ws) for d in offsets.split(1)])

    forgot, remembers = (
        invert.tune_generator(*networks, ws, lambda i: crops[i], config, mouth_offsets=given).generator
        for given in (None, offsets)
    )
    lost = [(change(g) - change(networks[0])).square().mean() for g in (forgot, remembers)]
    assert lost[1] < 0.7 * lost[0]


@pytest.mark.parametrize("structure", [0.0, 0.7])
def test_first_step_s_loss_is_equation_4_written_plainly(tiny_networks, tiny_crops, structure):
    crops, ws = tiny_crops
    pivots = ws.roll(1, 0)
    config = dataclasses.replace(CONFIG, steps=1, lambda_l2=3.0, lambda_lpips=2.0, lambda_structure=structure)
    made = invert.tune_generator(tiny_networks.generator, tiny_networks.perceptual, pivots, lambda i: crops[i], config)
    rows = invert.step_frames(0, 0, 3, len(crops))
    with torch.no_grad():
        pictures = tiny_networks.generator.synthesise(pivots[rows])
        targets = torch.from_numpy(crops[rows]).float() / 127.5 - 1
        lpips = tiny_networks.perceptual(pictures, targets).numpy()
    l2 = ((pictures - targets).numpy().astype(float) ** 2).mean((1, 2, 3))
    dissimilar = [
        1
        - skimage.metrics.structural_similarity(
            a.astype(float), b.astype(float), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=2.0, channel_axis=0,
        )
        for a, b in zip(pictures.numpy(), targets.numpy(), strict=True)
    ]  # fmt: skip
    expected = 2.0 * lpips + 3.0 * l2 + structure * np.array(dissimilar)
    np.testing.assert_allclose(made.losses, [expected.mean()], rtol=1e-4)


@pytest.mark.parametrize(("stop", "optimiser"), [(1, "muon"), (4, "muon"), (4, "adam")])
def test_going_on_from_a_checkpoint_is_bit_identical(tiny_networks, tiny_crops, stop, optimiser):
    crops, ws = tiny_crops
    config = dataclasses.replace(CONFIG, optimiser=optimiser)
    given = (tiny_networks.generator, tiny_networks.perceptual, ws.roll(1, 0), lambda i: crops[i], config)
    whole = invert.tune_generator(*given, seed=3)
    checkpoints = Memory()

    def stop_there(done, total):
        if done == stop + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert.tune_generator(*given, seed=3, checkpoints=checkpoints, progress=stop_there)
    assert max(checkpoints.states) == stop
    resumed = invert.tune_generator(*given, seed=3, checkpoints=checkpoints)
    assert resumed.losses == whole.losses
    expected, got = weights_of(whole.generator), weights_of(resumed.generator)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_every_frame_is_seen_equally_often_in_a_new_order():
    seen = np.concatenate([invert.step_frames(5, step, 4, 10) for step in range(10)])
    np.testing.assert_array_equal(np.bincount(seen), np.full(10, 4))
    rounds = seen.reshape(4, 10)
    assert all(sorted(one) == list(range(10)) for one in rounds) and len({tuple(one) for one in rounds}) == 4
    np.testing.assert_array_equal(invert.step_frames(5, 7, 4, 10), seen[28:32])


def test_memory_running_out_halves_the_batch_and_gives_up_at_one(tiny_networks, tiny_crops, monkeypatch):
    crops, ws = tiny_crops
    synthesise, sizes = type(tiny_networks.generator).synthesise, []

    def limited(limit):
        def wrapped(self, codes, *args, **kwargs):
            sizes.append(len(codes))
            if len(codes) > limit:
                raise torch.OutOfMemoryError("simulated")
            return synthesise(self, codes, *args, **kwargs)

        return wrapped

    given = (tiny_networks.generator, tiny_networks.perceptual, ws.roll(1, 0), lambda i: crops[i])
    config = dataclasses.replace(CONFIG, batch_size=4, steps=2, lambda_locality=0.0)
    whole = invert.tune_generator(*given, config)
    monkeypatch.setattr(type(tiny_networks.generator), "synthesise", limited(1))
    halved = invert.tune_generator(*given, config)
    assert sizes[:6] == [4, 2, 1, 1, 1, 1]
    np.testing.assert_allclose(halved.losses, whole.losses, rtol=1e-4)
    monkeypatch.setattr(type(tiny_networks.generator), "synthesise", limited(0))
    with pytest.raises(ResourceError, match="memory"):
        invert.tune_generator(*given, config)
