"""LSE-D and LSE-C: lip synchronisation by SyncNet, as Wav2Lip's evaluation defines it (Prajwal et al. 2020)."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch

from hdtalk.models.syncnet import SyncNet

LSE_D_DEFINITION = (
    "SyncNet v2 on 25 fps face crops of 224 px (BGR, 0 to 255), windows of 5 frames against 20 MFCC steps "
    "(4 per frame); euclidean distance of lip and audio features, averaged over time for each audio shift of -15 to "
    "15 frames (zero padded); LSE-D is the least of the 31 means. Face box from tracked landmarks, not S3FD."
)
LSE_C_DEFINITION = "Median minus minimum of the same 31 mean distances; higher = surer synchronisation."
WINDOW_FRAMES = 5
MFCC_PER_FRAME = 4
MAX_SHIFT_FRAMES = 15
SAMPLES_PER_FRAME = 640  # 16 kHz at 25 fps


def lse(
    faces: Iterable[np.ndarray], mfcc: np.ndarray, num_samples: int, syncnet: SyncNet, batch_size: int = 16
) -> tuple[float, float]:
    """(LSE-D, LSE-C) of one clip; (nan, nan) when it is shorter than six frames.

    `faces`: uint8 RGB [224,224,3] crops at 25 fps, taken one by one; `mfcc`: float [M,13], 100 per second, of the
    16 kHz sound in int16 units; `num_samples`: length of that sound.
    """
    device = next(syncnet.parameters()).device
    width = MFCC_PER_FRAME * WINDOW_FRAMES
    lips: list[torch.Tensor] = []
    sounds: list[torch.Tensor] = []
    with torch.inference_mode():
        windows_left = _windows(faces)
        while windows := list(islice(windows_left, batch_size)):
            lips.append(syncnet.lips(torch.stack(windows).float().to(device)).cpu())
        num_frames = sum(map(len, lips)) + WINDOW_FRAMES - 1
        num_windows = min(num_frames, num_samples // SAMPLES_PER_FRAME) - WINDOW_FRAMES  # one less than would fit
        if num_windows < 1:
            return float("nan"), float("nan")
        coefficients = torch.from_numpy(np.ascontiguousarray(mfcc.T)).float()  # [13,M]
        steps = coefficients.unfold(1, width, MFCC_PER_FRAME).permute(1, 0, 2)[:, None]  # [windows,1,13,20]
        for start in range(0, num_windows, batch_size):
            sounds.append(syncnet.audio(steps[start : min(start + batch_size, num_windows)].to(device)).cpu())
    return lse_of_features(torch.cat(lips)[:num_windows], torch.cat(sounds))


def lse_of_features(lips: torch.Tensor, sounds: torch.Tensor) -> tuple[float, float]:
    """(LSE-D, LSE-C) of SyncNet features, both [T,D]: the formula alone."""
    padded = torch.nn.functional.pad(sounds, (0, 0, MAX_SHIFT_FRAMES, MAX_SHIFT_FRAMES))
    mean_distances = torch.stack(
        [
            torch.nn.functional.pairwise_distance(lips, padded[shift : shift + len(lips)]).mean()
            for shift in range(2 * MAX_SHIFT_FRAMES + 1)
        ]
    )
    least = mean_distances.min()
    return float(least), float(mean_distances.median() - least)


def _windows(faces: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
    """Every run of five frames as uint8 BGR [3,5,224,224]."""
    recent: deque[torch.Tensor] = deque(maxlen=WINDOW_FRAMES)
    for face in faces:
        recent.append(torch.from_numpy(np.ascontiguousarray(face[..., ::-1])).permute(2, 0, 1))
        if len(recent) == WINDOW_FRAMES:
            yield torch.stack(tuple(recent), dim=1)
