"""Says in one line each whether this machine has what HDTalk needs."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hdtalk.errors import HDTalkError

LEAST_TORCH = (2, 10)
LEAST_FREE_GB = 2.0
ENCODERS = {"h264": ("libx264", "h264", "h264_videotoolbox"), "aac": ("aac",)}  # any of each will do


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "note" (something optional is absent) or "missing" (HDTalk does not work without it)."""

    name: str
    state: str
    detail: str


def examine() -> list[Finding]:
    """All findings, in the order a user would mend them. Compiles nothing and downloads nothing."""
    return [_safely(name, check) for name, check in CHECKS.items()]


def is_healthy(findings: list[Finding]) -> bool:
    return all(finding.state != "missing" for finding in findings)


def _safely(name: str, check: Callable[[], tuple[str, str]]) -> Finding:
    try:
        state, detail = check()
    except (ImportError, OSError, RuntimeError, AttributeError, HDTalkError) as error:
        state, detail = "missing", f"{type(error).__name__}: {error}"
    return Finding(name, state, " ".join(detail.split()))


def _python() -> tuple[str, str]:
    state = "ok" if sys.version_info >= (3, 11) else "missing"
    return state, f"{platform.python_version()} on {platform.system()} {platform.machine()} (3.11 or newer is needed)"


def _torch() -> tuple[str, str]:
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    return "ok" if version >= LEAST_TORCH else "missing", f"{torch.__version__}, {threads} (2.10 or newer is needed)"


def _torchvision() -> tuple[str, str]:
    import torchvision

    return "ok", torchvision.__version__


def _gpu() -> tuple[str, str]:
    import torch

    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        return "note", f"none ({why}); everything runs on the CPU, slower"
    index = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    return (
        "ok",
        f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GB free, sm_{major}{minor}, CUDA {torch.version.cuda}",
    )


def _operators() -> tuple[str, str]:
    import torch

    from stylegan2_ops import build

    status = build.status()
    if not torch.cuda.is_available():
        return "ok", "plain PyTorch (the CUDA kernels serve CUDA devices only)"
    state = "ok" if status.state in ("compiled", "ready") else "note"
    slower = "" if state == "ok" else "; plain PyTorch is used instead"
    return state, f"CUDA kernels {status.state}: {status.detail}{slower}"


def _codecs() -> tuple[str, str]:
    import av

    found = {kind: next((name for name in names if _can_encode(name)), None) for kind, names in ENCODERS.items()}
    absent = [kind for kind, name in found.items() if name is None]
    libraries = f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if absent:
        return "missing", f"no encoder for {' and '.join(absent)} in {libraries}; reinstall PyAV (pip install av)"
    return "ok", f"{', '.join(f'{kind} by {name}' for kind, name in found.items())} ({libraries})"


def _can_encode(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except (ValueError, LookupError, av.error.FFmpegError):
        return False
    return True


def _packages() -> tuple[str, str]:
    needed = ("safetensors", "lpips", "face_alignment", "facexlib", "scipy", "cv2", "PIL", "moviepy", "matplotlib")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        return "missing", f"{', '.join(absent)} not installed; run pip install hdtalk again"
    return "ok", "all required packages are installed"


def _demo_bundle() -> tuple[str, str]:
    from hdtalk import weights

    bundle = weights.load_bundle("demo")
    if missing := weights.missing_roles(bundle):
        return "missing", f"no {', '.join(missing)} in {weights.demo_folder()}; reinstall HDTalk"
    return "ok", f"{bundle.resolution} px, {len(bundle.files)} files in {weights.demo_folder()}"


def _ffhq_bundle() -> tuple[str, str]:
    from hdtalk import weights

    missing = weights.missing_roles(weights.load_bundle("ffhq", complete=False))
    if missing:
        return "note", f"no {', '.join(missing)}; `hdtalk weights fetch ffhq` gets what real faces need"
    return "ok", f"1024 px, in {weights.store_folder()}"


def _disk() -> tuple[str, str]:
    from hdtalk import weights

    places = {"here": os.getcwd(), "weights": str(_existing(weights.store_folder()))}
    free_gb = {place: shutil.disk_usage(path).free / 2**30 for place, path in places.items()}
    state = "ok" if min(free_gb.values()) >= LEAST_FREE_GB else "note"
    return state, ", ".join(
        f"{gigabytes:.1f} GB free {place} ({places[place]})" for place, gigabytes in free_gb.items()
    )


def _existing(path):
    return next(folder for folder in (path, *path.parents) if folder.exists())


CHECKS = {
    "python": _python,
    "torch": _torch,
    "torchvision": _torchvision,
    "packages": _packages,
    "gpu": _gpu,
    "operators": _operators,
    "codecs": _codecs,
    "bundle demo": _demo_bundle,
    "bundle ffhq": _ffhq_bundle,
    "disk": _disk,
}
