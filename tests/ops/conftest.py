"""The CUDA kernels compiled for the host: every thread of a launch in a loop."""

from pathlib import Path

import pytest
import torch

from stylegan2_ops import build

HOST_SOURCE = Path(__file__).parent / "host_kernels.cpp"


@pytest.fixture(scope="session")
def cpp_toolchain():
    """C++ compiler and ninja; nvcc is neither needed nor looked for."""
    try:
        return build.Toolchain(Path("/no/cuda"), build._find_program("c++", "a C++ compiler"), build._find_ninja())
    except build.BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def host_kernels(cpp_toolchain, request):
    root = request.config.cache.mkdir("host_kernels")  # compiled once per source, as the kernels are
    sources = [HOST_SOURCE, *build._sources()]
    sources = [path for path in sources if path.suffix == ".h" or path == HOST_SOURCE]
    library = build.compile_library(root, sources, ["host"], cpp_toolchain)
    torch.ops.load_library(str(library))
    return torch.ops.stylegan2_ops_host


@pytest.fixture
def kernels_on_cpu(host_kernels, monkeypatch):
    """Makes every operator take the path of CUDA tensors."""
    monkeypatch.setattr(build, "extension_for", lambda x, impl: None if impl == "ref" else host_kernels)
    return host_kernels
