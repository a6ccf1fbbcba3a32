"""Bundles of weights, and the only place that turns checkpoint files into networks."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch

from hdtalk import architectures, conversion
from hdtalk.architectures import ARCHITECTURES, JUDGES, ROLES, Recognised, describe, recognise
from hdtalk.checkpoints import guarded, read_checkpoint
from hdtalk.device import resolve_device
from hdtalk.errors import UsageError, WeightsError
from hdtalk.files import file_hash, write_atomically
from hdtalk.store import (
    BundleFile,
    adopt,
    check_hash,
    fetch,
    home,
    installed_files,
    locked,
    official_files,
    save_safetensors,
    store_folder,
    verify,
)

__all__ = [  # the one entry to all that concerns weights
    "load_bundle",
    "load_generator",
    "load_encoder",
    "load_landmarker",
    "load_parser",
    "load_perceptual",
    "load_network",
    "write_bundle_file",
    "convert",
    "Bundle",
    "BundleFile",
    "missing_roles",
    "without_judges",
    "demo_folder",
    "home",
    "store_folder",
    "installed_files",
    "official_files",
    "fetch",
    "adopt",
    "verify",
]

logger = logging.getLogger(__name__)

NEEDED_ROLES = ("generator", "encoder", "landmarker", "parser", "perceptual")
HASH_ON_LOAD_BYTES = 200 << 20  # larger files were hashed when they were fetched; `verify` hashes everything


@dataclass
class Bundle:
    """The networks of one domain, each read from its file when first used; frozen, float32, in eval mode.

    `resolution`: side of the generator's images in pixels. `files`: role -> (folder, entry).
    `borrowed`: role -> name of the bundle whose file serves here.
    A missing or damaged file raises WeightsError that names the role and the command that mends it.
    """

    name: str
    resolution: int
    licence: str
    files: dict[str, tuple[Path, BundleFile]]
    device: str | torch.device = "cpu"
    borrowed: dict[str, str] = field(default_factory=dict)

    generator = cached_property(lambda self: self._load("generator"))
    encoder = cached_property(lambda self: self._load("encoder"))
    landmarker = cached_property(lambda self: self._load("landmarker"))
    landmarker_eval = cached_property(lambda self: self._load("landmarker_eval"))
    parser = cached_property(lambda self: self._load("parser"))
    perceptual = cached_property(lambda self: self._load("perceptual"))
    detector = cached_property(lambda self: self._load("detector"))
    speech = cached_property(lambda self: self._load("speech"))
    identity = cached_property(lambda self: self._load("identity"))

    @cached_property
    def mouth_codes(self) -> Any:
        codes: Any = self._load("mouth_codes")
        if codes.basis.shape[1] != self.generator.num_ws:
            raise WeightsError(f"bundle {self.name}: its mouth_codes are of another generator. Make them anew.")
        return codes

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Role -> sha256 of the file that serves it, as recorded, or of what is there (run manifests quote these)."""
        return {
            role: entry.sha256 or (file_hash(folder / entry.file) if self.has(role) else "")
            for role, (folder, entry) in self.files.items()
        }

    def has(self, role: str) -> bool:
        """Whether a file for `role` is there (it may still turn out damaged)."""
        return role in self.files and (self.files[role][0] / self.files[role][1].file).is_file()

    def entry(self, role: str) -> tuple[Path, BundleFile]:
        """The file that serves as `role`, and its entry. Raises WeightsError when it is not there."""
        command = f"hdtalk weights fetch {self.name}" if self.name == "ffhq" else "hdtalk weights list"
        if role not in self.files:
            raise WeightsError(f"bundle {self.name} has no {role}. Try `{command}`.")
        folder, entry = self.files[role]
        path = folder / entry.file
        if not path.is_file():
            raise WeightsError(f"bundle {self.name}: {path} is missing (its {role}). Try `{command}`.")
        return path, entry

    def _load(self, role: str) -> torch.nn.Module:
        path, entry = self.entry(role)
        if entry.sha256 and path.stat().st_size <= HASH_ON_LOAD_BYTES:
            check_hash(path, entry.sha256)
        found = _find(path, role)
        if found.architecture != entry.architecture:
            raise WeightsError(f"{path}: holds {found.architecture}, but its bundle says {entry.architecture}.")
        if entry.sizes:
            found = replace(found, sizes=entry.sizes)
        logger.info("%s of bundle %s: %s", role, self.name, path)
        return _build(found, path, self.device)


def load_bundle(
    name_or_path: str | os.PathLike = "auto", device: str | torch.device = "cpu", *, complete: bool = True
) -> Bundle:
    """The bundle called "demo" or "ffhq", the best installed one ("auto"), or the one in a folder.

    `device`: "auto" takes a GPU where there is one. Networks are loaded when first used. `complete=False` also gives an
    ffhq bundle that lacks files.
    Raises WeightsError when the bundle is not there or its list is damaged.
    """
    name = str(name_or_path)
    device = resolve_device(device) if device == "auto" else device
    if name == "auto":
        missing = missing_roles(load_bundle("ffhq", complete=False))
        bundle = load_bundle("ffhq" if not missing else "demo", device)
        why = f"ffhq is not complete: no {', '.join(missing)}" if missing else "the best one installed"
        logger.info("bundle %s, %d px (%s)", bundle.name, bundle.resolution, why)
        return bundle
    if name == "ffhq":
        bundle = _ffhq_bundle(device)
        if complete and (missing := missing_roles(bundle)):
            raise WeightsError(f"bundle ffhq has no {', '.join(missing)} yet. Try `hdtalk weights fetch ffhq`.")
        return bundle
    return _read_bundle(demo_folder() if name == "demo" else Path(name_or_path), device)


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> torch.nn.Module:
    """A StyleGAN2 generator from rosinality's .pt, an NVlabs .pkl of either era, an e4e file's decoder, or ours.

    A file without an average latent gets one, estimated from random codes.
    """
    return _build(_find(Path(path), "generator"), path, device)


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> torch.nn.Module:
    """An e4e encoder from e4e_ffhq_encode.pt or ours: images [N,3,256,256] in [-1,1] -> ws, latent average added."""
    return _build(_find(Path(path), "encoder"), path, device)


def load_landmarker(path: str | Path, device: str | torch.device = "cpu") -> torch.nn.Module:
    """A FAN from a state dict, a TorchScript archive (its code is not run), or ours;
    `.heatmaps(images [N,3,256,256] in [-1,1])` -> [N,68,64,64]."""
    return _build(_find(Path(path), "landmarker"), path, device)


def load_parser(path: str | Path, device: str | torch.device = "cpu") -> torch.nn.Module:
    """A BiSeNet face parser from 79999_iter.pth (= parsing_bisenet.pth) or ours;
    `.logits(images [N,3,H,W] in [-1,1])` -> [N,19,H,W]."""
    return _build(_find(Path(path), "parser"), path, device)


def load_perceptual(
    backbone_path: str | Path, net: str = "alex", device: str | torch.device = "cpu"
) -> torch.nn.Module:
    """A perceptual loss over torchvision's AlexNet ("alex") or VGG-16 ("vgg") features, or over our own backbone;
    `loss(a, b)` [N,3,H,W] in [-1,1] -> [N]. The linear layers come with the lpips package."""
    path = Path(backbone_path)
    found = _find(path, "perceptual")
    held = {"alexnet": "alex", "vgg16": "vgg"}.get(found.architecture)
    if held and held != net:
        raise WeightsError(f"{path}: holds {found.architecture}, which does not serve net={net!r}; ask for {held!r}.")
    return _build(found, path, device)


def load_network(path: str | Path, role: str, device: str | torch.device = "cpu") -> torch.nn.Module:
    """The network of any other role (ROLES names them), for example "detector", "identity", "fid" or "sync"."""
    return _build(_find(Path(path), role), path, device)


def write_bundle_file(
    folder: str | Path,
    role: str,
    state_dict: Mapping[str, torch.Tensor],
    architecture: str,
    sizes: Mapping[str, Any],
    *,
    licence: str = "Apache-2.0",
    origin: str = "trained by this project",
    trained_on: str = "",
    quality: Mapping[str, Any] | None = None,
) -> Path:
    """Put a trained network into a bundle folder: `ROLE.safetensors` and its entry in bundle.json, both atomically.

    Matrices and kernels are stored as float16 (where they fit), vectors and counters as they are.
    Several processes may write different roles of one folder at the same time. Returns the file's path.
    """
    if architecture not in ROLES.get(role, ()):
        raise WeightsError(f"role {role!r} takes {' or '.join(ROLES.get(role, ('nothing: it is unknown',)))}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{role}.safetensors"
    save_safetensors(path, {key: _narrowed(value) for key, value in state_dict.items()}, describe(architecture, sizes))
    facts = licence, origin, trained_on, dict(quality or {})
    entry = BundleFile(role, path.name, architecture, dict(sizes), file_hash(path), *facts)
    with locked(folder):
        listing: dict[str, Any] = {"name": folder.name, "resolution": 0, "licence": licence, "files": []}
        if (folder / "bundle.json").is_file():
            listing = json.loads((folder / "bundle.json").read_text())
        if role == "generator":
            listing["resolution"] = sizes["resolution"]
        kept = [known for known in listing["files"] if known["role"] != role]
        listing["files"] = sorted([*kept, asdict(entry)], key=lambda known: list(ROLES).index(known["role"]))
        write_atomically(folder / "bundle.json", (json.dumps(listing, indent=1) + "\n").encode())
    return path


def convert(source: str | Path, target: str | Path, *, role: str | None = None, keys: str = "own") -> Recognised:
    """Rewrite any checkpoint that is recognised as float32 safetensors, with its architecture and sizes as metadata.

    `role`: which network to take from a file that holds two (an e4e file's encoder, or "generator", its decoder).
    `keys`: "own" (for a generator: rosinality's keys and `mean_latent`), or "nvlabs" for generators.
    """
    path, target = Path(source), Path(target)
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder, so {target.name} cannot be written there. Make it first.")
    found = _find(path, role) if role else recognise(read_checkpoint(path))
    architectures.check(found, path)
    with guarded(path):
        tensors = {key: tensor.load() for key, tensor in found.state.items()}
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    if keys == "nvlabs":
        if found.architecture != "stylegan2":
            raise WeightsError(f"{path}: only generators have NVlabs keys, this is {found.architecture}.")
        options = {"conv_clamp": found.sizes.get("conv_clamp"), "num_fp16_res": 0}
        save_safetensors(target, conversion.rosinality_to_nvlabs(tensors), {"nvlabs_options": json.dumps(options)})
    else:
        save_safetensors(target, tensors, describe(found.architecture, found.sizes))
    return found


# ------------------------------------------------------------------------------------------------ bundles


def demo_folder() -> Path:
    """Where the bundle that ships with HDTalk lies."""
    return Path(str(package_files("pretrained"))) / "demo"


def missing_roles(bundle: Bundle) -> list[str]:
    """Roles that the pipeline needs and the bundle cannot serve."""
    return [role for role in NEEDED_ROLES if not bundle.has(role)]


def without_judges(hashes: dict[str, str]) -> dict[str, str]:
    """Of `Bundle.hashes`, those that what is made with a bundle depends on."""
    return {role: sha256 for role, sha256 in hashes.items() if role not in JUDGES}


def _read_bundle(folder: Path, device: str | torch.device) -> Bundle:
    listing_path = folder / "bundle.json"
    if not listing_path.is_file():
        raise WeightsError(f"{folder}: no bundle there (no bundle.json). Try --bundle auto, or `hdtalk weights list`.")
    try:
        listing = json.loads(listing_path.read_text())
        files = {}
        for facts in listing["files"]:
            entry = BundleFile(**facts)
            if entry.role not in ROLES or entry.architecture not in ROLES[entry.role]:
                raise ValueError(f"{entry.architecture} cannot serve as {entry.role}")
            if not re.fullmatch(r"[\w][\w.\-]*", entry.file):
                raise ValueError(f"{entry.file!r} is not a plain file name")
            files[entry.role] = (folder, entry)
        return Bundle(str(listing["name"]), int(listing["resolution"]), str(listing["licence"]), files, device)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{listing_path}: damaged ({error}). Restore the file.") from None


def _ffhq_bundle(device: str | torch.device) -> Bundle:
    """Official files found in the store; for what is not there of speech, landmarker_eval and detector, demo's own."""
    files: dict[str, tuple[Path, BundleFile]] = {}
    borrowed: dict[str, str] = {}
    for folder, entry in installed_files():
        files.setdefault(entry.role, (folder, entry))
    with contextlib.suppress(WeightsError):
        demo = _read_bundle(demo_folder(), device)
        for role in ("speech", "detector", "landmarker_eval"):
            if role in demo.files and role not in files:
                files[role], borrowed[role] = demo.files[role], demo.name
    return Bundle("ffhq", 1024, "non-commercial, see the files' licences", files, device, borrowed)


# -------------------------------------------------------------------------------------------- one network


def _find(path: Path, role: str) -> Recognised:
    """Recognise `path` and make sure that it can serve as `role`."""
    found = recognise(read_checkpoint(path))
    if role == "generator" and found.architecture == "e4e":
        found = architectures.decoder_of(found) or found
    if found.architecture not in ROLES[role]:
        held = ARCHITECTURES[found.architecture].what if found.architecture in ARCHITECTURES else found.architecture
        wanted = " or ".join(ARCHITECTURES[name].what for name in ROLES[role] if name in ARCHITECTURES)
        raise WeightsError(f"{path}: holds {held}, but the {role} must be {wanted}.")
    return found


def _build(found: Recognised, path: Any, device: str | torch.device) -> torch.nn.Module:
    network = architectures.build(found, path, device)
    if found.architecture == "stylegan2" and "mean_latent" not in found.state:
        logger.info("%s has no average latent; estimated from random codes", path)
        generator: Any = network
        generator.mean_latent.copy_(generator.estimate_mean_latent())
    return network


def _narrowed(value: torch.Tensor) -> torch.Tensor:
    """float16 where that keeps the numbers: not for vectors (variances, biases) nor for what would overflow."""
    if value.dtype != torch.float32 or value.ndim < 2 or value.abs().amax() > 6e4:
        return value
    return value.half()
