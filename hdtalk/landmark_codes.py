"""What a shot says of its own codes: which code shows which landmarks, by kernel ridge regression over its frames."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.distance import cdist

from hdtalk.config import OptimiseConfig

DEFAULTS = OptimiseConfig()
SHOT_SAMPLE = 512  # frames at most that stand for the shot's own codes
CONTEXT_SIGMAS = 3  # how far on either side smoothing looks, in its standard deviations


def shot_sample(count: int) -> np.ndarray:
    """Frames of `count` that stand for the shot, spread evenly over it, int64, ascending."""
    return np.unique(np.linspace(0, count - 1, SHOT_SAMPLE).round().astype(int))


class LandmarkCodes:
    """Codes for landmarks, learned from the frames of one shot, for which both are known.

    A linear and a Gaussian kernel over landmarks (`config.start_scale`, `config.start_length`) with ridge
    `config.start_ridge`. Between and around the shot's own faces the answer is sharper and nearer to the truth than any
    descent along a landmark net: it stays where the generator was tuned. It says itself which landmarks it believes to
    show, so that a descent has only the rest to go. All of it in float64, on the CPU.

    `shot_px`: float32 `[N, 68, 2]`, pixels of crops of `side`; `shot_pivots`: float32 `[N, num_ws, 512]`.
    """

    def __init__(self, shot_px: np.ndarray, shot_pivots: torch.Tensor, side: int, config: OptimiseConfig = DEFAULTS):
        weights = np.full((68, 1), config.start_weight)
        weights[48:] = 1.0
        self._config, self._weights = config, weights / (side * config.start_scale)
        self._code_shape = shot_pivots.shape[1:]
        self._mean_px = shot_px.mean(0, dtype=np.float64)
        self._known = self._features(shot_px)
        self._farthest = np.linalg.norm(self._known, axis=1).max()
        codes = shot_pivots.double().cpu().flatten(1).numpy()
        wanted = np.concatenate([codes - codes.mean(0), (shot_px - self._mean_px).reshape(len(shot_px), -1)], 1)
        gram = self._kernel(self._known) + config.start_ridge * np.eye(len(shot_px))
        self._answers = np.linalg.solve(gram, wanted)  # [N, num_ws * 512 + 136]

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
        there."""
        size = pivots[0].numel()
        answers = self._within_reach(target_px) @ self._answers
        explained, shown = answers[:, :size], answers[:, size:]
        rest = pivots.double().cpu().flatten(1).numpy()
        rest = rest - self._kernel(self._features(source_px)) @ self._answers[:, :size]
        if smooth:
            explained = _smoothed(explained, self._config.start_smooth_frames)
            rest = _smoothed(rest, self._config.rest_smooth_frames)
        codes = torch.from_numpy((explained + rest).astype(np.float32))
        shown_px = (shown.reshape(-1, 68, 2) + self._mean_px).astype(np.float32)
        return codes.reshape(-1, *self._code_shape).to(pivots.device), shown_px

    def beyond_reach(self, target_px: np.ndarray) -> np.ndarray:
        """Which targets `[n, 68, 2]` are drawn in, bool `[n]`: the shot hardly says how they look."""
        return self._shares_in_reach(self._features(target_px)) < 1

    def _within_reach(self, target_px: np.ndarray) -> np.ndarray:
        """Kernels of targets, drawn in to what the shot says anything about, `[n, N]`."""
        target = self._features(target_px)
        return self._kernel(target * self._shares_in_reach(target)[:, None])

    def _shares_in_reach(self, features: np.ndarray) -> np.ndarray:
        reach = self._config.start_reach * self._farthest
        return np.minimum(1, reach / np.linalg.norm(features, axis=1).clip(1e-9))

    def _features(self, landmarks_px: np.ndarray) -> np.ndarray:
        """Distances from the shot's mean face, the mouth's whole and the others' by `start_weight`, `[n, 136]`."""
        return ((landmarks_px - self._mean_px) * self._weights).reshape(len(landmarks_px), -1)

    def _kernel(self, features: np.ndarray) -> np.ndarray:
        squared = cdist(features, self._known, "sqeuclidean")
        return features @ self._known.T + np.exp(-squared / (2 * self._config.start_length**2))


def _smoothed(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    if sigma_frames <= 0:
        return values
    return gaussian_filter1d(values, sigma_frames, axis=0, mode="nearest", truncate=CONTEXT_SIGMAS)
