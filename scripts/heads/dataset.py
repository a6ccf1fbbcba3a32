"""Renders stills into shards of 256 pictures with all truth, in parallel, resumable; see README.md for the fields."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from hdtalk.errors import UsageError

from .assets import HeadAssets, load_assets
from .features import encode
from .params import HAIR_CHANCES, SPLITS, HeadParams, sample_identity, sample_still
from .props import BEARD_STYLES, GLASSES_STYLES
from .render import render

SHARD = 256
BLOCK, SHARED, GROUP = 40, 12, 4  # of 40 stills, 12 show three persons four times each
ATTRIBUTES = ("female", "skin", "hair", "glasses", "beard", "dark")


def write_shards(
    assets: Path,
    out: Path,
    count: int,
    seed: int,
    split: str,
    workers: int = 1,
    size: int = 256,
    progress: Callable[[int, int, float], None] = lambda done, total, seconds: None,
) -> None:
    """Writes shards and `meta.json` to `out`; shards already there stay, if they hold as many stills as `count` asks of
    them. A still depends on seed, split, size and its number alone. progress(stills done, of how many, seconds to go).

    Raises UsageError for a folder with stills of another seed, split or size."""
    check_same(out, {"seed": seed, "split": split, "size_px": size})
    out.mkdir(parents=True, exist_ok=True)
    needed = [min(SHARD, count - first) for first in range(0, count, SHARD)]
    missing = [k for k, stills in enumerate(needed) if num_stills(shard_path(out, k)) < stills]
    cv2.setNumThreads(1)  # threads of the parent would hang its forks
    a = load_assets(str(assets))
    _, layout = still(a, seed, split, 0, size)  # compiles before the workers start
    meta = {
        "count": count,
        "seed": seed,
        "split": split,
        "size_px": size,
        "layout": layout,
        "expression_names": a.expression_names,
        "attributes": list(ATTRIBUTES),
        "skins": sorted(a.skins),
        "hair": list(HAIR_CHANCES),
        "glasses": list(GLASSES_STYLES),
        "beards": list(BEARD_STYLES),
    }
    write_atomically(out / "meta.json", lambda file: file.write(json.dumps(meta, indent=1).encode()))
    jobs = [(str(assets), str(out), seed, split, k, needed[k], size) for k in missing]
    done = count - sum(job[5] for job in jobs)
    first, start = done, time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for written in pool.imap_unordered(_write_shard, jobs):
            done += written
            progress(done, count, (time.monotonic() - start) / (done - first) * (count - done))


def check_same(out: Path, wanted: dict[str, int | str]) -> None:
    """Raises UsageError where `meta.json` in `out` says other than `wanted`."""
    if not (out / "meta.json").is_file():
        return
    meta = json.loads((out / "meta.json").read_text())
    other = [f"{name} {meta.get(name)} and not {value}" for name, value in wanted.items() if meta.get(name) != value]
    if other:
        raise UsageError(f"{out}: holds stills of {', '.join(other)}. Choose another folder, or ask for the same.")


def shard_path(out: Path, shard: int) -> Path:
    return out / f"shard_{shard:05d}.npz"


def num_stills(path: Path) -> int:
    """How many stills a shard holds; 0 where there is none."""
    if not path.exists():
        return 0
    with np.load(path) as arrays:
        return len(arrays["identity"])


def still(a: HeadAssets, seed: int, split: str, number: int, size: int) -> tuple[dict, list[dict]]:
    """One still with its truth, as arrays, and the layout of its parameter vector."""
    code = SPLITS.index(split)
    block, place = divmod(number, BLOCK)
    groups = SHARED // GROUP
    person_number = block * (BLOCK - SHARED + groups) + (place // GROUP if place < SHARED else place - SHARED + groups)
    person = sample_identity(np.random.default_rng([seed, code, 1, person_number]), a, split)
    p, drawn = sample_still(np.random.default_rng([seed, code, 2, number]), a, person)
    result = render(p, a, size)
    vector, layout = encode(p, result["background"], a)
    return {
        "image": result["image"],
        "labels": result["labels"],
        "landmarks_px": result["landmarks_px"],
        "params": vector,
        "background": result["background"],
        "identity": np.int64(code * 10_000_000 + person_number),
        "emotion": np.int16(drawn["emotion"]),
        "viseme": np.int16(drawn["viseme"]),
        "attributes": attributes(p, a),
    }, layout


def attributes(p: HeadParams, a: HeadAssets) -> np.ndarray:
    """Numbers [6] int16 in the order of ATTRIBUTES."""
    return np.array(
        [
            p.female,
            sorted(a.skins).index(p.skin),
            list(HAIR_CHANCES).index(p.hair),
            GLASSES_STYLES.index(p.glasses),
            BEARD_STYLES.index(p.beard),
            np.mean(p.skin_rgb) < 0.17,
        ],
        np.int16,
    )


def _write_shard(job) -> int:
    assets, out, seed, split, shard, count, size = job
    cv2.setNumThreads(1)
    a = load_assets(assets)
    stills = [still(a, seed, split, shard * SHARD + i, size)[0] for i in range(count)]
    arrays = {key: np.stack([s[key] for s in stills]) for key in stills[0] if key not in ("image", "labels")}
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    pictures = [cv2.imencode(".jpg", s["image"][..., ::-1], quality)[1].ravel() for s in stills]
    labels = [cv2.imencode(".png", s["labels"])[1].ravel() for s in stills]
    for name, blobs in (("image", pictures), ("label", labels)):
        arrays[name + "_bytes"] = np.concatenate(blobs)
        arrays[name + "_offsets"] = np.cumsum([0] + [len(blob) for blob in blobs])
    write_atomically(shard_path(Path(out), shard), lambda file: np.savez(file, **arrays))
    return count


def write_atomically(path: Path, write: Callable) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        write(file)
    os.replace(partial, path)
