"""The networks that measure, taken from the best weights at hand, and a plain word about what is missing."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hdtalk.data import FaceTrack
from hdtalk.errors import NoFaceError, WeightsError
from hdtalk.media import probe
from hdtalk.models.fan import heatmaps_to_landmarks
from hdtalk.models.syncnet import SyncNet
from hdtalk.registry import OFFICIAL_FILES
from hdtalk.track import track_video
from hdtalk.weights import Bundle, BundleFile, installed_files, load_bundle, load_network, load_perceptual

logger = logging.getLogger(__name__)


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
    syncnet: SyncNet | None = None
    stand_ins: frozenset[str] = frozenset()
    missing: dict[str, str] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    device: str | torch.device = "cpu"


def installed_instruments(bundle_name: str = "auto", device: str | torch.device = "cpu") -> Instruments:
    """Instruments from the weights on this machine: published networks where they are installed, the bundle's own
    perceptual network in their place where they are not, landmarks by the bundle's `landmarker_eval`.

    Raises WeightsError only for a bundle asked for by name; with "auto" a missing bundle is a reason in `missing`.
    """
    try:
        bundle, why_not = load_bundle(bundle_name, device), ""
    except WeightsError as error:
        if bundle_name != "auto":
            raise
        bundle, why_not = None, str(error)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    made_by: dict[str, str] = {}
    for entry, network in _official_networks(device):
        found[entry.role] = network
        if entry.file not in OFFICIAL_NAMES:
            adopted = f"The network is the adopted file {entry.file}, not known to be the published one."
            made_by |= dict.fromkeys(MEASURED[entry.role], adopted)
    stand_ins: set[str] = set()

    track = landmarks = None
    if bundle and bundle.has("landmarker") and bundle.has("detector"):
        track = face_tracker(bundle)
    else:
        lacks = f"Bundle {bundle.name} has no landmarker or no detector." if bundle else why_not
        missing |= dict.fromkeys(FACE_COLUMNS, lacks)
    if bundle and track and bundle.has("landmarker_eval"):
        landmarks = landmark_reader(bundle.landmarker_eval, device)
        made_by |= dict.fromkeys(("F-LD", "M-LD", "Jitter"), _provenance(bundle))
    elif bundle and track:
        reason = f"Bundle {bundle.name} has no landmarker_eval, a landmark net that no loss has seen."
        missing |= dict.fromkeys(("F-LD", "M-LD", "Jitter"), reason)

    own = bundle.perceptual if bundle and bundle.has("perceptual") else None
    own = own if own is not None and own.net == "demo" else None
    features = _pooled_taps(own, device) if own is not None else None
    networks: dict[str, tuple[Any, Any]] = {
        "LPIPS": (found.get("perceptual"), own),
        "FID": (_fid_features(found["fid"], device) if "fid" in found else None, _as_array(features)),
        "ID": (_embedder(found["identity"], device) if "identity" in found else None, features),
    }
    for column, (official, stand_in) in networks.items():
        if official is None and stand_in is not None:
            stand_ins.add(column)
        elif official is None:
            missing[column] = f"{PUBLISHED[column]} is not installed. Try `hdtalk weights fetch {FILES[column]}`."
    if "sync" not in found:
        reason = f"{PUBLISHED['LSE']} is not installed. Try `hdtalk weights fetch {FILES['LSE']}`."
        missing |= dict.fromkeys(("LSE-D", "LSE-C"), reason)
    chosen = {column: official if official is not None else own for column, (official, own) in networks.items()}
    return Instruments(
        track=track,
        landmarks=landmarks,
        perceptual=chosen["LPIPS"],
        fid_features=chosen["FID"],
        embed=chosen["ID"],
        syncnet=found.get("sync"),
        stand_ins=frozenset(stand_ins),
        missing=missing,
        made_by=made_by,
        device=device,
    )


FACE_COLUMNS = ("F-LD", "M-LD", "Jitter", "BG-jitter", "ID", "LSE-D", "LSE-C")
PUBLISHED = {"LPIPS": "AlexNet", "FID": "FID's Inception network", "ID": "IR-SE50", "LSE": "SyncNet"}
FILES = {
    "LPIPS": "alexnet-owt-7be5be79.pth",
    "FID": "pt_inception-2015-12-05-6726825d.pth",
    "ID": "model_ir_se50.pth",
    "LSE": "syncnet_v2.model",
}
MEASURING_ROLES = {"perceptual": "alexnet", "fid": "inception", "identity": "irse50", "sync": "syncnet"}
MEASURED = {"perceptual": ("LPIPS",), "fid": ("FID",), "identity": ("ID",), "sync": ("LSE-D", "LSE-C")}
OFFICIAL_NAMES = {official.name for official in OFFICIAL_FILES}


def _official_networks(device: str | torch.device) -> Iterator[tuple[BundleFile, Any]]:
    """(entry, network) for each measuring role that the store serves: the published file, else an adopted one."""
    seen = set()
    for folder, entry in installed_files():
        if MEASURING_ROLES.get(entry.role) == entry.architecture and entry.role not in seen:
            seen.add(entry.role)
            load = load_perceptual if entry.role == "perceptual" else partial(load_network, role=entry.role)
            yield entry, load(folder / entry.file, device=device)


def face_tracker(bundle: Bundle) -> Callable[..., FaceTrack]:
    """`track(video, first=0, last=None)`: the largest face of those frames; where none is found, a track that is never
    `present`. Uses the bundle's detector and landmarker. Raises InputError for a damaged video."""

    def track(path: Path, first: int = 0, last: int | None = None) -> FaceTrack:
        info = probe(path)
        last = info.num_frames if last is None else last
        try:
            return track_video(info, first, last, bundle)
        except NoFaceError as error:
            logger.warning("%s", error)
            return FaceTrack(np.zeros((last - first, 68, 2), np.float32), np.zeros(last - first, bool))

    return track


def landmark_reader(network: Any, device: str | torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """`read(crops uint8 [N,256,256,3])` -> landmarks float64 [N,68,2] in their pixels, by a net of either kind."""

    def read(crops: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            images = _to_images(crops, device) * 2 - 1
            points = (
                heatmaps_to_landmarks(network.heatmaps(images)) if hasattr(network, "heatmaps") else network(images)
            )
        return points.double().cpu().numpy()

    return read


def _pooled_taps(perceptual: Any, device: str | torch.device) -> Callable[[np.ndarray], torch.Tensor]:
    def pool(frames: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return perceptual.backbone(_to_images(frames, device) * 2 - 1)[-1].float().mean(dim=(2, 3))

    return pool


def _as_array(features: Callable[[np.ndarray], torch.Tensor] | None) -> Callable[[np.ndarray], np.ndarray] | None:
    return (lambda frames: features(frames).double().cpu().numpy()) if features else None


def _fid_features(network: torch.nn.Module, device: str | torch.device) -> Callable[[np.ndarray], np.ndarray]:
    def features(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(_to_images(frames, device)).double().cpu().numpy()

    return features


def _embedder(network: Any, device: str | torch.device) -> Callable[[np.ndarray], torch.Tensor]:
    return lambda crops: network.embed(_to_images(crops, device) * 2 - 1)


def _to_images(frames: np.ndarray, device: str | torch.device) -> torch.Tensor:
    """uint8 RGB [N,H,W,3] -> float [N,3,H,W] in [0,1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float() / 255


def _provenance(bundle: Bundle) -> str:
    """Whose net finds the landmarks; where the bundle has none of its own, also what that means."""
    _, entry = bundle.files["landmarker_eval"]
    owner = bundle.borrowed.get("landmarker_eval")
    said = f"Landmarks by {entry.architecture} of bundle {owner or bundle.name}, which no loss has seen."
    if owner:
        said += (
            f" A stand-in, trained on {entry.trained_on}: differences of a few px on real people are within its error."
        )
    return said
