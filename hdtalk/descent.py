"""What the optimising stages share: frozen networks, the falling rate, and batches, which are worked on side by side on
a CPU and shrink when memory runs out."""

import contextlib
import copy
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from hdtalk.device import is_out_of_memory
from hdtalk.errors import ResourceError

log = logging.getLogger(__name__)

MAX_WORKERS = 4


def cosine(share: float) -> float:
    """Factor on the learning rate: rises over the first 5 % of the run and falls to 0 at its end."""
    return min(1.0, (share + 0.01) / 0.05) * (0.5 + 0.5 * math.cos(math.pi * share))


def in_batches(
    indices: list[int],
    size: int,
    work: Callable[[list[int]], Any],
    restart: Callable[[], None] = lambda: None,
    *,
    device: torch.device,
    in_turn: bool = False,
) -> tuple[int, list[Any]]:
    """Calls `work` on batches of `indices`; returns the batch size that fitted and the calls' results in order.

    On a CPU the calls run side by side on a few threads, each with its share of the cores: small networks leave cores
    idle within an operation, and on a busy machine an operation's threads wait for each other far longer than they
    work. `work` must bear that, or ask for `in_turn`; grad mode and autocast it enters itself. When memory runs out,
    `restart` undoes what was done and all is done again with batches half as large. Raises `ResourceError` when a
    batch of one does not fit.
    """
    pool = None if in_turn or device.type != "cpu" else _workers(torch.get_num_threads())
    while True:
        if pool is not None:
            size = max(1, min(size, -(-len(indices) // pool.count)))
        batches = [indices[first : first + size] for first in range(0, len(indices), size)]
        try:
            if pool is None:
                return size, [work(batch) for batch in batches]
            calls = [pool.threads.submit(work, batch) for batch in batches]
            wait(calls)  # also when one failed: none may go on while what it did is undone
            return size, [call.result() for call in calls]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise ResourceError("memory ran out even for one frame at a time. Try --device cpu.") from error
        restart()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = max(1, size // 2)
        log.warning("memory ran out; going on with batches of %d", size)


@dataclass(frozen=True)
class _Workers:
    count: int
    threads: ThreadPoolExecutor


@functools.cache
def _workers(cores: int) -> _Workers | None:
    """Up to `MAX_WORKERS` threads that share the cores; None where there is only one."""
    count = min(cores, MAX_WORKERS)
    if count == 1:
        return None
    return _Workers(count, ThreadPoolExecutor(count, "hdtalk", lambda: torch.set_num_threads(cores // count)))


def set_gradients(parameters: Sequence[torch.nn.Parameter], parts: Sequence[Sequence[torch.Tensor | None]]) -> None:
    """Sets every parameter's gradient to the sum of what the parts have for it, added up in the parts' order."""
    for parameter, *gradients in zip(parameters, *parts, strict=True):
        present = [gradient for gradient in gradients if gradient is not None]
        parameter.grad = functools.reduce(torch.add, present) if present else None


def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether there is neither nan nor infinity in any of them; the device is waited for once."""
    return bool(torch.stack(torch._foreach_norm(list(tensors))).isfinite().all())


def tunable_copy(generator: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, torch.nn.Parameter]]:
    """A copy for pivotal or stitching tuning, and the parameters to tune: all but the mapping network's."""
    tuned = copy.deepcopy(generator).eval().requires_grad_(False)
    weights = {name: p for name, p in tuned.named_parameters() if not name.startswith("style.")}
    for parameter in weights.values():
        parameter.requires_grad_(True)
    return tuned, weights


@contextlib.contextmanager
def frozen(*networks: torch.nn.Module) -> Iterator[None]:
    """Within it the networks are in evaluation mode and ask for no gradients of their weights."""
    before = [(p, p.requires_grad) for network in networks for p in network.parameters()]
    training = [(module, module.training) for network in networks for module in network.modules()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
        for module, mode in training:
            module.training = mode
