"""Procedure A: the paper's, written plainly. Frame by frame, float32, contiguous memory, textbook grouped modulated
convolution, blur as depthwise convolution, every target's features computed anew in every step (as the published code
of PTI and STIT does), Adam throughout; numbers of steps and constants are those of --preset paper."""

import copy
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hdtalk.config import EditConfig
from hdtalk.images import to_images
from hdtalk.losses.landmark import gaussian_heatmaps, landmark_loss, landmark_weights
from hdtalk.losses.locality import locality_codes, locality_loss
from hdtalk.losses.stitching import stitching_loss
from hdtalk.losses.temporal import smoothness_loss
from hdtalk.optimise import shift_heatmaps
from hdtalk.stitch import Masks, parsed_region, region_masks

from .machine import now
from .networks import Networks
from .shot import Shot

LANDMARKER_SIDE = 256


@dataclass
class Timed:
    """Of one stage: `steps` seconds of every step, `losses` their values, `other` seconds beside the steps."""

    steps: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    other: float = 0.0

    @property
    def step(self) -> float:
        return statistics.median(self.steps)


def synthesise(generator: Any, ws: torch.Tensor, noise: bool = True) -> torch.Tensor:
    """Images `[N, 3, R, R]` of W+ codes by the textbook: one set of weights per sample, one group per sample."""
    x = generator.input.input.expand(len(ws), -1, -1, -1)
    x = _styled(generator, generator.conv1, x, ws[:, 0], 0, noise)
    image = _colours(generator.to_rgb1, x, ws[:, 1], None)
    for i in range(int(log2(generator.resolution)) - 2):
        x = _styled(generator, generator.convs[2 * i], x, ws[:, 2 * i + 1], 2 * i + 1, noise)
        x = _styled(generator, generator.convs[2 * i + 1], x, ws[:, 2 * i + 2], 2 * i + 2, noise)
        image = _colours(generator.to_rgbs[i], x, ws[:, 2 * i + 3], image)
    return image


def heatmaps(fan: Any, images: torch.Tensor) -> torch.Tensor:
    """FAN's last stack for images in [-1, 1], in contiguous memory."""
    if images.shape[-1] > LANDMARKER_SIDE:
        images = F.adaptive_avg_pool2d(images, LANDMARKER_SIDE)
    elif images.shape[-1] < LANDMARKER_SIDE:
        images = F.interpolate(images, size=(LANDMARKER_SIDE,) * 2, mode="bilinear", align_corners=False)
    x = F.relu(fan.bn1(fan.conv1((images + 1) / 2)))
    x = fan.conv4(fan.conv3(F.avg_pool2d(fan.conv2(x), 2)))
    for k in itertools.count():
        y = fan.get_submodule(f"top_m_{k}")(fan.get_submodule(f"m{k}")(x))
        y = F.relu(fan.get_submodule(f"bn_end{k}")(fan.get_submodule(f"conv_last{k}")(y)))
        maps = fan.get_submodule(f"l{k}")(y)
        if k == fan.num_modules - 1:
            return maps
        x = x + fan.get_submodule(f"bl{k}")(y) + fan.get_submodule(f"al{k}")(maps)


def lpips(perceptual: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """LPIPS `[N]` in contiguous memory, both pictures through the network."""
    total = 0.0
    for k, (x, y) in enumerate(zip(_taps(perceptual, a), _taps(perceptual, b), strict=True)):
        x, y = (tap / (tap.square().sum(1, keepdim=True) + 1e-16).sqrt() for tap in (x, y))
        weights = getattr(perceptual, f"lin{k}")
        total = total + ((x - y).square() * weights[:, None, None]).sum(1).mean((1, 2))
    return total  # type: ignore[return-value]


def invert(
    networks: Networks, crops: np.ndarray, config: EditConfig, device: torch.device, passes: int, seed: int = 0
) -> tuple[Any, torch.Tensor, Timed]:
    """(Tuned generator, pivots, times): e4e's codes, then pivotal tuning with its locality term, `passes` times over
    the frames, batch 1. A pass over one frame is one step."""
    settings, timed = config.invert, Timed()
    start = now(device)
    with torch.no_grad():
        pivots = torch.cat([networks.encoder(_image(crop, device)) for crop in crops])
    tuned = _contiguous_copy(networks.generator)
    original = _contiguous_copy(networks.generator).requires_grad_(False)
    weights = _tunable(tuned)
    optimiser = torch.optim.Adam(weights, lr=settings.learning_rate)
    random = np.random.default_rng(seed)
    timed.other = now(device) - start
    for _, row in itertools.product(range(passes), range(len(crops))):
        start = now(device)
        target, w = _image(crops[row], device), pivots[row : row + 1]
        made = synthesise(tuned, w)
        loss = settings.lambda_lpips * lpips(networks.perceptual, made, target).mean()
        loss = loss + settings.lambda_l2 * F.mse_loss(made, target)
        value = loss.detach()
        z = torch.from_numpy(random.standard_normal((1, original.z_dim), np.float32)).to(device)
        with torch.no_grad():
            centre = original.mean_latent
            far = locality_codes(centre + settings.locality_psi * (original.mapping(z) - centre), w)
            before = synthesise(original, far, noise=False)
        after = synthesise(tuned, far, noise=False)
        near = locality_loss(after, before, lambda a, b: lpips(networks.perceptual, a, b)).mean()
        loss = loss + settings.lambda_locality * near
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        timed.losses.append(float(value))
        timed.steps.append(now(device) - start)
    return tuned.requires_grad_(False), pivots, timed


def follow(
    networks: Networks,
    tuned: Any,
    crops: np.ndarray,
    pivots: torch.Tensor,
    wanted: torch.Tensor,
    config: EditConfig,
    iterations: int,
    groups: list[list[int]],
) -> tuple[torch.Tensor, list[Timed]]:
    """Codes `[n, num_ws, 512]` after Adam on equation (5) towards the heat maps `wanted`, frame after frame; within a
    group of consecutive frames each is tied to the finished code of the one before."""
    settings, device = config.optimise, pivots.device
    tuned = _contiguous_copy(tuned).requires_grad_(False)
    weights = landmark_weights(settings.mouth_weight, settings.eyes_weight).to(device)
    ws, times = pivots.clone(), []
    for group in groups:
        before = None
        for row in group:
            timed = Timed()
            start = now(device)
            w = pivots[row : row + 1].clone().requires_grad_(True)
            optimiser = torch.optim.Adam([w], lr=settings.learning_rate)
            target = _image(crops[row], device)
            timed.other = now(device) - start
            for _ in range(iterations):
                start = now(device)
                loss = objective(networks, tuned, w, target, wanted[row : row + 1], weights, config)
                if before is not None:
                    loss = loss + settings.lambda_smooth * smoothness_loss(w, before)
                optimiser.zero_grad()
                loss.sum().backward()
                optimiser.step()
                timed.losses.append(loss.item())
                timed.steps.append(now(device) - start)
            ws[row] = before = w.detach()[0]
            times.append(timed)
    return ws, times


@torch.no_grad()
def target_maps(networks: Networks, shot: Shot, kind: str, sigma_cells: float, device: torch.device) -> torch.Tensor:
    """Heat maps that the frames shall have, `[n, 68, 64, 64]`: "gaussian" at the target landmarks, or "shifted", the
    net's own answer to the source with each landmark's map moved (see `hdtalk.optimise.optimise_frames`)."""
    source, target = (torch.from_numpy(px).float().to(device) + 0.5 for px in (shot.source_px, shot.target_px))
    if kind == "gaussian":
        return gaussian_heatmaps(target, shot.crops.shape[-1], sigma_cells)
    maps = torch.cat([heatmaps(networks.landmarker, _image(crop, device)) for crop in shot.crops])
    return shift_heatmaps(maps, (target - source) * (maps.shape[-1] / shot.crops.shape[-1]))


def objective(networks, generator, w, target, wanted, weights, config, paint: Callable = synthesise) -> torch.Tensor:
    """LPIPS and landmark terms of equation (5), `[N]`, float32, with the paper's constants."""
    made = paint(generator, w)
    value = config.optimise.lambda_lpips * lpips(networks.perceptual, made, target)
    return value + config.optimise.lambda_fan * landmark_loss(heatmaps(networks.landmarker, made), wanted, weights)


def stitch(
    networks: Networks, tuned: Any, crops: np.ndarray, ws: torch.Tensor, config: EditConfig, steps: int
) -> tuple[torch.Tensor, Masks, list[Timed]]:
    """(Pictures `[n, 3, R, R]`, their masks, times): equation (8), every frame from a fresh copy of the generator."""
    settings, device = config.stitch, ws.device
    pictures, kept, times = [], [], []
    for row in range(len(crops)):
        timed = Timed()
        start = now(device)
        copied = _contiguous_copy(tuned)
        weights, source, w = _tunable(copied), _image(crops[row], device), ws[row : row + 1]
        optimiser = torch.optim.Adam(weights, lr=settings.learning_rate)
        with torch.no_grad():
            edited = synthesise(copied, w)
            region = parsed_region(networks.parser, source, source, settings.region)
        masks = region_masks(region, settings.dilation)
        timed.other = now(device) - start
        for _ in range(steps):
            start = now(device)
            made = synthesise(copied, w)
            loss, border = stitching_loss(made, source, edited, masks.boundary, masks.inside, settings.lambda_mask)
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
            timed.losses.append(border.item())
            timed.steps.append(now(device) - start)
        with torch.no_grad():
            pictures.append(synthesise(copied, w))
        kept.append(masks)
        times.append(timed)
    joined = Masks(*(torch.cat([getattr(m, name) for m in kept]) for name in Masks.__dataclass_fields__))
    return torch.cat(pictures), joined, times


def _image(crop: np.ndarray, device: torch.device) -> torch.Tensor:
    return to_images(crop[None], device).contiguous()


def _contiguous_copy(generator: Any) -> Any:
    copied = copy.deepcopy(generator)
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()
    return copied


def _tunable(generator: Any) -> list[torch.nn.Parameter]:
    weights = [p for name, p in generator.named_parameters() if not name.startswith("style.")]
    for weight in weights:
        weight.requires_grad_(True)
    return weights


def _styled(generator, layer, x, w, index, noise):
    x = _modulated(layer.conv, x, w, demodulate=True)
    if noise:
        x = x + layer.noise.weight * getattr(generator.noises, f"noise_{index}")
    x = F.leaky_relu(x + layer.activate.bias[None, :, None, None], 0.2) * sqrt(2)
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def _colours(layer, x, w, image):
    y = _modulated(layer.conv, x, w, demodulate=False) + layer.bias
    y = y if layer.clamp is None else y.clamp(-layer.clamp, layer.clamp)
    if image is None:
        return y
    n, channels, height, width = image.shape
    taps = layer.upsample.kernel.flip(0, 1).expand(channels, 1, -1, -1)
    spaced = image.new_zeros(n, channels, height, 2, width, 2)
    spaced[:, :, :, 0, :, 0] = image
    return y + F.conv2d(F.pad(spaced.view(n, channels, 2 * height, 2 * width), (2, 1, 2, 1)), taps, groups=channels)


def _modulated(conv, x, w, demodulate):
    n, channels, height, width = x.shape
    weight = conv.weight * conv.gain * conv.modulation(w)[:, None, :, None, None]  # [N, Cout, Cin, k, k]
    if demodulate:
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * channels, height, width)
    if not conv.up:
        return F.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=n).unflatten(1, (n, -1))[0]
    weight = weight.transpose(1, 2).flatten(0, 1)
    x = F.conv_transpose2d(x, weight, stride=2, groups=n).unflatten(1, (n, -1))[0]
    taps = conv.blur.kernel.flip(0, 1).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), taps, groups=x.shape[1])


def _taps(perceptual, images):
    """The backbone's taps, without its change of memory format."""
    backbone = perceptual.backbone
    if perceptual.net == "demo":
        taps = []
        for stage in backbone.stages:
            for convolution in stage:
                images = F.relu(convolution(images))
            taps.append(images)
        return taps
    x, taps = backbone.scaling(images), []
    for start, end in itertools.pairwise([0, *backbone.taps]):
        x = backbone.features[start:end](x)
        taps.append(x)
    return taps
