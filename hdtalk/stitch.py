"""The edited face meets its frame: region masks, stitching tuning (eq. 8), and what the boundary still lacks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdtalk import regions
from hdtalk.config import StitchConfig
from hdtalk.descent import all_finite, frozen, in_batches, set_gradients, tunable_copy
from hdtalk.device import autocast
from hdtalk.errors import UsageError
from hdtalk.images import resize, shrink, to_crops, to_images
from hdtalk.losses.stitching import stitching_loss
from hdtalk.mouth_warp import carrying_fields, closest_mouths, warp

log = logging.getLogger(__name__)

DEFAULTS = StitchConfig()

# CelebAMask classes of BiSeNet: 0 background, 1 skin, 2-3 brows, 4-5 eyes, 6 glasses, 7-8 ears, 9 earring, 10 nose,
# 11 mouth, 12-13 lips, 14 neck, 15 necklace, 16 cloth, 17 hair, 18 hat
REGIONS = {
    "face": (1, 2, 3, 4, 5, 6, 10, 11, 12, 13),
    "head": tuple(c for c in range(19) if c not in (0, 16, 18)),  # STIT's choice
}
PARSER_SIDE = 512
KEPT_SIGMA, LENT_SIGMA = 0.012, 0.006  # sides of the crop within which a change counts, for own detail and for lent

Progress = Callable[[int, int], None]  # frames done, of all


@dataclass(frozen=True)
class Masks:
    """Of the region m, float32 `[n, 1, R, R]` in [0, 1]: `boundary` b (the ring around it, and its part along the
    crop's edge), `inside` (m without b), `alpha` (region and ring with a soft outer border, for pasting)."""

    boundary: torch.Tensor
    inside: torch.Tensor
    alpha: torch.Tensor

    def __getitem__(self, rows) -> "Masks":
        return Masks(self.boundary[rows], self.inside[rows], self.alpha[rows])


@dataclass(frozen=True)
class Lenders:
    """Of every frame to stitch, that frame of the shot which lends its detail: `rows`: int `[n]`, its place among the
    shot's; `crops`: uint8 `[n, 3, R, R]`; `pivots`: float32 `[n, num_ws, 512]`; `fields`: float32 `[n, 2, 64, 64]`, by
    which its picture is carried to the target."""

    rows: np.ndarray
    crops: np.ndarray
    pivots: torch.Tensor
    fields: np.ndarray

    def __getitem__(self, rows) -> "Lenders":
        return Lenders(self.rows[rows], self.crops[rows], self.pivots[rows], self.fields[rows])


@dataclass(frozen=True)
class Stitched:
    """`crops`: uint8 `[n, 3, R, R]`, the edited faces; `alpha`: uint8 `[n, R, R]`, what to paste; `lent`: uint8
    `[n, R, R]`, how much of the lenders' detail belongs there; `border_before`, `border`: float32 `[n]`, the boundary's
    L1 before and after; `steps`: int `[n]`."""

    crops: np.ndarray
    alpha: np.ndarray
    lent: np.ndarray
    border_before: np.ndarray
    border: np.ndarray
    steps: np.ndarray


def lower_face_alone(source_px: np.ndarray, target_px: np.ndarray, side: int, config: StitchConfig = DEFAULTS) -> bool:
    """Whether only mouth and jaw are pasted, by the landmarks of a shot's crops `[T,68,2]` and their targets."""
    if config.region == "auto":
        return regions.upper_face_moves(source_px, target_px, side) <= config.upper_moves
    return config.region == "lower"


def find_lenders(
    read_crops: Callable[[np.ndarray], np.ndarray],
    shot_pivots: torch.Tensor,
    shot_px: np.ndarray,
    target_px: np.ndarray,
    side: int,
    config: StitchConfig = DEFAULTS,
) -> Lenders | None:
    """The shot's frames whose mouths are most like the targets', or None where nothing is lent.

    `read_crops`: crops by their place among the shot's frames, of which `shot_pivots` `[N, num_ws, 512]` and `shot_px`
    `[N, 68, 2]` are codes and landmarks; `target_px`: `[n, 68, 2]`; both in pixels of crops of `side`."""
    if not config.keep_detail or config.lent_threshold <= 0:
        return None
    rows = closest_mouths(shot_px, target_px)
    return Lenders(rows, read_crops(rows), shot_pivots[rows], carrying_fields(shot_px[rows], target_px, side))


def stitch_frames(
    generator: Any,
    parser: nn.Module,
    crops: np.ndarray,
    pivots: torch.Tensor,
    ws: torch.Tensor,
    config: StitchConfig = DEFAULTS,
    *,
    lower_face: np.ndarray | None = None,
    fields: np.ndarray | None = None,
    lenders: Lenders | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Stitched:
    """Tunes the generator on batches of neighbouring frames so that their boundary shows the source (eq. 8, L1).

    `generator`: after pivotal tuning, left as it is; `crops`: the source, uint8 `[n, 3, R, R]`; `pivots`, `ws`: codes
    of the source and of the edit, float32 `[n, num_ws, 512]`. A batch starts from its neighbour's weights, the first
    one from the generator's own, so that the result depends on these frames alone. `lower_face`: masks float32
    `[n, 1, R, R]` for the regions "lower" and "auto", instead of the parser's. `fields`: float32
    `[n, 2, 64, 64]`, by which the edit's pictures are bent (`mouth_warp`).

    With `keep_detail`, the part of the source that inversion missed, f - G(pivot), is added where the edit changes
    nothing, and the boundary is tuned to what is then missing; without it this is the paper's equation. Where the edit
    changes something, the same is lent by another frame of the shot, carried to the target's landmarks (`lenders`), as
    far as that frame's reconstruction, carried there too, looks like the edit.
    """
    tuned, weights = tunable_copy(generator)
    original = {name: weight.detach().clone() for name, weight in weights.items()}
    parts: list[Stitched] = []
    for first in range(0, len(crops), config.batch_size):
        rows = slice(first, first + config.batch_size)
        if not config.warm_start:
            _assign(weights, original)
        source = to_images(crops[rows], ws.device)
        with frozen(generator, parser):
            known = None if lower_face is None else torch.from_numpy(lower_face[rows, 0] > 0.5).to(ws.device)
            bends = None if fields is None else torch.from_numpy(fields[rows]).to(ws.device)
            edit = _Edit(ws[rows], bends, dtype)
            lent = None if lenders is None else lenders[rows]
            edited, missed, agreement, region = _before_tuning(
                generator, parser, source, pivots[rows], edit, lent, known, config
            )
        masks = region_masks(region, config.dilation)
        untouched = not (config.warm_start and any(part.steps.any() for part in parts))
        given = source - missed, edited, missed, agreement, masks, config
        parts.append(_stitch_batch(tuned, weights, edit, *given, untouched))
        if progress is not None:
            progress(min(first + config.batch_size, len(crops)), len(crops))
    return Stitched(*(np.concatenate([getattr(p, name) for p in parts]) for name in Stitched.__dataclass_fields__))


@dataclass(frozen=True)
class _Edit:
    """Codes, by what their pictures are bent, and the precision that they are painted in."""

    ws: torch.Tensor
    fields: torch.Tensor | None
    dtype: torch.dtype

    def paint(self, generator: Any, rows: list[int]) -> torch.Tensor:
        with autocast(self.ws.device, self.dtype):
            images = generator.synthesise(self.ws[rows]).float()
        return images if self.fields is None else warp(images, self.fields[rows])


def parsed_region(parser: nn.Module, source: torch.Tensor, edited: torch.Tensor, region: str) -> torch.Tensor:
    """Where the source or the edit, `[n, 3, R, R]` in [-1, 1], shows the classes of a region ("auto": face): bool
    `[n, R, R]`. Both, so that a jaw that drops or rises is covered. Raises `UsageError` for an unknown region."""
    region = "face" if region == "auto" else region
    if region not in REGIONS:
        raise UsageError(f"region {region!r}: unknown. Known: {', '.join(REGIONS)}.")
    return _classes(parser, source, REGIONS[region]) | _classes(parser, edited, REGIONS[region])


def region_masks(regions: torch.Tensor, dilation: float) -> Masks:
    """Masks around regions, bool `[n, R, R]`. STIT's rules: the region is dilated by a square of `dilation` sides of
    the crop, the ring between is the boundary, the paste's alpha is the dilated region eroded by half the ring and
    blurred by as much."""
    import cv2

    side = regions.shape[-1]
    width = max(1, round(dilation * side))
    half = max(1, width // 2)
    grown, shrunk = (np.ones((2 * r + 1, 2 * r + 1), np.uint8) for r in (width, half))
    edge = np.ones((side, side), np.uint8)
    edge[width:-width, width:-width] = 0
    made = np.zeros((3, len(regions), 1, side, side), np.float32)
    for index, region in enumerate(regions.cpu().numpy().astype(np.uint8)):
        full = cv2.dilate(region, grown)
        boundary = np.maximum(np.minimum(edge, region), full - region)
        eroded = cv2.erode(full, shrunk, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(np.float32)
        alpha = cv2.GaussianBlur(eroded, (2 * half + 1, 2 * half + 1), 0, borderType=cv2.BORDER_CONSTANT)
        made[:, index, 0] = boundary, region * (1 - boundary), alpha
    return Masks(*torch.from_numpy(made).to(regions.device))


def match_border(images: torch.Tensor, source: torch.Tensor, boundary: torch.Tensor) -> torch.Tensor:
    """Adds the boundary's mean difference to the source, spread smoothly: full at the boundary, fading away from it.

    All `[n, C, R, R]` in [-1, 1]. A colour cast along the seam goes; detail does not change.
    """
    sigma = max(1.0, images.shape[-1] * 0.03)
    difference = _blur((source - images) * boundary, sigma)
    return images + difference / (_blur(boundary, sigma) + 0.05)


def _before_tuning(
    generator, parser, source, pivots, edit: _Edit, lent: Lenders | None, region, config
) -> list[torch.Tensor]:
    """The untuned edit, the detail that inversion missed, how far the lender's belongs there, and the region: the given
    one, or what the parser finds."""

    def work(rows: list[int]) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            edited = edit.paint(generator, rows)
        with torch.no_grad(), autocast(edit.ws.device, edit.dtype):
            lender = None if lent is None else lent[rows]
            detail = _missed_detail(generator, source[rows], edited, pivots[rows], lender, config)
            if region is not None:
                return edited, *detail, region[rows]
            return edited, *detail, parsed_region(parser, source[rows], edited, config.region)

    parts = in_batches(list(range(len(pivots))), len(pivots), work, device=pivots.device)[1]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _stitch_batch(
    tuned, weights, edit: _Edit, source, edited, missed, agreement, masks, config, untouched: bool
) -> Stitched:
    """`source`: what the generator shall show at the boundary; `missed`: what is added to its picture in the end;
    `untouched`: `tuned` paints `edited` so far."""
    optimiser = torch.optim.Adam(weights.values(), lr=config.learning_rate)
    count, device = len(source), source.device
    batch_size, borders, taken = count, [], 0
    parameters, everything = list(weights.values()), list(range(count))

    def loss(images: torch.Tensor, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        given = images, source[rows], edited[rows], masks.boundary[rows], masks.inside[rows]
        return stitching_loss(*given, config.lambda_mask)

    def look(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            images = edited[rows] if untouched and not taken else edit.paint(tuned, rows)
            return images, loss(images, rows)[1]

    def work(rows: list[int]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        value, border = loss(edit.paint(tuned, rows), rows)
        gradients = torch.autograd.grad(value.sum() / count, parameters, allow_unused=True)
        return border.detach(), list(gradients)

    looked = None  # mostly there is nothing to tune: then one look is enough
    if config.border_threshold > 0:
        batch_size, looked = in_batches(everything, batch_size, look, device=device)
        borders.append(torch.cat([border for _, border in looked]).cpu())
    for _ in range(config.steps):
        if borders and borders[-1].max() < config.border_threshold:
            break
        looked = None
        batch_size, parts = in_batches(everything, batch_size, work, device=device)
        borders.append(torch.cat([border for border, _ in parts]).cpu())
        if borders[-1].max() < config.border_threshold:
            break
        set_gradients(parameters, [gradients for _, gradients in parts])
        if not all_finite([w.grad for w in parameters if w.grad is not None]):
            log.warning("a step of the stitching tuning was not finite; these frames keep what they had")
            break
        optimiser.step()
        taken += 1
    if looked is None:
        looked = in_batches(everything, batch_size, look, device=device)[1]
    with torch.no_grad():
        images = torch.cat([image for image, _ in looked]) + missed
        border = torch.cat([value for _, value in looked]).cpu()
        if config.match_colour:
            images = match_border(images, source + missed, masks.boundary)
    alpha, lent = ((share[:, 0] * 255).round().byte().cpu().numpy() for share in (masks.alpha, agreement))
    before = borders[0] if borders else border
    return Stitched(to_crops(images), alpha, lent, before.numpy(), border.numpy(), np.full(count, taken))


def _missed_detail(
    generator, source, edited, pivots, lent: Lenders | None, config
) -> tuple[torch.Tensor, torch.Tensor]:
    """f - G(pivot) where the edit leaves the picture as it is, fading to the lender's where it changes it; and how far
    the lender's belongs there, `[n, 1, R, R]`."""
    if not config.keep_detail:
        return torch.zeros_like(source), torch.zeros_like(source[:, :1])
    reconstruction = generator.synthesise(pivots).float()
    own = _agreement(edited, reconstruction, KEPT_SIGMA, config.detail_threshold)
    missed = (source - reconstruction) * own
    if lent is None:
        return missed, torch.zeros_like(own)
    reconstruction = generator.synthesise(lent.pivots.to(source.device)).float()
    pictures = torch.cat([reconstruction, to_images(lent.crops, source.device) - reconstruction], 1)
    carried = warp(pictures, torch.from_numpy(lent.fields).to(source.device))
    agreement = _agreement(edited, carried[:, :3], LENT_SIGMA, config.lent_threshold)
    return missed + (1 - own) * agreement * carried[:, 3:], agreement


def _agreement(edited: torch.Tensor, other: torch.Tensor, sigma: float, threshold: float) -> torch.Tensor:
    """1 where two pictures `[n, 3, R, R]` are the same, fading to 0 where they differ by more than `threshold`, as seen
    through a Gaussian of `sigma` sides: `[n, 1, R, R]`."""
    change = (edited - other).abs().amax(1, keepdim=True)
    change = _blur(change, max(1.0, edited.shape[-1] * sigma))
    return torch.exp(-((change / max(threshold, 1e-6)) ** 2))


def _classes(parser, images, classes: tuple[int, ...]) -> torch.Tensor:
    """bool [n, R, R]: pixels of these classes; if there are hardly any, an ellipse where an aligned face is."""
    side = images.shape[-1]
    labels = parser.logits(resize(images, min(PARSER_SIDE, max(64, side)))).argmax(1, keepdim=True)
    found = torch.isin(labels, torch.tensor(classes, device=labels.device)).float()
    found = (_to_side(found, side) > 0.5)[:, 0]
    empty = found.float().mean((1, 2)) < 0.02
    if empty.any():
        log.warning("the face parser found no face in %d crops; an ellipse stands in", int(empty.sum()))
        position = (torch.arange(side, device=images.device) + 0.5) / side - 0.5
        found[empty] = (position / 0.3).square() + ((position[:, None] - 0.05) / 0.38).square() < 1
    return found


def _to_side(masks: torch.Tensor, side: int) -> torch.Tensor:
    if masks.shape[-1] >= side:
        return shrink(masks, side)
    return F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False)


def _blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian, borders replicated."""
    radius = min(int(3 * sigma + 0.5), images.shape[-1] - 1)
    taps = torch.exp(-(torch.arange(-radius, radius + 1, device=images.device).float() ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images.float(), (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps, groups=len(taps)), taps.transpose(2, 3), groups=len(taps))


def _assign(weights: dict[str, nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
