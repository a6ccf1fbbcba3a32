"""Procedure B: the stages of a preset on arrays, in the order and with the settings of `hdtalk.run`, timed.

Not all of a run: what it does for shots of still lips, of a few frames, or with cuts and frames without a face, is left
out, and the codes that descents start from are smoothed over the whole shot at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hdtalk import invert, optimise, regions, stitch
from hdtalk.config import EditConfig
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
    settings = config.optimise
    sample = shot_sample(len(shot))
    space = latent_space(networks.generator, settings, pivots[sample].cpu(), config.seed)
    displacements = ((shot.target_px - shot.source_px) / shot.crops.shape[-1]).reshape(len(shot), -1)
    whole = optimise.Frames(shot.crops, pivots, shot.source_px, shot.target_px)
    whole = started(whole, sample, space, settings, networks.mouth_codes)
    solve = {"generator": generator, "landmarker": networks.landmarker, "perceptual": networks.perceptual}
    solve |= {"space": space, "config": settings, "dtype": dtype}
    chosen, anchors = None, None
    if settings.joint and settings.anchors and whole.shown_px is None:
        chosen = optimise.choose_anchors(displacements, settings.anchors)
        anchors = optimise.optimise_frames(**solve, frames=whole[chosen], independent=True).coordinates
    before, before_pivot, ws, fields, losses = None, None, [], [], []
    for rows in _chunks(len(shot), settings.chunk_frames):
        frames, start = whole[rows], None
        if anchors is not None:
            start = optimise.warm_starts(displacements[rows], displacements[chosen], anchors)
        solution = optimise.optimise_frames(
            **solve, frames=frames, start=start, before=before, before_pivot=before_pivot
        )
        before, before_pivot = solution.ws[-1], frames.pivots[-1]
        ws.append(solution.ws)
        fields.append(optimise.mouth_fields(frames, settings))
        losses.append(solution.losses)
    clock.mark("optimise")
    bent = None if fields[0] is None else np.concatenate(fields)
    return (
        torch.cat(ws),
        bent,
        {k: float(np.concatenate([part[k] for part in losses]).mean()) for k in ("start", "total")},
    )


def started(frames: optimise.Frames, sample: np.ndarray, space, settings, mouth_codes) -> optimise.Frames:
    """The frames of a whole shot at the codes that those of `sample` suggest, where B starts from such."""
    known = frames.source_px[sample], frames.pivots[sample], frames.crops.shape[-1]
    codes = shot_codes(space, *known, settings, mouth_codes)
    return frames if codes is None else optimise.shot_starts(codes, frames, settings)


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
