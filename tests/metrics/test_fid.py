"""The Frechet distance against its closed form, scipy's matrix root and numpy's covariance."""

import numpy as np
import pytest
import scipy.linalg

from hdtalk.metrics.fid import FeatureStatistics, frechet_distance


def statistics(samples, chunk=7):
    result = FeatureStatistics(samples.shape[1])
    for start in range(0, len(samples), chunk):
        result.add(samples[start : start + chunk])
    return result


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(1)
    mixing = random.normal(size=(2, 6, 6))
    return [random.normal(size=(50, 6)) @ mixing[0] + 100, random.normal(size=(80, 6)) @ mixing[1] + 101]


def test_streamed_mean_and_covariance_are_those_of_numpy(samples):
    streamed = statistics(samples[0])
    np.testing.assert_allclose(streamed.mean, samples[0].mean(axis=0))
    np.testing.assert_allclose(streamed.covariance, np.cov(samples[0], rowvar=False), rtol=1e-10)


def test_merged_statistics_are_those_of_all_samples(samples):
    merged, everything = statistics(samples[0]), np.concatenate(samples)
    merged.merge(FeatureStatistics(6))
    merged.merge(statistics(samples[1]))
    assert merged.count == 130
    np.testing.assert_allclose(merged.mean, everything.mean(axis=0))
    np.testing.assert_allclose(merged.covariance, np.cov(everything, rowvar=False), rtol=1e-10)


def test_closed_form_of_diagonal_gaussians():
    """Independent coordinates: the sum of (m1 - m2)^2 + (s1 - s2)^2."""
    a, b = FeatureStatistics(3), FeatureStatistics(3)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    unit = signs * np.sqrt(7 / 8)  # unbiased variance 1, no correlation
    a.add(unit * [1, 2, 3] + [0, 1, 2])
    b.add(unit * [2, 2, 7] + [0, 4, 2])
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 16)


def test_general_gaussians_agree_with_scipy(samples):
    a, b = (statistics(x) for x in samples)
    root = scipy.linalg.sqrtm(np.cov(samples[0], rowvar=False) @ np.cov(samples[1], rowvar=False)).real
    difference = samples[0].mean(axis=0) - samples[1].mean(axis=0)
    expected = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_fewer_samples_than_features_stays_finite_and_zero_with_itself():
    few = np.random.default_rng(2).normal(size=(5, 40))
    assert frechet_distance(statistics(few), statistics(few)) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(statistics(few), statistics(few + 2)) == pytest.approx(160, rel=1e-6)
