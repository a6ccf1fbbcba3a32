"""What a step costs: by network, by batch, by resolution; and what a run costs by its length."""

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from hdtalk.config import EditConfig
from hdtalk.descent import frozen
from hdtalk.device import autocast
from hdtalk.images import resize, shrink
from stylegan2_ops import build

from . import plain
from .machine import count_flops, median_seconds
from .networks import Networks

LENGTHS = (25, 89, 250, 1500, 15000)


def profile(
    networks: Networks, config: EditConfig, device: torch.device, dtype: torch.dtype, repeats: int, sides: str = "ab"
) -> dict[str, dict[str, dict[str, float]]]:
    """Network -> milliseconds per frame, share and GFLOP of one optimisation step (forward and backward), for A (one
    frame, the target's features too) and B (a batch, the target's features known)."""
    table = {}
    for side in sides:
        batch = 1 if side == "a" else config.optimise.batch_size
        steps = _steps(networks, config, device, dtype, side, batch)
        rows: dict[str, dict[str, float]] = {}
        for name, step in steps.items():
            rows[name] = {
                "ms": 1e3 * median_seconds(step, device, repeats) / batch, "gflop": count_flops(step) / batch / 1e9,
            }  # fmt: skip
        whole = sum(row["ms"] for row in rows.values())
        table[side] = {name: {**row, "share": row["ms"] / whole} for name, row in rows.items()}
    return table


def by_batch(networks, config, device, dtype, repeats: int, batches=(1, 2, 4, 8)) -> dict[str, float]:
    """Batch -> milliseconds per frame of one of B's optimisation steps."""
    found = {}
    for batch in batches:
        steps = _steps(networks, config, device, dtype, "b", batch)
        found[str(batch)] = 1e3 * sum(median_seconds(step, device, repeats) for step in steps.values()) / batch
    return found


def by_resolution(networks, config, device, dtype, repeats: int) -> dict[str, float]:
    """Side at which the generator stops -> milliseconds per frame of its forward and backward pass."""
    found, side = {}, 32
    ws = _codes(networks, config.optimise.batch_size, device)
    while side <= networks.resolution:
        step = _generator_step(networks.generator, ws, device, dtype, side)
        found[str(side)] = 1e3 * median_seconds(step, device, repeats) / len(ws)
        side *= 2
    return found


def kernels(networks, config, device, dtype, repeats: int) -> dict[str, float]:
    """Milliseconds per frame of the generator's forward and backward pass with and without the fused kernels."""
    ws, found = _codes(networks, config.optimise.batch_size, device), {}
    step = _generator_step(networks.generator, ws, device, dtype, networks.resolution)
    found["fused"] = 1e3 * median_seconds(step, device, repeats) / len(ws)
    with mock.patch.object(build, "extension_for", lambda x, impl: None):
        found["separate"] = 1e3 * median_seconds(step, device, repeats) / len(ws)
    return found


def by_length(seconds_per_frame: dict[str, float], num_frames: int) -> dict[str, float]:
    """Frames -> seconds of a whole run of B. The tuning and the shared offset cost the same whatever the length."""
    fixed = sum(seconds_per_frame.get(part, 0.0) for part in ("tune", "shared offset"))
    each = seconds_per_frame["total"] - fixed
    return {str(length): fixed * num_frames + each * length for length in LENGTHS}


def _steps(networks: Networks, config, device, dtype, side: str, batch: int) -> dict[str, Callable[[], Any]]:
    ws = _codes(networks, batch, device)
    with torch.no_grad():
        picture = networks.generator.synthesise(ws).float()
    leaf = (picture.contiguous() if side == "a" else picture).requires_grad_(True)
    seen = config.optimise.perceptual_side

    def passed(work: Callable[[], Any]) -> Callable[[], None]:
        def step() -> None:
            leaf.grad = None
            with frozen(networks.generator, networks.perceptual, networks.landmarker):
                context = contextlib.nullcontext() if side == "a" else autocast(device, dtype)
                with context:
                    value = work()
                value.backward()

        return step

    if side == "a":
        return {
            "generator": passed(lambda: plain.synthesise(networks.generator, ws).mean()),
            "perceptual": passed(lambda: plain.lpips(networks.perceptual, leaf, picture.detach()).sum()),
            "landmarker": passed(lambda: plain.heatmaps(networks.landmarker, leaf).mean()),
        }
    return {
        "generator": _generator_step(networks.generator, ws, device, dtype, networks.resolution),
        "perceptual": passed(lambda: sum(t.float().mean() for t in networks.perceptual.features(shrink(leaf, seen)))),
        "landmarker": passed(lambda: networks.landmarker.heatmaps(resize(leaf, 256)).float().mean()),
    }


def _generator_step(generator, ws, device, dtype, side: int) -> Callable[[], None]:
    def step() -> None:
        ws.grad = None
        with frozen(generator):
            with autocast(device, dtype):
                picture = generator.synthesise(ws, resolution=side)
            picture.float().mean().backward()

    return step


def _codes(networks: Networks, batch: int, device: torch.device) -> torch.Tensor:
    z = torch.randn(batch, networks.generator.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        w = networks.generator.mapping(z)
    return w[:, None].repeat(1, networks.generator.num_ws, 1).requires_grad_(True)
