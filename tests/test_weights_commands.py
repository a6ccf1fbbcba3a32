"""`hdtalk weights ...` from the outside: what it prints, writes and exits with."""

import json

import official_keys
import pytest
import torch
from click.testing import CliRunner
from foreign_files import nvlabs_state, write_nvlabs
from official_keys import filled

from hdtalk import store, weights
from hdtalk.cli import hdtalk


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HDTALK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def call(*arguments, **options):
    result = CliRunner().invoke(hdtalk, ["weights", *map(str, arguments)], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_list_shows_bundles_files_and_licences(home):
    code, output = call("list")
    assert code == 0 and "bundle demo" in output and "bundle ffhq: 1024 px, lacks generator" in output
    assert all(official.name in output for official in weights.official_files(["all"]))
    assert "NVIDIA Source Code License" in output
    rows = json.loads(call("list", "--json")[1])
    assert {"file": "79999_iter.pth", "role": "parser", "bytes": 53289463, "state": "needed"}.items() <= rows[7].items()


def test_fetch_shows_the_licence_and_exits_2_without_consent(home):
    code, output = call("fetch", "ffhq.pkl", input="")
    assert code == 2 and "research and evaluation only" in output and "--accept-licence" in output
    assert not (home / "weights").exists()
    code, output = call("fetch", "nothing")
    known = output.partition("known: ")[2].rstrip(".\n").split(", ")
    names = {name for official in weights.official_files(["all"]) for name in (official.role, official.name)}
    assert code == 2 and sorted(known) == sorted({"ffhq", "all", *names})
    assert call("fetch", "demo") == (0, "")


def test_fetch_offline_exits_4(home):
    code, output = call("fetch", "ffhq", "--offline")
    assert code == 4 and "ffhq.pkl is not installed" in output


def test_add_verify_path_and_list(home, tmp_path):
    torch.save(filled(official_keys.fan(num_modules=1, width=16)), tmp_path / "fan.pth")
    code, output = call("add", tmp_path / "fan.pth")
    assert code == 0 and "serves as landmarker" in output
    (_, entry), *_ = weights.installed_files()
    assert entry.file in call("list")[1]
    for name in ("landmarker", entry.file):
        assert call("path", name) == (0, f"{home / 'weights' / entry.file}\n")
    code, output = call("verify", "landmarker")  # the demo bundle's own landmarker is verified beside it
    assert code == 0 and output.splitlines()[0] == f"ok       {home / 'weights' / entry.file}"
    with (home / "weights" / entry.file).open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff")
    code, output = call("verify", "landmarker")
    num_files = 1 + weights.load_bundle("demo").has("landmarker")
    assert code == 4 and "damaged" in output and f"1 of {num_files} files are damaged" in output
    assert call("verify", "ffhq.pkl")[0] == 4
    assert call("path") == (0, f"{store.store_folder()}\n")
    assert call("path", "ffhq.pkl")[0] == 4


def test_what_was_added_last_serves_unless_an_official_file_is_there(home, tmp_path):
    entries = []
    for width in (16, 24):
        torch.save(filled(official_keys.fan(num_modules=1, width=width)), tmp_path / f"fan{width}.pth")
        code, output = call("add", tmp_path / f"fan{width}.pth")
        entries.append(next(entry for _, entry in weights.installed_files()))
        assert code == 0 and "serves as landmarker;" in output
    assert entries[0].file != entries[1].file
    official = next(file for file in weights.official_files(["landmarker"]))
    (home / "weights" / official.name).write_bytes(b"as if it had been fetched")
    code, output = call("add", tmp_path / "fan16.pth")
    assert code == 0 and f"serves as landmarker once {home / 'weights' / official.name} is gone;" in output


def test_add_of_something_else_exits_4(home, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"nothing")
    code, output = call("add", tmp_path / "x.pth")
    assert code == 4 and "x.pth" in output and output.count("\n") == 1
    assert call("add", tmp_path / "missing")[0] == 4


def test_convert_refuses_to_overwrite_and_names_its_result(home, tmp_path):
    source = write_nvlabs(tmp_path / "ffhq.pkl", nvlabs_state(), 16)
    target = tmp_path / "out.safetensors"
    assert call("convert", source, tmp_path / "out.pt")[0] == 2
    code, output = call("convert", source, target)
    assert code == 0 and "stylegan2" in output and '"resolution": 16' in output
    assert call("convert", source, target)[0] == 2
    assert call("convert", source, target, "--force", "--keys", "nvlabs")[0] == 0
    assert weights.load_generator(target).resolution == 16
    assert call("convert", target, tmp_path / "b.safetensors", "--role", "parser")[0] == 4
    assert call("convert", target, tmp_path / "b.safetensors", "--role", "nothing")[0] == 2


def test_a_place_that_cannot_be_written_is_told_in_one_line(home, tmp_path, monkeypatch):
    torch.save(filled(official_keys.fan(num_modules=1, width=16)), tmp_path / "fan.pth")
    code, output = call("convert", tmp_path / "fan.pth", tmp_path / "nowhere" / "fan.safetensors")
    assert code == 2 and output.count("\n") == 1 and f"{tmp_path / 'nowhere'}: no such folder" in output
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HDTALK_HOME", str(tmp_path / "file"))
    code, output = call("add", tmp_path / "fan.pth")
    assert code == 1 and output.count("\n") == 1 and str(tmp_path / "file") in output


def test_a_damaged_list_of_the_demo_bundle_is_a_failure(home, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "demo_folder", lambda: tmp_path)
    assert call("verify") == (0, "")  # nothing is installed
    (tmp_path / "bundle.json").write_text("{")
    for names in ([], ["demo"], ["landmarker"]):
        code, output = call("verify", *names)
        assert code == 4 and output.startswith(f"damaged  {tmp_path / 'bundle.json'}: damaged")
        assert "1 of 1 files are damaged" in output


def test_the_path_of_what_is_not_installed_names_the_command_that_fetches_it(home):
    for name, wanted in (("generator", "ffhq"), ("ffhq.pkl", "ffhq"), ("identity", "model_ir_se50.pth")):
        code, output = call("path", name)
        assert code == 4 and f"{name} is not installed. Try `hdtalk weights fetch {wanted}`" in output
        assert "--offline" not in output
    assert call("path", "nothing")[0] == 2
