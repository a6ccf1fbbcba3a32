"""Crops -> W+ pivots by the encoder -> a generator tuned so that its pictures of the pivots are the crops (eq. 4)."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from hdtalk.config import InvertConfig
from hdtalk.descent import (
    QuasiNewton,
    all_finite,
    cosine,
    frozen,
    in_batches,
    roomy_batch,
    set_gradients,
    tunable_copy,
)
from hdtalk.device import autocast
from hdtalk.images import resize, shrink, to_images
from hdtalk.losses.locality import locality_codes, locality_loss
from hdtalk.losses.structure import structure_loss
from hdtalk.muon import Muon

log = logging.getLogger(__name__)

DEFAULTS = InvertConfig()

REFINE_REACH = 1.5  # first step of the pivots' own refinement, in `refine_rate`s
MOVING_PIVOTS = 1000  # shots of more frames keep their pivots: each would be seen too rarely

ReadWeights = Callable[[np.ndarray], np.ndarray]  # frame numbers [n] -> float32 pixel weights [n, 1, R, R]
ReadCrops = Callable[[np.ndarray], np.ndarray]  # frame numbers [n] -> uint8 RGB crops [n, 3, R, R]
Progress = Callable[[int, int], None]  # done, total


class Checkpoints(Protocol):
    """Where a long computation leaves its state. `load` gives the newest (step, arrays) or None."""

    def load(self) -> tuple[int, dict[str, np.ndarray]] | None: ...

    def save(self, step: int, arrays: dict[str, np.ndarray]) -> None: ...


@dataclass(frozen=True)
class Tuning:
    """The tuned generator, the pivots (moved along where the configuration says so), float32 `[N, num_ws, 512]`, and
    the mean of equation (4) over each step's frames, one number a step."""

    generator: nn.Module
    pivots: torch.Tensor
    losses: list[float]


def encode_pivots(
    encoder: nn.Module, crops: np.ndarray, batch_size: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """e4e's codes of uint8 crops `[n, 3, R, R]`: float32 `[n, num_ws, 512]` on the encoder's device."""
    device = next(encoder.parameters()).device
    side = getattr(encoder, "input_size", 256)

    def work(rows: list[int]) -> torch.Tensor:
        images = resize(to_images(crops[rows], device), side)
        with torch.no_grad(), autocast(device, dtype):
            return encoder(images).float()

    batch_size = roomy_batch(batch_size, device, side)
    with frozen(encoder):
        return torch.cat(in_batches(list(range(len(crops))), batch_size, work, device=device)[1])


def shared_offset(
    generator: nn.Module,
    perceptual: nn.Module,
    pivots: torch.Tensor,
    read_crops: ReadCrops,
    config: InvertConfig = DEFAULTS,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> torch.Tensor:
    """What the encoder's codes of one person lack in every frame alike: float32 `[1, num_ws, 512]`.

    LPIPS and L2 of equation (4) over one offset to all codes, `config.shared_steps` steps on a few frames each. Its
    cost does not grow with the shot, and it leaves the frames' own refinement little to do.
    """
    offset = torch.zeros_like(pivots[:1], requires_grad=True)
    batch, spread = min(config.batch_size, len(pivots)), _spread(generator)
    fitting, rate = batch, config.refine_rate * spread
    optimiser = torch.optim.Adam([offset], lr=rate, betas=(0.9, 0.99))
    with frozen(generator, perceptual):
        for step in range(config.shared_steps):
            optimiser.param_groups[0]["lr"] = rate * cosine(step / config.shared_steps)
            frames = step_frames(seed, step, batch, len(pivots))
            given = pivots[frames] + offset.detach(), to_images(read_crops(frames), pivots.device), None
            _, gradient, fitting = _picture_loss(generator, perceptual, spread, *given, config, dtype, fitting)
            assert gradient is not None
            if not all_finite([gradient]):
                log.warning("step %d towards the shared offset was not finite and is left out", step)
                continue
            offset.grad = gradient.sum(0, keepdim=True)
            optimiser.step()
    return offset.detach()


def refine_pivots(
    generator: Any,
    perceptual: Any,
    crops: np.ndarray,
    pivots: torch.Tensor,
    config: InvertConfig = DEFAULTS,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Moves each pivot of consecutive crops a little, so that the untuned generator already shows each frame's mouth.

    LPIPS and L2 as in equation (4) over the codes, and a pull of every layer towards the frame's mean code, which keeps
    them editable. `config.refine_steps` steps of L-BFGS on the first frame, the last and every `config.refine_every`th;
    what the encoder misses of a face changes slowly, so those between go as far as their neighbours on either side,
    weighed by how near they are. Shapes as in `encode_pivots`.
    """
    chosen = np.unique(np.r_[0 : len(crops) : config.refine_every, len(crops) - 1])
    targets, spread, start = to_images(crops[chosen], pivots.device), _spread(generator), pivots[chosen]
    search = QuasiNewton(start, REFINE_REACH * config.refine_rate * spread * pivots[0].numel() ** 0.5)
    batch, codes = roomy_batch(config.batch_size, pivots.device, crops.shape[-1]), start
    with frozen(generator, perceptual):
        wanted = _features(perceptual, targets, config, dtype)
        for step in range(config.refine_steps + 1):
            given, last = (codes, targets, wanted), step == config.refine_steps
            values, gradient, batch = _picture_loss(
                generator, perceptual, spread, *given, config, dtype, batch, backward=not last
            )
            search.tell(values, gradient)
            codes = search.best if last else search.ask()
    near = np.stack([np.interp(np.arange(len(crops)), chosen, one) for one in np.eye(len(chosen))], 1)
    moves = (codes - start).detach()
    return pivots + torch.einsum("nk,k...->n...", torch.from_numpy(near).to(moves), moves)


def tune_generator(
    generator: nn.Module,
    perceptual: nn.Module,
    pivots: torch.Tensor,
    read_crops: ReadCrops,
    config: InvertConfig = DEFAULTS,
    *,
    read_weights: ReadWeights | None = None,
    mouth_offsets: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """PTI over a whole shot: minimises equation (4) over the synthesis weights; mapping and noise maps stay. The
    convolutions move by Muon, all else by Adam, unless `config.optimiser` is "adam".

    With `config.pivot_rate` the pivots move too, each when its frame is seen: a generator that knows the person badly
    then still learns what distinguishes the frames, instead of their average. `read_weights` weighs the pixels of L2.
    With `config.lambda_structure` the pictures' structural similarity counts beside L2 and LPIPS. `mouth_offsets`
    `[M, num_ws, 512]`: of codes whose mouths the shot does not show; a generator tuned to closed lips alone would
    forget how to open them (`config.lambda_mouths`).

    `pivots`: float32 `[N, num_ws, 512]`; `read_crops` is asked for one step's frames, never for the whole shot.
    The frames and random codes of a step depend on (seed, step) alone: a run that goes on from a checkpoint makes the
    same steps as one that was never stopped. A step whose loss or gradient is not finite is left out.
    Raises `ResourceError` when not even one frame fits into memory.
    """
    device = pivots.device
    tuned, weights = tunable_copy(generator)
    optimisers = _optimisers(weights, config)
    codes = _Codes(pivots, config.pivot_rate * _spread(generator) if len(pivots) <= MOVING_PIVOTS else 0.0)
    batch = min(config.batch_size, len(pivots))
    total = config.passes * len(pivots) // batch if config.passes else config.steps
    first, losses, micro_batch, saved_at = 0, [], batch, time.monotonic()
    if checkpoints is not None and (state := checkpoints.load()) is not None:
        first = state[0]
        losses = _restore(weights, optimisers, codes, state[1])

    with frozen(generator, perceptual):
        for step in range(first, total):
            share = cosine(step / total) if config.cosine else 1.0
            for optimiser in optimisers:
                optimiser.param_groups[0]["lr"] = optimiser.defaults["lr"] * share
                optimiser.zero_grad()
            frames = step_frames(seed, step, batch, len(pivots))
            targets, seen = to_images(read_crops(frames), device), codes.take(frames)
            pixels = None if read_weights is None else torch.from_numpy(read_weights(frames)).to(device)
            networks = tuned, weights, perceptual
            loss, micro_batch = _accumulate(*networks, seen, targets, pixels, config, dtype, micro_batch)
            if config.lambda_locality > 0 and step % config.locality_every == 0:
                _add_locality(generator, *networks, seen[:1].detach(), config, dtype, (seed, step))
            if mouth_offsets is not None and config.lambda_mouths > 0 and step % config.mouths_every == 0:
                chosen = int(np.random.default_rng((seed, step)).integers(len(mouth_offsets)))
                offset = mouth_offsets[chosen : chosen + 1].to(device)
                _add_mouths(generator, tuned, weights, seen[:1].detach(), offset, config, dtype)
            if all_finite([p.grad for p in weights.values() if p.grad is not None]):
                for optimiser in optimisers:
                    optimiser.step()
                codes.step(frames, seen, share)
            else:
                log.warning("step %d of the tuning was not finite and is left out", step)
            losses.append(loss)
            if progress is not None:
                progress(step + 1, total)
            if checkpoints is not None and time.monotonic() - saved_at >= config.checkpoint_s and step + 1 < total:
                checkpoints.save(step + 1, _state(weights, optimisers, codes, losses))
                saved_at = time.monotonic()
    return Tuning(tuned.requires_grad_(False), codes.values, losses)


def reconstruct(generator: Any, ws: torch.Tensor, batch_size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The generator's pictures of codes, float32 `[n, 3, R, R]` clamped to [-1, 1]."""

    def work(rows: list[int]) -> torch.Tensor:
        with torch.no_grad(), autocast(ws.device, dtype):
            return generator.synthesise(ws[rows]).float().clamp(-1, 1)

    with frozen(generator):
        return torch.cat(in_batches(list(range(len(ws))), batch_size, work, device=ws.device)[1])


def step_frames(seed: int, step: int, batch: int, num_frames: int) -> np.ndarray:
    """Frames of one step: the shot is gone through in a new order each time, `batch` at a time, int64 `[batch]`."""
    positions = np.arange(step * batch, (step + 1) * batch)
    orders = {
        int(e): np.random.default_rng((seed, int(e))).permutation(num_frames) for e in set(positions // num_frames)
    }
    return np.array([orders[int(p // num_frames)][p % num_frames] for p in positions])


def _picture_loss(
    generator, perceptual, spread, codes, targets, wanted, config, dtype, batch_size, backward=True
) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """LPIPS and L2 of equation (4), and the pull of a code's layers to their mean: (values `[n]`, gradient, the batch
    size that fitted)."""

    def work(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.set_grad_enabled(backward):
            ws = codes[rows].detach().requires_grad_(backward)
            with autocast(codes.device, dtype):
                images = generator.synthesise(ws)
                taps = perceptual.features(shrink(images, config.perceptual_side))
                if wanted is None:
                    with torch.no_grad():
                        target_taps = perceptual.features(shrink(targets[rows], config.perceptual_side))
                else:
                    target_taps = [torch.cat(tap) for tap in zip(*(wanted[row] for row in rows), strict=True)]
                lpips = perceptual.distance(taps, target_taps)
            l2 = (images.float() - targets[rows]).square().mean((1, 2, 3))
            pull = (ws - ws.mean(1, keepdim=True)).square().mean((1, 2)) / spread**2
            loss = config.lambda_lpips * lpips.float() + config.lambda_l2 * l2 + config.refine_pull * pull
            return loss.detach(), torch.autograd.grad(loss.sum(), ws)[0] if backward else None

    batch_size, parts = in_batches(list(range(len(codes))), batch_size, work, device=codes.device)
    values, gradients = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(gradients) if backward else None, batch_size


def _features(perceptual, images, config, dtype) -> list[list[torch.Tensor]]:
    """LPIPS taps of every picture."""

    def work(rows: list[int]) -> list[list[torch.Tensor]]:
        with torch.no_grad(), autocast(images.device, dtype):
            return [perceptual.features(shrink(images[row : row + 1], config.perceptual_side)) for row in rows]

    return [taps for part in in_batches(list(range(len(images))), 1, work, device=images.device)[1] for taps in part]


def _spread(generator) -> float:
    """Standard deviation of the generator's own w, averaged over dimensions."""
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((512, generator.z_dim), np.float32))
    with torch.no_grad():
        return float(generator.mapping(z.to(generator.mean_latent.device)).float().std(0).mean().clamp_min(1e-6))


class _Codes:
    """The pivots `[N, num_ws, 512]` under an Adam that only moves the frames it sees."""

    def __init__(self, pivots: torch.Tensor, rate: float):
        self.values, self.rate = pivots.detach().clone(), rate
        moving = pivots if rate else pivots[:0]
        self.mean, self.square = torch.zeros_like(moving), torch.zeros_like(moving)
        self.count = torch.zeros(len(moving), 1, 1, device=pivots.device)

    def take(self, frames: np.ndarray) -> torch.Tensor:
        return self.values[frames].requires_grad_(bool(self.rate))

    def step(self, frames: np.ndarray, seen: torch.Tensor, share: float) -> None:
        if not self.rate:
            return
        assert seen.grad is not None
        if not torch.isfinite(seen.grad).all():
            return
        self.count[frames] += 1
        self.mean[frames] = 0.9 * self.mean[frames] + 0.1 * seen.grad
        self.square[frames] = 0.99 * self.square[frames] + 0.01 * seen.grad.square()
        mean, square = self.mean[frames] / (1 - 0.9 ** self.count[frames]), self.square[frames]
        root = (square / (1 - 0.99 ** self.count[frames])).sqrt()
        self.values[frames] = seen.detach() - self.rate * share * mean / (root + 1e-8)

    def arrays(self) -> dict[str, torch.Tensor]:
        return {"codes": self.values, "codes.mean": self.mean, "codes.square": self.square, "codes.count": self.count}


def _accumulate(tuned, weights, perceptual, pivots, targets, pixels, config, dtype, batch_size):
    """Sets the gradient of equation (4) without its locality term, of weights and, if they ask for it, pivots; returns
    its value and the batch size that fitted."""
    parameters = list(weights.values())

    def work(rows: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        codes = pivots[rows].detach().requires_grad_(pivots.requires_grad)
        with autocast(pivots.device, dtype):
            images = tuned.synthesise(codes)
            lpips = _lpips(perceptual, images, targets[rows], config.perceptual_side)
        l2 = (images.float() - targets[rows]).square()
        l2 = (
            l2.mean((1, 2, 3)) if pixels is None else (l2 * pixels[rows]).mean((1, 2, 3)) / pixels[rows].mean((1, 2, 3))
        )
        value = config.lambda_lpips * lpips.float() + config.lambda_l2 * l2
        if config.lambda_structure > 0:
            value = value + config.lambda_structure * _structure(images, targets[rows], config.perceptual_side)
        loss = value.sum() / len(pivots)
        asked = [*parameters, codes] if pivots.requires_grad else parameters
        return loss.detach(), list(torch.autograd.grad(loss, asked, allow_unused=True))

    batch_size, parts = in_batches(list(range(len(pivots))), batch_size, work, device=pivots.device)
    losses, gradients = zip(*parts, strict=True)
    if pivots.requires_grad:
        pivots.grad = torch.cat([part.pop() for part in gradients])
    set_gradients(parameters, gradients)
    return sum(float(loss) for loss in losses), batch_size


def _add_locality(generator, tuned, weights, perceptual, pivot, config, dtype, seed) -> None:
    """Adds the gradient of the locality term, scaled up for the steps that go without it."""
    random = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, generator.z_dim), np.float32))

    def work(_: list[int]) -> list[torch.Tensor]:
        with torch.no_grad(), autocast(pivot.device, dtype):
            w = generator.mapping(random.to(pivot.device)).float()
            w = torch.lerp(generator.mean_latent.to(w), w, config.locality_psi)
            codes = locality_codes(w, pivot, config.locality_alpha)
            original = generator.synthesise(codes, noise="none")
        with autocast(pivot.device, dtype):
            images = tuned.synthesise(codes, noise="none")
            loss = locality_loss(
                images, original, lambda a, b: _lpips(perceptual, a, b, config.perceptual_side).float()
            ).mean()
        loss = config.lambda_locality * config.locality_every * loss
        return list(torch.autograd.grad(loss, list(weights.values()), allow_unused=True))

    _add_gradient(weights, work, pivot.device)


def _add_mouths(generator, tuned, weights, pivot, offset, config, dtype) -> None:
    """Adds the gradient of what keeps the mouths: a code's change by `offset` shall change the tuned generator's
    picture as it changed the other's. Squared error, scaled up for the steps that go without it."""
    codes = torch.cat([pivot, pivot + offset]).float()

    def work(_: list[int]) -> list[torch.Tensor]:
        with torch.no_grad(), autocast(pivot.device, dtype):
            before = generator.synthesise(codes).float().diff(dim=0)
        with autocast(pivot.device, dtype):
            after = tuned.synthesise(codes).float().diff(dim=0)
        loss = config.lambda_mouths * config.mouths_every * (after - before).square().mean()
        return list(torch.autograd.grad(loss, list(weights.values()), allow_unused=True))

    _add_gradient(weights, work, pivot.device)


def _add_gradient(weights: dict[str, nn.Parameter], work, device: torch.device) -> None:
    (gradients,) = in_batches([0], 1, work, device=device)[1]
    for parameter, gradient in zip(weights.values(), gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _lpips(perceptual, images, targets, side):
    return perceptual(shrink(images, side), shrink(targets, side))


def _structure(images, targets, side):
    return structure_loss(shrink(images.float(), side), shrink(targets, side))


def _optimisers(weights: dict[str, nn.Parameter], config: InvertConfig) -> list[torch.optim.Optimizer]:
    """Adam, and Muon for the modulated convolutions, the only weights of five dimensions; not for those to colours."""
    by_muon = {name: p for name, p in weights.items() if config.optimiser == "muon" and p.ndim == 5 and p.shape[-1] > 1}
    others = [p for name, p in weights.items() if name not in by_muon]
    adam = torch.optim.Adam(others, lr=config.learning_rate, betas=(0.9, config.beta2))
    return [adam, Muon(by_muon.values(), config.muon_rate)] if by_muon else [adam]


def _state(weights, optimisers, codes: _Codes, losses: list[float]) -> dict[str, np.ndarray]:
    arrays = {"losses": np.array(losses), **{name: value.cpu().numpy() for name, value in codes.arrays().items()}}
    for name, parameter in weights.items():
        arrays[f"weight.{name}"] = parameter.detach().cpu().numpy()
        for optimiser in optimisers:
            for key, value in optimiser.state.get(parameter, {}).items():
                arrays[f"{key}.{name}"] = value.detach().cpu().numpy()
    return arrays


def _restore(weights, optimisers, codes: _Codes, arrays: dict[str, np.ndarray]) -> list[float]:
    for name, value in codes.arrays().items():
        value.copy_(torch.from_numpy(arrays[name]))
    owners = {p: optimiser for optimiser in optimisers for p in optimiser.param_groups[0]["params"]}
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(torch.from_numpy(arrays[f"weight.{name}"]))
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq", "momentum") if f"{key}.{name}" in arrays]
            state = {key: torch.from_numpy(np.array(arrays[f"{key}.{name}"])) for key in keys}
            # Adam counts its steps on the CPU: on a GPU every step would wait for them
            owners[parameter].state[parameter] = {
                key: value.reshape(()) if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
    return arrays["losses"].tolist()
