import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stylegan2_ops import bias_act, build, upfirdn2d
from stylegan2_ops.__main__ import main

WORKING = 'extern "C" int answer() { return 42; }\n'
BROKEN = 'extern "C" int answer() { return a_name_nobody_declared; }\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "with space" / "tiny.cpp"
    path.parent.mkdir()
    path.write_text(WORKING)
    return path


@pytest.fixture
def counted(cpp_toolchain, tmp_path):
    """A toolchain whose compiler notes each start; and the notes."""
    notes, cxx = tmp_path / "notes", tmp_path / "c++"
    cxx.write_text(f'#!/bin/sh\necho "$@" >> {notes}\nexec {cpp_toolchain.cxx} "$@"\n')
    cxx.chmod(0o755)
    return replace(cpp_toolchain, cxx=cxx), lambda: len(notes.read_text().splitlines()) if notes.exists() else 0


def test_compiles_once(source, counted, tmp_path):
    toolchain, starts = counted
    first = build.compile_library(tmp_path / "cache", [source], ["host"], toolchain)
    assert starts() == 2  # compiler and linker
    code = "import ctypes, sys, torch; print(ctypes.CDLL(sys.argv[1]).answer())"
    assert subprocess.run([sys.executable, "-c", code, first], capture_output=True, text=True).stdout == "42\n"
    assert build.compile_library(tmp_path / "cache", [source], ["host"], toolchain) == first
    assert starts() == 2


def test_the_folder_depends_on_sources_torch_and_gpu(source, monkeypatch):
    name = build.folder_name([source], ["sm_80"])
    assert name != build.folder_name([source], ["sm_90"])
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    assert name != build.folder_name([source], ["sm_80"])
    monkeypatch.undo()
    assert name == build.folder_name([source], ["sm_80"])
    source.write_text(WORKING + "\n")
    assert name != build.folder_name([source], ["sm_80"])


def test_a_failure_is_remembered_with_its_cause_until_something_changes(source, counted, tmp_path):
    toolchain, starts = counted
    cache = tmp_path / "cache"
    source.write_text(BROKEN)
    for _ in range(2):
        with pytest.raises(build.BuildError, match="a_name_nobody_declared.*--forget"):
            build.compile_library(cache, [source], ["host"], toolchain)
    assert starts() == 1
    os.utime(toolchain.cxx, ns=(1, 1))  # another compiler
    with pytest.raises(build.BuildError, match="a_name_nobody_declared"):
        build.compile_library(cache, [source], ["host"], toolchain)
    assert starts() == 2
    source.write_text(WORKING)
    assert build.compile_library(cache, [source], ["host"], toolchain).exists()


def test_running_out_of_memory_is_not_remembered(source, counted, cpp_toolchain, tmp_path):
    toolchain, _ = counted
    toolchain.cxx.write_text("#!/bin/sh\necho 'c++: fatal error: Killed signal terminated program cc1plus'\nexit 1\n")
    with pytest.raises(build.BuildError, match="Killed"):
        build.compile_library(tmp_path / "cache", [source], ["host"], toolchain)
    assert not list((tmp_path / "cache").glob("*/failure.txt"))
    toolchain.cxx.write_text(f'#!/bin/sh\nexec {cpp_toolchain.cxx} "$@"\n')
    assert build.compile_library(tmp_path / "cache", [source], ["host"], toolchain).exists()


def test_processes_that_meet_compile_once(source, counted, tmp_path):
    toolchain, starts = counted
    code = (
        "import sys; from pathlib import Path; from stylegan2_ops import build;"
        "tools = build.Toolchain(*map(Path, sys.argv[3:]));"
        "print(build.compile_library(Path(sys.argv[1]), [Path(sys.argv[2])], ['host'], tools))"
    )
    tools = [toolchain.cuda_home, toolchain.cxx, toolchain.ninja]
    command = [sys.executable, "-c", code, tmp_path / "cache", source, *tools]
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, timeout=200), range(2)))
    assert runs[0].stdout == runs[1].stdout != "", runs[0].stderr
    assert starts() == 2


def test_waits_for_the_lock_and_a_killed_holder_frees_it(source, cpp_toolchain, tmp_path):
    folder = tmp_path / build.folder_name([source], ["host"])
    folder.mkdir(mode=0o700)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, folder / "lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder, ThreadPoolExecutor() as pool:
        try:
            assert holder.stdout.readline() == "held\n"
            library = pool.submit(build.compile_library, tmp_path, [source], ["host"], cpp_toolchain)
            time.sleep(0.3)
            assert not library.done() and not (folder / "build.ninja").exists()
        finally:
            holder.kill()
        assert library.result(timeout=60).exists()


def test_an_interrupted_build_is_not_taken_for_complete(source, cpp_toolchain, tmp_path):
    library = build.compile_library(tmp_path, [source], ["host"], cpp_toolchain)
    (library.parent / "complete").unlink()
    library.write_bytes(b"half")
    os.utime(library, ns=(1, 1))
    build.compile_library(tmp_path, [source], ["host"], cpp_toolchain)
    assert library.stat().st_size > 4


def test_a_folder_that_others_can_write_is_refused(source, cpp_toolchain, tmp_path):
    library = build.compile_library(tmp_path, [source], ["host"], cpp_toolchain)
    library.parent.chmod(0o777)
    with pytest.raises(build.BuildError, match="can be written by someone else"):
        build.compile_library(tmp_path, [source], ["host"], cpp_toolchain)


def test_a_folder_that_others_prepared_is_not_built_into(source, counted, tmp_path):
    toolchain, starts = counted
    folder = tmp_path / "cache" / build.folder_name([source], ["host"])
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(build.BuildError, match="can be written by someone else"):
        build.compile_library(tmp_path / "cache", [source], ["host"], toolchain)
    assert starts() == 0 and not list(folder.iterdir())
    folder.chmod(0o700)
    assert build.compile_library(tmp_path / "cache", [source], ["host"], toolchain).exists()


def test_an_unusable_cache_names_the_setting(source, cpp_toolchain):
    with pytest.raises(build.BuildError, match="STYLEGAN2_OPS_CACHE"):
        build.compile_library(Path("/dev/null/cache"), [source], ["host"], cpp_toolchain)


@pytest.fixture
def pretend_gpu(monkeypatch, tmp_path):
    """An sm_90 on a machine without nvcc; nothing is executed on it."""
    monkeypatch.setenv("STYLEGAN2_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_architectures_here", lambda: ("sm_90",))
    monkeypatch.setattr(build, "_library", build._Library())

    def missing():
        raise build.BuildError("nvcc is missing: install it")

    monkeypatch.setattr(build, "_find_cuda", missing)


class OnCuda:
    """Looks like a CUDA tensor to `extension_for`."""

    is_cuda, dtype = True, torch.float32


def test_auto_warns_once_with_the_cause_and_falls_back(pretend_gpu):
    with pytest.warns(RuntimeWarning, match="plain PyTorch runs instead: nvcc is missing: install it"):
        assert build.extension_for(OnCuda(), "auto") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.extension_for(OnCuda(), "auto") is None


def test_cuda_asked_for_raises_every_time(pretend_gpu):
    for _ in range(2):
        with pytest.raises(build.BuildError, match="nvcc is missing"):
            build.extension_for(OnCuda(), "cuda")
    x = torch.zeros(1, 1, 4, 4)
    for call in (lambda: upfirdn2d(x, None, impl="cuda"), lambda: bias_act(x, impl="cuda")):
        with pytest.raises(RuntimeError, match="needs a tensor on a CUDA device, got one on cpu; nvcc is missing"):
            call()


def test_status_follows_the_build_without_compiling(pretend_gpu, counted, monkeypatch, capsys):
    assert build.status() == build.Status("unavailable", "nvcc is missing: install it")
    toolchain, starts = counted
    monkeypatch.setattr(build.Toolchain, "find", lambda: toolchain)
    assert build.status().state == "ready" and starts() == 0
    folder = build.cache_root() / build.folder_name(build._sources(), ["sm_90"])
    folder.mkdir(parents=True, mode=0o700)
    (folder / "lock").touch()
    (folder / "failure.txt").write_text(f"{toolchain.signature()}\nthe cause\n")
    assert build.status() == build.Status("failed", "the cause")
    assert main([]) == 0 and capsys.readouterr().out == "failed: the cause\n"
    assert main(["--forget"]) == 0 and not folder.exists()
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    assert "can be written by someone else" in build.status().detail
    folder.chmod(0o700)
    (folder / "complete").touch()
    assert build.status().state == "compiled" and starts() == 0


def test_forget_touches_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLEGAN2_OPS_CACHE", str(tmp_path))
    (tmp_path / "torch-notes").mkdir()
    (tmp_path / "torch1-sm_90-mine").mkdir()
    assert build.forget() == 0 and len(list(tmp_path.iterdir())) == 2


def test_the_toolkit_behind_a_wrapper_script_is_not_mistaken(monkeypatch, tmp_path):
    """A wrapper's folder has no headers; CUDA_HOME or the usual place are tried instead, never the wrapper's."""
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text("#!/bin/sh\nexit 0\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    try:
        assert build._find_cuda() != tmp_path
    except build.BuildError as error:
        assert "nvcc" in str(error)


def test_an_nvcc_of_another_major_version_is_refused(monkeypatch, tmp_path):
    for name in ("bin/nvcc", "include/cuda_runtime_api.h"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("#!/bin/sh\necho 'Cuda compilation tools, release 9.1, V9.1.0'\n")
    (tmp_path / "bin/nvcc").chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    with pytest.raises(build.BuildError, match="is of CUDA 9.1, this PyTorch needs CUDA 13"):
        build._find_cuda()


@pytest.mark.slow
@pytest.mark.timeout(570)  # a minute on an idle machine
def test_the_cuda_sources_compile_for_gpus_that_are_not_here(capsys):
    """The whole library for sm_80 and sm_90: nvcc, the binding, the link, and loading it in another process."""
    try:
        build.Toolchain.find()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert main(["--check"]) == 0
    assert "upfirdn2d.cu for sm_80, sm_90" in capsys.readouterr().out
