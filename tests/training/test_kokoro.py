"""Kokoro's spelling of a sentence, and the phones that its durations give; the network itself is not needed."""

import shutil

import pytest

from hdtalk.errors import UsageError
from scripts.speech.kokoro import PAUSE_S, Kokoro, _close_gaps, _signs
from scripts.speech.speakers import KOKORO_HELD_OUT, speakers

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng spells the sentences")


@needs_espeak
@pytest.mark.parametrize(
    ("language", "text", "phones", "letters"),
    [
        ("en-us", "My boat.", "m aɪ sil b oʊ t sil", "mI bˈOt."),
        ("en-gb", "My boat.", "m aɪ sil b əʊ t sil", "mI bˈQt."),
        ("en-us", "judge her", "dʒ ʌ dʒ sil h ɜ sil", "ʤˈʌʤ hɜɹ"),
        ("es", "mamá", "m a m a sil", "mamˈa"),
    ],
)
def test_a_sentence_is_spelt_in_phones_and_in_the_letters_of_the_network(language, text, phones, letters):
    signs = _signs(text, language)
    assert [phone for phone, _ in signs] == phones.split()
    assert "".join(part for _, part in signs) == letters


@needs_espeak
def test_punctuation_is_kept_where_it_stood():
    assert "".join(letters for _, letters in _signs("No, he may.", "en-us")) == "nˈO, hi mˈA."


def test_a_short_gap_belongs_to_the_sounds_beside_it_and_a_pause_stays():
    short, long = 0.8 * PAUSE_S, 2 * PAUSE_S
    phones = [("sil", 0.0, 0.5), ("b", 0.5, 0.6), ("sil", 0.6, 0.6 + short), ("m", 0.6 + short, 1.0)]
    phones += [("sil", 1.0, 1.0 + long), ("a", 1.0 + long, 1.5), ("sil", 1.5, 1.55)]
    closed = _close_gaps(phones)
    assert [phone for phone, _, _ in closed] == ["sil", "b", "m", "sil", "a", "sil"]
    assert closed[1][2] == closed[2][1] == pytest.approx(0.6 + short / 2)
    assert closed[3] == ("sil", 1.0, 1.0 + long)
    assert all(before[2] == after[1] for before, after in zip(closed, closed[1:], strict=False))


def test_a_folder_without_the_network_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"there is no kokoro\.onnx"):
        Kokoro(tmp_path)


def test_no_training_hears_a_held_out_voice_not_even_as_half_of_another():
    heard = {name for s in speakers() if s.split == "train" for name in s.voice.partition("+")[2].split("~")}
    between = [s.voice for s in speakers() if "~" in s.voice]
    assert len(set(between)) >= 60
    assert all(len(set(voice.partition("+")[2].split("~"))) == 2 for voice in between)
    assert not heard & set(KOKORO_HELD_OUT.values())
    assert [s.split for s in speakers() if s.voice.partition("+")[2] in KOKORO_HELD_OUT.values()] == ["validation"] * 2
