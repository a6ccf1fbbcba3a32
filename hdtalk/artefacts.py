"""What the stages of a run hand on, as it lies in the job: read when it is needed, never a whole shot at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from hdtalk import crop
from hdtalk.data import CropTrack
from hdtalk.job import Stage
from hdtalk.plan import CROP_CHUNK


@dataclass(frozen=True)
class Crops:
    """`rows`: the source frames (counted from the first used one) that have a crop; `stage`: their pictures."""

    track: CropTrack
    rows: np.ndarray
    stage: Stage

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Crops by their place in `rows`, uint8 [n, 3, R, R]."""
        indices = np.asarray(indices)
        out = np.empty((len(indices), 3, self.track.resolution, self.track.resolution), np.uint8)
        for chunk in np.unique(indices // CROP_CHUNK):
            here = indices // CROP_CHUNK == chunk
            out[here] = self.stage.read_rows(int(chunk), "crops", indices[here] % CROP_CHUNK)
        return out


@dataclass(frozen=True)
class Inversion:
    pivots: torch.Tensor  # [n, num_ws, 512], CPU
    generator: torch.nn.Module
    content_hash: str
    scores: dict[str, float]
    in_domain: bool
    domain_notice: str


@dataclass(frozen=True)
class Targets:
    landmarks_px: np.ndarray  # [T, 68, 2], full frame, one row per output frame
    source_px: np.ndarray  # [T, 68, 2], the source's own landmarks
    face_px: np.ndarray  # the same per source frame
    cuts: tuple[int, ...]  # output frames that do not continue the frame before
    content_hash: str


@dataclass(frozen=True)
class Followed:
    outputs: np.ndarray  # output frames that are edited
    stage: Stage
    chunks: list[np.ndarray]  # outputs of chunk 1, 2, ... of the stage
    scores: dict[str, float]


@dataclass(frozen=True)
class Patch:
    """What is pasted into frame `output`: `picture` uint8 [3, R, R] as far as `alpha` uint8 [R, R] says, and detail of
    another frame where there is any to lend."""

    output: int
    picture: np.ndarray
    alpha: np.ndarray
    loan: crop.Loan | None = None


@dataclass(frozen=True)
class Stitched:
    stage: Stage
    details: Stage  # of the frames that lend, chunk by chunk, by their place among the crops
    chunks: list[np.ndarray]
    scores: dict[str, float]

    def __iter__(self) -> Iterator[Patch]:
        """One chunk in memory at a time."""
        for number, outputs in enumerate(self.chunks):
            arrays = self.stage.load(number)
            for index, row in enumerate(outputs):
                picture, alpha = unpack(arrays[f"crop.{index}"]), unpack(arrays[f"alpha.{index}"])
                yield Patch(int(row), picture.transpose(2, 0, 1), alpha, self._loan(arrays, index))

    def _loan(self, arrays: dict[str, np.ndarray], index: int) -> crop.Loan | None:
        if "lenders" not in arrays or arrays["lenders"][index] not in self.details.chunks:
            return None
        lender = self.details.load(int(arrays["lenders"][index]))
        detail = crop.FinerDetail(unpack(lender["picture"]), lender["quad_px"])
        return crop.Loan(detail, arrays["lent_fields"][index], unpack(arrays[f"lent.{index}"]))


def pack(picture: np.ndarray) -> np.ndarray:
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.ravel()


def unpack(data: np.ndarray) -> np.ndarray:
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert picture is not None  # what `pack` made
    return picture
