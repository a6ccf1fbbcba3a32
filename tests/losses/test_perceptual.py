"""The perceptual loss against the lpips package, its caches, and its derivatives where upstream's are not numbers."""

import lpips
import pytest
import torch

from hdtalk.losses.perceptual import PerceptualLoss, _unit
from hdtalk.models.demo_backbone import DemoBackbone


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def package(loss):
    """The lpips package's own loss with the same backbone; its lin layers come from its own file."""
    with torch.device("meta"):
        theirs = lpips.LPIPS(net=loss.net, pretrained=False, pnet_rand=True, verbose=False)
    theirs.to_empty(device="cpu").eval()
    state = dict(zip(theirs.net.state_dict(), loss.backbone.state_dict().values(), strict=True))
    theirs.net.load_state_dict(state)
    reference = lpips.LPIPS(net=loss.net, pnet_rand=True, verbose=False) if loss.net == "alex" else None
    if reference is not None:
        theirs.lins.load_state_dict(reference.lins.state_dict())
    else:
        for k in range(5):
            theirs.lins[k].model[-1].weight.data = getattr(loss, f"lin{k}")[None, :, None, None].clone()
    theirs.scaling_layer = lpips.ScalingLayer()
    return theirs.requires_grad_(False)


def images(count=2, side=64):
    return torch.rand(count, 3, side, side) * 2 - 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_value_is_that_of_lpips(net):
    loss, (a, b) = PerceptualLoss(net), (images(), images())
    theirs = package(loss)
    with torch.no_grad():
        torch.testing.assert_close(loss(a, b), theirs(a, b).flatten(), rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_construction_takes_the_weights_it_is_given_and_downloads_nothing(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    state = {k: torch.randn_like(v) for k, v in PerceptualLoss("alex").backbone.state_dict().items()}
    assert list(state)[:4] == ["features.0.weight", "features.0.bias", "features.3.weight", "features.3.bias"]
    classifier = {"classifier.6.bias": torch.zeros(1000)}
    loaded = PerceptualLoss("alex", state | classifier).backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    with pytest.raises(RuntimeError, match=r"features\.3\.weight"):
        PerceptualLoss("alex", {k: v for k, v in state.items() if k != "features.3.weight"})
    with pytest.raises(ValueError, match="alex"):
        PerceptualLoss("resnet")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("net", ["alex", "demo"])
def test_cached_features_give_the_same_distance(net):
    loss = PerceptualLoss(net)
    a, target = images(3), images(1)
    cached = loss.features(target)
    expected = loss(a, target.expand(3, -1, -1, -1))
    torch.testing.assert_close(loss.distance(loss.features(a), cached), expected)
    for tap in cached:
        norm = tap.square().sum(1).sqrt()
        assert ((norm - 1).abs() < 1e-4).logical_or(norm == 0).all()
    torch.testing.assert_close(loss(a, a), torch.zeros(3))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dead", ["all", "some"])
def test_derivatives_are_finite_at_zero_taps_and_the_value_is_kept(dead):
    loss = PerceptualLoss("alex")
    with torch.no_grad():
        if dead == "all":
            for name, parameter in loss.backbone.named_parameters():
                if name.endswith("bias"):
                    parameter.fill_(-1e4)
        else:
            loss.backbone.features[0].bias.fill_(-1.0)  # dark where the picture is flat, alive elsewhere
    a, b = images(1), images(1)
    a[..., :40] = 0
    a.requires_grad_()
    taps = loss.backbone(a)
    assert any((tap == 0).all(1).any() for tap in taps)
    torch.testing.assert_close(loss(a, b), package(loss)(a, b).flatten(), rtol=1e-4, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss(a, b).sum(), a, create_graph=True)
    assert gradient.isfinite().all()
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient.square().sum(), a)
        assert second.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-9, 1e-7, 1.0])
def test_normalisation_has_finite_derivatives_where_upstreams_has_none(size):
    tap = (torch.rand(1, 3, 2, 2) * size).requires_grad_()
    weighting = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(_unit(tap), lpips.normalize_tensor(tap), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad((_unit(tap) * weighting).sum(), tap, create_graph=True)
    assert gradient.isfinite().all()
    if size == 1.0:
        (upstream,) = torch.autograd.grad((lpips.normalize_tensor(tap) * weighting).sum(), tap)
        torch.testing.assert_close(gradient, upstream)
    if size == 0.0:
        (upstream,) = torch.autograd.grad((lpips.normalize_tensor(tap) * weighting).sum(), tap)
        assert upstream.isnan().any()
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient.sum(), tap)
        assert second.isfinite().all()


def test_gradients_agree_with_differences():
    loss = PerceptualLoss("demo", width=8).double()
    loss.backbone.double()
    a, b = images(1, 32).double().requires_grad_(), images(1, 32).double()
    direction, step = torch.randn_like(a), 1e-5

    def slope(x):
        (gradient,) = torch.autograd.grad(loss(x, b).sum(), x, create_graph=True)
        return (gradient * direction).sum()

    ahead, behind = a + step * direction, a - step * direction
    first = ((loss(ahead, b) - loss(behind, b)) / (2 * step)).item()
    assert slope(a).item() == pytest.approx(first, rel=1e-3)
    (second,) = torch.autograd.grad(slope(a), a)
    expected = ((slope(ahead) - slope(behind)) / (2 * step)).item()
    assert (second * direction).sum().item() == pytest.approx(expected, rel=1e-3)


def test_demo_distance_by_hand():
    loss = PerceptualLoss("demo", width=4)
    a, b = images(2, 32), images(2, 32)
    expected = 0
    for tap_a, tap_b in zip(loss.backbone(a), loss.backbone(b), strict=True):
        unit_a, unit_b = (tap / tap.norm(dim=1, keepdim=True).clamp(min=1e-10) for tap in (tap_a, tap_b))
        expected = expected + (unit_a - unit_b).square().sum(1).mean((1, 2)) / 5
    torch.testing.assert_close(loss(a, b), expected)
    assert [tap.shape[1] for tap in loss.backbone(a)] == loss.backbone.channels == [4, 8, 16, 24, 24]


def test_demo_loads_what_its_backbone_saved():
    backbone = DemoBackbone(8)
    loss = PerceptualLoss("demo", backbone.state_dict(), width=8)
    x = images()
    for mine, other in zip(loss.backbone(x), backbone(x), strict=True):
        assert torch.equal(mine, other)
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_bfloat16_keeps_the_order_of_distances():
    loss, a = PerceptualLoss("demo", width=8), images(1)
    near, far = a + 0.05 * torch.randn_like(a), images(1)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low, high = loss(near, a), loss(far, a)
    assert low.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(high, loss(far, a), rtol=0.05, atol=0.01)
    assert low < 0.7 * high
