"""What the optimising stages share: frozen networks, batches that shrink when memory runs out, the falling rate."""

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterator

import torch

from hdtalk.device import is_out_of_memory
from hdtalk.errors import ResourceError

log = logging.getLogger(__name__)


def cosine(share: float) -> float:
    """Factor on the learning rate: rises over the first 5 % of the run and falls to 0 at its end."""
    return min(1.0, (share + 0.01) / 0.05) * (0.5 + 0.5 * math.cos(math.pi * share))


def in_batches(indices: list[int], size: int, work: Callable[[list[int]], None], restart: Callable[[], None]) -> int:
    """Calls `work` on batches of indices. When memory runs out, `restart` undoes what was done and all is done again
    with batches half as large. Returns the size that fitted. Raises `ResourceError` when a batch of one does not."""
    while True:
        try:
            for first in range(0, len(indices), size):
                work(indices[first : first + size])
            return size
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
