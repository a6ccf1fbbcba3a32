"""The synthesisers' phone names, read as IPA: each language spells its own way."""

import pytest

from scripts.heads.visemes import visemes_of
from scripts.speech.synthesisers import LANGUAGES, _phones


def ipa(names, voice=""):
    return [phone for phone, _, _ in _phones([(name, 0.1 * k) for k, name in enumerate(names.split(), 1)], voice)]


@pytest.mark.parametrize(
    ("voice", "names", "wanted"),
    [
        ("cmu_us_slt_arctic_hts", "pau r ay1 t ch y uw", "sil ɹ aɪ t tʃ j u"),
        ("czech_dita", "# ch l e: b a r~ s~ c~ ch r z~ _", "sil x l e b a r̝ ʃ tʃ x r ʒ ʔ"),
        ("suo_fi_lj_diphone", "# h @: y 7 r s: t", "sil h æ y ø r s t"),
        ("lp_diphone", "a1 r rr dZ O1 tS", "a r r dʒ ɔ tʃ"),
        ("msu_ru_nsh_clunits", "pau yy y ay sch bb ur oo", "sil ɨ ɨ ɪ ɕ b ʊ o"),
        ("upc_ca_ona_hts", "pau ax r rr E1", "sil ə r r ɛ"),
        ("hindi_NSK_diphone", "pau th dh j r iy bh", "sil t d dʒ ɾ i b"),
    ],
)
def test_a_name_means_what_it_means_in_its_language(voice, names, wanted):
    assert ipa(names, voice) == wanted.split()


def test_an_unknown_name_is_a_half_open_mouth_and_times_follow_each_other():
    assert _phones([("?!", 0.2), ("m", 0.5)]) == [("ə", 0.0, 0.2), ("m", 0.2, 0.5)]


def test_every_name_shows_on_the_lips():
    for language in LANGUAGES.values():
        for name, phone in language.items():
            assert all(v != "sil" for v in visemes_of(phone)) or phone == "sil", name


def test_postalveolar_sounds_round_the_lips_in_czech_and_velar_ones_do_not():
    assert [visemes_of(phone) for phone in ipa("s~ ch c~", "czech_ph")] == [("CH",), ("kk",), ("CH",)]
