"""Stitching: masks by STIT's rules, the boundary tuned to the source, detail and colour carried over."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from hdtalk import stitch
from hdtalk.config import StitchConfig
from hdtalk.errors import UsageError
from hdtalk.images import to_images

CONFIG = StitchConfig(steps=6, batch_size=3, border_threshold=0.0)


class Disc(torch.nn.Module):
    """A parser that sees skin wherever a picture is brighter than grey, cloth elsewhere."""

    def logits(self, images):
        out = torch.zeros(len(images), 19, *images.shape[2:])
        out[:, 1] = images.mean(1)
        out[:, 16] = -images.mean(1)
        return out


def disc(side=64, radius=14.0, shift=0.0):
    position = torch.arange(side) + 0.5 - side / 2
    inside = (position[:, None] - shift) ** 2 + position**2 < radius**2
    return inside[None, None].float().expand(1, 3, -1, -1) * 2 - 1


def masks_of(source, edited):
    return stitch.region_masks(stitch.parsed_region(Disc(), source, edited, "face"), CONFIG.dilation)


def test_masks_follow_stit_s_rules_at_this_size():
    side, source, edited = 64, disc(), disc(shift=4.0)
    masks = masks_of(source, edited)
    region = ((source[0, 0] > 0) | (edited[0, 0] > 0)).numpy().astype(np.uint8)
    width = round(50 / 1024 * side)
    full = cv2.dilate(region, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    np.testing.assert_array_equal(masks.boundary[0, 0], full - region)
    np.testing.assert_array_equal(masks.inside[0, 0], region)
    alpha = masks.alpha[0, 0].numpy()
    assert alpha[full == 0].max() == 0  # what lies outside the dilated region stays the source's own
    assert alpha[region == 1].min() > 0.4 and alpha[32, 32] == 1


def test_a_face_without_an_outline_gets_an_ellipse(caplog):
    masks = masks_of(-torch.ones(1, 3, 64, 64), -torch.ones(1, 3, 64, 64))
    assert "no face" in caplog.text
    assert masks.inside[0, 0, 34, 32] == 1 and masks.alpha[0, 0, 0].max() == 0
    with pytest.raises(UsageError, match="face, head"):
        stitch.parsed_region(Disc(), disc(), disc(), "nose")


def test_region_along_the_crop_s_edge_belongs_to_the_boundary():
    masks = masks_of(torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64))
    assert masks.boundary[0, 0, 0].min() == 1 and masks.boundary[0, 0, 32, 32] == 0
    assert masks.alpha[0, 0, 0].max() < 0.5  # the paste fades towards the edge of the crop


def stitched(networks, crops, pivots, ws, config):
    return stitch.stitch_frames(networks.generator, Disc(), crops, pivots, ws, config)


def test_tuning_brings_the_boundary_to_the_source_and_leaves_the_generator(tiny_networks, tiny_crops):
    crops, ws = tiny_crops
    before = {name: p.clone() for name, p in tiny_networks.generator.named_parameters()}
    config = dataclasses.replace(CONFIG, keep_detail=False, match_colour=False, learning_rate=3e-3)
    made = stitched(tiny_networks, crops[:4], ws[:4], ws[:4].roll(1, 0), config)
    assert made.crops.shape == (4, 3, 32, 32) and made.alpha.shape == (4, 32, 32) and made.crops.dtype == np.uint8
    assert made.border.mean() < made.border_before.mean() and (made.steps == 6).all()
    assert all(torch.equal(before[name], p) for name, p in tiny_networks.generator.named_parameters())


def test_an_edit_that_changes_nothing_returns_the_source(tiny_networks, tiny_crops):
    _, ws = tiny_crops
    crops = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)  # nothing like the pivots
    made = stitched(tiny_networks, crops, ws[:3], ws[:3], StitchConfig())
    np.testing.assert_allclose(made.crops.astype(int), crops, atol=1)
    assert (made.steps == 0).all()  # the boundary is right from the start


def test_batches_depend_on_their_frames_alone_without_warm_start(tiny_networks, tiny_crops):
    crops, ws = tiny_crops
    config = dataclasses.replace(CONFIG, warm_start=False)
    whole = stitched(tiny_networks, crops, ws, ws.roll(1, 0), config)
    part = stitched(tiny_networks, crops[3:], ws[3:], ws.roll(1, 0)[3:], config)
    np.testing.assert_array_equal(whole.crops[3:], part.crops)
    warm = stitched(tiny_networks, crops, ws, ws.roll(1, 0), CONFIG)
    assert (warm.crops[3:] != part.crops).any()


def test_a_colour_cast_along_the_seam_goes():
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.uniform(-0.5, 0.5, (1, 3, 64, 64)).astype(np.float32))
    masks = masks_of(disc(), disc())
    cast = source + torch.tensor([0.1, -0.05, 0.02])[None, :, None, None]
    matched = stitch.match_border(cast, source, masks.boundary)
    ring = masks.boundary.bool().expand_as(source)
    assert (matched - source)[ring].abs().mean() < 0.3 * (cast - source)[ring].abs().mean()
    torch.testing.assert_close(stitch.match_border(source, source, masks.boundary), source)


def test_crops_come_back_in_order_and_uint8(tiny_networks, tiny_crops):
    crops, ws = tiny_crops
    config = dataclasses.replace(CONFIG, steps=0, keep_detail=False, match_colour=False, batch_size=4)
    made = stitched(tiny_networks, crops, ws, ws, config)
    picture = tiny_networks.generator.synthesise(ws).detach()
    np.testing.assert_allclose(to_images(made.crops, torch.device("cpu")), picture.clamp(-1, 1), atol=0.01)


@pytest.fixture
def another_mouth(tiny_networks, tiny_crops):
    """(crops of noise that no generator paints, their codes, an edit that shows another frame of them, which one)."""
    _, ws = tiny_crops
    noise = np.random.default_rng(3).integers(-40, 41, (4, 3, 32, 32))
    with torch.no_grad():
        painted = stitch.to_crops(tiny_networks.generator.synthesise(ws[:4]))
    shown = np.array([1, 2, 3, 0])
    return np.clip(painted.astype(int) + noise, 0, 255).astype(np.uint8), ws[:4], ws[shown], shown


def lend(crops, pivots, rows):
    return stitch.Lenders(rows, crops[rows], pivots[rows], np.zeros((len(rows), 2, 64, 64), np.float32))


def missed_of(made, networks, edit):
    """What was added to the edit's own picture, in its middle, grey levels."""
    with torch.no_grad():
        painted = stitch.to_crops(networks.generator.synthesise(edit))
    return (made.crops.astype(int) - painted)[..., 8:24, 8:24]


def test_where_the_edit_changes_the_picture_a_frame_that_looks_like_it_lends_its_detail(tiny_networks, another_mouth):
    crops, pivots, edit, shown = another_mouth
    config = StitchConfig(steps=0, match_colour=False, detail_threshold=1e-3)  # its own frame's detail goes nowhere
    given = tiny_networks.generator, Disc(), crops, pivots, edit, config
    alone, lent = (stitch.stitch_frames(*given, lenders=x) for x in (None, lend(crops, pivots, shown)))
    assert np.abs(missed_of(alone, tiny_networks, edit)).max() <= 1
    np.testing.assert_allclose(lent.crops[..., 8:24, 8:24].astype(int), crops[shown][..., 8:24, 8:24], atol=2)
    assert (lent.lent == 255).all() and not alone.lent.any()


def test_a_frame_that_shows_something_else_lends_nothing(tiny_networks, another_mouth):
    crops, pivots, edit, shown = another_mouth
    config = StitchConfig(steps=0, match_colour=False, detail_threshold=1e-3, lent_threshold=1e-3)
    other = stitch.stitch_frames(
        tiny_networks.generator, Disc(), crops, pivots, edit, config, lenders=lend(crops, pivots, np.roll(shown, 1))
    )
    assert np.abs(missed_of(other, tiny_networks, edit)).max() <= 1


def test_lenders_are_the_shot_s_frames_with_the_targets_mouths(tiny_crops):
    crops, ws = tiny_crops
    rng = np.random.default_rng(0)
    shot_px = rng.uniform(8, 24, (6, 68, 2)).astype(np.float32)
    targets = shot_px[[4, 2]] + rng.normal(0, 0.05, (2, 68, 2)).astype(np.float32)
    given = crops.__getitem__, ws, shot_px, targets, 32
    lenders = stitch.find_lenders(*given, StitchConfig())
    np.testing.assert_array_equal(lenders.crops, crops[[4, 2]])
    torch.testing.assert_close(lenders.pivots, ws[[4, 2]])
    assert np.abs(lenders.fields).max() * 32 < 0.5  # they have hardly anywhere to go
    for nothing in (StitchConfig(lent_threshold=0.0), StitchConfig(keep_detail=False)):
        assert stitch.find_lenders(*given, nothing) is None
