"""Reads the shards that scripts/render_heads writes: compressed pictures in memory, or decoded on a GPU."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hdtalk.errors import InputError

COLUMNS = ("landmarks_px", "params", "background", "identity", "emotion", "viseme", "attributes")
LOOK_AGAIN_S = 10.0  # between looks for new shards


@dataclass(frozen=True)
class RenderedStills:
    """Stills of rendered heads with their truth, as one table.

    images: JPEG bytes, labels: PNG bytes; decode with `image(i)`, `label(i)`, or many with `pictures`, `label_maps`.
    landmarks_px [N,68,2] float32 (a pixel's centre at +0.5), params [N,P] float32 (see `layout`), background [N,6,6,3]
    uint8, identity [N] int64, emotion [N], viseme [N], attributes [N,6] int16 (see `meta["attributes"]`)."""

    images: list[np.ndarray]
    labels: list[np.ndarray]
    landmarks_px: np.ndarray
    params: np.ndarray
    background: np.ndarray
    identity: np.ndarray
    emotion: np.ndarray
    viseme: np.ndarray
    attributes: np.ndarray
    meta: dict

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        """uint8 RGB [H,W,3]."""
        import cv2

        image: Any = cv2.imdecode(self.images[index], cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image[..., ::-1])

    def label(self, index: int) -> np.ndarray:
        """uint8 [H,W], CelebAMask numbers."""
        import cv2

        label: Any = cv2.imdecode(self.labels[index], cv2.IMREAD_UNCHANGED)
        return label

    def pictures(self, indices) -> np.ndarray:
        """uint8 RGB [n,H,W,3] of the stills with these indices."""
        return np.stack([self.image(i) for i in indices])

    def label_maps(self, indices) -> np.ndarray:
        """uint8 [n,H,W], CelebAMask numbers."""
        return np.stack([self.label(i) for i in indices])

    @property
    def description(self) -> str:
        """One line for the model card: what a net trained on these stills has seen."""
        return f"{len(self)} rendered heads ({self.meta.get('split', 'train')}, seed {self.meta.get('seed', 0)})"

    def part(self, name: str) -> np.ndarray:
        """The columns of `params` that hold one part (see `layout`)."""
        entry = next(entry for entry in self.layout if entry["name"] == name)
        return self.params[:, entry["start"] : entry["stop"]]

    @property
    def layout(self) -> list[dict]:
        """Parts of `params` in order: name, start, stop, kind ("gaussian", "positive", "onehot")."""
        return self.meta["layout"]


def load_stills(folder: Path | str, limit: int | None = None) -> RenderedStills:
    """All complete shards of a folder, in order, at most `limit` stills (shards may still be arriving).

    Raises InputError when there are none."""
    return read_shards(Path(folder), shard_paths(Path(folder)), limit)


def shard_paths(folder: Path) -> list[Path]:
    """The complete shards of a folder, in order; raises InputError when there are none."""
    paths = sorted(folder.glob("shard_*.npz"))
    if not paths or not (folder / "meta.json").is_file():
        raise InputError(f"{folder}: no rendered shards; write some with scripts/render_heads")
    return paths


def read_shards(folder: Path, paths: list[Path], limit: int | None = None) -> RenderedStills:
    """These shards of a folder as one table."""
    meta = json.loads((folder / "meta.json").read_text())
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    blobs: dict[str, list] = {"image": [], "label": []}
    for path in paths:
        if limit is not None and len(blobs["image"]) >= limit:
            break
        with np.load(path, allow_pickle=False) as shard:
            for name in COLUMNS:
                columns[name].append(shard[name])
            for kind, target in blobs.items():
                data, offsets = shard[kind + "_bytes"], shard[kind + "_offsets"]
                target.extend(data[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True))
    table = {name: np.concatenate(values)[:limit] for name, values in columns.items()}
    return RenderedStills(images=blobs["image"][:limit], labels=blobs["label"][:limit], meta=meta, **table)


class DeviceStills:
    """Rendered stills in batches of tensors on a device: held there decoded on a GPU, decoded when asked for on a CPU.

    `watch`: a folder whose shards are still arriving is looked at again now and then when batches are drawn; what is
    drawn then depends on when they came, so such a run cannot be repeated exactly.
    `decoders`: threads that decode. Raises InputError when the folder holds no shards.
    """

    def __init__(self, folder: Path | str, device: torch.device | str, watch: bool = False, decoders: int = 4):
        self.folder, self.device, self.watch = Path(folder), torch.device(device), watch
        self.pool = ThreadPoolExecutor(decoders)
        paths = shard_paths(self.folder)
        self.table, self._read, self._looked_s = read_shards(self.folder, paths), set(paths), time.monotonic()
        self._images: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None
        if self.device.type != "cpu":
            self._images, self._labels = self._decoded(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random indices int64 [count]."""
        if self.watch and time.monotonic() - self._looked_s > LOOK_AGAIN_S:
            self._look_again()
        return rng.integers(len(self), size=count)

    def images(self, indices: np.ndarray) -> torch.Tensor:
        """float32 RGB [n,3,H,W] in [-1,1], channels last."""
        if self._images is None:
            pictures = self._stacked(self.table.image, indices)
        else:
            pictures = self._images[torch.from_numpy(indices).to(self.device)]
        return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def labels(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 [n,H,W], CelebAMask numbers."""
        if self._labels is None:
            return self._stacked(self.table.label, indices)
        return self._labels[torch.from_numpy(indices).to(self.device)]

    def params(self, indices: np.ndarray) -> torch.Tensor:
        """float32 [n,P] (see `RenderedStills.layout`)."""
        return torch.from_numpy(self.table.params[indices]).to(self.device)

    def _decoded(self, table: RenderedStills) -> tuple[torch.Tensor, torch.Tensor]:
        rows = range(len(table))
        return self._stacked(table.image, rows), self._stacked(table.label, rows)

    def _stacked(self, read: Callable[[int], np.ndarray], rows: Iterable[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack(list(self.pool.map(read, rows)))).to(self.device)

    def _look_again(self) -> None:
        self._looked_s = time.monotonic()
        new = sorted(set(shard_paths(self.folder)) - self._read)
        if not new:
            return
        more = read_shards(self.folder, new)
        if self._images is not None and self._labels is not None:
            images, labels = self._decoded(more)
            self._images, self._labels = torch.cat([self._images, images]), torch.cat([self._labels, labels])
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(self.table, name), getattr(more, name)]) for name in COLUMNS
        }
        self.table = replace(
            self.table, images=self.table.images + more.images, labels=self.table.labels + more.labels, **joined
        )
        self._read |= set(new)
