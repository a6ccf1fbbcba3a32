"""Before the heavy work: which frame is shown when, and what a run costs in time, memory and disk."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hdtalk.config import EditConfig
from hdtalk.data import VideoInfo
from hdtalk.descent import frozen, in_batches
from hdtalk.device import autocast
from hdtalk.errors import ResourceError, UsageError
from hdtalk.images import resize
from hdtalk.landmark_codes import SHOT_SAMPLE

CROP_CHUNK = 64  # frames per file of crops


@dataclass(frozen=True)
class Plan:
    """What a run would do. `order`: source frame of every output frame, int64; `seconds`: stage -> estimate."""

    video: str
    speech: str
    output: str
    job: str
    info: VideoInfo
    bundle: str
    resolution: int
    device: str
    precision: str
    num_source: int
    order: np.ndarray
    seconds: dict[str, float]
    memory_bytes: int
    disk_bytes: int
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """For people: one line per fact."""
        info, total = self.info, sum(self.seconds.values())
        length_s = float(len(self.order) / info.fps)
        size = f"{info.width}x{info.height}, {float(info.fps):.6g} fps"
        shares = ", ".join(f"{stage} {_duration(seconds)}" for stage, seconds in self.seconds.items())
        return [
            f"video    {self.video}: {size}, {self.num_source} frames used",
            f"speech   {self.speech}",
            f"output   {self.output}: {len(self.order)} frames, {length_s:.2f} s; job {self.job}",
            f"bundle   {self.bundle}, {self.resolution} px, on {self.device} in {self.precision}",
            *([f"time     about {_duration(total)} ({shares})"] if self.seconds else []),
            f"memory   about {self.memory_bytes / 2**30:.1f} GB; disk about {self.disk_bytes / 1e6:.0f} MB for the job",
            *(f"note     {note}" for note in self.notes),
        ]


def frame_order(num_frames: int, wanted: int, longer: str, shorter: str) -> np.ndarray:
    """Source frame of every output frame when the speech lasts `wanted` frames and the shot `num_frames`, int64."""
    if wanted <= num_frames:
        return np.arange(wanted if shorter == "trim" else num_frames)
    output = np.arange(wanted)
    match longer:
        case "trim":
            return np.arange(num_frames)
        case "freeze":
            return np.minimum(output, num_frames - 1)
        case "loop":
            return output % num_frames
    period = max(1, 2 * num_frames - 2)  # there and back, the ends shown once
    return np.minimum(output % period, period - output % period)


def frames_looked_at(order: np.ndarray, num_frames: int, info: VideoInfo, config: EditConfig) -> int:
    """How many of a shot's first `num_frames` a run works on: those that `order` shows, and others whose mouths may
    serve, in whole steps of `config.spare_s`, so that a little more speech does not ask for other frames."""
    step = max(1, round(min(config.spare_s * float(info.fps), num_frames)))
    return min(num_frames, step * (int(order.max()) // step + 2) if config.spare_s else int(order.max()) + 1)


def used_frames(info: VideoInfo, config: EditConfig) -> tuple[int, int]:
    """First frame and the one after the last that --trim-start and --trim-end leave. Raises `UsageError` for none."""
    start, end = (round(min(s * float(info.fps), info.num_frames)) for s in (config.trim_start, config.trim_end))
    stop = end if config.trim_end else info.num_frames
    if stop <= start:
        raise UsageError(
            f"{info.path}: no frame is left between --trim-start and --trim-end ({info.duration_s:.2f} s)."
        )
    return start, stop


def estimate_seconds(bundle, config: EditConfig, num_source: int, num_output: int, device, dtype) -> dict[str, float]:
    """Stage -> seconds, from one measured step of the networks."""
    generator, perceptual, landmarker = bundle.generator, bundle.perceptual, bundle.landmarker
    step = _seconds_per_step(generator, perceptual, None, config, device, dtype)
    follow = _seconds_per_step(generator, perceptual, landmarker, config, device, dtype)
    invert, optimise, stitch = config.invert, config.optimise, config.stitch
    tuned = num_source * invert.passes if invert.passes else invert.steps * invert.batch_size
    anchors = min(optimise.anchors, num_output) if optimise.joint and optimise.latent_space != "shot" else 0
    each = optimise.warm_steps if anchors else optimise.steps
    steps = each * num_output + anchors * optimise.steps
    refined = (invert.refine_steps + 1) * (1 + num_source // invert.refine_every)
    borders = stitch.steps / 20 if stitch.border_threshold > 0 else stitch.steps * 1.4  # most are good without tuning
    return {
        "faces": 0.19 * num_source,
        "inversion": step * (num_source + refined + invert.shared_steps * invert.batch_size + tuned * 1.4),
        "optimisation": follow * steps,
        "stitching": step * (4 / 3 + borders) * num_output,  # the edit, two reconstructions, a look at its border
        "writing": 0.17 * num_output,
    }


def estimate_bytes(bundle, config: EditConfig, num_source: int, num_output: int) -> tuple[int, int]:
    """Peak memory and the job's size on disk. Both grow with the crop's area; memory does not grow with the length."""
    area = 3 * bundle.resolution**2
    weights = 4 * sum(p.numel() for p in bundle.generator.parameters())
    batch = max(config.invert.batch_size, config.optimise.batch_size, config.stitch.batch_size)
    activations = batch * area * 4 * 160
    chunk = config.optimise.chunk_frames * (area * 8 + 4 * 68 * 64 * 64)
    memory = (900 << 20) + 6 * weights + activations + chunk
    disk = num_source * area + int(num_output * area * 0.9) + 6 * weights + 64 * 512 * 4 * (num_source + num_output)
    disk += min(num_output, SHOT_SAMPLE) * area  # finer details to lend, of frames twice as fine as their crops
    return memory, disk


def require_disk(folder: Path, needed: int) -> None:
    """Raises `ResourceError` when the disk that holds `folder` (or will) has less than `needed` bytes left."""
    place = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ResourceError(
            f"{folder}: the job needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free. "
            "Free some space, or put it elsewhere with --job DIR."
        )


def _seconds_per_step(generator, perceptual, landmarker, config, device, dtype) -> float:
    """Forward and backward of one frame of a few that are worked on as the stages do; the faster of two runs."""
    networks = [network for network in (generator, perceptual, landmarker) if network is not None]
    codes = generator.mean_latent.detach().clone().expand(1, generator.num_ws, -1)
    side = min(generator.resolution, config.optimise.perceptual_side or generator.resolution)

    def work(rows: list[int]) -> None:
        ws = codes.repeat(len(rows), 1, 1).requires_grad_(True)
        with autocast(device, dtype):
            image = generator.synthesise(ws)
            loss = sum(tap.float().mean() for tap in perceptual.features(resize(image, side)))
            if landmarker is not None:
                loss = loss + landmarker.heatmaps(resize(image, 256)).float().mean()
        torch.autograd.grad(loss, ws)

    seconds, frames = [], list(range(config.optimise.batch_size))
    with frozen(*networks):
        for _ in range(2):
            started = time.monotonic()
            in_batches(frames, len(frames), work, device=device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append((time.monotonic() - started) / len(frames))
    return min(seconds)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
