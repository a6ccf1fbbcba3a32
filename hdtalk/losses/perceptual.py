"""Learned perceptual distance between images (LPIPS, Zhang et al., CVPR 2018), with features that can be cached."""

import importlib.util
import warnings
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hdtalk.models.demo_backbone import DemoBackbone

NETS = ("alex", "vgg", "demo")
PADDING = 1e-10  # of the norm, as in LPIPS 0.1
NEGLIGIBLE = 1e-16  # squared norm below which a feature vector counts as zero


class PerceptualLoss(nn.Module):
    """`loss(a, b)`: RGB `[N, 3, H, W]` in [-1, 1], twice -> distance float32 `[N]`, at the images' own size.

    `net`: "alex" or "vgg", the network and linear layers of the lpips package, or "demo", our own backbone with all
        channels alike. `backbone`: state dict for `.backbone`, torchvision's names (`features.0.weight`; the classifier
        is ignored) or `DemoBackbone`'s. Without it the weights are random; nothing is ever downloaded.
    `sizes`: of `DemoBackbone`.

    Frozen. Value of LPIPS 0.1, and unlike there the first and second derivatives are finite where all channels of a
    tap are zero: such a vector has no direction, and pulls nowhere.
    Raises ValueError for another `net`, RuntimeError for a state dict that does not fit.
    """

    def __init__(self, net: str = "alex", backbone: Mapping[str, torch.Tensor] | None = None, **sizes: Any):
        super().__init__()
        if net not in NETS:
            raise ValueError(f"net must be one of {', '.join(NETS)}, got {net!r}")
        self.net = net
        if net == "demo":
            self.backbone: nn.Module = DemoBackbone(**sizes)
            weights = [torch.full((c,), 1 / len(self.backbone.channels)) for c in self.backbone.channels]
        else:
            self.backbone, weights = _TorchvisionBackbone(net), _lpips_weights(net)
        if backbone is not None:
            self.backbone.load_state_dict({k: v for k, v in backbone.items() if not k.startswith("classifier.")})
        for k, weight in enumerate(weights):
            self.register_buffer(f"lin{k}", weight, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.distance(self.features(a), self.features(b))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """RGB `[N, 3, H, W]` in [-1, 1] -> taps, every pixel's vector of unit length (or zero)."""
        return [_unit(tap) for tap in self.backbone(images)]

    def distance(self, features_a: list[torch.Tensor], features_b: list[torch.Tensor]) -> torch.Tensor:
        """Distance float32 `[N]` of two results of `features`; one may hold a single image for all of the other."""
        pairs = zip(features_a, features_b, strict=True)
        return sum(
            ((a - b).square().mean((2, 3), dtype=_accurate(a)) * getattr(self, f"lin{k}").to(_accurate(a))).sum(1)
            for k, (a, b) in enumerate(pairs)
        )


def _unit(tap):
    squared = tap.to(_accurate(tap)).square().sum(1, keepdim=True)
    zero = squared < NEGLIGIBLE
    unit = tap / (torch.where(zero, 1.0, squared).sqrt() + PADDING).to(tap.dtype)
    return torch.where(zero, (tap / (squared.sqrt() + PADDING)).to(tap.dtype).detach(), unit)


def _accurate(tap):
    """float32, or float64 where the images have it."""
    return torch.promote_types(tap.dtype, torch.float32)


class _TorchvisionBackbone(nn.Module):
    """The layers of the lpips package's network, under torchvision's names; a tap after the last ReLU of each slice."""

    def __init__(self, net):
        super().__init__()
        import lpips  # slow: it brings scipy and torchvision

        with warnings.catch_warnings(), torch.device("meta"):  # no time spent on weights that are overwritten
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).net
        slices = [getattr(network, f"slice{k}") for k in range(1, network.N_slices + 1)]
        self.scaling = lpips.ScalingLayer()
        for name, buffer in list(self.scaling.named_buffers()):
            self.scaling.register_buffer(name, buffer, persistent=False)
        self.features = nn.Sequential(*(layer for part in slices for layer in part)).to_empty(device="cpu")
        self.taps = list(accumulate(len(part) for part in slices))
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, images):
        x, taps = self.scaling(images.contiguous(memory_format=torch.channels_last)), []
        for start, end in zip([0, *self.taps], self.taps, strict=False):
            x = self.features[start:end](x)
            taps.append(x)
        return taps


def _lpips_weights(net):
    """Weights of the linear layers that the lpips package holds, five vectors."""
    file = Path(importlib.util.find_spec("lpips").origin).parent / "weights" / "v0.1" / f"{net}.pth"
    layers = torch.load(file, map_location="cpu", weights_only=True)
    return [layers[f"lin{k}.model.1.weight"].flatten() for k in range(5)]
