"""Every default of every stage, once: one frozen dataclass per stage. The command line reads its defaults from here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CropConfig:
    """FFHQ alignment smoothed over time (upstream.md 10, 12)."""

    scale: float = 1.0
    centre_sigma_frames: float = 1.0
    axes_sigma_frames: float = 3.0
