"""Finds the scripts' package and the head assets; tests that need the assets are skipped without them."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def assets_folder():
    folder = Path(os.environ.get("HDTALK_HEAD_ASSETS", ROOT.parent / "shared" / "headassets"))
    if not (folder / "head.npz").is_file():
        pytest.skip("no head assets beside the checkout; set HDTALK_HEAD_ASSETS")
    pytest.importorskip("numba")
    return folder


@pytest.fixture(scope="session")
def head_assets(assets_folder):
    from heads.assets import load_assets

    return load_assets(str(assets_folder))
