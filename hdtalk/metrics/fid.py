"""Frechet inception distance: how far the distribution of the generated frames is from that of the true ones."""

import numpy as np

DEFINITION = (
    "As in Heusel et al. 2017, as pytorch-fid 0.3.0 computes it: 2048 pool features of the 2015 Inception network on "
    "frames resized to 299 px (bilinear), |mu1-mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) over all frames of all clips "
    "together. With fewer than some thousand frames it is biased upwards: compare methods on the same clips only."
)
DEMO_DEFINITION = (
    "Not the FID of the literature: the same Frechet distance on features of the demo bundle's own perceptual network "
    "(spatial mean of its last tap), because the official Inception weights are not installed."
)


class FeatureStatistics:
    """Mean and covariance of features that arrive in chunks; never holds more than one chunk."""

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self.mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))

    def add(self, features: np.ndarray) -> None:
        """`features` float [N,D], merged by the pairwise update of Chan et al. 1979."""
        features = np.asarray(features, np.float64)
        if not len(features):
            return
        mean = features.mean(axis=0)
        centred = features - mean
        self._merge(len(features), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds what the other has seen."""
        if other.count:
            self._merge(other.count, other.mean, other._scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        shift = mean - self.mean
        total = self.count + count
        self._scatter += scatter + np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance, as `numpy.cov`; zero for a single sample."""
        return self._scatter / max(self.count - 1, 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared Frechet distance between the two Gaussians.

    tr (S1 S2)^(1/2) is taken from the symmetric S1^(1/2) S2 S1^(1/2), which has the same eigenvalues and stays exact
    when the covariances are singular (few frames), where a general matrix square root needs a fudge.
    """
    root_a = _symmetric_root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root_a @ b.covariance @ root_a)
    trace_of_root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    distance = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root
    return float(max(distance, 0.0))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(eigenvalues, 0, None))) @ vectors.T
