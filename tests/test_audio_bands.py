import numpy as np
import pytest

from hdtalk.audio_bands import centres_hz, cepstral_basis, tract_map


def formants(*peaks_hz):
    """MFCC `[12]` of smooth peaks in the log filter energies."""
    octaves = np.log2(centres_hz()[:, None] / np.array(peaks_hz))
    return np.exp(-((octaves / 0.4) ** 2)).sum(1) @ cepstral_basis().T


def test_filters_lie_where_the_filter_bank_has_them():
    from hdtalk.audio_bands import MEL_FILTERS, NUM_FFT
    from hdtalk.windows import SAMPLE_RATE

    peaks_hz = MEL_FILTERS.argmax(1) * SAMPLE_RATE / NUM_FFT
    np.testing.assert_allclose(centres_hz(), peaks_hz, atol=SAMPLE_RATE / NUM_FFT)


def test_a_tract_of_its_own_length_changes_nothing():
    np.testing.assert_allclose(tract_map(1.0), np.eye(12), atol=1e-9)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_longer_tract_lowers_the_formants(factor):
    heard = formants(700, 1800) @ tract_map(factor)
    moved, still = formants(700 / factor, 1800 / factor), formants(700, 1800)
    assert np.linalg.norm(heard - moved) < 0.35 * np.linalg.norm(heard - still)
