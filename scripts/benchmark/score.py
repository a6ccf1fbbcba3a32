"""One judge for both procedures: the paper's objective in float32, and pictures and landmarks against the true take."""

import dataclasses

import numpy as np
import torch

from hdtalk.config import EditConfig
from hdtalk.images import resize, to_crops, to_images
from hdtalk.losses.landmark import landmark_weights
from hdtalk.losses.temporal import smoothness_loss
from hdtalk.metrics.landmark_distance import face_landmark_distance, mouth_landmark_distance
from hdtalk.metrics.psnr import psnr
from hdtalk.metrics.ssim import ssim

from . import plain
from .networks import Networks
from .shot import Shot


@torch.no_grad()
def objective(
    networks: Networks,
    generator,
    ws: torch.Tensor,
    shot: Shot,
    paper: EditConfig,
    wanted: torch.Tensor,
    groups: list[list[int]],
) -> np.ndarray:
    """Equation (5) of each frame's code towards the heat maps `wanted`, float32 with the paper's constants, smoothness
    within groups, `[n]`."""
    weights = landmark_weights(paper.optimise.mouth_weight, paper.optimise.eyes_weight).to(ws.device)
    found = []
    for row in range(len(ws)):
        target = to_images(shot.crops[row : row + 1], ws.device)
        maps = wanted[row : row + 1]
        code = ws[row : row + 1].float()
        value = plain.objective(
            networks, generator, code, target, maps, weights, paper, lambda network, w: network.synthesise(w)
        )
        for group in groups:
            if row in group[1:]:
                value = value + paper.optimise.lambda_smooth * smoothness_loss(code, ws[row - 1].float())
        found.append(float(value))
    return np.array(found)


@torch.no_grad()
def objective_of_pictures(
    networks: Networks, pictures: np.ndarray, shot: Shot, paper: EditConfig, wanted: torch.Tensor
) -> float:
    """What pictures uint8 `[n, 3, R, R]` that need no code score in equation (5), smoothness aside, their mean. Of the
    true take: a procedure that ends below has fitted the landmark net, not the face."""
    weights = landmark_weights(paper.optimise.mouth_weight, paper.optimise.eyes_weight).to(wanted.device)
    made, source = (to_images(crops, wanted.device) for crops in (pictures, shot.crops))
    values = []
    for row in range(len(made)):
        given = made[row : row + 1], source[row : row + 1], wanted[row : row + 1], weights, paper
        values.append(plain.objective(networks, None, *given, lambda _, picture: picture))
    return float(torch.cat(values).mean())


@torch.no_grad()
def towards_truth(networks: Networks, shot: Shot, device: torch.device) -> tuple[Shot, torch.Tensor]:
    """(Shot, heat maps) for equation (5) with the true take in the place of what stands for it: of the source that
    LPIPS compares with, and of the target heat maps, the net's answers to it."""
    maps = [plain.heatmaps(networks.landmarker, to_images(true[None], device)) for true in shot.truth]
    return dataclasses.replace(shot, crops=shot.truth), torch.cat(maps)


def scores(networks: Networks, pictures: np.ndarray, shot: Shot) -> dict[str, float]:
    """PSNR, SSIM, F-LD and M-LD of pictures uint8 `[n, 3, R, R]` against the true take (landmarks by the second net;
    nan without it or without a true take)."""
    found = dict.fromkeys(("psnr", "ssim", "f_ld", "m_ld"), float("nan"))
    if shot.truth is None:
        return found
    made, truth = (p.transpose(0, 2, 3, 1) for p in (pictures, shot.truth))
    found["psnr"], found["ssim"] = float(psnr(made, truth).mean()), float(ssim(made, truth).mean())
    if networks.landmarker_eval is not None:
        points = [landmarks(networks, p) for p in (pictures, shot.truth)]
        found["f_ld"] = float(face_landmark_distance(*points).mean())
        found["m_ld"] = float(mouth_landmark_distance(*points).mean())
    return found


@torch.no_grad()
def landmarks(networks: Networks, pictures: np.ndarray) -> np.ndarray:
    """By the net that no loss has seen, `[n, 68, 2]` in pixels of 256."""
    device = next(networks.landmarker_eval.parameters()).device
    parts = [resize(to_images(pictures[i : i + 8], device), 256) for i in range(0, len(pictures), 8)]
    return torch.cat([networks.landmarker_eval(part).float() for part in parts]).cpu().numpy()


def pasted(pictures: np.ndarray, alpha: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Pictures over the source's crops, uint8 `[n, 3, R, R]`, as they are pasted into the frame."""
    share = alpha[:, None].astype(np.float32) / 255
    return (pictures * share + crops * (1 - share)).round().astype(np.uint8)


@torch.no_grad()
def reconstruction_db(generator, pivots: torch.Tensor, crops: np.ndarray) -> float:
    """PSNR of the pivots' pictures against the source."""
    made = np.concatenate([to_crops(generator.synthesise(pivots[i : i + 4].float())) for i in range(0, len(pivots), 4)])
    return float(psnr(made.transpose(0, 2, 3, 1), crops.transpose(0, 2, 3, 1)).mean())
