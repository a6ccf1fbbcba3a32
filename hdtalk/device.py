"""Where and in which precision the networks run, and what running out of memory looks like."""

import contextlib

import torch

from hdtalk.errors import UsageError

# in errors that are not of PyTorch's own kind: those of the CPU's allocator, of the driver, of cuBLAS and cuDNN
OUT_OF_MEMORY = ("allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def resolve_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:n" -> a device that is there. Raises `UsageError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: unknown. Known: auto, cpu, cuda, cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: unknown. Known: auto, cpu, cuda, cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: {torch.cuda.device_count()} CUDA devices found. Try --device auto.")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto" takes bfloat16 where the hardware multiplies it, float32 elsewhere. Raises `UsageError`."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name != "auto":
        if name not in known:
            raise UsageError(f"--precision {name}: unknown. Known: auto, {', '.join(known)}.")
        return known[name]
    native = _gpu_multiplies_bfloat16(device) if device.type == "cuda" else _cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Networks inside compute in `dtype`; float32 means no autocast at all."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _gpu_multiplies_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_multiplies_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
