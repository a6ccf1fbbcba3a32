"""Runs methods over a test set and scores what they made; what is there already is not made again."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.io import wavfile

from hdtalk.audio import read_audio
from hdtalk.command import ResumableCommand
from hdtalk.config import EditConfig, EvaluateConfig, MediaConfig
from hdtalk.device import resolve_device
from hdtalk.errors import HDTalkError, InputError, UsageError
from hdtalk.evaluate import evaluate
from hdtalk.files import file_hash, write_atomically
from hdtalk.instruments import face_tracker, installed_instruments
from hdtalk.landmarks import speak_shot
from hdtalk.media import VIDEO_SUFFIXES, VideoWriter, probe, read_frames
from hdtalk.options import resolve, split_settings
from hdtalk.outputs import check_outputs
from hdtalk.pairs import Pair
from hdtalk.pipeline import edit_video
from hdtalk.scores import Evaluation, json_number, to_markdown, to_text
from hdtalk.weights import Bundle, load_bundle, without_judges
from hdtalk.windows import SAMPLE_RATE

from .baselines import output_order, write_mouth_paste, write_unedited
from .testset import Item, read_items

Method = Callable[["Bench", Item, Path], None]

SETTINGS = "settings.json"  # in each method's folder: what its videos were made with


@dataclass(frozen=True)
class Bench:
    """Where and with what the methods run. `exact`: give them the renderer's landmarks (of the source, and of the truth
    as targets) instead of detecting and predicting them, so that the pictures alone are judged. `frames`: score only
    these of every clip (first, stop); the paper's procedure, whose frames wait for no later one, makes only them."""

    out: Path
    bundle: str = "auto"
    device: str = "auto"
    exact: bool = False
    label: bool = True  # tell the method the target's emotion; otherwise it listens to the voice
    options: tuple[tuple[str, Any], ...] = ()
    frames: tuple[int, int] | None = None

    def job(self, item: Item, suffix: str = "") -> Path:
        """One job per source shot for all its clips and all our methods: what they have in common, the inversion above
        all, is computed once."""
        source = item.source.with_suffix("")
        return self.out / "jobs" / ("_".join(source.relative_to(source.anchor).parts[-6:]) + suffix)


def ours(**options: Any) -> Method:
    """HDTalk with these options of `edit_video`."""
    return partial(_edit, options=options)


def _edit(bench: Bench, item: Item, output: Path, options: dict[str, Any]) -> None:
    given = options_of_row(options, bench)
    if bench.exact:
        given |= {"track": _exact(item, item.track), "landmarks": _exact(item, item.target)}
    elif bench.label and item.emotion:
        given["emotion"] = item.emotion
    job, speech = bench.job(item), item.speech
    if frames := _frames_made(options, bench):
        job = bench.job(item, "_{}_{}".format(*frames))
        speech, given = _part_of(bench, item, given, frames)
    edit_video(item.source, speech, output, bundle=bench.bundle, device=bench.device, job=job, overwrite=True, **given)


def options_of_row(options: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """What a row of these options asks of `edit_video`: preset and whole stages first, then the user's settings, and at
    last the row's single settings, so that "without tuning" stays without."""
    own = {name: value for name, value in options.items() if "." in name}
    return {name: options[name] for name in options.keys() - own} | dict(bench.options) | own


def _frames_made(options: dict[str, Any], bench: Bench) -> tuple[int, int] | None:
    """The frames that a method of these options makes, where it does not make the whole clip."""
    return bench.frames if options.get("preset") == "paper" else None


def _part_of(bench: Bench, item: Item, given: dict[str, Any], frames: tuple[int, int]) -> tuple[Path, dict[str, Any]]:
    """The part of the speech, and the options that edit only these frames, to the landmarks that the whole clip's edit
    would have there."""
    first, stop = frames
    fps = float(probe(item.source).fps)
    rest = {name: value for name, value in given.items() if name not in ("track", "landmarks", "emotion")}
    if "landmarks" not in given:
        given = rest | {
            "landmarks": speak_shot(
                item.source, item.speech, bundle=bench.bundle, emotion=given.get("emotion"),
                device=bench.device, config=resolve(rest),
            ).landmarks_px,
        }  # fmt: skip
    parts = {name: given[name][first:stop] for name in ("track", "landmarks") if name in given}
    speech = bench.out / "jobs" / f"{item.clip}_{first}_{stop}.wav"
    speech.parent.mkdir(parents=True, exist_ok=True)
    samples = read_audio(item.speech)[round(first / fps * SAMPLE_RATE) : round(stop / fps * SAMPLE_RATE)]
    wavfile.write(speech, SAMPLE_RATE, samples)
    return speech, given | parts | {"trim_start": first / fps, "trim_end": stop / fps}


def unedited(bench: Bench, item: Item, output: Path) -> None:
    write_unedited(item.source, item.speech, output)


def mouth_paste(bench: Bench, item: Item, output: Path) -> None:
    if bench.exact:
        source_px, target_px = _exact(item, item.track), _exact(item, item.target)
    else:
        device = resolve_device(bench.device)
        source_px = face_tracker(load_bundle(bench.bundle, device))(item.source).landmarks_px
        target_px = speak_shot(
            item.source, item.speech, bundle=bench.bundle, emotion=(item.emotion or None) if bench.label else None,
            track=source_px, device=str(device), config=EditConfig(speech=resolve(dict(bench.options)).speech),
        ).landmarks_px  # fmt: skip
    write_mouth_paste(item.source, item.speech, output, source_px, target_px)


def run_table(
    methods: dict[str, Method], items: list[Item], bench: Bench, others: dict[str, Path], crop: str = "face"
) -> Evaluation:
    """Makes every method's videos in OUT/METHOD/CLIP.mp4, adds other methods' folders, and scores them all.

    Raises UsageError before any work where a folder holds videos that were made with other settings."""
    made: dict[str, list[Pair]] = {}
    bundle = load_bundle(bench.bundle, resolve_device(bench.device))
    if bench.frames:
        _check_lengths(items, bench.frames[1])
    folders = {name: bench.out / name.replace(" ", "_").replace("/", "_") for name in methods}
    found = {name: _videos_of(folder) for name, folder in others.items()}
    clips = {item.clip: _inputs(item, bench) for item in items}
    earlier = {
        name: _check_settings(folders[name], _settings(method, bench, bundle), clips)
        for name, method in methods.items()
    }
    for name, method in methods.items():
        folders[name].mkdir(parents=True, exist_ok=True)
        settings = json.dumps(_settings(method, bench, bundle) | {"clips": earlier[name] | clips}, indent=1)
        write_atomically(folders[name] / SETTINGS, (settings + "\n").encode())
        for item in items:
            output = folders[name] / f"{item.clip}.mp4"
            if not output.exists():
                click.echo(f"{name}: {item.clip}", err=True)
                method(bench, item, output)
            made.setdefault(name, []).append(Pair(item.clip, output, item.truth))
    for name, videos in found.items():
        if not any(item.clip in videos for item in items):
            click.echo(f"{name} is left out: no video in {others[name]} is named like a clip", err=True)
        made[name] = [Pair(item.clip, videos[item.clip], item.truth) for item in items if item.clip in videos]
    instruments = installed_instruments(bench.bundle, resolve_device(bench.device))
    made = {name: pairs for name, pairs in made.items() if pairs}
    with tempfile.TemporaryDirectory(prefix="hdtalk_frames_") as folder:
        if bench.frames:
            whole = {name for name in made if name in others or not _frames_made(_options_of(methods[name]), bench)}
            made = {
                name: [_cut(pair, Path(folder), f"{rank}_{pair.clip}", bench.frames, name in whole) for pair in pairs]
                for rank, (name, pairs) in enumerate(made.items())
            }
        return evaluate(made, instruments, EvaluateConfig(crop=crop))


def _cut(pair: Pair, folder: Path, name: str, frames: tuple[int, int], is_whole: bool) -> Pair:
    """Copies of these frames of both videos, hardly compressed, silent; `is_whole`: the prediction has others too. That
    of the truth serves all methods."""
    prediction, truth = folder / f"{name}.mp4", folder / f"truth_{pair.clip}.mp4"
    own = frames if is_whole else (0, frames[1] - frames[0])
    for copy, video, (first, stop) in ((prediction, pair.prediction, own), (truth, pair.ground_truth, frames)):
        if copy.exists():
            continue
        with VideoWriter(copy, probe(video), None, config=MediaConfig(crf=0)) as writer:
            for frame in read_frames(video, first, stop):
                writer.write(frame)
    return Pair(pair.clip, prediction, truth)


def _check_lengths(items: list[Item], stop: int) -> None:
    """Raises InputError where a video or speech of the test set ends before frame `stop`."""
    for item in items:
        lengths = {video: probe(video).num_frames for video in (item.source, item.truth)}
        lengths[item.speech] = len(output_order(item.source, item.speech))
        for path, num_frames in lengths.items():
            if num_frames < stop:
                raise InputError(f"{path}: {num_frames} frames, and --frames ends at {stop}. Ask for fewer.")


def table_command(name: str, methods: dict[str, Method], about: str) -> click.Command:
    """The command line that both tables have."""

    @click.command(name, cls=ResumableCommand, help=about, context_settings={"max_content_width": 110})
    @click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
    @click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the methods' videos.")
    @click.option("--only", multiple=True, type=click.Choice(list(methods)), help="Only these methods.")
    @click.option("--add", multiple=True, metavar="NAME=FOLDER", help="Score another method's CLIP.mp4 files too.")
    @click.option("--clips", multiple=True, metavar="PATTERN", help="Only clips named like T00[02]_*. Repeatable.")
    @click.option("--limit", default=0, type=click.IntRange(0), help="Only the first N clips.")
    @click.option("--frames", metavar="FIRST:STOP", help="Only these of each clip; --preset paper makes no others.")
    @click.option("--exact", is_flag=True, help="Drive by the renderer's landmarks instead of by the speech.")
    @click.option("--emotion-from-voice", is_flag=True, help="Do not tell the methods the target's emotion.")
    @click.option("--crop", type=click.Choice(["face", "full"]), default="face", show_default=True)
    @click.option("--bundle", default="auto", show_default=True)
    @click.option("--device", default="auto", show_default=True)
    @click.option("--set", "settings", multiple=True, metavar="STAGE.FIELD=VALUE", help="Change a setting of our runs.")
    @click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write method -> column -> value.")
    @click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write the table.")
    def command(
        data, out, only, add, clips, limit, frames, exact, emotion_from_voice, crop, bundle, device, settings, **files
    ):
        items = read_items(data, limit, clips)
        options = tuple((name, _value(text)) for name, text in split_settings(settings).items())
        resolve(dict(options))  # mistakes are named before any work
        span = _frame_span(frames) if frames else None
        bench = Bench(out, bundle, str(resolve_device(device)), exact, not emotion_from_voice, options, span)
        others = {name: Path(folder) for name, _, folder in (text.partition("=") for text in add)}
        wrong = [text for text in add if not all(text.partition("=")) or text.partition("=")[0] in methods]
        if wrong:
            raise UsageError(f"--add {wrong[0]}: expected NAME=FOLDER, and a name that no method of the table has.")
        check_outputs([path for path in files.values() if path is not None], [], overwrite=True)
        chosen = {name: method for name, method in methods.items() if not only or name in only}
        result = run_table(chosen, items, bench, others, crop)
        click.echo(to_text(result))
        if files["json_path"]:
            rows = {m: {column: json_number(v) for column, v in row.items()} for m, row in result.scores.items()}
            write_atomically(files["json_path"], (json.dumps(rows, indent=1) + "\n").encode())
        if files["markdown_path"]:
            write_atomically(files["markdown_path"], to_markdown(result).encode())

    return command


def _settings(method: Method, bench: Bench, bundle: Bundle) -> dict[str, Any]:
    """All that a method's videos depend on, beside the test set and the code, as JSON holds it."""
    settings = {
        "method": getattr(method, "keywords", {}),  # of `ours`
        "frames": _frames_made(_options_of(method), bench),
        "options": dict(bench.options),
        "exact": bench.exact,
        "label": bench.label,
        "bundle": {"name": bundle.name, "sha256": without_judges(bundle.hashes)},
    }
    return json.loads(json.dumps(settings, default=str))


def _inputs(item: Item, bench: Bench) -> list[str]:
    """Hashes of the files that a clip's videos are made of."""
    files = [item.source, item.speech, *((item.track, item.target) if bench.exact else ())]
    return [file_hash(file) for file in files if file is not None]


def _check_settings(folder: Path, wanted: dict[str, Any], clips: dict[str, list[str]]) -> dict[str, list[str]]:
    """The clips whose videos the folder holds, with their inputs. Raises UsageError where they were made with other
    settings, with unknown ones, or of other inputs."""
    videos = _videos_of(folder) if folder.is_dir() else {}
    if not videos:
        return {}
    try:
        had = {"frames": None, "clips": {}} | json.loads((folder / SETTINGS).read_text())
        had["bundle"]["sha256"] = without_judges(had["bundle"]["sha256"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        had = {}
    if different := [name for name in wanted if name not in had or had[name] != wanted[name]]:
        raise UsageError(
            f"{folder}: its videos were made with other settings ({', '.join(different)}; see {SETTINGS} there). "
            "Choose another --out, or delete this folder."
        )
    made = {clip: inputs for clip, inputs in had["clips"].items() if clip in videos}
    if others := [clip for clip in made.keys() & clips if made[clip] != clips[clip]]:
        raise UsageError(
            f"{folder}: {min(others)} was made of other files than the test set holds. Choose another --out, or delete "
            "this folder."
        )
    return made


def _videos_of(folder: Path) -> dict[str, Path]:
    """Clip -> its video, whatever else lies beside it. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Expected another method's videos, named like the clips.")
    return {path.stem: path for path in sorted(folder.iterdir(), reverse=True) if path.suffix.lower() in VIDEO_SUFFIXES}


def _exact(item: Item, path: Path | None) -> np.ndarray:
    if path is None:
        raise HDTalkError(f"{item.clip}: the test set has no exact landmarks. Run without --exact.")
    with np.load(path, allow_pickle=False) as file:
        return file["landmarks_px"]


def _options_of(method: Method) -> dict[str, Any]:
    """What `ours` was given; nothing of other methods."""
    return getattr(method, "keywords", {}).get("options") or {}


def _frame_span(text: str) -> tuple[int, int]:
    first, _, stop = text.partition(":")
    if not (first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise UsageError(f"--frames {text}: expected FIRST:STOP, for example 24:30.")
    return int(first), int(stop)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
