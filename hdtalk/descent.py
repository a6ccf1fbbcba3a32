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
BYTES_PER_PIXEL = 2000  # of what the full generator keeps for its backward pass


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


def roomy_batch(batch_size: int, device: torch.device, side: int) -> int:
    """Frames to work on at once where the result does not depend on it. On a GPU, where small batches leave it waiting
    for the next kernel, as many pictures of this side as half of the free memory holds, up to 32."""
    if device.type != "cuda":
        return batch_size
    free, _ = torch.cuda.mem_get_info(device)
    return max(batch_size, min(32, int(free / 2 / (BYTES_PER_PIXEL * side**2))))


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


class QuasiNewton:
    """L-BFGS on many small problems side by side: each has its own memory, step length and decisions, and nothing of it
    waits for the device. `ask` for points, `tell` what was found there, in turns, beginning with `tell` at the start.

    `best` `[n, ...]`: the best points so far. A point that is no better, or not finite, is taken back and its problem's
    next step is shorter; no step is longer than the problem's radius, at first `radius`, at most `REACH` times that.
    """

    MEMORY, REACH, LONGER, SHORTER = 8, 3.0, 2.0, 0.3

    def __init__(self, start: torch.Tensor, radius: float):
        n = len(start)
        self.shape = start.shape
        self._best = self._trial = start.detach().flatten(1)
        self.value = start.new_full((n,), torch.inf)
        self._gradient = torch.zeros_like(self._best)
        self._radius, self._largest = start.new_full((n, 1), radius), self.REACH * radius
        self._memory: list[
            tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        ] = []  # step, its change of gradient, 1 / dot
        self._scale = start.new_zeros(n, 1)  # of the inverse Hessian; 0: nothing known yet
        self._begun = False

    @property
    def best(self) -> torch.Tensor:
        return self._best.reshape(self.shape)

    def ask(self) -> torch.Tensor:
        """Where to look next, `[n, ...]`."""
        q, shares = self._gradient.clone(), []
        for step, change, inverse in reversed(self._memory):
            shares.append(inverse * (step * q).sum(1, keepdim=True))
            q -= shares[-1] * change
        unknown = self._radius / q.norm(dim=1, keepdim=True).clamp_min(1e-20)
        q *= torch.where(self._scale > 0, self._scale, unknown)
        for (step, change, inverse), share in zip(self._memory, reversed(shares), strict=True):
            q += step * (share - inverse * (change * q).sum(1, keepdim=True))
        self._trial = self._best - q * (self._radius / q.norm(dim=1, keepdim=True).clamp_min(1e-20)).clamp_max(1)
        return self._trial.reshape(self.shape)

    def tell(self, values: torch.Tensor, gradients: torch.Tensor | None = None) -> torch.Tensor:
        """Values `[n]` and gradients (none after the last step) at the points asked for. Returns bool `[n]`: which of
        them are the best so far."""
        finite = values.isfinite()
        if gradients is not None:
            gradients = gradients.flatten(1)
            finite = finite & gradients.isfinite().all(1)
            gradients = torch.where(finite[:, None], gradients, 0)
        better = finite & (values < self.value)
        kept = better[:, None]
        if gradients is not None:
            if self._begun:
                self._learn(gradients, finite[:, None])
                self._radius = torch.where(
                    kept, (self._radius * self.LONGER).clamp_max(self._largest), self._radius * self.SHORTER
                )
            self._gradient = torch.where(kept, gradients, self._gradient)
        self._begun = True
        self._best = torch.where(kept, self._trial, self._best)
        self.value = torch.where(better, values, self.value)
        return better

    def _learn(self, gradients: torch.Tensor, finite: torch.Tensor) -> None:
        step, change = self._trial - self._best, gradients - self._gradient
        dot, square = (step * change).sum(1, keepdim=True), change.square().sum(1, keepdim=True)
        useful = finite & (dot > 1e-6 * (square * step.square().sum(1, keepdim=True)).sqrt())  # curved upwards
        inverse = torch.where(useful, 1 / dot, 0)
        self._memory = [*self._memory, (step, change, inverse)][-self.MEMORY :]
        self._scale = torch.where(useful, dot / square, self._scale)


def set_gradients(parameters: Sequence[torch.nn.Parameter], parts: Sequence[Sequence[torch.Tensor | None]]) -> None:
    """Sets every parameter's gradient to the sum of what the parts have for it, added up in the parts' order."""
    for parameter, *gradients in zip(parameters, *parts, strict=True):
        present = [gradient for gradient in gradients if gradient is not None]
        parameter.grad = functools.reduce(torch.add, present) if present else None


def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether there is neither nan nor infinity in any of them; the device is waited for once."""
    return bool(torch.stack(torch._foreach_norm(list(tensors))).isfinite().all())


def tunable_weights(generator: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """All but the mapping network's."""
    return {name: p for name, p in generator.named_parameters() if not name.startswith("style.")}


def tunable_copy(generator: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, torch.nn.Parameter]]:
    """A copy for pivotal or stitching tuning, and the parameters to tune."""
    tuned = copy.deepcopy(generator).eval().requires_grad_(False)
    weights = tunable_weights(tuned)
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
