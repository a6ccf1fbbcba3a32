"""The networks that are timed: a bundle's, or official sizes with weights by rule (random, from the seed)."""

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Networks:
    """As of a bundle; `landmarker_eval`, which measures F-LD, and `mouth_codes` may be missing. `name` says where the
    weights are from."""

    name: str
    generator: Any
    encoder: Any
    landmarker: Any
    parser: Any
    perceptual: Any
    landmarker_eval: Any = None
    mouth_codes: Any = None

    @property
    def resolution(self) -> int:
        return self.generator.resolution


def bundle_networks(bundle_name: str, device: torch.device) -> Networks:
    from hdtalk.weights import load_bundle

    bundle = load_bundle(bundle_name, device)
    judge = bundle.landmarker_eval if bundle.has("landmarker_eval") else None
    return Networks(
        f"bundle {bundle.name}", bundle.generator, bundle.encoder, bundle.landmarker, bundle.parser, bundle.perceptual,
        judge, bundle.mouth_codes if bundle.has("mouth_codes") else None,
    )  # fmt: skip


def networks_by_rule(resolution: int, device: torch.device, seed: int = 0, small: bool = False) -> Networks:
    """Generator, encoder, FAN of four stacks, parser and AlexNet (own backbone without the lpips package) at the
    official sizes, random by the seed: their pictures mean nothing, their cost is the official networks'. `small`: the
    same classes at their least sizes, for tests."""
    from hdtalk.generators.stylegan2 import Generator
    from hdtalk.losses.perceptual import PerceptualLoss
    from hdtalk.models.bisenet import BiSeNet
    from hdtalk.models.e4e import Encoder4Editing
    from hdtalk.models.fan import FAN

    net = "alex" if importlib.util.find_spec("lpips") and not small else "demo"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if small:
            narrow: dict[str, Any] = {"channel_base": 8 * resolution, "channel_max": 8, "num_mapping_layers": 2}
            made = (
                Generator(resolution, **narrow),
                Encoder4Editing(resolution, [1, 1, 1, 1], [16, 16, 16, 16], input_size=32),
                FAN(1, 8),
                BiSeNet(width=4),
                PerceptualLoss("demo", width=4),
            )
        else:
            made = (Generator(resolution), Encoder4Editing(resolution), FAN(), BiSeNet(), PerceptualLoss(net))
    generator, encoder, landmarker, parser, perceptual = (n.to(device).eval().requires_grad_(False) for n in made)
    generator.mean_latent.copy_(generator.estimate_mean_latent(1024))
    return Networks(f"weights by rule, perceptual {net}", generator, encoder, landmarker, parser, perceptual)
