"""Procedure B: the stages of a preset on arrays, in the order and with the settings of `hdtalk.run`, timed.

Not all of a run: what it does for shots of still lips, of a few frames, or with cuts and frames without a face, is left
out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from hdtalk import invert, optimise, regions, stitch
from hdtalk.config import EditConfig
from hdtalk.follow import Follower
from hdtalk.landmark_codes import shot_codes, shot_sample
from hdtalk.latent_space import latent_space

from .machine import now
from .networks import Networks
from .shot import Shot


@dataclass
class Made:
    """What B made of the frames. `seconds`: stage -> seconds; `losses`: of the tuning; `objective`: "start" and "total"
    of the optimisation as B weighs it; `border`: of the stitching, per frame."""

    generator: Any
    pivots: torch.Tensor
    ws: torch.Tensor
    pictures: np.ndarray
    alpha: np.ndarray
    seconds: dict[str, float]
    losses: list[float]
    objective: dict[str, float]
    border: np.ndarray


class Clock:
    """Adds the time between its marks to named stages."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.last = device, {}, now(device)

    def mark(self, stage: str) -> None:
        here = now(self.device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + here - self.last
        self.last = here


def run(
    networks: Networks,
    shot: Shot,
    config: EditConfig,
    device: torch.device,
    dtype: torch.dtype,
    report: Callable[[str], None] = lambda _: None,
) -> Made:
    """Inversion, optimisation and stitching of a whole shot."""
    clock = Clock(device)
    pivots, generator, losses = invert_shot(networks, shot, config, device, dtype, clock)
    report("inversion")
    ws, fields, objective = follow_shot(networks, generator, pivots, shot, config, device, dtype, clock)
    report("optimisation")
    parts = stitch_shot(networks, generator, pivots, ws, fields, shot, config, device, dtype, clock)
    report("stitching")
    pictures, alpha, border = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("crops", "alpha", "border")
    )
    return Made(generator, pivots, ws, pictures, alpha, clock.seconds, losses, objective, border)


def invert_shot(networks, shot: Shot, config: EditConfig, device, dtype, clock: Clock):
    """(Pivots, tuned generator, losses of the tuning)."""
    settings, pair = config.invert, (networks.generator, networks.perceptual)

    def crops(indices):
        return shot.crops[indices]

    def mouth(indices):
        mask = regions.mouth_mask(shot.source_px[indices], shot.crops.shape[-1])
        return 1 + (settings.mouth_pixels - 1) * mask

    chunks = _chunks(len(shot), settings.chunk_frames)
    encoded = torch.cat([invert.encode_pivots(networks.encoder, crops(c), settings.batch_size, dtype) for c in chunks])
    clock.mark("encoding")
    offset = invert.shared_offset(*pair, encoded, crops, settings, dtype, config.seed)
    refined = [invert.refine_pivots(*pair, crops(c), encoded[c] + offset, settings, dtype) for c in chunks]
    clock.mark("pivots")
    tuning = invert.tune_generator(
        *pair, torch.cat(refined), crops, settings, read_weights=None if settings.mouth_pixels == 1 else mouth,
        dtype=dtype, seed=config.seed,
    )  # fmt: skip
    clock.mark("tuning")
    return tuning.pivots, tuning.generator, tuning.losses


def follow_shot(networks, generator, pivots, shot: Shot, config: EditConfig, device, dtype, clock: Clock):
    """(Codes, fields that bend their pictures or None, B's own objective at its start and end)."""
    settings, sample, side = config.optimise, shot_sample(len(shot)), shot.crops.shape[-1]
    space = latent_space(networks.generator, settings, pivots[sample].cpu(), config.seed)
    codes = shot_codes(space, shot.source_px[sample], pivots[sample], side, settings, networks.mouth_codes)

    def read(rows: np.ndarray) -> optimise.Frames:
        return optimise.Frames(shot.crops[rows], pivots[rows], shot.source_px[rows], shot.target_px[rows])

    solve = partial(
        optimise.optimise_frames, generator, networks.landmarker, networks.perceptual, space, config=settings,
        dtype=dtype,
    )  # fmt: skip
    displacements = ((shot.target_px - shot.source_px) / side).reshape(len(shot), -1)
    follower = Follower(solve, read, displacements, settings, codes)
    anchors = follower.solve_anchors().coordinates if len(follower.anchor_rows) else None
    before, ws, fields, losses = None, [], [], []
    for rows in _chunks(len(shot), settings.chunk_frames):
        solution, bent = follower.solve_chunk(rows, np.arange(len(shot)), anchors, before)
        before = solution.ws[-1]
        ws.append(solution.ws)
        fields.append(bent)
        losses.append(solution.losses)
    clock.mark("optimise")
    return (
        torch.cat(ws),
        None if fields[0] is None else np.concatenate(fields),
        {k: float(np.concatenate([part[k] for part in losses]).mean()) for k in ("start", "total")},
    )


def stitch_shot(networks, generator, pivots, ws, fields, shot: Shot, config: EditConfig, device, dtype, clock: Clock):
    """One `Stitched` per chunk."""
    settings, side = config.stitch, shot.crops.shape[-1]
    lower = stitch.lower_face_alone(shot.source_px, shot.target_px, side, settings)
    sample, parts = shot_sample(len(shot)), []
    known = lambda rows: shot.crops[sample[rows]], pivots[sample].cpu(), shot.source_px[sample]
    for rows in _chunks(len(shot), config.optimise.chunk_frames):
        mask = regions.lower_face_mask(shot.source_px[rows], shot.target_px[rows], side) if lower else None
        lenders = stitch.find_lenders(*known, shot.target_px[rows], side, settings)
        parts.append(
            stitch.stitch_frames(
                generator,
                networks.parser,
                shot.crops[rows],
                pivots[rows],
                ws[rows],
                settings,
                lower_face=mask,
                fields=None if fields is None else fields[rows],
                lenders=lenders,
                dtype=dtype,
            )  # fmt: skip
        )
    clock.mark("stitch")
    return parts


def _chunks(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(first, min(first + size, count)) for first in range(0, count, size)]
