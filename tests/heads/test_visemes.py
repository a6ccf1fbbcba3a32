import numpy as np
import pytest
from heads.visemes import VISEMES, emotional_speech, speech_weights, viseme_segments, viseme_shares, visemes_of

NAMES = ["jawOpen", "mouthClose", "mouthPucker", "mouthRollLower", "mouthPress_L", "mouthPress_R", "mouthUpperUp_L"]
JAW, PUCKER, ROLL = 0, 2, 3


@pytest.mark.parametrize(
    "arpabet, ipa",
    [("AA1", "ɑ"), ("ay", "aɪ"), ("CH", "tʃ"), ("JH", "d͡ʒ"), ("ow", "oʊ"), ("P", "pʰ"), ("uw", "uː"), ("pau", "")],
)
def test_both_alphabets_name_the_same_mouth_shape(arpabet, ipa):
    assert visemes_of(arpabet) == visemes_of(ipa)


def test_diphthongs_have_two_shapes_and_affricates_one():
    assert visemes_of("aɪ") == ("aa", "ih")
    assert visemes_of("ts") == ("SS",)


def test_shares_sum_to_one_and_silence_is_filled_in():
    phones = [("a", 0.5, 0.7), ("m", 1.2, 1.3)]
    assert [s[0] for s in viseme_segments(phones, 2.0)] == ["sil", "aa", "sil", "PP", "sil"]
    shares = viseme_shares(phones, np.linspace(0, 2, 50))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)
    assert shares[0].argmax() == VISEMES.index("sil") and shares[15].argmax() == VISEMES.index("aa")


def test_lips_close_for_a_short_m_and_open_between_two():
    phones = [("m", 0.2, 0.26), ("a", 0.26, 0.42), ("m", 0.42, 0.47), ("a", 0.47, 0.7)]
    weights = speech_weights(phones, NAMES, fps=25, duration_s=1.0)
    assert weights.shape == (25, len(NAMES)) and weights.dtype == np.float32
    closed, open_, closed_again, vowel = (weights[int(t * 25)] for t in (0.22, 0.34, 0.45, 0.6))
    assert closed[JAW] < 0.1 and closed_again[JAW] < 0.1
    assert open_[JAW] > 0.3 and vowel[JAW] > 0.4
    assert closed[ROLL] > 0.25 > 0.15 > vowel[ROLL]


def test_rounding_starts_before_its_sound():
    weights = speech_weights([("s", 0.3, 0.45), ("u", 0.45, 0.7)], NAMES, fps=50, duration_s=1.0)
    assert weights[int(0.42 * 50), PUCKER] > 0.1
    assert weights[int(0.6 * 50), PUCKER] > 0.6 > weights[5, PUCKER] + 0.5


def test_silence_keeps_the_mouth_at_rest():
    np.testing.assert_allclose(speech_weights([], NAMES, fps=25, duration_s=0.4), 0, atol=1e-6)


def test_an_emotion_parts_no_lips_that_speech_closes():
    phones = [("m", 0.2, 0.26), ("a", 0.26, 0.42), ("m", 0.42, 0.47), ("a", 0.47, 0.7)]
    speech = speech_weights(phones, NAMES, fps=25, duration_s=1.0)
    emotion = np.zeros_like(speech)
    emotion[:, [JAW, NAMES.index("mouthUpperUp_L"), NAMES.index("mouthPress_L")]] = 0.3, 0.2, 0.1
    both = emotional_speech(emotion, speech, NAMES, articulation=1.1)
    added = both - 1.1 * speech
    np.testing.assert_allclose(added[:, NAMES.index("mouthPress_L")], 0.1, atol=1e-6)  # parts no lips: always there
    vowel, pause = int(0.6 * 25), 24
    np.testing.assert_allclose(added[vowel, [JAW, NAMES.index("mouthUpperUp_L")]], [0.3, 0.2], atol=1e-6)
    assert np.abs(added[pause, [JAW, NAMES.index("mouthUpperUp_L")]]).max() < 1e-3
    assert added[int(0.22 * 25), JAW] < 0.3 * 0.1 / 0.25 + 1e-6
