"""What an evaluation found, and its four faces: terminal table, JSON, CSV, Markdown."""

import csv
import io
import json
import math
from dataclasses import dataclass, field

from hdtalk.metrics import METRICS, STAND_IN_SUFFIX, Metric


@dataclass(frozen=True)
class ClipScores:
    """One clip of one method. `values`: column -> value, nan where it could not be measured."""

    method: str
    clip: str
    num_frames: int
    values: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """`scores`: method -> column -> value over all its clips; `clips`: the same clip by clip (without FID, which only
    a whole set has); `definitions`: column -> what exactly was computed; `missing`: column -> why it is not there;
    `failures`: a line for each clip of a method that could not be scored, and has no part in its numbers."""

    crop: str
    scores: dict[str, dict[str, float]]
    clips: list[ClipScores]
    definitions: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(self.definitions)

    def best(self, column: str) -> float:
        """The best value of a column among the methods; nan when there is nothing to compare."""
        values = [row[column] for row in self.scores.values() if not math.isnan(row[column])]
        if len(values) < 2:
            return math.nan
        return min(values) if metric_of(column).better == "lower" else max(values)


def metric_of(column: str) -> Metric:
    return METRICS[column.removesuffix(STAND_IN_SUFFIX)]


def to_text(evaluation: Evaluation) -> str:
    """Table, then every column's exact definition, then what is missing and what to know. `*` marks the best."""
    rows = [["method", *map(_heading, evaluation.columns)]]
    for method, row in evaluation.scores.items():
        marks = ["*" if row[column] == evaluation.best(column) else " " for column in evaluation.columns]
        rows.append([method, *(f"{_number(row[c])}{mark}" for c, mark in zip(evaluation.columns, marks, strict=True))])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*table, "", *_remarks(evaluation)])


def to_markdown(evaluation: Evaluation) -> str:
    """The table with the best values in bold, and the same remarks as a list."""
    lines = [
        f"| method | {' | '.join(map(_heading, evaluation.columns))} |",
        f"|---|{'---:|' * len(evaluation.columns)}",
    ]
    for method, row in evaluation.scores.items():
        cells = [
            f"**{_number(row[column])}**" if row[column] == evaluation.best(column) else _number(row[column])
            for column in evaluation.columns
        ]
        lines.append(f"| {_escaped(method)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {_escaped(remark)}" for remark in _remarks(evaluation)), ""])


def to_json(evaluation: Evaluation) -> str:
    """`scores`: method -> column -> value. JSON has no infinity: an infinite value is the string "inf"; one that
    could not be measured is null."""

    def plain(values: dict[str, float]) -> dict[str, float | str | None]:
        return {column: json_number(value) for column, value in values.items()}

    content = {
        "crop": evaluation.crop,
        "scores": {method: plain(row) for method, row in evaluation.scores.items()},
        "clips": [
            {
                "method": clip.method,
                "clip": clip.clip,
                "num_frames": clip.num_frames,
                **plain(clip.values),
                "notes": clip.notes,
            }
            for clip in evaluation.clips
        ],
        "definitions": evaluation.definitions,
        "missing": evaluation.missing,
        "notes": evaluation.notes,
        "failures": evaluation.failures,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """One line per method and clip, then one per method over all its clips (clip = `*`); empty = not measured."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "clip", "num_frames", *evaluation.columns])
    for clip in evaluation.clips:
        writer.writerow([clip.method, clip.clip, clip.num_frames, *_cells(evaluation.columns, clip.values)])
    for method, row in evaluation.scores.items():
        num_frames = sum(clip.num_frames for clip in evaluation.clips if clip.method == method)
        writer.writerow([method, "*", num_frames, *_cells(evaluation.columns, row)])
    return stream.getvalue()


def json_number(value: float) -> float | str | None:
    """A score as JSON can hold it: nothing for one that was not measured, "inf" for an infinite one."""
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else value


def _cells(columns: list[str], values: dict[str, float]) -> list[str]:
    numbers = [values.get(column, math.nan) for column in columns]
    return ["" if math.isnan(number) else repr(float(number)) for number in numbers]


def _heading(column: str) -> str:
    return f"{column}{metric_of(column).arrow}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def _remarks(evaluation: Evaluation) -> list[str]:
    remarks = [f"{column}: {definition}" for column, definition in evaluation.definitions.items()]
    remarks += [f"{column}: not measured. {reason}" for column, reason in evaluation.missing.items()]
    remarks += [f"left out: {failure}" for failure in evaluation.failures]
    remarks += [f"note: {note}" for note in evaluation.notes]
    remarks += [f"note: {clip.method}, {clip.clip}: {note}" for clip in evaluation.clips for note in clip.notes]
    return remarks


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
