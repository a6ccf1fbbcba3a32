"""The training loop that every image model of a bundle shares: seeded, resumable, logged, on CPU or GPU.

A task owns its networks, optimisers and data and knows one step and one validation; the loop owns time, checkpoints,
averaging, curves and the schedule. All randomness of a step comes from (seed, step), so a resumed run continues the
same sequence of batches.
"""

import csv
import io
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hdtalk.device import autocast, resolve_precision
from hdtalk.errors import UsageError
from hdtalk.files import write_atomically

logger = logging.getLogger(__name__)

# settings that a run may be continued with others of
MAY_CHANGE = ("minutes", "steps", "checkpoint_minutes", "validate_minutes", "log_steps", "device", "graphs")


@dataclass(frozen=True)
class TrainConfig:
    """The run ends at `steps` or after `minutes` of training, whichever comes first; the schedule follows that end."""

    minutes: float = 30.0
    steps: int = 1_000_000
    batch_size: int = 16
    learning_rate: float = 2e-3
    warm_up: float = 0.01  # share of the run
    decay_from: float = 0.4  # share of the run after which the rate falls along a cosine
    final_rate: float = 0.02  # of the learning rate
    ema_images: float = 10_000.0  # half-life of the weights' moving average
    gradient_norm: float = 10.0
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 4.0
    log_steps: int = 20
    seed: int = 0
    device: str = "cpu"
    graphs: bool = True  # CUDA graphs, on a GPU


class Task:
    """What is trained. A subclass fills `networks` and `optimisers`, and says which network is averaged."""

    name = "task"
    averaged: tuple[str, ...] = ()  # names in `networks` whose moving average is validated and exported

    def __init__(self, config: TrainConfig):
        self.config = config
        self.device = torch.device(config.device)
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def start_from(self, name: str, state: dict[str, torch.Tensor]) -> None:
        """Begins with the weights `state` in the network `name`."""
        self.networks[name].load_state_dict(state)

    def step(self, step: int, progress: float, rng: np.random.Generator) -> dict[str, float | torch.Tensor]:
        """One update of the networks; returns numbers to log (tensors wait on the device until they are written)."""
        raise NotImplementedError

    def validate(self, averages: dict[str, nn.Module]) -> tuple[dict[str, float], np.ndarray | None]:
        """Measures on the validation set, and a picture sheet uint8 RGB [H,W,3] or None."""
        raise NotImplementedError

    def export(self, averages: dict[str, nn.Module], folder: Path, measures: dict[str, float]) -> None:
        """Writes the trained network into a bundle folder."""
        raise NotImplementedError

    def autocast(self):
        """bfloat16 where the hardware multiplies it; elsewhere it would be slower than float32."""
        return autocast(self.device, resolve_precision("auto", self.device))

    def share_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Called before the step, for tasks that several processes train together."""

    def update(self, loss: torch.Tensor, *names: str) -> None:
        """One step of the optimisers of these names, by default of "main"."""
        optimisers = [self.optimisers[name] for name in names or ("main",)]
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                self.share_gradients(group["params"])
                nn.utils.clip_grad_norm_(group["params"], self.config.gradient_norm)
            optimiser.step()


class Replayed:
    """A network's forward and backward pass as CUDA graphs: small networks then wait no more for Python.

    Called with batches of one shape. Runs in bfloat16 where the hardware multiplies it; returns a tensor or a tuple.
    Without a GPU, with `graphs` False, or where capturing fails (once said), it is the network's own method.
    """

    def __init__(self, net: nn.Module, config: TrainConfig, method: str = "forward"):
        self.graphs = config.graphs and torch.device(config.device).type == "cuda"
        self.network = _Autocast(net, torch.device(config.device), method)
        self.run: Any = None

    def __call__(self, images: torch.Tensor) -> Any:
        if self.run is None:
            self.run = self._capture(images)
        return self.run(images)

    def _capture(self, images: torch.Tensor) -> Any:
        if self.graphs:
            try:
                with torch.cuda.device(images.device):  # elsewhere the graph would stay empty
                    return torch.cuda.make_graphed_callables(self.network, (images.detach().clone(),))
            except RuntimeError as error:
                logger.warning("CUDA graphs do not work here, going on without them: %s", str(error).split("\n")[0])
        return self.network


class _Autocast(nn.Module):
    def __init__(self, net: nn.Module, device: torch.device, method: str):
        super().__init__()
        self.net, self.device, self.method = net, device, method
        self.low = resolve_precision("auto", device) == torch.bfloat16

    def forward(self, images):
        with torch.autocast(self.device.type, torch.bfloat16, self.low, cache_enabled=False):
            answer = getattr(self.net, self.method)(images)
        return tuple(answer) if isinstance(answer, list) else answer


def schedule(progress: float, config: TrainConfig) -> float:
    """Factor on the learning rate: linear warm-up, plateau, cosine decay."""
    if progress < config.warm_up:
        return progress / config.warm_up
    if progress < config.decay_from:
        return 1.0
    phase = (progress - config.decay_from) / max(1e-9, 1 - config.decay_from)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, phase)))


def train(task: Task, out: Path, start: str = "") -> dict[str, float]:
    """Runs the task to its end, from the checkpoint in `out` if there is one; returns the last validation's measures.
    `out` receives checkpoint.pt, log.csv, curves.png, sheet.png and config.json. `start`: hash of the file whose
    weights the task began with. Raises UsageError where `out` holds a run of other settings."""
    config = task.config
    out.mkdir(parents=True, exist_ok=True)
    averages = {name: _copy_of(task.networks[name]) for name in task.averaged}
    step, elapsed_s = 0, 0.0
    measures: dict[str, float] = {}
    checkpoint = out / "checkpoint.pt"
    settings = {"task": task.name, "start": start, **asdict(config)}
    if checkpoint.exists():
        _check_same(out / "config.json", settings)
        step, elapsed_s, measures = _load_checkpoint(checkpoint, task, averages)
        logger.warning("%s: resumed at step %d, %.1f minutes", task.name, step, elapsed_s / 60)
    _cut_log(out, step)
    write_atomically(out / "config.json", json.dumps(settings, indent=1).encode())
    for optimiser in task.optimisers.values():
        for group in optimiser.param_groups:
            group.setdefault("base_lr", group["lr"])  # a checkpoint holds it

    last_time, last_checkpoint_s, last_validation_s = time.monotonic(), elapsed_s, elapsed_s
    sums: dict[str, float | torch.Tensor] = {}
    num_summed = 0
    while True:
        progress = min(1.0, max(step / config.steps, elapsed_s / (60 * config.minutes)))
        finished = progress >= 1.0
        if finished or elapsed_s - last_validation_s > 60 * config.validate_minutes:
            measures = _validate(task, averages, out, step, elapsed_s)
            last_validation_s = elapsed_s
            last_time = time.monotonic()
        if finished or elapsed_s - last_checkpoint_s > 60 * config.checkpoint_minutes:
            _save_checkpoint(checkpoint, task, averages, step, elapsed_s, measures, finished)
            last_checkpoint_s = elapsed_s
        if finished:
            return measures
        for optimiser in task.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * schedule(progress, config)
        torch.manual_seed(config.seed * 1_000_003 + step)
        numbers = task.step(step, progress, np.random.default_rng((config.seed, step)))
        _average(task, averages, step)
        step += 1
        now = time.monotonic()
        elapsed_s, last_time = elapsed_s + now - last_time, now
        num_summed += 1
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0.0) + (value.detach() if isinstance(value, torch.Tensor) else value)
        if step % config.log_steps == 0:
            means = {name: float(value) / num_summed for name, value in sums.items()}
            _log(out, step, elapsed_s, means, "train")
            sums, num_summed = {}, 0


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    """Raises UsageError where a run that was stopped had other settings of those that its course depends on."""
    try:
        had = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    for name, value in settings.items():
        if name not in MAY_CHANGE and had.get(name, value) != value:
            what = "began with other weights" if name == "start" else f"has {name} {had[name]}, not {value}"
            raise UsageError(f"{path.parent}: the run there {what}. Choose another --out to begin anew.")


def _copy_of(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def _average(task: Task, averages: dict[str, nn.Module], step: int) -> None:
    images = (step + 1) * task.config.batch_size
    half_life = min(task.config.ema_images, images * 0.1)  # short at first, so that the start is forgotten
    keep = 0.5 ** (task.config.batch_size / max(half_life, 1e-8))
    for name, average in averages.items():
        source = task.networks[name]
        torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - keep)
        for my_buffer, their_buffer in zip(average.buffers(), source.buffers(), strict=True):
            my_buffer.copy_(their_buffer)


def _validate(task, averages, out, step, elapsed_s) -> dict[str, float]:
    with torch.no_grad():
        measures, sheet = task.validate(averages)
    _log(out, step, elapsed_s, measures, "validation")
    summary = ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
    logger.warning("%s step %d, %.1f min: %s", task.name, step, elapsed_s / 60, summary)
    if sheet is not None:
        from PIL import Image

        Image.fromarray(sheet).save(out / "sheet.png")
    _plot(out)
    return measures


def _log(out: Path, step: int, elapsed_s: float, numbers: dict[str, float], kind: str) -> None:
    with open(out / "log.csv", "a", newline="") as file:
        for name, value in numbers.items():
            csv.writer(file).writerow([kind, step, round(elapsed_s, 1), name, f"{value:.6g}"])


def _cut_log(out: Path, step: int) -> None:
    """Drops what a killed run logged after `step`: these steps are taken again."""
    path = out / "log.csv"
    if not path.exists():
        return
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 5 and int(row[1]) <= step]
    kept = io.StringIO(newline="")
    csv.writer(kept).writerows(rows)
    write_atomically(path, kept.getvalue().encode())


def _plot(out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves: dict[str, list[tuple[float, float]]] = {}
    with (out / "log.csv").open() as log:
        for kind, _, seconds, name, value in csv.reader(log):
            curves.setdefault(f"{kind}: {name}", []).append((float(seconds) / 60, float(value)))
    columns = 4
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis, (name, points) in zip(axes.flat, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("minutes", fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=70)
    pyplot.close(figure)


def _save_checkpoint(path, task, averages, step, elapsed_s, measures, finished) -> None:
    buffer = io.BytesIO()
    state = {
        "networks": {name: network.state_dict() for name, network in task.networks.items()},
        "averages": {name: network.state_dict() for name, network in averages.items()},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in task.optimisers.items()},
        "step": step,
        "elapsed_s": elapsed_s,
        "measures": measures,
        "finished": finished,
    }
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _load_checkpoint(path, task, averages) -> tuple[int, float, dict[str, float]]:
    state = torch.load(path, map_location=task.device, weights_only=True)
    for kind, owners in (("networks", task.networks), ("averages", averages), ("optimisers", task.optimisers)):
        for name, owner in owners.items():
            owner.load_state_dict(state[kind][name])
    return state["step"], state["elapsed_s"], state["measures"]


def write_network(
    folder: Path, role: str, network: nn.Module, architecture: str, sizes: dict, trained_on: str, measures: dict
) -> None:
    """Puts a trained network into a bundle folder, with its last validation as its quality."""
    from hdtalk import weights

    quality = {name: round(value, 4) for name, value in measures.items()}
    weights.write_bundle_file(
        folder,
        role,
        network.state_dict(),
        architecture=architecture,
        sizes=sizes,
        trained_on=trained_on,
        quality=quality,
    )


def picture_grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Pictures uint8 [H,W,3] of one size, as one sheet."""
    return np.vstack([np.hstack(row) for row in rows])


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """[N,3,H,W] in [-1,1] -> uint8 [N,H,W,3]."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
