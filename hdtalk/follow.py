"""The descents of a whole shot: where each frame's starts, and what it is tied to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from hdtalk.config import OptimiseConfig
from hdtalk.landmark_codes import LandmarkCodes
from hdtalk.optimise import Frames, Progress, Solution, mouth_fields

DEFAULTS = OptimiseConfig()


@dataclass(frozen=True)
class Follower:
    """Solves the frames of a shot, chunk by chunk.

    `solve`: `optimise_frames` with everything but the frames and where they start; `read(rows)`: the frames of these
    rows; `displacements`: of their landmarks from source to target, `[n, 136]`, sides of the crop; `codes`: what the
    shot says of its own, or None. `from_pivots`: without these, too, frames start from their pivots, not from anchors.
    """

    solve: Callable[..., Solution]
    read: Callable[[np.ndarray], Frames]
    displacements: np.ndarray
    config: OptimiseConfig
    codes: LandmarkCodes | None
    from_pivots: bool = False

    @cached_property
    def anchor_rows(self) -> np.ndarray:
        """Frames that are solved first, for the others to start from; none where starts are known otherwise."""
        if self.from_pivots or self.codes is not None or not (self.config.joint and self.config.anchors):
            return np.empty(0, int)
        return choose_anchors(self.displacements, self.config.anchors)

    def solve_anchors(self, progress: Progress | None = None) -> Solution:
        return self.solve(frames=self.read(self.anchor_rows), independent=True, progress=progress)

    def solve_chunk(
        self,
        rows: np.ndarray,
        run: np.ndarray,
        anchors: torch.Tensor | None,
        before: torch.Tensor | None,
        progress: Progress | None = None,
    ) -> tuple[Solution, np.ndarray | None]:
        """Consecutive `rows` of a `run` that no cut parts, and by what their edited pictures shall be bent (see
        `mouth_fields`). `anchors`: the coordinates of `solve_anchors`, if there are such; `before`: the finished code
        of the row before, `[num_ws, 512]`, None at the run's beginning."""
        around = _around(rows, run, 1 if self.codes is None else self.codes.context_frames)
        first = int(rows[0] - around[0])
        frames, start = self.read(around), None
        if anchors is not None:
            start = warm_starts(self.displacements[rows], self.displacements[self.anchor_rows], anchors)
        elif self.codes is not None:
            frames = shot_starts(self.codes, frames, self.config)
        before_pivot = frames.pivots[first - 1] if first else None
        frames = frames[first : first + len(rows)]
        solution = self.solve(frames=frames, start=start, before=before, before_pivot=before_pivot, progress=progress)
        return solution, mouth_fields(frames, self.config)


def shot_starts(codes: LandmarkCodes, frames: Frames, config: OptimiseConfig = DEFAULTS) -> Frames:
    """The frames with the codes in their pivots' place that the shot's own frames suggest for the targets."""
    smooth = config.smoothness == "latent"
    pivots, shown_px = codes.starts(frames.pivots, frames.source_px, frames.target_px, smooth)
    return replace(frames, pivots=pivots, shown_px=shown_px)


def choose_anchors(displacements: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` displacements `[n, 136]` that are unlike each other (farthest point first), int64, ascending."""
    chosen = [int(np.argmax(np.linalg.norm(displacements - displacements.mean(0), axis=1)))]
    nearest = np.linalg.norm(displacements - displacements[chosen[0]], axis=1)
    while len(chosen) < min(count, len(displacements)) and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(displacements - displacements[chosen[-1]], axis=1))
    return np.sort(np.array(chosen))


def warm_starts(
    displacements: np.ndarray, anchor_displacements: np.ndarray, anchor_coordinates: torch.Tensor, neighbours: int = 4
) -> torch.Tensor:
    """Coordinates for frames from those of the anchors with the most similar displacements (weights 1 / distance^2)."""
    distances = np.linalg.norm(displacements[:, None] - anchor_displacements[None], axis=2)  # [n, anchors]
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    weights = 1 / (np.take_along_axis(distances, nearest, 1) + 1e-4) ** 2
    shares = torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    chosen = anchor_coordinates[torch.from_numpy(nearest)]  # [n, neighbours, ...]
    return torch.einsum("nk,nk...->n...", shares.to(chosen.device), chosen)


def _around(rows: np.ndarray, run: np.ndarray, margin: int) -> np.ndarray:
    """Consecutive rows and up to `margin` of their run on either side."""
    return np.arange(max(rows[0] - margin, run[0]), min(rows[-1] + margin, run[-1]) + 1)
