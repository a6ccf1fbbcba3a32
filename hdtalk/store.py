"""The store of official weights on this machine ($HDTALK_HOME/weights), and how files get in: fetched or adopted."""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hdtalk import architectures
from hdtalk.architectures import ARCHITECTURES, ROLES, recognise
from hdtalk.checkpoints import read_checkpoint
from hdtalk.download import Progress, download
from hdtalk.errors import UsageError, WeightsError
from hdtalk.files import file_hash, temporary, write_atomically
from hdtalk.registry import FFHQ_SIZES, OFFICIAL_FILES, OfficialFile


@dataclass(frozen=True)
class BundleFile:
    """One entry of bundle.json. `file` is relative to the bundle's folder; `sizes` are the constructor's arguments."""

    role: str
    file: str
    architecture: str
    sizes: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    licence: str = ""
    origin: str = ""
    trained_on: str = ""
    quality: dict[str, Any] = field(default_factory=dict)


def home() -> Path:
    """Where fetched and adopted files lie: $HDTALK_HOME, or ~/.cache/hdtalk."""
    return Path(os.environ.get("HDTALK_HOME") or "~/.cache/hdtalk").expanduser()


def store_folder() -> Path:
    return home() / "weights"


def installed_files() -> Iterator[tuple[Path, BundleFile]]:
    """(folder, entry) of the official and adopted files in the store, best first within a role."""
    folder = store_folder()
    for official in OFFICIAL_FILES:
        if (folder / official.name).is_file():
            yield folder, _entry(official)
    yield from ((folder, entry) for entry in _adopted(folder) if (folder / entry.file).is_file())


def official_files(names: Iterable[str]) -> list[OfficialFile]:
    """What `names` stand for: "ffhq" (the files that bundle needs), "all", a role, or a file. UsageError otherwise."""
    chosen: list[OfficialFile] = []
    for name in names:
        if name == "demo":
            continue  # ships with HDTalk
        matches = [
            official
            for official in OFFICIAL_FILES
            if name in (official.name, official.role, "all") or (name == "ffhq" and official.needed)
        ]
        if not matches:
            roles = dict.fromkeys(official.role for official in OFFICIAL_FILES)
            known = ", ".join(["ffhq", "all", *roles, *(official.name for official in OFFICIAL_FILES)])
            raise UsageError(f"{name}: no such bundle, role or file of weights; known: {known}.")
        chosen += [official for official in matches if official not in chosen]
    return chosen


def fetch(
    official: OfficialFile,
    *,
    accept_licence: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """The path of an official file, downloaded if it is not in the store yet.

    Raises UsageError unless its licence was accepted, WeightsError when it cannot be had. `options` go to `download`.
    """
    path = store_folder() / official.name
    if path.is_file():
        return path
    if offline:
        raise WeightsError(
            f"{official.name} is not installed, and --offline forbids to fetch it. Try `hdtalk weights add`."
        )
    if not accept_licence:
        raise UsageError(
            f"{official.name} comes under: {official.licence}. Pass --accept-licence to accept and fetch it."
        )
    return download(official, store_folder(), progress=progress, **options)


def adopt(path: str | Path) -> BundleFile:
    """Copy a file that the user already has into the store, once its hash or its structure says what it is. It serves
    before what was adopted earlier, and after official files."""
    path = Path(path)
    try:
        sha256 = file_hash(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read it ({error.strerror or error}). Check the path.") from None
    folder = store_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for official in OFFICIAL_FILES:
        if len(official.sha256) >= 8 and sha256.startswith(official.sha256):
            _copy(path, folder / official.name)
            return _entry(official)
    entry = _entry_by_structure(path, sha256)
    _copy(path, folder / entry.file)
    with locked(folder):
        others = [known for known in _adopted(folder) if known.file != entry.file]
        listing = [asdict(known) for known in [entry, *others]]
        write_atomically(folder / "adopted.json", (json.dumps(listing, indent=1) + "\n").encode())
    return entry


def verify(folder: Path, entry: BundleFile) -> None:
    """Raise WeightsError unless the file of `entry` is there with the recorded hash."""
    path = folder / entry.file
    if not path.is_file():
        raise WeightsError(f"{path}: missing.")
    check_hash(path, entry.sha256)


def _entry(official: OfficialFile) -> BundleFile:
    facts = official.sha256, official.licence, official.origin
    return BundleFile(official.role, official.name, official.architecture, {}, *facts)


def _entry_by_structure(path: Path, sha256: str) -> BundleFile:
    """What a file of unknown hash can serve as in the 1024 px bundle."""
    found = recognise(read_checkpoint(path))
    architectures.check(found, path)
    role = next(role for role, names in ROLES.items() if found.architecture in names)
    for name, wanted in FFHQ_SIZES.get(role, {}).items():
        if found.sizes.get(name) != wanted:
            what = f"{ARCHITECTURES[found.architecture].what} with {name} {found.sizes.get(name)}"
            cure = "For another size make a folder with a bundle.json and pass --bundle FOLDER"
            raise WeightsError(f"{path}: {what}, but bundle ffhq takes {wanted}. {cure}.")
    name = f"{sha256[:8]}-{re.sub(r'[^A-Za-z0-9_.-]', '_', path.name)}"
    licence, origin = "unknown: see where the file came from", f"adopted, {found.source}"
    return BundleFile(role, name, found.architecture, dict(found.sizes), sha256, licence, origin)


def _adopted(folder: Path) -> list[BundleFile]:
    path = folder / "adopted.json"
    if not path.is_file():
        return []
    try:
        return [BundleFile(**facts) for facts in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: damaged ({error}). Remove it, then run `hdtalk weights add` again.") from None


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    with temporary(target) as copy:
        shutil.copyfile(source, copy)


# -------------------------------------------------------------------------------------------- plain files


def save_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, which gets its name when it is complete."""
    copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    write_atomically(path, save(copies, {"format": "pt", **metadata}))


def check_hash(path: Path, sha256: str) -> None:
    """Raise WeightsError unless the file's hash is, or begins with, `sha256`."""
    actual = file_hash(path)
    if not actual.startswith(sha256):
        raise WeightsError(f"{path}: sha256 is {actual[:12]}..., should be {sha256[:12]}...; it is damaged or another.")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait for, then hold, an exclusive lock on `folder` (on the folder itself, so that no file is left behind)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
