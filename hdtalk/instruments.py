"""The networks that measure, taken from the best weights at hand, and a plain word about what is missing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hdtalk.data import FaceTrack


@dataclass(frozen=True)
class Instruments:
    """What `evaluate` measures with; None = not at hand, and `missing` says why (column -> sentence).

    `track`: video file -> face track; `landmarks`: uint8 RGB [N,256,256,3] FFHQ crops -> [N,68,2] pixels, by a net no
    loss has seen; `perceptual`: LPIPS, two float tensors [N,3,H,W] in [-1,1] -> [N]; `fid_features`: uint8 RGB
    [N,H,W,3] -> [N,D]; `embed`: uint8 RGB FFHQ crops -> embeddings [N,D]; `syncnet`: see `metrics.lse`.
    `stand_ins`: columns measured by the demo bundle's own network instead of the published one; `made_by`: column ->
    a sentence that is added to its definition.
    """

    track: Callable[[Path], FaceTrack] | None = None
    landmarks: Callable[[np.ndarray], np.ndarray] | None = None
    perceptual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    fid_features: Callable[[np.ndarray], np.ndarray] | None = None
    embed: Callable[[np.ndarray], torch.Tensor] | None = None
    syncnet: torch.nn.Module | None = None
    stand_ins: frozenset[str] = frozenset()
    missing: dict[str, str] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    device: str | torch.device = "cpu"
