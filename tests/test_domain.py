"""The domain check speaks up with numbers and the command that helps, and is silent for faces of the bundle's kind."""

import logging

import pytest

from hdtalk.domain import judge_domain

STATED = {"psnr_db": 18.6, "lpips": 0.47}
INSIDE = {"encoder_psnr_db": 15.0, "encoder_lpips": 0.40, "psnr_db": 30.7, "lpips": 0.04}


def test_a_face_of_the_bundle_s_kind_passes_silently(caplog):
    inside, notice = judge_domain(INSIDE, STATED, "demo", "anna.mp4")
    assert inside and "15.0 dB" in notice and "18.6 dB" in notice and not caplog.records


@pytest.mark.parametrize(
    "measured", [{"encoder_lpips": 0.71}, {"encoder_psnr_db": 12.0}, {"psnr_db": 20.0}], ids=lambda m: next(iter(m))
)
def test_another_kind_of_face_is_said_plainly(measured, caplog):
    with caplog.at_level(logging.WARNING):
        inside, notice = judge_domain(INSIDE | measured, STATED, "demo", "real.mp4")
    assert not inside and notice in caplog.text
    assert "real.mp4" in notice and "hdtalk weights fetch ffhq" in notice
    assert ("a visibly wrong face" in notice) == ("psnr_db" in measured)


def test_a_bundle_that_states_nothing_is_judged_by_the_tuned_reconstruction():
    assert judge_domain(INSIDE | {"encoder_psnr_db": 9.0}, {}, "ffhq", "a.mp4")[0]
    inside, notice = judge_domain(INSIDE | {"psnr_db": 15.0}, {}, "ffhq", "a.mp4")
    assert not inside and "fetch" not in notice
