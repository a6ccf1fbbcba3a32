"""Reads the shards that scripts/render_heads writes: compressed pictures in memory, decoded when asked for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdtalk.errors import InputError


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
    folder = Path(folder)
    paths = sorted(folder.glob("shard_*.npz"))
    if not paths or not (folder / "meta.json").is_file():
        raise InputError(f"{folder}: no rendered shards; write some with scripts/render_heads")
    meta = json.loads((folder / "meta.json").read_text())
    names = ("landmarks_px", "params", "background", "identity", "emotion", "viseme", "attributes")
    columns: dict[str, list] = {name: [] for name in names}
    blobs: dict[str, list] = {"image": [], "label": []}
    for path in paths:
        if limit is not None and len(blobs["image"]) >= limit:
            break
        with np.load(path, allow_pickle=False) as shard:
            for name in names:
                columns[name].append(shard[name])
            for kind, target in blobs.items():
                data, offsets = shard[kind + "_bytes"], shard[kind + "_offsets"]
                target.extend(data[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True))
    table = {name: np.concatenate(values)[:limit] for name, values in columns.items()}
    return RenderedStills(images=blobs["image"][:limit], labels=blobs["label"][:limit], meta=meta, **table)
