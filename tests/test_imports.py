"""Imports go down only, and importing HDTalk is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hdtalk"
# from the bottom up; only `weights` is for others
WEIGHTS = ["checkpoints", "conversion", "architectures", "registry", "download", "store", "weights"]
# lower number: lower layer; a module may import its own layer only where SIBLINGS allows it
LAYER = {
    **dict.fromkeys(["errors", "config", "data", "files", "memory", "py", "ahead"], 0),
    **dict.fromkeys(["device", "descent", "draw", "images", "muon", "options", "domain", "regions", "latent_space"], 1),
    **dict.fromkeys(["windows", "audio_bands", "face_units", "outputs", "soundtrack", "squares", "tonemap"], 1),
    **dict.fromkeys(["landmark_codes", "generators", "models", "losses", "metrics", "command"], 1),
    "mouth_warp": 1.5,
    "follow": 2.05,
    "job": 2,
    **dict.fromkeys(
        ["media", "audio", "speech_landmarks", "face_landmarks", "crop", "invert", "optimise", "stitch", "emotion",
         "compare", "report"], 2,
    ),
    **{name: 2.1 + rank / 100 for rank, name in enumerate(WEIGHTS)},
    **dict.fromkeys(["plan", "inputs"], 2.5),
    **dict.fromkeys(["artefacts", "pairs", "track"], 2.55),
    "run": 2.6,
    "prepare": 2.7,
    "pipeline": 3,
    "landmarks": 3,
    **dict.fromkeys(["batch", "demo", "doctor", "emotion_strip", "evaluate", "instruments", "scores", "training"], 4),
    "cli": 5,
}  # fmt: skip
STAGES = {"media", "audio", "speech_landmarks", "face_landmarks", "crop", "invert", "optimise", "stitch"}
# helpers of one owner, in the same layer
SIBLINGS = {
    ("speech_landmarks", "emotion"),
    ("emotion", "audio"),
    ("compare", "media"),
}


def imports_of(path: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "hdtalk":
                names = [f"hdtalk.{alias.name}" for alias in node.names]
        found |= {(name, node.lineno) for name in names}
    return found


def unit_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "hdtalk" and len(parts) > 1 and not parts[1].startswith("__") else None


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert mine in LAYER, f"{path.name}: give the new part a layer in this test"
    for dotted, line in imports_of(path):
        theirs = unit_of(dotted)
        if theirs is None or theirs == mine or theirs not in LAYER:
            continue
        where = f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        assert LAYER[theirs] <= LAYER[mine], f"{where}: from a higher layer"
        if mine in STAGES and (mine, theirs) not in SIBLINGS:
            assert theirs not in STAGES and theirs != "weights", f"{where}: stages do not import each other or weights"


def test_ops_import_torch_only():
    for path in (ROOT / "stylegan2_ops").glob("*.py"):
        for dotted, line in imports_of(path):
            top = dotted.split(".")[0]
            allowed = top in ("torch", "stylegan2_ops") or top in sys.stdlib_module_names
            assert allowed, f"stylegan2_ops/{path.name}:{line} imports {dotted}"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_importing_the_package_loads_no_heavy_module():
    loaded = run_python(
        "import hdtalk, sys; print([m for m in ('torch','av','cv2','lpips','moviepy') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_importing_the_ops_builds_nothing_and_adds_little_to_torch():
    code = (
        "import torch, sys; before = set(sys.modules); import hdtalk, stylegan2_ops;"
        "print('torch.utils.cpp_extension' in sys.modules, torch.cuda.is_initialized(), *set(sys.modules) - before)"
    )
    extension_tools, gpu, *added = run_python(code).split()
    assert (extension_tools, gpu) == ("False", "False")
    packages = {name.partition(".")[0] for name in added} - set(sys.stdlib_module_names)
    assert packages == {"hdtalk", "stylegan2_ops"}


def test_public_names_resolve():
    import hdtalk

    for name in hdtalk.__all__:
        assert getattr(hdtalk, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hdtalk.no_such_name
