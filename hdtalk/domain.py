"""Is this person what the bundle was made for? Reconstruction against what the bundle states of itself."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

# The demo bundle's encoder reaches 22.1 dB and LPIPS 0.26 on unseen rendered heads: a tenth of those is beyond one of
# these limits, and so are two real clips (17.6 dB, 0.41; 15.6 dB, 0.50) and two real stills (17.3, 0.48; 13.9, 0.60).
MARGIN_DB = 6.0  # the encoder's PSNR may be this much below its stated one
LPIPS_FACTOR = 1.5  # and its LPIPS this many times the stated one
LOWEST_TUNED_DB = 22.0  # after pivotal tuning, whatever is stated


def judge_domain(scores: Mapping[str, float], stated: Mapping[str, float], bundle: str, video: str) -> tuple[bool, str]:
    """Whether the face lies inside the bundle's domain, and the numbers in one sentence (a warning if it does not).

    `scores`: `encoder_psnr_db`, `encoder_lpips` (before tuning), `psnr_db`, `lpips` (after). `stated`: the encoder's
    measured quality in bundle.json, `psnr_db` and `lpips` on faces of its own kind; either may be missing.
    """
    found = f"encoder {scores['encoder_psnr_db']:.1f} dB, LPIPS {scores['encoder_lpips']:.3f}"
    found += f"; tuned {scores['psnr_db']:.1f} dB, LPIPS {scores['lpips']:.3f}"
    units = {"psnr_db": "{:.1f} dB", "lpips": "LPIPS {:.3f}"}
    known = ", ".join(text.format(stated[name]) for name, text in units.items() if name in stated)
    known = f"on its own faces: {known}" if known else "it states no numbers of its own"
    untunable = scores["psnr_db"] < LOWEST_TUNED_DB
    outside = (
        scores["encoder_psnr_db"] < stated.get("psnr_db", -99.0) - MARGIN_DB
        or scores["encoder_lpips"] > LPIPS_FACTOR * stated.get("lpips", 99.0)
        or untunable
    )
    if not outside:
        return True, f"inside the domain of bundle {bundle} ({found}; {known})"
    advice = "" if bundle == "ffhq" else " For real people: `hdtalk weights fetch ffhq`, then --bundle ffhq."
    expected = "a visibly wrong face" if untunable else "a soft mouth"
    notice = f"{video}: outside the domain of bundle {bundle} ({found}; {known}). Expect {expected}.{advice}"
    log.warning(notice)
    return False, notice
