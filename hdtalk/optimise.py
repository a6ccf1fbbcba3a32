"""Codes follow the target landmarks: equations (5) to (7) of the HDTalk paper over offsets from the pivots."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk.config import OptimiseConfig
from hdtalk.descent import QuasiNewton, all_finite, cosine, frozen, in_batches, roomy_batch
from hdtalk.device import autocast
from hdtalk.errors import UsageError
from hdtalk.images import resize, shrink, to_images
from hdtalk.latent_space import LatentSpace
from hdtalk.losses.landmark import HEATMAP_SIDE, gaussian_heatmaps, landmark_loss, landmark_weights
from hdtalk.losses.temporal import feature_distances, smoothness_loss
from hdtalk.mouth_warp import warp_fields
from hdtalk.regions import lower_face_mask

log = logging.getLogger(__name__)

DEFAULTS = OptimiseConfig()
LANDMARKER_SIDE = 256  # pixels of the picture that the landmark net sees

Progress = Callable[[int, int], None]  # frames done, of all


@dataclass(frozen=True)
class Frames:
    """Consecutive frames of one shot (or, for anchors, any frames) and where their landmarks shall go.

    `crops`: uint8 `[n, 3, R, R]`; `pivots`: the codes that the descent starts from, float32 `[n, num_ws, 512]`;
    `source_px`, `target_px`: landmarks of the source and wanted ones, float32 `[n, 68, 2]`, pixels of the crop (pixel
    centres at whole numbers); `shown_px`: those that the pivots' pictures show, or None: the source's.
    """

    crops: np.ndarray
    pivots: torch.Tensor
    source_px: np.ndarray
    target_px: np.ndarray
    shown_px: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows) -> "Frames":
        shown_px = None if self.shown_px is None else self.shown_px[rows]
        return Frames(self.crops[rows], self.pivots[rows], self.source_px[rows], self.target_px[rows], shown_px)


@dataclass(frozen=True)
class Solution:
    """`ws`: float32 `[n, num_ws, 512]`; `coordinates`: the offsets in their latent space, `[n, ...]`; `losses`: float32
    `[n]` each: total, lpips, landmarks at the end, and `start` (the total before); `steps`: int `[n]`."""

    ws: torch.Tensor
    coordinates: torch.Tensor
    losses: dict[str, np.ndarray]
    steps: np.ndarray


def optimise_frames(
    generator: nn.Module,
    landmarker: nn.Module,
    perceptual: nn.Module,
    space: LatentSpace,
    frames: Frames,
    config: OptimiseConfig = DEFAULTS,
    *,
    start: torch.Tensor | None = None,
    before: torch.Tensor | None = None,
    before_pivot: torch.Tensor | None = None,
    independent: bool = False,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Solution:
    """Minimises equation (5) over the codes of consecutive frames; the networks stay as they are.

    `start`: coordinates to start from (`config.warm_steps` steps then), else the pivots (`config.steps`); not together
    with `frames.shown_px`, which says where the first picture has its landmarks.
    `before`, `before_pivot`: the finished code of the frame before and the one it started from, `[num_ws, 512]`.
    `independent`: no smoothness (anchors). The smoothness of equation (7) is that of the codes; where these start from
    what the shot suggests (`frames.shown_px`), whose motion is right already, it is that of their ways from there.

    `config.joint`: all frames descend together and each pair of neighbours is coupled in both directions; a frame rests
    when its loss is on a plateau. Otherwise, as in the paper, one frame after the other, tied to the finished one
    before.
    The target heat maps H of equation (6) are the net's answer to the source frame, or to the picture that the
    descent starts from, with every landmark's map moved from where it is there to its target place ("shifted": what
    the net gets wrong on this face cancels out), or Gaussians at the target landmarks, of the width that the net was
    trained with ("gaussian"). A step that is not finite is taken back and the step size halved.
    """
    if start is not None and frames.shown_px is not None:
        raise ValueError("frames whose pivots show known landmarks start from their pivots")
    steps = config.steps if start is None else config.warm_steps
    coordinates = space.zeros(len(frames), frames.pivots.device) if start is None else start.clone()
    networks = (generator, landmarker, perceptual)
    with frozen(*networks):
        if config.joint or independent:
            given = networks, space, frames, config, dtype, None if independent else before, not independent
            descent = _Descent(*given, before_pivot)
            return descent.run(coordinates, steps, progress)
        solved = []
        for row in range(len(frames)):
            descent = _Descent(networks, space, frames[row : row + 1], config, dtype, before, True)
            solved.append(descent.run(coordinates[row : row + 1], steps, None))
            before = solved[-1].ws[0]
            if progress is not None:
                progress(row + 1, len(frames))
    losses = {name: np.concatenate([s.losses[name] for s in solved]) for name in solved[0].losses}
    return Solution(
        torch.cat([s.ws for s in solved]),
        torch.cat([s.coordinates for s in solved]),
        losses,
        np.concatenate([s.steps for s in solved]),
    )


def is_bent(frames: Frames, config: OptimiseConfig = DEFAULTS) -> bool:
    """Whether the edited mouths are bent from what the starting codes show to their targets: a descent that moved them
    as well would move them twice."""
    return frames.shown_px is not None and config.warp_reach > 0


def mouth_fields(frames: Frames, config: OptimiseConfig = DEFAULTS) -> np.ndarray | None:
    """By what the frames' edited pictures shall be bent so that they show the mouths that their codes do not: float32
    `[n, 2, 64, 64]` (see `mouth_warp`); None where codes do not start from what the shot suggests."""
    if not is_bent(frames, config):
        return None
    assert frames.shown_px is not None
    return warp_fields(frames.shown_px, frames.target_px, frames.crops.shape[-1], config.warp_reach, config.warp_beyond)


class _Descent:
    """Joint descent on a set of frames: holds what does not change between steps."""

    def __init__(self, networks, space, frames, config, dtype, before, coupled, before_pivot=None):
        self.generator, self.landmarker, self.perceptual = networks
        self.space, self.frames, self.config, self.dtype = space, frames, config, dtype
        self.before, self.coupled = before, coupled
        self.device = frames.pivots.device
        self.way_before, self.home = before, torch.zeros_like(frames.pivots[:1])  # what the smoothness compares
        if frames.shown_px is not None:
            self.home = frames.pivots
            self.way_before = None if before is None or before_pivot is None else before - before_pivot
        mouth_weight = config.bent_mouth_weight if is_bent(frames, config) else config.mouth_weight
        self.weights = landmark_weights(mouth_weight, config.eyes_weight).to(self.device)
        self.batch_size = roomy_batch(config.batch_size, self.device, frames.crops.shape[-1])
        side = frames.crops.shape[-1]
        self.side = min(config.perceptual_side or side, side)
        prepared = in_batches(list(range(len(frames))), 1, self._prepare, device=self.device)[1]
        self.sources, self.features, targets = zip(*(row for part in prepared for row in part), strict=True)
        self.targets: list[torch.Tensor | None] = list(targets)
        factor = self.side / side
        scale = [(px + 0.5) * factor - 0.5 for px in (frames.source_px, frames.target_px)]
        hidden = (1 - config.perceptual_mouth) * lower_face_mask(*scale, self.side)
        self.hidden = torch.from_numpy(hidden).to(self.device)
        self.feature_coupled = coupled and config.smoothness == "feature"
        self.taps_before: list[torch.Tensor] | None = None
        if self.feature_coupled and before is not None:
            with torch.no_grad(), autocast(self.device, dtype):
                picture = shrink(self.generator.synthesise(before[None].to(self.device)), self.side)
                self.taps_before = self.perceptual.features(picture)

    def run(self, coordinates: torch.Tensor, steps: int, progress: Progress | None) -> Solution:
        known = {"l-bfgs": self._quasi_newton, "adam": self._adam}
        if self.config.optimiser not in known:
            raise UsageError(f"optimiser {self.config.optimiser!r}: unknown. Known: {', '.join(known)}.")
        return known[self.config.optimiser](coordinates.detach().clone(), steps, progress)

    def _quasi_newton(self, coordinates: torch.Tensor, steps: int, progress: Progress | None) -> Solution:
        config, n = self.config, len(self.frames)
        search = QuasiNewton(coordinates, config.learning_rate * coordinates[0].numel() ** 0.5)
        history = np.full((steps + 1, n), np.inf, np.float32)
        names = ("total", "lpips", "landmarks")
        found = {name: np.zeros(n, np.float32) for name in names}
        taken, active, point = np.zeros(n, int), np.ones(n, bool), coordinates
        for step in range(steps + 1):
            rows = np.flatnonzero(active).tolist()
            if not rows:
                break
            last, parts = step == steps, {name: value.copy() for name, value in found.items()}
            values, gradient = self._everything(point, rows, parts, backward=not last)
            if not all_finite([values[rows]] if gradient is None else [values[rows], gradient[rows]]):
                log.warning("a step was not finite: taken back")
            better = search.tell(values, gradient).cpu().numpy()
            if not step:
                better[:] = True
            for name in names:
                found[name] = np.where(better, parts[name], found[name])
            history[step] = found["total"]
            if last:
                break
            point = search.ask()
            taken[rows] += 1
            if config.plateau > 0 and step + 1 > config.patience:
                active &= history[step] < history[step - config.patience] * (1 - config.plateau)
            if progress is not None:
                progress(int((step + 1) / steps * n), n)
        with torch.no_grad():
            ws = self.frames.pivots + self.space.decode(search.best)
        return Solution(ws, search.best, {**found, "start": history[0]}, taken)

    def _everything(self, coordinates, rows, parts, backward) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Each frame's value, its share of the smoothness with it, infinite for those that rest, and the gradient."""
        config = self.config
        coordinates = coordinates.detach().requires_grad_(backward)
        parts["total"][rows], coupling = self._gradient(coordinates, rows, parts, backward)
        values = torch.full((len(self.frames),), torch.inf)
        values[rows] = torch.from_numpy(parts["total"][rows] + coupling[rows])
        values = values.to(self.device)
        if self.coupled and config.smoothness == "latent" and config.lambda_smooth > 0:
            with torch.no_grad():
                ways = self.frames.pivots + self.space.decode(coordinates) - self.home
                pairs = config.lambda_smooth * ways.diff(dim=0).square().sum((1, 2))
                values[1:] += pairs / 2  # of every pair a half to each of the two
                values[:-1] += pairs / 2
                if self.way_before is not None:
                    values[0] += config.lambda_smooth * (ways[0] - self.way_before).square().sum()
        return values, coordinates.grad

    def _adam(self, coordinates: torch.Tensor, steps: int, progress: Progress | None) -> Solution:
        config, n = self.config, len(self.frames)
        coordinates = coordinates.requires_grad_(True)
        optimiser = torch.optim.Adam(
            [coordinates], lr=config.learning_rate, betas=(0.9, 0.99 if config.cosine else 0.999)
        )
        history = np.full((steps + 1, n), np.inf, np.float32)
        parts = {name: np.zeros(n, np.float32) for name in ("lpips", "landmarks")}
        taken, active, slow_down = np.zeros(n, int), np.ones(n, bool), 1.0
        good = coordinates.detach().clone()
        step = 0
        while step < steps and active.any():
            rows = np.flatnonzero(active).tolist()
            optimiser.zero_grad()
            history[step] = history[step - 1] if step else history[0]
            history[step, rows], _ = self._gradient(coordinates, rows, parts)
            assert coordinates.grad is not None
            if not (np.isfinite(history[step, rows]).all() and torch.isfinite(coordinates.grad).all()):
                with torch.no_grad():
                    coordinates.copy_(good)
                if slow_down < 1e-3:
                    log.warning(
                        "the landmark optimisation does not get finite numbers; these frames keep what they had"
                    )
                    break
                slow_down /= 2
                log.warning("a step was not finite: taken back, going on with %g of the step size", slow_down)
                optimiser.state.clear()
                if not step:
                    break
                continue
            good = coordinates.detach().clone()
            rate = cosine(step / steps) if config.cosine else 1.0
            optimiser.param_groups[0]["lr"] = config.learning_rate * rate * slow_down
            optimiser.step()
            with torch.no_grad():
                coordinates[~torch.from_numpy(active)] = good[~torch.from_numpy(active)]
            taken[rows] += 1
            step += 1
            if config.plateau > 0 and step > config.patience:
                active &= history[step - 1] < history[step - 1 - config.patience] * (1 - config.plateau)
            if progress is not None:
                progress(int(step / steps * n), n)
        with torch.no_grad():
            ending, _ = self._gradient(coordinates, list(range(n)), parts, backward=False)
            ws = self.frames.pivots + self.space.decode(coordinates)
        losses = {"total": ending, "start": history[0] if steps else ending, **parts}
        return Solution(ws, coordinates.detach(), losses, taken)

    def _gradient(self, coordinates, rows, parts, backward=True) -> tuple[np.ndarray, np.ndarray]:
        """Adds the gradient of the whole objective; returns each frame's value (without the coupling) for `rows`, and
        what the coupling of features adds to every frame: half of each pair, all of one with a frame that is done."""
        config = self.config
        coupling = np.zeros(len(self.frames), np.float32)
        previous, previous_row = self.taps_before, -1

        def work(batch: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
            with torch.set_grad_enabled(backward):
                leaf = coordinates[batch].detach().requires_grad_(backward)
                total, found, taps = loss(leaf, batch)
                if self.feature_coupled:
                    total = total + couple(batch, taps)
                return found, torch.autograd.grad(total, leaf)[0] if backward else None

        def couple(batch: list[int], taps: list[torch.Tensor]) -> torch.Tensor:
            nonlocal previous, previous_row
            known = previous is not None
            distances = config.lambda_feature_smooth * feature_distances(taps, previous)
            chain = np.array([previous_row] * known + batch)
            distances = distances * torch.from_numpy(np.diff(chain) == 1).to(distances)  # some frames rest
            shares = distances.detach().float().cpu().numpy()
            within = shares[known:]
            coupling[batch[0]] += shares[:known].sum()
            coupling[batch[1:]] += within / 2
            coupling[batch[:-1]] += within / 2
            previous, previous_row = [tap[-1:].detach() for tap in taps], batch[-1]
            return distances.sum()

        def loss(leaf: torch.Tensor, batch: list[int]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
            offsets = self.space.decode(leaf)
            with autocast(self.device, self.dtype):
                images = self.generator.synthesise(self.frames.pivots[batch] + offsets)
                heatmaps = self.landmarker.heatmaps(resize(images, LANDMARKER_SIDE))
                whole = shrink(images, self.side)
                seen = torch.lerp(whole.float(), torch.cat([self.sources[i] for i in batch]), self.hidden[batch])
                taps = self.perceptual.features(seen)
                whole_taps = self.perceptual.features(whole) if self.feature_coupled else taps
                wanted = [torch.cat(tap) for tap in zip(*(self.features[i] for i in batch), strict=True)]
                lpips = self.perceptual.distance(taps, wanted).float()
            fan = landmark_loss(heatmaps, self._targets_of(batch, heatmaps.detach()), self.weights)
            value = config.lambda_lpips * lpips + config.lambda_fan * fan
            value = value + config.lambda_mahalanobis * self.space.mahalanobis(leaf)
            return value.sum(), torch.stack([value, lpips, fan]).detach(), whole_taps

        def restart() -> None:
            nonlocal previous, previous_row
            previous, previous_row = self.taps_before, -1
            coupling[:] = 0

        self.batch_size, results = in_batches(
            rows, self.batch_size, work, restart, device=self.device, in_turn=self.feature_coupled
        )
        values, parts["lpips"][rows], parts["landmarks"][rows] = torch.cat([f for f, _ in results], 1).cpu().numpy()
        if backward:
            coordinates.grad = torch.zeros_like(coordinates)
            coordinates.grad[rows] = torch.cat([gradient for _, gradient in results])
        if backward and self.coupled and config.smoothness == "latent" and config.lambda_smooth > 0:
            ways = self.frames.pivots + self.space.decode(coordinates) - self.home
            smoothness = config.lambda_smooth * smoothness_loss(ways, self.way_before)
            if smoothness.requires_grad:
                smoothness.backward()
        return values, coupling

    def _prepare(self, rows: list[int]) -> list[tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]]:
        """Of every frame: its picture at the side that LPIPS sees, LPIPS taps, and target heat maps if these depend on
        the source alone."""
        prepared = []
        for row in rows:
            image = to_images(self.frames.crops[row : row + 1], self.device)
            with torch.no_grad(), autocast(self.device, self.dtype):
                seen = shrink(image, self.side)
                prepared.append((seen, self.perceptual.features(seen), self._target(image, row)))
        return prepared

    def _target(self, image: torch.Tensor, row: int) -> torch.Tensor | None:
        """Heat maps that the generated frame shall have, [1, 68, 64, 64]; None until the first one is seen, where it is
        that one's that are moved."""
        known = ("gaussian", "shifted")
        if self.config.target_heatmaps not in known:
            raise UsageError(f"target_heatmaps {self.config.target_heatmaps!r}: unknown. Known: {', '.join(known)}.")
        if self.config.target_heatmaps == "gaussian":
            return gaussian_heatmaps(self._net_px(self.frames.target_px, row), LANDMARKER_SIDE, self.config.sigma_cells)
        if self.frames.shown_px is not None:
            return None
        return self._moved(self.landmarker.heatmaps(resize(image, LANDMARKER_SIDE)), self.frames.source_px, row)

    def _targets_of(self, batch: list[int], heatmaps: torch.Tensor) -> torch.Tensor:
        """The frames' target heat maps; `heatmaps`: those of their pictures at this point of the descent."""
        for place, row in enumerate(batch):
            if self.targets[row] is None:
                assert self.frames.shown_px is not None
                self.targets[row] = self._moved(heatmaps[place : place + 1], self.frames.shown_px, row)
        return torch.cat([target for target in (self.targets[row] for row in batch) if target is not None])

    def _moved(self, heatmaps: torch.Tensor, there_px: np.ndarray, row: int) -> torch.Tensor:
        """A frame's heat maps, every one moved from where its landmark is to the target."""
        moves = self._net_px(self.frames.target_px, row) - self._net_px(there_px, row)
        return shift_heatmaps(heatmaps.float(), moves * (HEATMAP_SIDE / LANDMARKER_SIDE))

    def _net_px(self, points_px: np.ndarray, row: int) -> torch.Tensor:
        """From pixel centres of the crop at whole numbers to the landmark net's at whole numbers plus one half."""
        points = torch.from_numpy(points_px[row : row + 1]).float().to(self.device)
        return (points + 0.5) * (LANDMARKER_SIDE / self.frames.crops.shape[-1])


def shift_heatmaps(heatmaps: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Every landmark's map `[n, 68, 64, 64]` moved by its own (x, y) `[n, 68, 2]`, in cells; zeros come in."""
    n, landmarks, side, _ = heatmaps.shape
    theta = torch.zeros(n * landmarks, 2, 3, device=heatmaps.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, :, 2] = -cells.reshape(-1, 2) * (2 / side)
    with torch.autocast(heatmaps.device.type, enabled=False):  # the grid is a matrix product
        grid = F.affine_grid(theta, [n * landmarks, 1, side, side], align_corners=False)
    maps = heatmaps.reshape(n * landmarks, 1, side, side)
    return F.grid_sample(maps, grid, mode="bicubic", padding_mode="zeros", align_corners=False).reshape_as(heatmaps)
