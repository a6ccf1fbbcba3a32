"""HDR (PQ or HLG, BT.2020) to SDR (BT.709) for pictures that models trained on SDR can understand."""

import functools

import numpy as np

PQ, HLG, BT2020 = 16, 18, 9  # ITU-T H.273 codes
REFERENCE_WHITE_NITS = 203.0  # diffuse white of HDR, ITU-R BT.2408
PEAK_NITS = 1000.0
BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)


def is_hdr(transfer: int) -> bool:
    """Whether an H.273 transfer code means HDR."""
    return transfer in (PQ, HLG)


def tone_map(picture: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """uint16 RGB [H,W,3] of full range, coded as PQ or HLG -> uint8 RGB [H,W,3] in BT.709.

    Diffuse white lands near 90 % of SDR white; highlights up to 1000 nits roll off above it. The curve acts on the
    largest of R, G, B, so hues stay.
    """
    linear = _linear_table(transfer)[picture]  # 1.0 = diffuse white
    if primaries == BT2020:
        linear = linear @ BT2020_TO_BT709.T
    np.maximum(linear, 0, out=linear)
    brightest = np.maximum(linear.max(-1, keepdims=True), 1e-6)
    linear *= _roll_off(brightest) / brightest
    return _gamma_table()[(linear.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


@functools.lru_cache(maxsize=2)
def _linear_table(transfer: int) -> np.ndarray:
    """Code value -> light relative to diffuse white: float32 [65536]."""
    code = np.linspace(0, 1, 65536)
    if transfer == PQ:  # SMPTE ST 2084
        root = code ** (1 / 78.84375)
        nits = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:  # ARIB STD-B67, shown on a 1000-nit display (system gamma 1.2, per channel)
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        nits = PEAK_NITS * scene**1.2
    return (nits / REFERENCE_WHITE_NITS).astype(np.float32)


def _roll_off(light: np.ndarray) -> np.ndarray:
    """Extended Reinhard curve: peak light -> 1; slope 1 for dark pictures would crush faces less than clipping."""
    peak = PEAK_NITS / REFERENCE_WHITE_NITS
    knee, light = 0.6, np.minimum(light, peak)
    over = (light - knee) / (peak - knee)
    shoulder = (peak - knee) / (1 - knee)  # slope 1 at the knee, 1 at the peak
    bent = knee + (1 - knee) * over * shoulder / (1 + over * (shoulder - 1))
    return np.where(light <= knee, light, bent)


@functools.lru_cache(maxsize=1)
def _gamma_table() -> np.ndarray:
    """Linear light in 65536 steps -> uint8 code of BT.1886 (display gamma 2.4)."""
    return (np.linspace(0, 1, 65536) ** (1 / 2.4) * 255 + 0.5).astype(np.uint8)
