"""What is measured on: aligned crops of a shot, their landmarks and targets, and the true pictures, as arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 256  # of the crops that the sample shots are cut to


@dataclass(frozen=True)
class Shot:
    """`crops`: uint8 `[n, 3, R, R]`; `truth`: the same frames saying the other sentence, or None; `source_px`,
    `target_px`: landmarks float32 `[n, 68, 2]`, pixels of the crop, pixel centres at whole numbers."""

    name: str
    crops: np.ndarray
    truth: np.ndarray | None
    source_px: np.ndarray
    target_px: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows) -> "Shot":
        truth = None if self.truth is None else self.truth[rows]
        return Shot(self.name, self.crops[rows], truth, self.source_px[rows], self.target_px[rows])

    def lasting(self, num_frames: int) -> "Shot":
        """Its first frames, or there and back again until there are as many."""
        period = max(1, 2 * len(self) - 2)
        place = np.arange(num_frames) % period
        return self[np.minimum(place, period - place)]

    def at_side(self, side: int) -> "Shot":
        """The same pictures at another side, landmarks with them."""
        if side == self.crops.shape[-1]:
            return self
        factor = side / self.crops.shape[-1]
        source_px, target_px = ((px + 0.5) * factor - 0.5 for px in (self.source_px, self.target_px))
        truth = None if self.truth is None else _resized(self.truth, side)
        return Shot(self.name, _resized(self.crops, side), truth, source_px, target_px)


def sample_shot(name: str) -> Shot:
    """A sample shot of the demo bundle, cut along its true landmarks, with its true second take as target."""
    from hdtalk.config import CropConfig
    from hdtalk.crop import crop_faces, crop_track
    from hdtalk.demo import sample_shots
    from hdtalk.face_landmarks import known_track
    from hdtalk.media import read_frames
    from hdtalk.squares import landmarks_to_crop
    from hdtalk.weights import demo_folder

    entry, folder = sample_shots()[name], demo_folder() / "samples"
    # the renderer's pixel centres lie at whole numbers plus one half
    source, target = (np.load(folder / entry[key])["landmarks_px"] for key in ("landmarks", "other_landmarks"))
    count = min(len(source), len(target))
    quads = crop_track(known_track(source[:count]), SIDE, CropConfig()).quads_px
    crops, truth = (
        crop_faces(read_frames(folder / entry[key], 0, count), quads, SIDE) for key in ("video", "other_video")
    )
    source_px, target_px = (landmarks_to_crop(px[:count], quads, SIDE) for px in (source, target))
    return Shot(name, crops, truth, source_px, target_px)


def save_shot(path: Path, shot: Shot) -> None:
    """One .npz: pictures as PNG, back to back in `pictures` with their `lengths`, crops first, then the truth."""
    import cv2

    pictures = [*shot.crops, *([] if shot.truth is None else shot.truth)]
    packed = [cv2.imencode(".png", p.transpose(1, 2, 0), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1] for p in pictures]
    np.savez(
        path, name=shot.name, pictures=np.concatenate([p.ravel() for p in packed]),
        lengths=np.array([p.size for p in packed]), source_px=shot.source_px, target_px=shot.target_px,
    )  # fmt: skip


def load_shot(path: Path) -> Shot:
    """The inverse of `save_shot`; needs neither video decoder nor bundle."""
    import cv2

    with np.load(path, allow_pickle=False) as file:
        ends, count = np.cumsum(file["lengths"]), len(file["source_px"])
        parts = np.split(file["pictures"], ends[:-1])
        pictures = np.stack([cv2.imdecode(part, cv2.IMREAD_COLOR) for part in parts]).transpose(0, 3, 1, 2)
        truth = pictures[count:] if len(pictures) > count else None
        return Shot(str(file["name"]), pictures[:count], truth, file["source_px"], file["target_px"])


def _resized(pictures: np.ndarray, side: int) -> np.ndarray:
    import cv2

    how = cv2.INTER_AREA if side < pictures.shape[-1] else cv2.INTER_CUBIC
    made = [cv2.resize(p.transpose(1, 2, 0), (side, side), interpolation=how) for p in pictures]
    return np.stack(made).transpose(0, 3, 1, 2)
