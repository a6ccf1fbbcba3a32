"""Compiles the CUDA kernels at first use, remembers failures and says in what state the build is."""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

IMPLEMENTATIONS = ("auto", "ref", "cuda")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SOURCES = Path(__file__).parent / "csrc"
CHECKED_ARCHITECTURES = ("sm_80", "sm_90")
FORGET = "`python -m stylegan2_ops --forget` tries again"


class BuildError(RuntimeError):
    """The kernels cannot be had; the message gives cause and cure."""


@dataclass(frozen=True)
class Status:
    """State of the CUDA kernels on this machine.

    `state`: "compiled" (the library exists), "ready" (the first use on a CUDA tensor compiles it), "failed" (an
    earlier build failed and is not repeated) or "unavailable" (something is missing); `detail`: one line saying more.
    """

    state: Literal["compiled", "ready", "failed", "unavailable"]
    detail: str


def extension_for(x: torch.Tensor, impl: str) -> Any:
    """The compiled kernels to use on `x`, or None where the reference should run.

    "auto" takes the kernels for CUDA tensors, compiling them once; without them it warns once and goes on with the
    reference. Under torch.compile it leaves the reference to Inductor, which fuses it with what is around it.
    Raises ValueError for an unknown `impl`, BuildError for "cuda" where the kernels cannot be had.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if impl == "ref" or (impl == "auto" and (not x.is_cuda or x.dtype not in DTYPES or torch.compiler.is_compiling())):
        return None
    if not x.is_cuda:
        raise BuildError(f"impl='cuda' needs a tensor on a CUDA device, got one on {x.device}; {status().detail}")
    try:
        return _library.load()
    except BuildError as error:
        if impl == "cuda":
            raise
        _library.warn_once(error)
        return None


def status() -> Status:
    """Whether the kernels are compiled, would compile at first use, or why not. Compiles nothing."""
    try:
        architectures = _architectures_here()
        folder = cache_root() / folder_name(_sources(), architectures)
        if _is_complete(folder):
            return Status("compiled", f"for {', '.join(architectures)} in {folder}")
        failure = _remembered_failure(folder, toolchain := Toolchain.find())
        if failure is not None:
            return Status("failed", failure)
        return Status("ready", f"compiled at first use for {', '.join(architectures)} with {toolchain.nvcc}")
    except BuildError as error:
        return Status("unavailable", str(error))


def check(architectures: Sequence[str] = CHECKED_ARCHITECTURES) -> str:
    """Compile and link everything for GPUs that need not be present, in a temporary folder; returns what was done.

    Loads the result in another process if this PyTorch has CUDA. Raises BuildError with the compiler's message.
    """
    toolchain = Toolchain.find()
    sources = _sources()
    has_cuda = torch.version.cuda is not None
    if not has_cuda:  # the binding needs PyTorch's CUDA headers and libraries
        sources = [path for path in sources if path.name != "binding.cpp"]
    with tempfile.TemporaryDirectory(prefix="stylegan2_ops_check_") as root:
        library = compile_library(Path(root), sources, architectures, toolchain)
        done = f"compiled {', '.join(p.name for p in sources if p.suffix != '.h')} for {', '.join(architectures)}"
        if not has_cuda:
            return f"{done}; binding.cpp left out, this PyTorch has no CUDA"
        code = (
            "import sys, torch; torch.ops.load_library(sys.argv[1]); print(torch.ops.stylegan2_ops.upfirdn2d.default)"
        )
        loaded = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True)
        if loaded.returncode:
            raise BuildError(f"the compiled library does not load: {loaded.stderr.strip().splitlines()[-1]}")
        return f"{done}; linked and loaded"


def compile_now() -> None:
    """Compile, load and try the kernels for the GPUs of this machine. Raises BuildError."""
    _library.load()


def forget() -> int:
    """Remove compiled kernels and remembered failures from the cache; returns how many."""
    folders = [path for path in cache_root().glob("torch*-sm_*") if (path / "lock").exists()]
    for folder in folders:
        shutil.rmtree(folder)
    return len(folders)


def compile_library(root: Path, sources: Sequence[Path], architectures: Sequence[str], toolchain: "Toolchain") -> Path:
    """Path of the shared library of `sources` (.cu, .cpp, and the headers they include) in a folder under `root`.

    Compiled if it is not there yet; processes that need it at the same time wait for the first. A failed compilation
    is remembered in the folder and raised again, until the toolchain changes or the folder is removed; one that was
    interrupted, or ran out of memory or disk, is not. Raises BuildError.
    """
    folder = root / folder_name(sources, architectures)
    library = folder / "stylegan2_ops.so"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(folder)
        with _locked(folder / "lock"):
            if _is_complete(folder):
                return library
            failure = _remembered_failure(folder, toolchain)
            if failure is not None:
                raise BuildError(failure)
            (folder / "build.ninja").write_text(_ninja_file(sources, architectures, toolchain, library.name))
            command = [str(toolchain.ninja), "-C", str(folder)]
            run = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if run.returncode:
                (folder / "log.txt").write_text(run.stdout + run.stderr)
                cause = f"compilation failed: {_first_error(run.stdout)} (all of it in {folder / 'log.txt'}; {FORGET})"
                if run.returncode > 0 and not re.search(r"\bKilled\b|No space left|interrupted by user", run.stdout):
                    (folder / "failure.txt").write_text(f"{toolchain.signature()}\n{cause}\n")
                raise BuildError(cause)
            (folder / "complete").touch()
            return library
    except OSError as error:
        raise BuildError(f"cannot build in {folder}: {error}. STYLEGAN2_OPS_CACHE names another folder") from error


def folder_name(sources: Sequence[Path], architectures: Sequence[str]) -> str:
    """Differs where a library compiled elsewhere would not fit: sources, PyTorch, CUDA, GPU, Python's platform."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    torch_version = re.sub(r"[^\w.]", "_", torch.__version__)
    return f"torch{torch_version}-{'_'.join(architectures)}-{sysconfig.get_platform()}-{digest.hexdigest()[:16]}"


def cache_root() -> Path:
    """`$STYLEGAN2_OPS_CACHE`, else `stylegan2_ops` in the user's cache folder."""
    if own := os.environ.get("STYLEGAN2_OPS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylegan2_ops"


@dataclass(frozen=True)
class Toolchain:
    """The programs that compile: nvcc's folder, the C++ compiler, ninja."""

    cuda_home: Path
    cxx: Path
    ninja: Path

    @property
    def nvcc(self) -> Path:
        return self.cuda_home / "bin" / "nvcc"

    @classmethod
    def find(cls) -> "Toolchain":
        """Raises BuildError naming what is missing."""
        return cls(_find_cuda(), _find_program(os.environ.get("CXX") or "c++", "a C++ compiler"), _find_ninja())

    def signature(self) -> str:
        """Changes with the programs, so that an upgrade gives a failed build another chance."""
        parts = [f"{path}@{path.stat().st_mtime_ns if path.exists() else 0}" for path in (self.nvcc, self.cxx)]
        return " ".join(parts)


class _Library:
    """The loaded kernels of this process, or why there are none: at most one attempt, and one warning."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kernels: Any = None
        self._failure: str | None = None
        self._warned = False

    def load(self) -> Any:
        if self._kernels is None:
            with self._lock:
                if self._kernels is None and self._failure is None:
                    try:
                        self._kernels = self._load()
                    except BuildError as error:
                        self._failure = str(error)
            if self._failure is not None:
                raise BuildError(self._failure)
        return self._kernels

    def warn_once(self, error: BuildError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"No CUDA kernels, plain PyTorch runs instead: {error}", RuntimeWarning, stacklevel=4)

    def _load(self) -> Any:
        architectures = _architectures_here()
        folder = cache_root() / folder_name(_sources(), architectures)
        library = folder / "stylegan2_ops.so"
        if not _is_complete(folder):
            library = compile_library(cache_root(), _sources(), architectures, Toolchain.find())
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            raise BuildError(f"the compiled library does not load: {error} ({FORGET})") from error
        return trusted(torch.ops.stylegan2_ops, torch.device("cuda", torch.cuda.current_device()))


_library = _Library()


def trusted(kernels: Any, device: torch.device) -> Any:
    """`kernels`, once they agree with the reference on `device`. Raises BuildError."""
    from stylegan2_ops.selfcheck import disagreements

    try:
        # A thread of its own: the caller's no_grad, inference mode, autocast and default device end at its border.
        with ThreadPoolExecutor(1) as pool:
            wrong = pool.submit(disagreements, kernels, device).result()
    except RuntimeError as error:
        raise BuildError(f"the compiled kernels do not run: {str(error).splitlines()[0]}") from error
    if wrong:
        raise BuildError(f"the compiled kernels disagree with the reference in {', '.join(wrong)}; please report it")
    return kernels


def _sources() -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".h", ".cu", ".cpp"))


def _architectures_here() -> tuple[str, ...]:
    """Of all visible GPUs, so that one library serves them all."""
    if torch.version.hip:
        raise BuildError("this PyTorch is built for ROCm; the kernels are CUDA only")
    if torch.version.cuda is None:
        raise BuildError("this PyTorch is built without CUDA")
    if not torch.cuda.is_available():
        raise BuildError("no CUDA device is visible")
    devices = range(torch.cuda.device_count())
    capabilities = sorted({torch.cuda.get_device_capability(index) for index in devices})
    return tuple(f"sm_{major}{minor}" for major, minor in capabilities)


def _find_cuda() -> Path:
    """The toolkit's folder. A bare `nvcc` may be a wrapper script, so its folder counts only with the headers."""
    on_path = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [Path(name) for name in named if name]
    candidates += [Path(on_path).resolve().parents[1]] if on_path else []
    candidates += [Path("/usr/local/cuda"), *sorted(Path(torch.__file__).parents[1].glob("nvidia/cu*"))]
    for home in candidates:
        if (home / "bin" / "nvcc").is_file() and (home / "include" / "cuda_runtime_api.h").is_file():
            break
    else:
        raise BuildError("nvcc is missing: install the CUDA toolkit, and set CUDA_HOME if it is in an unusual place")
    if torch.version.cuda:
        run = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True)
        release = re.search(r"release (\d+)\.(\d+)", run.stdout)
        needed = torch.version.cuda.split(".")[0]
        if not release or release[1] != needed:
            found = f"of CUDA {release[1]}.{release[2]}" if release else "of an unknown version"
            raise BuildError(f"{home}/bin/nvcc is {found}, this PyTorch needs CUDA {needed}; set CUDA_HOME")
    return home


def _find_ninja() -> Path:
    beside_python = Path(sysconfig.get_path("scripts")) / "ninja"
    return beside_python if beside_python.is_file() else _find_program("ninja", "ninja (`pip install ninja`)")


def _find_program(name: str, description: str) -> Path:
    path = shutil.which(name)
    if path is None:
        raise BuildError(f"{description} is missing: no {name!r} on PATH")
    return Path(path)


def _is_complete(folder: Path) -> bool:
    """Whether a build in this folder ended well. Raises BuildError for a folder that others could have filled."""
    if not folder.exists():
        return False
    _refuse_foreign(folder)
    return (folder / "complete").exists()  # written last


def _refuse_foreign(folder: Path) -> None:
    state = folder.stat()
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        raise BuildError(f"{folder} belongs to or can be written by someone else; remove it")


def _remembered_failure(folder: Path, toolchain: Toolchain) -> str | None:
    path = folder / "failure.txt"
    if not path.exists():
        return None
    signature, _, cause = path.read_text().partition("\n")
    return cause.strip() if signature == toolchain.signature() else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclusive between processes; the system frees it when a process dies."""
    try:
        import fcntl
    except ImportError as error:
        raise BuildError("the kernels are built on Linux only") from error
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ninja_file(sources: Sequence[Path], architectures: Sequence[str], toolchain: Toolchain, library: str) -> str:
    """Objects from .cu and .cpp files, linked into one library."""
    base = Path(torch.__file__).parent
    includes = [base / "include", base / "include/torch/csrc/api/include", toolchain.cuda_home / "include"]
    gencode = [f"-gencode=arch={name.replace('sm_', 'compute_')},code={name}" for name in architectures]
    nvcc = [toolchain.nvcc, "-ccbin", toolchain.cxx, "-O3", "-std=c++17", "-Xcompiler", "-fPIC", *gencode]
    cxx = [toolchain.cxx, "-O2", "-std=c++20", "-fPIC", "-Wno-unknown-pragmas"]
    cxx += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    for path in includes:
        cxx += ["-isystem", path]
    link = [toolchain.cxx, "-shared"]
    libraries: list[str | Path] = [f"-L{base / 'lib'}", "-lc10", "-ltorch", "-ltorch_cpu"]
    if any(path.suffix == ".cu" for path in sources):
        libraries += ["-lc10_cuda", "-ltorch_cuda"] if torch.version.cuda else []
        libraries += [_cuda_runtime(toolchain.cuda_home)]
    lines = [
        "ninja_required_version = 1.3",
        f"rule cu\n  command = {_words(nvcc)} -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        f"rule cpp\n  command = {_words(cxx)} -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {_words(link)} $in -o $out {_words(libraries)}",
    ]
    objects = []
    for path in sources:
        if path.suffix in (".cu", ".cpp"):
            objects.append(f"{path.stem}{path.suffix.replace('.', '_')}.o")
            lines.append(f"build {objects[-1]}: {path.suffix[1:]} {_path(path)}")
    lines += [f"build {library}: link {' '.join(objects)}", f"default {library}", ""]
    return "\n".join(lines)


def _words(parts: Sequence[object]) -> str:
    """Words of a command line in a ninja file."""
    return " ".join(shlex.quote(str(part)) for part in parts).replace("$", "$$")


def _path(path: Path) -> str:
    return re.sub(r"([$: ])", r"$\1", str(path.resolve()))


def _cuda_runtime(cuda_home: Path) -> Path:
    """libcudart; PyTorch has loaded it already, under the same name."""
    for folder in ("lib64", "lib", f"targets/{os.uname().machine}-linux/lib"):
        for path in sorted((cuda_home / folder).glob("libcudart.so*")):
            return path
    raise BuildError(f"libcudart.so is missing in {cuda_home}")


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if re.search(r"\berror\b|fatal|Killed|No space", line)]
    return (lines or ["the compiler gave no reason"])[0][:300]
