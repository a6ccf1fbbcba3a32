"""One self-contained HTML page about a run: film strip, loss curves, timings, scores, kept frames, configuration."""

import base64
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import safe_open

from hdtalk.config import MediaConfig
from hdtalk.draw import draw_landmarks
from hdtalk.face_landmarks import frame_ranges
from hdtalk.files import write_atomically
from hdtalk.media import DEFAULTS, probe, read_frames

STRIP_FRAMES = 8
STRIP_PX = 168
FACE_MARGIN = 1.9  # side of the pictures over the longer side of the landmarks' box
PER_FRAME = ("loss.start", "loss.total", "loss.lpips", "loss.landmarks", "border", "border_before")
SCORES = {
    "encoder_psnr_db": "inversion by the encoder alone, PSNR (dB)",
    "encoder_ssim": "inversion by the encoder alone, SSIM",
    "encoder_lpips": "inversion by the encoder alone, LPIPS",
    "psnr_db": "inversion after tuning, PSNR (dB)",
    "ssim": "inversion after tuning, SSIM",
    "lpips": "inversion after tuning, LPIPS",
    "objective_start": "optimisation objective before, mean over frames",
    "objective_total": "optimisation objective after, mean over frames",
    "loss_lpips": "LPIPS to the inverted frame after optimisation",
    "loss_landmarks": "landmark loss after optimisation",
    "mouths_beyond_shot": "share of frames whose mouth is beyond what the shot shows",
    "border_before": "boundary loss before stitching",
    "border": "boundary loss after stitching",
}


def write_report(
    path: str | Path,
    manifest: Mapping[str, Any],
    job: str | Path,
    source: str | Path,
    output: str | Path,
    order: np.ndarray,
    source_px: np.ndarray | None = None,
    landmarks_px: np.ndarray | None = None,
    media: MediaConfig = DEFAULTS,
) -> Path:
    """Writes the page and returns its path.

    `manifest`: content of OUT.json; `job`: the run's folder; `order` int64 [T]: frame of `source` that each frame of
    `output` comes from; `source_px`, `landmarks_px` float [T,68,2]: the source's and the target landmarks in pixels of
    the full frame. A chart whose data the job does not hold is left out. `media`: how the source is read.
    """
    job, title = Path(job), Path(output).name
    sections = [
        _section("Frames", _film_strip(source, output, order, source_px, landmarks_px, media)),
        _section("Losses", "".join(_charts(job))),
        _section("Time", _timings(manifest.get("seconds", {}))),
        _section("Scores", _scores(manifest.get("scores", {}))),
        _section("Frames left as they are", _kept(manifest.get("frames", {}))),
        _section("Configuration", _tree(manifest.get("configuration", {}))),
        _section("Provenance", _tree({k: v for k, v in manifest.items() if k not in SHOWN_ELSEWHERE})),
    ]
    page = PAGE.format(
        title=html.escape(title), facts=_facts(manifest), notice=_notice(manifest), body="".join(sections)
    )
    write_atomically(Path(path), page.encode())
    return Path(path)


SHOWN_ELSEWHERE = ("seconds", "scores", "frames", "configuration", "domain")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _facts(manifest: Mapping[str, Any]) -> str:
    bundle, frames = manifest.get("bundle", {}), manifest.get("frames", {})
    facts = {
        "video": Path(manifest.get("inputs", {}).get("video", {}).get("path", "")).name,
        "speech": Path(manifest.get("inputs", {}).get("speech", {}).get("path", "")).name,
        "emotion": manifest.get("emotion"),
        "frames": f"{frames.get('edited', '?')} of {manifest.get('output', {}).get('frames', '?')} edited",
        "bundle": f"{bundle.get('name', '?')}, {bundle.get('resolution', '?')} px",
        "device": f"{manifest.get('device', '?')}, {manifest.get('precision', '?')}",
        "time": f"{sum(manifest.get('seconds', {}).values()):.0f} s",
    }
    items = (f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in facts.items() if value)
    return f"<dl class=facts>{''.join(items)}</dl>"


def _notice(manifest: Mapping[str, Any]) -> str:
    domain = manifest.get("domain", {})
    if not domain.get("notice"):
        return ""
    kind = "good" if domain.get("inside") else "bad"
    return f"<p class='notice {kind}'>{html.escape(str(domain['notice']))}</p>"


# ------------------------------------------------------------------------------------------------ film strip


def _film_strip(source, output, order: np.ndarray, source_px, landmarks_px, media: MediaConfig) -> str:
    num_frames = min(len(order), probe(output).num_frames)
    chosen = np.unique(np.linspace(0, num_frames - 1, min(STRIP_FRAMES, num_frames)).round().astype(int))
    fps = float(probe(output).fps)
    rows: dict[str, list[str]] = {"source": [], "target landmarks": [], "edited": []}
    for index in chosen:
        before, after = _frame(source, int(order[index]), media), _frame(output, int(index))
        box = _box(before, None if source_px is None else source_px[index])
        rows["source"].append(_picture(_cut(before, box)))
        rows["edited"].append(_picture(_cut(after, box)))
        if landmarks_px is not None:
            drawn = draw_landmarks(before // 3, landmarks_px[index])
            rows["target landmarks"].append(_picture(_cut(drawn, box)))
    head = "".join(f"<th>{index}<br><small>{index / fps:.2f} s</small></th>" for index in chosen)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{picture}</td>' for picture in pictures)}</tr>"
        for name, pictures in rows.items()
        if pictures
    )
    return f"<div class=scroll><table class=strip><tr><th>frame</th>{head}</tr>{body}</table></div>"


def _frame(path, index: int, media: MediaConfig = DEFAULTS) -> np.ndarray:
    return next(read_frames(path, index, index + 1, media))


def _box(frame: np.ndarray, points_px: np.ndarray | None) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a square around the face, inside the frame; the whole frame without landmarks."""
    height, width = frame.shape[:2]
    if points_px is None:
        return 0, 0, width, height
    low, high = points_px.min(axis=0), points_px.max(axis=0)
    side = int(min(FACE_MARGIN * float((high - low).max()), width, height))
    x, y = np.clip(np.round((low + high - side) / 2), 0, [width - side, height - side]).astype(int)
    return int(x), int(y), int(x) + side, int(y) + side


def _cut(frame: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    picture = frame[box[1] : box[3], box[0] : box[2]]
    scale = STRIP_PX * 2 / max(picture.shape[:2])  # twice as fine as shown, for dense screens
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return picture


def _picture(frame: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    encoded = base64.b64encode(data.tobytes()).decode()
    return f"<img src='data:image/jpeg;base64,{encoded}' width={STRIP_PX} alt=''>"


# ---------------------------------------------------------------------------------------------------- charts


def _charts(job: Path) -> Iterator[str]:
    losses = _stage_table(job, "tuning").get("losses")
    if losses:
        yield _chart("Tuning of the generator: equation (4) per step", {"loss": losses}, "step", log=True)
    solved = _per_frame(job, "optimisation", first_chunk=1)
    if {"loss.start", "loss.total"} <= set(solved):
        series = {"before": solved["loss.start"], "after": solved["loss.total"]}
        yield _chart("Optimisation: objective of equation (5) per frame", series, "edited frame", log=True)
    if {"loss.lpips", "loss.landmarks"} <= set(solved):
        parts = {"LPIPS": solved["loss.lpips"], "landmarks": solved["loss.landmarks"]}
        yield _chart("Optimisation: what remains, per frame", parts, "edited frame")
    stitched = _per_frame(job, "stitching", first_chunk=0)
    if {"border", "border_before"} <= set(stitched):
        series = {"before": stitched["border_before"], "after": stitched["border"]}
        yield _chart("Stitching: boundary loss per frame", series, "edited frame", log=True)


def _stage_table(job: Path, stage: str) -> dict[str, Any]:
    try:
        return json.loads((job / stage / "stage.json").read_text())["table"]
    except (OSError, ValueError, KeyError):
        return {}


def _per_frame(job: Path, stage: str, first_chunk: int) -> dict[str, np.ndarray]:
    """The stage's series, all chunks in order; their pictures and weights stay on disk."""
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted((job / stage).glob("*.safetensors")):
        if not path.stem.isdigit() or int(path.stem) < first_chunk:
            continue
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name in PER_FRAME:
                    found.setdefault(name, []).append(file.get_tensor(name))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _chart(title: str, series: Mapping[str, Sequence[float] | np.ndarray], x_label: str, log: bool = False) -> str:
    """An SVG of lines over their index. Values that are not finite (or, on a log axis, not positive) are gaps."""
    width, height, left, right, top, bottom = 560, 210, 58, 12, 12, 34
    curves = {name: np.asarray(values, float) for name, values in series.items()}
    curves = {name: np.where(np.isfinite(y) & ((y > 0) | (not log)), y, np.nan) for name, y in curves.items()}
    finite = np.concatenate([y[~np.isnan(y)] for y in curves.values()])
    if not len(finite):
        return ""
    scale = np.log10 if log else np.asarray
    low, high = float(scale(finite.min())), float(scale(finite.max()))
    low = low if log else min(low, 0.0)
    high = high if high > low else low + 1
    count = max(map(len, curves.values()))

    def x_of(index: float) -> float:
        return left + (width - left - right) * index / max(count - 1, 1)

    def y_of(value: float) -> float:
        return height - bottom - (height - top - bottom) * (value - low) / (high - low)

    marks = []
    for tick in np.linspace(low, high, 4):
        label = f"{10**tick if log else tick:.3g}"
        marks.append(f"<line class=grid x1={left} x2={width - right} y1={y_of(tick):.1f} y2={y_of(tick):.1f} />")
        marks.append(f"<text x={left - 6} y={y_of(tick) + 4:.1f} text-anchor=end>{label}</text>")
    for index in sorted({0, (count - 1) // 2, count - 1}):
        marks.append(f"<text x={x_of(index):.1f} y={height - bottom + 16} text-anchor=middle>{index}</text>")
    marks.append(
        f"<text x={(left + width - right) / 2} y={height - 4} text-anchor=middle>{html.escape(x_label)}</text>"
    )
    for number, (_, y) in enumerate(curves.items()):
        for run in _runs(y):
            points = " ".join(f"{x_of(i):.1f},{y_of(float(scale(y[i]))):.1f}" for i in run)
            if len(run) == 1:
                x, _, value = points.partition(",")
                marks.append(f"<circle class='c{number}' cx={x} cy={value} r=2.5 />")
            else:
                marks.append(f"<polyline class='l{number}' points='{points}' />")
    legend = "".join(f"<span class='k{number}'>{html.escape(name)}</span>" for number, name in enumerate(curves))
    picture = f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{html.escape(title)}'>{''.join(marks)}</svg>"
    return f"<figure><figcaption>{html.escape(title)} <small>{legend}</small></figcaption>{picture}</figure>"


def _runs(values: np.ndarray, most: int = 600) -> Iterator[np.ndarray]:
    """Indices of consecutive numbers; long runs are thinned to what a chart can show."""
    indices = np.flatnonzero(~np.isnan(values))
    for run in np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1):
        if len(run) > most:
            run = run[np.unique(np.linspace(0, len(run) - 1, most).round().astype(int))]
        if len(run):
            yield run


# ---------------------------------------------------------------------------------------------------- tables


def _timings(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    rows = (
        f"<tr><th>{html.escape(stage)}</th><td class=number>{value:.1f} s</td>"
        f"<td class=wide><div class=bar style='width:{100 * value / total:.1f}%'></div></td></tr>"
        for stage, value in seconds.items()
    )
    return f"<table>{''.join(rows)}</table>" if seconds else ""


def _scores(scores: Mapping[str, Any]) -> str:
    rows = (
        f"<tr><th>{html.escape(SCORES.get(name, name))}</th><td class=number>{_plain(value)}</td></tr>"
        for name, value in scores.items()
    )
    return f"<table>{''.join(rows)}</table>" if scores else ""


def _kept(frames: Mapping[str, Any]) -> str:
    kept = frames.get("kept") or {}
    if not kept:
        return "<p>None: every frame was edited.</p>"
    rows = (
        f"<tr><th>{html.escape(reason)}</th><td class=number>{len(numbers)}</td>"
        f"<td>{', '.join(frame_ranges(numbers))}</td></tr>"
        for reason, numbers in kept.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _tree(content: Mapping[str, Any]) -> str:
    """Nested tables: plain values first, then each group behind its name."""
    plain = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    rows = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_plain(value))}</td></tr>"
        for name, value in plain.items()
    )
    groups = "".join(
        f"<details><summary>{html.escape(str(name))}</summary>{_tree(value)}</details>"
        for name, value in content.items()
        if isinstance(value, Mapping) and value
    )
    return (f"<table>{rows}</table>" if rows else "") + groups


def _plain(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.5g}"
    return "" if value is None else str(value)


PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><title>{title}: HDTalk report</title>
<meta name=viewport content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#1d2433, #e8ebf2); --soft: light-dark(#68718a, #98a1b8);
  --line: light-dark(#dfe3ec, #363d4e); --paper: light-dark(#ffffff, #171b24); --a: #3b7ddd; --b: #e0873a; }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
  margin: 0 auto; padding: 28px 20px 60px; }}
h1 {{ font-size: 25px; margin: 0 0 10px; }} h2 {{ font-size: 17px; margin: 34px 0 10px; }}
small, dt, .strip th, text {{ color: var(--soft); fill: var(--soft); }}
.facts {{ display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 0; }} dt {{ font-size: 12px; }} dd {{ margin: 0; }}
.notice {{ border-left: 4px solid var(--a); padding: 6px 12px; }} .notice.bad {{ border-color: #d3453d; }}
table {{ border-collapse: collapse; }} th {{ text-align: left; font-weight: 500; padding: 3px 14px 3px 0; }}
td {{ padding: 3px 14px 3px 0; overflow-wrap: anywhere; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.wide {{ width: 420px; }} .bar {{ height: 11px; background: var(--a); border-radius: 2px; min-width: 1px; }}
.scroll {{ overflow-x: auto; }} .strip td {{ padding: 2px; }} .strip img {{ display: block; border-radius: 3px; }}
.strip th {{ font-size: 12px; padding-right: 8px; }}
figure {{ display: inline-block; width: 560px; max-width: 100%; margin: 0 16px 18px 0; }}
figcaption {{ margin-bottom: 4px; }} figcaption span {{ margin-left: 12px; }}
figcaption span::before {{ content: "\\25CF "; }}
.k0 {{ color: var(--a); }} .k1 {{ color: var(--b); }}
svg {{ width: 100%; }} text {{ font-size: 11px; }} .grid {{ stroke: var(--line); }}
polyline {{ fill: none; stroke-width: 1.6; stroke-linejoin: round; }}
.l0 {{ stroke: var(--a); }} .l1 {{ stroke: var(--b); }} .c0 {{ fill: var(--a); }} .c1 {{ fill: var(--b); }}
details {{ margin: 4px 0 4px 4px; }} summary {{ cursor: pointer; }} details > * + * {{ margin-left: 18px; }}
</style></head>
<body><h1>{title}</h1>{facts}{notice}{body}</body></html>
"""
