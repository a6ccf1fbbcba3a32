"""What a shot says of its own codes: which code shows which landmarks, by kernel ridge regression over its frames."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.distance import cdist

from hdtalk.config import OptimiseConfig
from hdtalk.face_units import lip_gap
from hdtalk.latent_space import LatentSpace
from hdtalk.models.mouth_codes import MouthCodes

DEFAULTS = OptimiseConfig()
SHOT_SAMPLE = 512  # frames at most that stand for the shot's own codes
CONTEXT_SIGMAS = 3  # how far on either side smoothing looks, in its standard deviations


def shot_sample(count: int) -> np.ndarray:
    """Frames of `count` that stand for the shot, spread evenly over it, int64, ascending."""
    return np.unique(np.linspace(0, count - 1, SHOT_SAMPLE).round().astype(int))


class OtherMouths:
    """What other talking heads say of codes: how these change when a mouth goes from one shape to another."""

    def __init__(self, samples: MouthCodes, config: OptimiseConfig = DEFAULTS):
        self._weights = _weights(config)
        self._basis = samples.basis.double().cpu().numpy()
        moves = samples.moves.double().cpu().numpy()
        coordinates = samples.coordinates.double().cpu().numpy()
        wanted = np.concatenate([coordinates, moves.reshape(len(moves), -1)], 1)
        self._ridge = _KernelRidge(self._features(moves), wanted, config.others_ridge, config.start_length)

    def change(self, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of codes, `[n, num_ws * 512]`, and of the landmarks that are believed to show, `[n, 68, 2]`, between
        two faces of the same head, each `[n, 68, 2]`, in sides of the crop, counted from it with its lips closed."""
        change = self._ridge(self._features(after)) - self._ridge(self._features(before))
        coordinates, moves = np.split(change, [len(self._basis)], axis=1)
        return coordinates @ self._basis.reshape(len(self._basis), -1), moves.reshape(-1, 68, 2)

    def _features(self, moves: np.ndarray) -> np.ndarray:
        return (moves * self._weights).reshape(len(moves), -1)


class LandmarkCodes:
    """Codes for landmarks, learned from the frames of one shot, for which both are known.

    A linear and a Gaussian kernel over landmarks (`config.start_scale`, `config.start_length`) with ridge
    `config.start_ridge`. Between and around the shot's own faces the answer is sharper and nearer to the truth than any
    descent along a landmark net: it stays where the generator was tuned. It says itself which landmarks it believes to
    show, so that a descent has only the rest to go. What lies beyond the shot's own faces, `others` may know. All of it
    in float64, on the CPU.

    `shot_px`: float32 `[N, 68, 2]`, pixels of crops of `side`; `shot_pivots`: float32 `[N, num_ws, 512]`.
    """

    def __init__(
        self,
        shot_px: np.ndarray,
        shot_pivots: torch.Tensor,
        side: int,
        config: OptimiseConfig = DEFAULTS,
        others: OtherMouths | None = None,
    ):
        self._config, self._weights, self._side, self._others = config, _weights(config) / side, side, others
        self._code_shape = shot_pivots.shape[1:]
        self._mean_px = shot_px.mean(0, dtype=np.float64)
        self._closed_px = shot_px[lips_closed(shot_px)].mean(0, dtype=np.float64)
        known = self._features(shot_px)
        self._farthest = np.linalg.norm(known, axis=1).max()
        codes = shot_pivots.double().cpu().flatten(1).numpy()
        wanted = np.concatenate([codes - codes.mean(0), (shot_px - self._mean_px).reshape(len(shot_px), -1)], 1)
        self._ridge = _KernelRidge(known, wanted, config.start_ridge, config.start_length)

    @property
    def context_frames(self) -> int:
        """How many frames on either side decide on a frame's start, at least one."""
        widest = max(self._config.start_smooth_frames, self._config.rest_smooth_frames)
        return max(1, int(CONTEXT_SIGMAS * widest + 0.5))

    def starts(
        self, pivots: torch.Tensor, source_px: np.ndarray, target_px: np.ndarray, smooth: bool = True
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Codes to start from, float32 `[n, num_ws, 512]`, and the landmarks they are believed to show, `[n, 68, 2]`.

        `pivots`, `source_px`: of the consecutive frames that shall show `target_px`. What of a pivot its landmarks do
        not explain (light, gaze, and chance) stays. `smooth`: codes are smoothed over time, by Gaussians of
        `config.start_smooth_frames`, and what is not explained by `config.rest_smooth_frames`, as chance would flicker.
        Targets further from the shot's mean face than `config.start_reach` times its farthest frame are drawn in to
        there; the rest of the way is other heads', if there are others."""
        size = pivots[0].numel()
        target, share = self._features(target_px), self._shares_in_reach(target_px)
        answers = self._ridge(target * share[:, None])
        explained, shown_px = answers[:, :size], answers[:, size:].reshape(-1, 68, 2) + self._mean_px
        beyond = np.flatnonzero(share < 1)
        if self._others is not None and len(beyond):
            drawn_px = self._mean_px + share[beyond, None, None] * (target_px[beyond] - self._mean_px)
            ends = ((px - self._closed_px) / self._side for px in (drawn_px, target_px[beyond]))
            offsets, moves = self._others.change(*ends)
            explained[beyond] += offsets
            shown_px[beyond] += moves * self._side
        rest = pivots.double().cpu().flatten(1).numpy()
        rest = rest - self._ridge(self._features(source_px), slice(size))
        if smooth:
            explained = _smoothed(explained, self._config.start_smooth_frames)
            rest = _smoothed(rest, self._config.rest_smooth_frames)
        codes = torch.from_numpy((explained + rest).astype(np.float32))
        return codes.reshape(-1, *self._code_shape).to(pivots.device), shown_px.astype(np.float32)

    def beyond_reach(self, target_px: np.ndarray) -> np.ndarray:
        """Which targets `[n, 68, 2]` the shot says nothing about, bool `[n]`."""
        return self._shares_in_reach(target_px) < 1

    def _shares_in_reach(self, target_px: np.ndarray) -> np.ndarray:
        """How much of the way from the mean face to each target the shot says something about, `[n]`."""
        lengths = np.linalg.norm(self._features(target_px), axis=1).clip(1e-9)
        return np.minimum(1, self._config.start_reach * self._farthest / lengths)

    def _features(self, landmarks_px: np.ndarray) -> np.ndarray:
        """Distances from the shot's mean face, the mouth's whole and the others' by `start_weight`, `[n, 136]`."""
        return ((landmarks_px - self._mean_px) * self._weights).reshape(len(landmarks_px), -1)


def shot_codes(
    space: LatentSpace,
    shot_px: np.ndarray,
    pivots: torch.Tensor,
    side: int,
    config: OptimiseConfig,
    mouth_codes: MouthCodes | None = None,
) -> LandmarkCodes | None:
    """What the frames that stand for a shot, and other heads' mouths, say of its codes; None where the descent does not
    start from such, or neither says anything."""
    if not (config.joint and config.latent_space == "shot"):
        return None
    others = None if mouth_codes is None else OtherMouths(mouth_codes, config)
    if others is None and space.name != "shot":
        return None
    return LandmarkCodes(shot_px, pivots, side, config, others)


def lips_closed(shot_px: np.ndarray) -> np.ndarray:
    """The rows of landmarks `[N, 68, 2]` with the lips closest, a sixteenth of them and at least three."""
    gaps = lip_gap(shot_px)
    return np.argsort(gaps, kind="stable")[: max(3, len(gaps) // 16)]


class _KernelRidge:
    """Ridge regression with the sum of a linear and a Gaussian kernel of this length; features `[N, f]`, what is wanted
    `[N, k]`."""

    def __init__(self, known: np.ndarray, wanted: np.ndarray, ridge: float, length: float):
        self._known, self._length = known, length
        self._answers = np.linalg.solve(self._kernel(known) + ridge * np.eye(len(known)), wanted)

    def __call__(self, features: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        return self._kernel(features) @ self._answers[:, columns]

    def _kernel(self, features: np.ndarray) -> np.ndarray:
        squared = cdist(features, self._known, "sqeuclidean")
        return features @ self._known.T + np.exp(-squared / (2 * self._length**2))


def _weights(config: OptimiseConfig) -> np.ndarray:
    """Of the landmarks' coordinates, in sides of the crop, `[68, 1]`."""
    weights = np.full((68, 1), config.start_weight)
    weights[48:] = 1.0
    return weights / config.start_scale


def _smoothed(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    if sigma_frames <= 0:
        return values
    return gaussian_filter1d(values, sigma_frames, axis=0, mode="nearest", truncate=CONTEXT_SIGMAS)
