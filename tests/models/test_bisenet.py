"""BiSeNet against facexlib's module and the official key list."""

import pytest
import torch
from official_keys import bisenet as official_keys

from hdtalk.models.bisenet import CLASSES, BiSeNet


def test_keys_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        network = BiSeNet()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes == official_keys() and len(shapes) == 191


def test_forward_is_that_of_facexlib():
    theirs = pytest.importorskip("facexlib.parsing.bisenet").BiSeNet(num_class=19).eval()
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    ours = BiSeNet().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 96) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        reference = theirs(normalised)
        for mine, other in zip(ours.all_logits(images), reference, strict=True):
            assert (mine - other).abs().max() <= 1e-4 * other.std()
        torch.testing.assert_close(ours.logits(images), ours.all_logits(images)[0])


def test_width_scales_every_layer_but_the_classes():
    with torch.device("meta"):
        small, official = BiSeNet(width=8), BiSeNet(width=64)
    for key, value in official.state_dict().items():
        expected = tuple(side // 8 if side % 64 == 0 else side for side in value.shape)
        if "ffm.conv" in key and "convblk" not in key:
            continue  # 1/4 of the fused width, checked by running it below
        assert tuple(small.state_dict()[key].shape) == expected, key
    logits = BiSeNet(num_classes=5, width=8).eval().logits(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 5, 64, 64)


def test_class_names_are_celebamask_hq_in_bisenets_order():
    assert len(CLASSES) == 19
    assert [CLASSES[k] for k in (0, 11, 12, 13, 16, 17, 18)] == [
        *("background", "mouth", "upper lip", "lower lip", "cloth", "hair", "hat"),
    ]


def test_first_and_second_derivatives_are_finite():
    torch.manual_seed(0)
    network = BiSeNet(width=4).eval()
    images = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(network.logits(images).square().sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)
    assert gradient.isfinite().all() and second.isfinite().all() and gradient.abs().max() > 0


def test_enlarging_inside_answers_as_for_the_enlarged_picture():
    torch.manual_seed(2)
    network, inside = BiSeNet(width=4).eval(), BiSeNet(width=4, enlarge=2).eval()
    inside.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    doubled = torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear")
    expected, found = network.logits(doubled), inside.logits(images)
    assert found.shape == (1, 19, 64, 64) and expected.shape == (1, 19, 128, 128)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # both grids end at the corners of the same map
        torch.testing.assert_close(found[..., *corner], expected[..., *corner])
    torch.testing.assert_close(inside.all_logits(images)[0], found)
