"""What was measured, for people (text, Markdown, a picture) and for programs (JSON).

Keys of the JSON, A being the paper's procedure and B the preset that is measured:

`ratio.{total,optimise,invert,stitch}`: seconds per frame of A over B, median of the rounds; `ratio_spread`: least and
greatest. `seconds_per_frame.{a,b}`: per stage, and B's parts. `memory_gb.{a,b}`. `flops_per_frame.{a,b}`;
`peak_tflops`: of a matrix product in B's precision; `floor_share.{a,b}`: time of the operations at that peak over the
measured time. `objective.{a,b,start,unedited,truth}`: equation (5), also of pictures that need no code, the unedited
shot's and the true take's; `objective_to_truth.{a,b,start,unedited}`: with the true take in the source's place; `f_ld`,
`m_ld`, `psnr`, `ssim` with `{a,b,unedited}`, against the true take on `outcome_frames`; null where not measured;
`reconstruction_db.{a,b}`, `inversion_of_a`: whose it is; `whole_shot_b`, `seconds_b`, `memory_gb_b`: B run to its end.
`profile`, `by_batch_ms`, `by_resolution_ms`, `by_length_s`; `kernels_ms`, `kernels_state`: on a GPU; `curves`;
`setting`.
"""

import json
import math
from pathlib import Path
from typing import Any

STAGES = {"invert": "inversion", "optimise": "optimisation", "stitch": "stitching", "total": "all three"}
SCORES = {"objective": "objective (5)", "objective_to_truth": "objective (5) to the true take"}
SCORES |= {"f_ld": "F-LD px", "m_ld": "M-LD px", "psnr": "PSNR dB", "ssim": "SSIM"}


def to_json(found: dict[str, Any]) -> str:
    return json.dumps(_plain(found), indent=1) + "\n"


def to_markdown(found: dict[str, Any]) -> str:
    """The two tables that answer: how much faster, and at what result."""
    seconds, ratio, spread = found["seconds_per_frame"], found["ratio"], found["ratio_spread"]
    lines = [
        "| seconds per frame | A: paper | B: preset | A / B (least to greatest) | B's share of its floor |",
        "|---|---:|---:|---:|---:|",
    ]
    for stage, label in STAGES.items():
        low, high = spread[stage]
        floor = _cell(found["floor_share"]["b"].get(stage), "{:.0%}")
        lines.append(
            f"| {label} | {_number(seconds['a'][stage])} | {_number(seconds['b'][stage])} | "
            f"**{ratio[stage]:.0f}** ({low:.0f} to {high:.0f}) | {floor} |"
        )
    memory = found["memory_gb"]
    lines.append(f"| peak memory, GB | {memory['a']:.2f} | {memory['b']:.2f} | | |")
    if "objective" in found:
        lines += ["", "| | A: paper | B: preset | unedited |", "|---|---:|---:|---:|"]
        for name, label in SCORES.items():
            row = found[name]
            cells = [_cell(row.get(side), "{:.4f}") for side in ("a", "b", "unedited")]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def to_text(found: dict[str, Any]) -> str:
    """Everything, with what was scaled and how."""
    setting, flops = found["setting"], {side: row["total"] / 1e9 for side, row in found["flops_per_frame"].items()}
    lines = [
        f"{setting['hardware']}; PyTorch {setting['torch']}; {setting['networks']}, {setting['resolution']} px; "
        f"{setting['frames']} frames of {setting['shot']}",
        f"A: paper's procedure, float32, {setting['threads_a']}. "
        f"B: preset {setting['preset']}, {setting['precision']}, {setting['threads_b']}.",
        f"Both timed in turns, {setting['rounds']} rounds of {setting['plain_steps']} steps of every stage of A "
        f"(scaled to {setting['steps_a']}) and {setting['slice_frames']} frames of B (its tuning on some of its steps, "
        f"shared among {setting['frames']} frames); {setting['clock']} clock.",
        "",
        to_markdown(found).rstrip(),
        "",
        f"peak of a matrix product: {found['peak_tflops']:.2f} TFLOP/s in {setting['precision']}; "
        f"operations per frame, GFLOP: A {flops['a']:.0f}, B {flops['b']:.0f}",
        "parts of B, s per frame: "
        + ", ".join(f"{k} {_number(v)}" for k, v in found["seconds_per_frame"]["b"].items() if k not in STAGES),
    ]
    for side, rows in found.get("profile", {}).items():
        parts = ", ".join(f"{k} {r['ms']:.1f} ms ({r['share']:.0%}, {r['gflop']:.1f} GFLOP)" for k, r in rows.items())
        lines.append(f"one step of {side.upper()}, per frame: {parts}")
    for key, label in {
        "by_batch_ms": "B's step, ms per frame, by batch",
        "by_resolution_ms": "B's generator, ms per frame, by the side at which it stops",
        "by_length_s": "whole run of B, s, by frames",
        "kernels_ms": "B's generator, ms per frame, what follows a convolution",
    }.items():
        if key in found:
            lines.append(f"{label}: " + ", ".join(f"{k}: {_number(v)}" for k, v in found[key].items()))
    if "objective" in found:
        lines.append(
            f"scores on frames {found['outcome_frames']} against the true take; "
            f"objective towards {setting['targets']} heat maps; A's inversion: {found['inversion_of_a']}; "
            f"objective before either: {found['objective']['start']:.4f}, of the true take itself: "
            f"{_cell(found['objective']['truth'], '{:.4f}')}; reconstruction: "
            + ", ".join(f"{side.upper()} {value:.2f} dB" for side, value in found["reconstruction_db"].items())
        )
        whole = ", ".join(f"{k} {_cell(v, '{:.4f}')}" for k, v in found["whole_shot_b"].items())
        lines.append(f"B on the whole shot: {whole}; seconds as run: {_seconds(found['seconds_b'])}")
    return "\n".join(lines) + "\n"


def draw_curves(path: Path, curves: dict[str, Any]) -> None:
    """Loss against time, one panel per stage: A's and B's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    stages = [s for s in ("invert", "optimise") if any(s in curves[side] for side in curves)]
    figure, panels = pyplot.subplots(1, len(stages), figsize=(5 * len(stages), 3.6), squeeze=False)
    labels = {"invert": "inversion: equation (4), whole run", "optimise": "optimisation: equation (5), per frame"}
    for panel, stage in zip(panels[0], stages, strict=True):
        for side, colour in (("a", "tab:grey"), ("b", "tab:blue")):
            if stage in curves.get(side, {}):
                curve = curves[side][stage]
                panel.plot(_smoothed(curve["seconds"]), _smoothed(curve["loss"]), color=colour, label=side.upper())
        panel.set(xscale="symlog", xlabel="seconds", title=labels[stage])
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _smoothed(values: list[float]) -> list[float]:
    """Means of groups where there are very many."""
    size = max(1, len(values) // 300)
    return [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else form.format(value)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _seconds(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
