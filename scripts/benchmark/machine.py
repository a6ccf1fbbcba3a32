"""What the machine gives: synchronised time, peak memory, and the highest rate of arithmetic that it reaches."""

import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from hdtalk import descent

STATUS, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
_clock = "wall"


def use_clock(name: str) -> None:
    """ "wall", or "processor": time summed over the threads of this process, which a busy machine disturbs little."""
    global _clock
    _clock = name


def now(device: torch.device) -> float:
    """Seconds on the clock, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return CLOCKS[_clock]()


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {available_cores()} cores"


def available_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PeakMemory:
    """Within it: `gb`, the largest memory of the process (CPU) or the allocator (CUDA) so far, in GiB."""

    def __init__(self, device: torch.device):
        self.device, self.gb = device, 0.0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR_PEAK.exists():
            if sys.platform.startswith("linux"):
                trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
                if trim is not None:
                    trim(0)
            CLEAR_PEAK.write_text("5")  # the peak starts anew (proc(5))
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.gb = torch.cuda.max_memory_allocated(self.device) / 2**30
        elif STATUS.exists():
            line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            self.gb = int(line.split()[1]) / 2**20


def count_flops(work: Callable[[], Any]) -> float:
    """Floating-point operations (a multiply-add is two) of convolutions and matrix products."""
    with mock.patch.object(descent, "_workers", lambda cores: None), FlopCounterMode(display=False) as counter:
        work()  # in this thread alone: the counter does not see the others
    return float(counter.get_total_flops())


def peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Operations per second of a large matrix product with all cores: the median over about `seconds`."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    rates: list[float] = []
    begun = time.perf_counter()
    while len(rates) < 4 or time.perf_counter() - begun < seconds:
        start = now(device)
        a @ b
        rates.append(2 * side**3 / (now(device) - start))
    torch.set_num_threads(threads)
    return statistics.median(rates[1:])


def median_seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time of one call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = now(device)
        work()
        times.append(now(device) - start)
    return statistics.median(times)
