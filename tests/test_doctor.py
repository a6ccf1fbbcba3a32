"""The doctor's findings, its exit code, and that it needs no network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hdtalk import doctor
from hdtalk.cli import hdtalk
from hdtalk.errors import WeightsError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HDTALK_HOME", str(tmp_path))


def test_every_check_gives_one_line_and_a_state():
    findings = {finding.name: finding for finding in doctor.examine()}
    assert list(findings) == list(doctor.CHECKS)
    assert all(
        finding.state in ("ok", "note", "missing") and "\n" not in finding.detail for finding in findings.values()
    )
    assert all(findings[name].state == "ok" for name in ("python", "torch", "codecs", "packages"))
    assert "libx264" in findings["codecs"].detail or "h264" in findings["codecs"].detail
    assert findings["bundle ffhq"].state == "note" and "hdtalk weights fetch ffhq" in findings["bundle ffhq"].detail


def test_a_failing_check_becomes_a_finding(monkeypatch):
    def broken():
        raise WeightsError("bundle.json: damaged\n(twice)")

    monkeypatch.setitem(doctor.CHECKS, "bundle demo", broken)
    findings = doctor.examine()
    finding = next(finding for finding in findings if finding.name == "bundle demo")
    assert finding == doctor.Finding("bundle demo", "missing", "WeightsError: bundle.json: damaged (twice)")
    assert not doctor.is_healthy(findings)
    result = CliRunner().invoke(hdtalk, ["doctor"])
    assert result.exit_code == 1 and len(result.output.splitlines()) == len(doctor.CHECKS)


def test_notes_do_not_fail(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"gpu": lambda: ("note", "none"), "disk": lambda: ("ok", "9 GB")})
    result = CliRunner().invoke(hdtalk, ["doctor", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output) == [
        {"name": "gpu", "state": "note", "detail": "none"},
        {"name": "disk", "state": "ok", "detail": "9 GB"},
    ]


def test_missing_encoder_and_package_are_found(monkeypatch):
    monkeypatch.setattr(doctor, "ENCODERS", {"h264": ("no_such_codec",), "aac": ("aac",)})
    assert doctor._codecs()[0] == "missing" and "h264" in doctor._codecs()[1]
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "lpips" else object())
    assert doctor._packages() == ("missing", "lpips not installed; run pip install hdtalk again")


def test_help_loads_neither_torch_nor_codecs():
    code = (
        "import sys; sys.argv = ['hdtalk', '--help']\n"
        "try:\n import hdtalk.cli; hdtalk.cli.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'av', 'cv2', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "doctor" in result.stdout and result.stdout.splitlines()[-1] == "[]"
