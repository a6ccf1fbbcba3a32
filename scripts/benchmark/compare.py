"""A and B in turns: slices of every stage, round after round, scaled to whole procedures; then what they reach."""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hdtalk import invert
from hdtalk.config import EditConfig
from hdtalk.images import to_crops

from . import fast, plain, score
from .machine import PeakMemory, count_flops, now
from .networks import Networks
from .shot import Shot

STAGES = ("invert", "optimise", "stitch")
CHAIN = ("total", *STAGES)


@dataclass(frozen=True)
class Plan:
    """How much is run. `rounds` of slices, of `plain_steps` steps of A and `slice_frames` frames of B; `plain_frames`:
    frames on which A runs to its end, in pairs of neighbours. `outcome`: "none": only slices; "follow": B whole, A's
    optimisation and stitching whole, on B's inversion; "complete": A's inversion too."""

    rounds: int = 5
    plain_steps: int = 3
    slice_frames: int = 8
    plain_frames: int = 2
    outcome: str = "follow"


@dataclass(frozen=True)
class Sides:
    """Everything both procedures get."""

    networks: Networks
    shot: Shot
    paper: EditConfig
    fast: EditConfig
    device: torch.device
    dtype: torch.dtype
    set_up: Callable[[str], None] = lambda _: None  # called with "a" or "b" before either runs


def compare(sides: Sides, plan: Plan, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """See `report` for what the keys mean."""
    found: dict[str, Any] = {}
    prepared = _prepare(sides, plan)
    rounds: list[dict[str, dict[str, float]]] = []
    memory = {"a": 0.0, "b": 0.0}
    slices = {"a": lambda: plain_slice(sides, plan, prepared), "b": lambda: fast_slice(sides, plan, prepared)}
    sides.set_up("b")
    slices["b"]()  # warms up: kernels are chosen, caches filled
    for number in range(plan.rounds):
        seconds = {}
        for side, work in slices.items():
            sides.set_up(side)
            with PeakMemory(sides.device) as peak:
                seconds[side] = work()
            memory[side] = max(memory[side], peak.gb)
        rounds.append(seconds)
        report(f"round {number + 1}: " + ", ".join(f"{s} {seconds['a'][s] / seconds['b'][s]:.1f}x" for s in CHAIN))
    ratios = {stage: [r["a"][stage] / r["b"][stage] for r in rounds] for stage in CHAIN}
    found["ratio"] = {stage: statistics.median(values) for stage, values in ratios.items()}
    found["ratio_spread"] = {stage: [min(values), max(values)] for stage, values in ratios.items()}
    found["seconds_per_frame"] = {
        side: {stage: statistics.median(r[side][stage] for r in rounds) for stage in rounds[0][side]} for side in "ab"
    }
    found["memory_gb"] = memory
    sides.set_up("b")
    found["flops_per_frame"] = {
        "a": _plain_flops(sides, prepared), "b": _fast_flops(sides, plan, prepared)
    }  # fmt: skip
    return found


@dataclass(frozen=True)
class Prepared:
    """A starting point for slices: codes of some frames, as after inversion."""

    frames: Shot
    pivots: torch.Tensor


def _prepare(sides: Sides, plan: Plan) -> Prepared:
    rows = np.unique(np.linspace(0, len(sides.shot) - 1, max(plan.slice_frames, 8)).round().astype(int))
    frames = sides.shot[rows]
    pivots = invert.encode_pivots(sides.networks.encoder, frames.crops, 4, sides.dtype)
    return Prepared(frames, pivots)


def plain_slice(sides: Sides, plan: Plan, prepared: Prepared) -> dict[str, float]:
    """A's seconds per frame, from a few steps of every stage."""
    networks, config, steps = sides.networks, sides.paper, plan.plain_steps
    crops, pivots, wanted = prepared.frames.crops[:1], prepared.pivots[:1], _wanted(sides, prepared.frames[:1])
    tuned, _, timed = plain.invert(networks, crops, config, sides.device, steps, config.seed)
    seconds = {"invert": timed.other + timed.step * config.invert.passes}
    ws, (timed,) = plain.follow(networks, tuned, crops, pivots, wanted, config, steps, [[0]])
    seconds["optimise"] = timed.other + timed.step * config.optimise.steps
    _, _, (timed,) = plain.stitch(networks, tuned, crops, ws, config, steps)
    seconds["stitch"] = timed.other + timed.step * config.stitch.steps
    return {"total": sum(seconds.values()), **seconds}


def fast_slice(sides: Sides, plan: Plan, prepared: Prepared) -> dict[str, float]:
    """B's seconds per frame of the whole shot, from all stages on a few frames; what does not depend on the shot's
    length (the tuning, the shared offset) is divided among all of its frames."""
    networks, config, device, dtype = sides.networks, sides.fast, sides.device, sides.dtype
    settings, frames, pivots = config.invert, prepared.frames, prepared.pivots
    pair, total = (networks.generator, networks.perceptual), len(sides.shot)
    count = len(frames)
    parts: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any], share: float) -> Any:
        start = now(device)
        made = work()
        parts[name] = (now(device) - start) * share
        return made

    timed("encode", lambda: invert.encode_pivots(networks.encoder, frames.crops, settings.batch_size, dtype), 1 / count)
    few = min(8, settings.shared_steps)
    if few:
        short = dataclasses.replace(settings, shared_steps=few)
        work = lambda: invert.shared_offset(*pair, pivots, lambda i: frames.crops[i], short, dtype, config.seed)  # noqa: E731
        timed("shared offset", work, settings.shared_steps / few / total)
    timed("refine", lambda: invert.refine_pivots(*pair, frames.crops, pivots, settings, dtype), 1 / count)
    few, planned = _tuning_slice(settings), _tuning_steps(settings, total)
    made = timed("tune", lambda: _tune(sides, prepared, few), planned / few / total)
    ws, fields = timed("optimise", lambda: _follow(sides, prepared, made), 1 / count)
    clock = fast.Clock(device)
    fast.stitch_shot(networks, made.generator, made.pivots, ws, fields, frames, config, device, dtype, clock)
    parts["stitch"] = clock.seconds["stitch"] / count
    inversion = sum(parts[name] for name in ("encode", "shared offset", "refine", "tune") if name in parts)
    stages = {"invert": inversion, "optimise": parts["optimise"], "stitch": parts["stitch"]}
    return {"total": sum(stages.values()), **stages, **{k: v for k, v in parts.items() if k not in stages}}


def outcome(sides: Sides, plan: Plan, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """B on the whole shot, A on a few of its frames, both judged on these: objective, landmarks, pictures, curves."""
    networks, shot, device = sides.networks, sides.shot, sides.device
    rows, groups = plain_rows(len(shot), plan.plain_frames)
    few = shot[rows]
    wanted = _wanted(sides, few)
    sides.set_up("b")
    with PeakMemory(device) as peak:
        made = fast.run(networks, shot, sides.fast, device, sides.dtype, lambda stage: report(f"B: {stage} done"))
    found: dict[str, Any] = {"frames": rows, "seconds_b": made.seconds, "memory_gb_b": peak.gb}
    curve_b = _fast_curve(sides, made, rows, wanted, groups)
    sides.set_up("a")
    generator, pivots, curves = made.generator, made.pivots[rows], {"b": {"optimise": curve_b}}
    curves["b"]["invert"] = _curve([made.seconds["tuning"] / max(1, len(made.losses))] * len(made.losses), made.losses)
    curves["a"] = {}
    if plan.outcome == "complete":
        generator, pivots, timed = plain.invert(
            networks, few.crops, sides.paper, device, sides.paper.invert.passes, sides.paper.seed
        )
        curves["a"]["invert"] = _curve(timed.steps, timed.losses)
        report("A: inversion done")
    inputs = networks, generator, few.crops
    ws, times = plain.follow(
        *inputs, pivots, wanted, sides.paper, sides.paper.optimise.steps, groups
    )  # fmt: skip
    curves["a"]["optimise"] = _curve(np.mean([t.steps for t in times], 0), np.mean([t.losses for t in times], 0))
    report("A: optimisation done")
    pictures, masks, _ = plain.stitch(*inputs, ws, sides.paper, sides.paper.stitch.steps)
    report("A: stitching done")
    alpha = (masks.alpha[:, 0] * 255).round().byte().cpu().numpy()
    seen = {"a": to_crops(pictures), "b": made.pictures[rows]}
    alphas = {"a": alpha, "b": made.alpha[rows]}
    codes = {
        "a": (generator, ws), "b": (made.generator, made.ws[rows]), "start": (made.generator, made.pivots[rows])
    }  # fmt: skip
    found |= objectives(sides, few, wanted, groups, codes)
    found["reconstruction_db"] = {
        "a": score.reconstruction_db(generator, pivots, few.crops),
        "b": score.reconstruction_db(made.generator, made.pivots[rows], few.crops),
    }
    judged = {side: score.scores(networks, score.pasted(seen[side], alphas[side], few.crops), few) for side in "ab"}
    judged["unedited"] = score.scores(networks, few.crops, few)
    for name in ("f_ld", "m_ld", "psnr", "ssim"):
        found[name] = {side: judged[side][name] for side in judged}
    everything = score.scores(networks, score.pasted(made.pictures, made.alpha, shot.crops), shot)
    found["whole_shot_b"] = everything
    found["curves"] = curves
    found["inversion_of_a"] = "run to its end" if plan.outcome == "complete" else "B's (A's own is timed only)"
    return found


def objectives(sides: Sides, few: Shot, wanted: torch.Tensor, groups, codes: dict[str, tuple]) -> dict[str, Any]:
    """Equation (5) of these codes (generator, ws), of the unedited shot and of the true take, towards the targets, and
    with the true take in the place of source and targets; nan where there is none."""
    networks, paper, known = sides.networks, sides.paper, few.truth is not None
    aims = {"objective": (few, wanted)}
    aims |= {"objective_to_truth": score.towards_truth(networks, few, sides.device)} if known else {}
    found: dict[str, Any] = {"objective_to_truth": dict.fromkeys([*codes, "unedited"], float("nan"))}
    for name, (aim, maps) in aims.items():
        given = aim, paper, maps
        found[name] = {k: float(score.objective(networks, *code, *given, groups).mean()) for k, code in codes.items()}
        found[name]["unedited"] = score.objective_of_pictures(networks, few.crops, *given)
    true = score.objective_of_pictures(networks, few.truth, few, paper, wanted) if known else float("nan")
    found["objective"]["truth"] = true
    return found


def _wanted(sides: Sides, frames: Shot) -> torch.Tensor:
    """The target heat maps that B follows; A gets the same."""
    kind, sigma_cells = sides.fast.optimise.target_heatmaps, sides.paper.optimise.sigma_cells
    return plain.target_maps(sides.networks, frames, kind, sigma_cells, sides.device)


def plain_rows(num_frames: int, wanted: int) -> tuple[list[int], list[list[int]]]:
    """Frames for A, in pairs of neighbours spread over the shot, and these pairs by their place in the list."""
    pairs = max(1, wanted // 2)
    starts = np.unique(np.linspace(0, max(0, num_frames - 2), pairs + 2).round().astype(int)[1:-1])
    rows = [[int(s), int(s) + 1] if s + 1 < num_frames and wanted > 1 else [int(s)] for s in starts]
    flat = sorted({row for pair in rows for row in pair})
    return flat, [[flat.index(row) for row in pair] for pair in rows]


def _tune(sides: Sides, prepared: Prepared, steps: int) -> invert.Tuning:
    networks, frames = sides.networks, prepared.frames
    config = dataclasses.replace(sides.fast.invert, steps=steps, passes=0)
    return invert.tune_generator(
        networks.generator, networks.perceptual, prepared.pivots, lambda i: frames.crops[i], config,
        dtype=sides.dtype, seed=sides.fast.seed,
    )  # fmt: skip


def _follow(sides: Sides, prepared: Prepared, made: invert.Tuning) -> tuple[torch.Tensor, np.ndarray | None]:
    """Codes of a slice's frames, as if they were the shot, and the fields that bend their pictures."""
    clock = fast.Clock(sides.device)
    given = sides.networks, made.generator, made.pivots, prepared.frames, sides.fast, sides.device, sides.dtype
    return fast.follow_shot(*given, clock)[:2]


def _tuning_slice(settings) -> int:
    return max(1, settings.locality_every if settings.lambda_locality > 0 else 4)


def _tuning_steps(settings, num_frames: int) -> int:
    batch = min(settings.batch_size, num_frames)
    return settings.passes * num_frames // batch if settings.passes else settings.steps


def _curve(seconds, losses) -> dict[str, list[float]]:
    return {"seconds": np.cumsum(seconds).round(4).tolist(), "loss": np.asarray(losses, float).round(6).tolist()}


def _fast_curve(
    sides: Sides, made: fast.Made, rows: list[int], wanted: torch.Tensor, groups: list[list[int]]
) -> dict[str, list[float]]:
    """The paper's objective of these frames before and after B's steps, against B's time per frame."""
    seconds = made.seconds["optimise"] / len(made.ws)
    few = sides.shot[rows]
    ends = [score.objective(sides.networks, made.generator, ws[rows], few, sides.paper, wanted, groups).mean()
            for ws in (made.pivots, made.ws)]  # fmt: skip
    return {"seconds": [0.0, seconds], "loss": [float(v) for v in ends]}


def _plain_flops(sides: Sides, prepared: Prepared) -> dict[str, float]:
    """Operations per frame of A, from one step of every stage."""
    one, config = Plan(plain_steps=1), sides.paper
    crops, wanted = prepared.frames.crops[:1], _wanted(sides, prepared.frames[:1])
    networks, pivots = sides.networks, prepared.pivots[:1]
    kept: list[Any] = []
    steps = one.plain_steps
    flops = {
        "invert": config.invert.passes
        * count_flops(lambda: kept.append(plain.invert(networks, crops, config, sides.device, steps)[0])),
        "optimise": config.optimise.steps
        * count_flops(lambda: plain.follow(networks, kept[0], crops, pivots, wanted, config, steps, [[0]])),
        "stitch": config.stitch.steps
        * count_flops(lambda: plain.stitch(networks, kept[0], crops, pivots, config, steps)),
    }  # fmt: skip
    return {"total": sum(flops.values()), **flops}


def _fast_flops(sides: Sides, plan: Plan, prepared: Prepared) -> dict[str, float]:
    """Operations per frame of B, counted while a slice runs."""
    networks, settings, dtype = sides.networks, sides.fast.invert, sides.dtype
    pair, frames, total = (networks.generator, networks.perceptual), prepared.frames, len(sides.shot)
    few, count = _tuning_slice(settings), len(frames)
    kept: list[Any] = []
    flops = count_flops(lambda: kept.append(_tune(sides, prepared, few))) * _tuning_steps(settings, total) / few / total
    made = kept[0]
    flops += count_flops(lambda: invert.refine_pivots(*pair, frames.crops, prepared.pivots, settings, dtype)) / count
    if settings.shared_steps:
        short = dataclasses.replace(settings, shared_steps=1)
        once = count_flops(
            lambda: invert.shared_offset(*pair, prepared.pivots, lambda i: frames.crops[i], short, dtype)
        )
        flops += once * settings.shared_steps / total
    following = count_flops(lambda: kept.extend(_follow(sides, prepared, made)))
    clock, (ws, fields) = fast.Clock(sides.device), kept[1:]
    stitching = count_flops(
        lambda: fast.stitch_shot(
            networks, made.generator, made.pivots, ws, fields, frames, sides.fast, sides.device, dtype, clock
        )
    )  # fmt: skip
    stages = {"invert": flops, "optimise": following / count, "stitch": stitching / count}
    return {"total": sum(stages.values()), **stages}
