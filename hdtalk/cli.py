"""The command line: each command parses its options, calls one library function, and reports."""

import contextlib
import json
import logging
import os
import sys
import time
from typing import Any

import click

from hdtalk import __version__
from hdtalk.command import OneLineErrors
from hdtalk.config import EditConfig
from hdtalk.errors import HDTalkError, InputError, UsageError, WeightsError
from hdtalk.options import CHOICES, resolve, split_settings

# Threads that wait leave their cores to others: on a busy machine waiting at full speed costs many times the work
# itself. The library that PyTorch brings reads this when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class HDTalkGroup(OneLineErrors, click.Group):
    def goes_on(self, ctx: click.Context) -> bool:
        return ctx.invoked_subcommand in ("edit", "invert", "emotion", "demo")  # they keep a job folder


@click.group(
    "hdtalk", cls=HDTalkGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="hdtalk")
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="How much the library logs to stderr.",
)
def hdtalk(debug: bool, log_level: str) -> None:
    """Re-voice a talking-head video: same shot, same person, new speech."""
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")


@hdtalk.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine has and lacks: Python, torch, GPU, operators, codecs, weights, disk.

    Exits with 1 when something that HDTalk needs is missing.
    """
    from dataclasses import asdict

    from hdtalk.doctor import examine, is_healthy

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.name:{width}}  {finding.state:7}  {finding.detail}")
    ctx.exit(0 if is_healthy(findings) else 1)


@hdtalk.group()
def weights() -> None:
    """List, fetch, check and convert the networks' weights.

    The bundle "demo" ships with HDTalk. The bundle "ffhq" is made of files that others published, most of them for
    non-commercial use; they lie in $HDTALK_HOME/weights (by default ~/.cache/hdtalk/weights).
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def weights_list(as_json: bool) -> None:
    """Show bundles and files: what is installed, how large it is, and under which licence."""
    from hdtalk import weights as library

    rows: list[dict[str, Any]] = []
    for name in ("demo", "ffhq"):
        try:
            bundle = library.load_bundle(name, complete=False)
            missing = library.missing_roles(bundle)
            state = f"lacks {', '.join(missing)}" if missing else "installed"
            rows.append({"bundle": name, "resolution": bundle.resolution, "state": state, "licence": bundle.licence})
        except HDTalkError as error:
            rows.append({"bundle": name, "resolution": None, "state": str(error), "licence": ""})
    installed = {entry.file: entry for _, entry in library.installed_files()}
    for official in library.official_files(["all"]):
        state = "installed" if official.name in installed else "needed" if official.needed else "optional"
        row: dict[str, Any] = {"file": official.name, "role": official.role, "bytes": official.size, "state": state}
        rows.append(row | {"licence": official.licence, "origin": official.origin})
        installed.pop(official.name, None)
    for entry in installed.values():
        row = {"file": entry.file, "role": entry.role, "bytes": None, "state": "adopted"}
        rows.append(row | {"licence": entry.licence, "origin": entry.origin})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        if "bundle" in row:
            click.echo(f"bundle {row['bundle']}: {row['resolution'] or '?'} px, {row['state']} ({row['licence']})")
        else:
            size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else ""
            click.echo(f"  {row['state']:9} {row['role']:10} {size:>8}  {row['file']:38} {row['licence']}")


@weights.command("fetch")
@click.argument("names", nargs=-1, required=True)
@click.option("--accept-licence", is_flag=True, help="Accept the licences shown, without being asked.")
@click.option("--offline", is_flag=True, help="Download nothing: only check that the files are there.")
def weights_fetch(names: tuple[str, ...], accept_licence: bool, offline: bool) -> None:
    """Download files of official weights: a bundle (ffhq), a role (identity), a file name, or all.

    Each licence is shown first. A broken download is taken up where it broke; a file gets its name once its hash is
    right. Example: hdtalk weights fetch ffhq --accept-licence
    """
    from hdtalk import weights as library

    files = library.official_files(names)
    wanted = [official for official in files if not (library.store_folder() / official.name).is_file()]
    for official in wanted:
        size = f", {official.size / 1e6:.0f} MB" if official.size else ""
        click.echo(f"{official.name} ({official.role}{size}): {official.origin}. Licence: {official.licence}.")
    if wanted and not accept_licence and not offline:
        if not sys.stdin.isatty():
            raise UsageError("these files have licences of their own. Pass --accept-licence to accept them and fetch.")
        if not click.confirm("Do you accept these licences?"):
            raise UsageError("the licences were not accepted; nothing was fetched.")
    for official in files:
        with _progress_bar(official.name) as progress:
            path = library.fetch(official, accept_licence=True, offline=offline, progress=progress)
        click.echo(path)


@weights.command("add")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))
def weights_add(files: tuple[str, ...]) -> None:
    """Adopt files that you already have, once their hash or their structure says what they are."""
    from hdtalk import weights as library

    for path in files:
        entry = library.adopt(path)
        serving = next(known.file for _, known in library.installed_files() if known.role == entry.role)
        other = "" if serving == entry.file else f" once {library.store_folder() / serving} is gone"
        place = library.store_folder() / entry.file
        click.echo(f"{path}: {entry.architecture}, serves as {entry.role}{other}; copied to {place}")


@weights.command("verify")
@click.argument("names", nargs=-1)
def weights_verify(names: tuple[str, ...]) -> None:
    """Compare installed files with their recorded hashes: of bundles, roles or files; without NAMES, of all."""
    from hdtalk import weights as library

    entries, damage = list(library.installed_files()), ""
    if (library.demo_folder() / "bundle.json").is_file():
        try:
            entries += library.load_bundle("demo").files.values()
        except WeightsError as error:
            damage = str(error)
    wanted = [(folder, entry) for folder, entry in entries if not names or _names_of(folder, entry) & set(names)]
    known = {name for folder, entry in entries for name in _names_of(folder, entry)}
    unknown = [name for name in names if name not in known]
    if unknown and not damage:
        raise WeightsError(f"{', '.join(unknown)}: nothing installed by that name. Try `hdtalk weights list`.")
    failures, num_files = 0, len(wanted)
    if damage and (unknown or not names):  # what a bundle holds is unknown where its list is damaged
        failures, num_files = 1, num_files + 1
        click.echo(f"damaged  {damage}")
    for folder, entry in wanted:
        try:
            library.verify(folder, entry)
            click.echo(f"ok       {folder / entry.file}")
        except HDTalkError as error:
            failures += 1
            click.echo(f"damaged  {error}")
    if failures:
        raise WeightsError(f"{failures} of {num_files} files are damaged. Remove them and fetch them again.")


def _names_of(folder, entry) -> set[str]:
    return {entry.file, entry.role, folder.name if folder.name == "demo" else "ffhq"}


@weights.command("path")
@click.argument("name", default="")
def weights_path(name: str) -> None:
    """Print where weights lie: the store, or one bundle or file of it."""
    from hdtalk import weights as library

    if name in ("", "ffhq", "all"):
        click.echo(library.store_folder())
    elif name == "demo":
        click.echo(library.demo_folder())
    elif found := [
        folder / entry.file for folder, entry in library.installed_files() if name in (entry.file, entry.role)
    ]:
        click.echo(found[0])
    else:
        official = library.official_files([name])[0]
        wanted = "ffhq" if official.needed else official.name
        raise WeightsError(
            f"{name} is not installed. Try `hdtalk weights fetch {wanted}`, or `hdtalk weights add FILE`."
        )


@weights.command("convert")
@click.argument("source", type=click.Path(dir_okay=False))
@click.argument("target", type=click.Path(dir_okay=False))
@click.option(
    "--role",
    type=click.Choice(["generator", "encoder", "landmarker", "parser", "perceptual", "identity"]),
    help="What the file must hold; decides where it holds two (an e4e file's encoder, or its decoder as generator).",
)
@click.option(
    "--keys",
    type=click.Choice(["own", "nvlabs"]),
    default="own",
    show_default=True,
    help="Names of a generator's tensors: rosinality's, as HDTalk uses them, or NVlabs'.",
)
@click.option("--force", is_flag=True, help="Overwrite TARGET.")
def weights_convert(source: str, target: str, role: str | None, keys: str, force: bool) -> None:
    """Rewrite a checkpoint of any known kind as float32 safetensors, which holds no code.

    Example: hdtalk weights convert ffhq.pkl ffhq.safetensors
    """
    from hdtalk import weights as library

    if not target.endswith(".safetensors"):
        raise UsageError(f"{target}: give the result a name that ends with .safetensors.")
    if os.path.exists(target) and not force:
        raise UsageError(f"{target} exists. Pass --force to overwrite it.")
    found = library.convert(source, target, role=role, keys=keys)
    click.echo(f"{target}: {found.architecture} {json.dumps(found.sizes)} (from {found.source})")


@contextlib.contextmanager
def _progress_bar(name: str):
    """A progress callback (name, bytes, total) that draws on a terminal, and None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, leave=False) as bar:

        def show(_: str, num_bytes: int, total: int | None) -> None:
            bar.total = total
            bar.update(num_bytes - bar.n)

        yield show


@hdtalk.command(short_help="Score videos against ground truth.")
@click.argument("paths", metavar="PRED... GT", nargs=-1, required=True, type=click.Path())
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Name of each PRED, in order.")
@click.option(
    "--crop",
    type=click.Choice(["face", "full"]),
    default="face",
    show_default=True,
    help="Compare pictures inside the face box at 256 px, or whole frames.",
)
@click.option(
    "--bundle", default="auto", show_default=True, help="Bundle that finds the face: auto, demo, ffhq or PATH."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False),
    help='Write all numbers and definitions to FILE; an infinite PSNR is "inf", what is not measured null.',
)
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False), help="Write one line per method and clip to FILE.")
@click.option("--markdown", "markdown_path", type=click.Path(dir_okay=False), help="Write the table to FILE.")
@click.option("--overwrite", is_flag=True, help="Replace the files to write if they are there.")
def evaluate(paths, methods, crop, bundle, device, json_path, csv_path, markdown_path, overwrite) -> None:
    """Score predicted videos against ground truth: FID, PSNR, SSIM, LPIPS, F-LD, M-LD, jitter, identity and LSE.

    PRED and GT are two files, or two folders whose videos have the same names. Several PRED before one GT stand side
    by side. A single .csv with the columns prediction, ground_truth and, if wanted, method lists the pairs instead.

    \b
    hdtalk evaluate edited.mp4 true.mp4
    hdtalk evaluate ours/ wav2lip/ true/ --method HDTalk --method Wav2Lip --markdown table.md
    """
    from dataclasses import replace
    from pathlib import Path

    from hdtalk import evaluate as evaluation
    from hdtalk import scores
    from hdtalk.device import resolve_device
    from hdtalk.files import write_atomically
    from hdtalk.instruments import installed_instruments
    from hdtalk.outputs import check_outputs
    from hdtalk.pairs import pairs_of_methods

    writers = [(json_path, scores.to_json), (csv_path, scores.to_csv), (markdown_path, scores.to_markdown)]
    outputs = [(Path(path), write) for path, write in writers if path]
    pairs = pairs_of_methods(paths, methods)
    videos = [video for each in pairs.values() for pair in each for video in (pair.prediction, pair.ground_truth)]
    check_outputs([path for path, _ in outputs], [*map(Path, paths), *videos], overwrite)
    instruments = installed_instruments(bundle, resolve_device(device))
    config = replace(evaluation.DEFAULTS, crop=crop)
    result = evaluation.evaluate(pairs, instruments, config, _show_clip)
    for path, write in outputs:
        write_atomically(path, write(result).encode())
    click.echo(scores.to_text(result))
    if result.failures:
        total = len(result.clips) + len(result.failures)
        raise InputError(
            f"{len(result.failures)} of {total} clips could not be scored, see above. Replace these files."
        )


def _show_clip(done: int, total: int, what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{'' if done == total else f'{done + 1}/{total} {what}'}", nl=False, err=True)


_set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other setting, e.g. optimise.steps=60 (see hdtalk/config.py). Repeatable.",
)


def _stage_options(command):
    """Options that edit and invert share; their defaults come from the configuration."""
    defaults = EditConfig()
    options = [
        click.option(
            "-o",
            "--output",
            type=click.Path(dir_okay=False),
            help="Video to write: .mp4, .mov or .mkv. [default: VIDEO_COMMAND.mp4, such as VIDEO_edited.mp4]",
        ),
        click.option("--bundle", default="auto", show_default=True, help="Weights: auto, demo, ffhq or a folder."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N]."),
        click.option(
            "--preset",
            type=click.Choice(CHOICES["preset"]),
            default=defaults.preset,
            show_default=True,
            help="fast: the same objective in a fraction of the time. paper: frame by frame, as published.",
        ),
        click.option(
            "--precision", type=click.Choice(CHOICES["precision"]), default=defaults.precision, show_default=True
        ),
        click.option("--seed", type=click.IntRange(0), default=defaults.seed, show_default=True),
        click.option(
            "--job",
            type=click.Path(file_okay=False),
            help="Folder of intermediate results, of the whole shot: other speech over it re-uses its inversion. "
            "[default: OUTPUT.job]",
        ),
        click.option(
            "--resume/--restart", default=True, help="Use what the job holds, or forget it. [default: resume]"
        ),
        click.option(
            "--on-missing-face",
            type=click.Choice(CHOICES["faces.on_missing"]),
            default=defaults.faces.on_missing,
            show_default=True,
            help="Frames without a face: keep them unedited, interpolate the face, or fail.",
        ),
        click.option(
            "--face",
            default=defaults.faces.face,
            show_default=True,
            help="Which face: largest, INDEX from the left, or x,y in the first frame.",
        ),
        click.option(
            "--trim-start", type=float, default=defaults.trim_start, help="Seconds to leave out at the start."
        ),
        click.option("--trim-end", type=float, help="Where to end, in seconds of the video."),
        click.option("--codec", default=defaults.media.codec, show_default=True, help="Video encoder of the output."),
        click.option(
            "--crf",
            type=int,
            default=defaults.media.crf,
            show_default=True,
            help="Its quality, of x264, x265, AV1 and VP9; lower is better.",
        ),
        click.option(
            "--track",
            type=click.Path(dir_okay=False),
            help="Landmarks of the video's frames, landmarks_px [T,68,2] in an .npz, instead of detecting them.",
        ),
        _set_option,
        click.option("--overwrite", is_flag=True, help="Replace the output if it is there."),
        click.option("--dry-run", is_flag=True, help="Check everything, show plan, time and memory, and stop."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@hdtalk.command()
@click.argument("video", type=click.Path(dir_okay=False))
@click.argument("speech", type=click.Path(dir_okay=False))
@_stage_options
@click.option(
    "--emotion", metavar="NAME[:0..1]", help="Emotion of the face, e.g. happy:0.6. [default: that of the voice]"
)
@click.option("--emotion-from", type=click.Path(dir_okay=False), metavar="WAV", help="Take the emotion of a recording.")
@click.option(
    "--audio-longer",
    type=click.Choice(CHOICES["audio_longer"]),
    default=EditConfig.audio_longer,
    show_default=True,
    help="What is shown when the speech outlasts the shot (trim cuts the speech).",
)
@click.option(
    "--audio-shorter",
    type=click.Choice(CHOICES["audio_shorter"]),
    default=EditConfig.audio_shorter,
    show_default=True,
    help="End with the speech, or go on with the mouth closed.",
)
@click.option("--audio-mix", default="", metavar="keep-background:DB", help="Keep the video's own sound underneath.")
@click.option(
    "--latent-space",
    type=click.Choice(CHOICES["optimise.latent_space"]),
    help="Where the codes may move. [default: preset's]",
)
@click.option(
    "--landmarks",
    type=click.Path(dir_okay=False),
    help="Drive by these landmarks instead of the speech: landmarks_px [T,68,2] per output frame, in an .npz.",
)
@click.option("--compare", is_flag=True, help="Also write OUT_compare: original, landmarks and edited side by side.")
@click.option("--report", is_flag=True, help="Also write OUT_report.html: film strip, losses, times, scores, settings.")
def edit(video, speech, job, resume, settings, dry_run, as_json, **options) -> None:
    """Re-voice VIDEO with SPEECH (any audio or video file).

    Writes OUT.mp4, OUT.json (what was done and how well) and OUT.mp4.job (intermediate results: a stopped run goes
    on there; with the same --job, another speech over the same video re-uses its inversion).

    \b
    hdtalk edit talk.mp4 speech.wav -o out.mp4
    hdtalk edit talk.mp4 speech.wav -o out.mp4 --emotion happy:0.6 --compare
    """
    from hdtalk import pipeline

    options = _given(options, settings)
    if dry_run:
        return _show_plan(pipeline.plan_edit(video, speech, job=job, **options), as_json)
    with _stage_bars() as progress:
        result = pipeline.edit_video(video, speech, job=job, restart=not resume, progress=progress, **options)
    _show_result(result, as_json, f"{result.num_edited} of {result.num_frames} frames edited")


@hdtalk.command()
@click.argument("video", type=click.Path(dir_okay=False))
@_stage_options
def invert(video, job, resume, settings, dry_run, as_json, **options) -> None:
    """Find the codes of VIDEO's face and tune the generator to it.

    Writes a video of the reconstruction (OUT.mp4), its scores (OUT.json) and the inversion itself (OUT.mp4.job),
    which `hdtalk edit --job OUT.mp4.job` with the same video and settings takes up.
    """
    from hdtalk import pipeline

    options = _given(options, settings)
    if dry_run:
        return _show_plan(pipeline.plan_edit(video, None, job=job, **options), as_json)
    with _stage_bars() as progress:
        result = pipeline.invert_video(video, job=job, restart=not resume, progress=progress, **options)
    _show_result(result, as_json, f"{result.num_inverted} of {result.num_frames} frames inverted")


@hdtalk.command()
@click.argument("video", type=click.Path(dir_okay=False))
@click.argument("speech", type=click.Path(dir_okay=False))
@click.option(
    "--interp",
    default="neutral:happy",
    show_default=True,
    metavar="FIRST:SECOND",
    help="Emotions (NAME or NAME:0..1), or recordings whose emotions are taken (a.wav:b.wav).",
)
@click.option("--steps", type=click.IntRange(2), default=5, show_default=True, help="Columns of the strip.")
@click.option("--at", "at_s", type=float, help="Moment of the strip, s. [default: an open mouth near the middle]")
@_stage_options
def emotion(video, speech, interp, steps, at_s, job, resume, settings, dry_run, as_json, **options) -> None:
    """Re-voice VIDEO with SPEECH while its emotion moves from one to another.

    Writes the video, a strip of one moment in --steps emotions (OUT.png) and all landmarks (OUT.npz).

    \b
    hdtalk emotion talk.mp4 speech.wav --interp neutral:happy --steps 5 -o happier.mp4
    hdtalk emotion talk.mp4 speech.wav --interp calm.wav:angry.wav
    """
    from hdtalk.emotion_strip import interpolate_emotion, prepare_interpolation

    options = _given(options, settings) | {"job": job, "at_s": at_s}
    if dry_run:
        run, *_ = prepare_interpolation(video, speech, interp, estimate=True, **options)
        return _show_plan(run.plan, as_json)
    with _stage_bars() as progress:
        result = interpolate_emotion(
            video, speech, interp, steps=steps, restart=not resume, progress=progress, **options
        )
    if as_json:
        files = {name: str(getattr(result, name)) for name in ("video", "strip", "landmarks")}
        return click.echo(json.dumps(files, indent=1))
    click.echo(f"{result.video}: the emotion moves over {result.edit.num_frames} frames")
    click.echo(f"{result.strip}: {steps} steps of one moment")
    click.echo(f"{result.landmarks}: all landmarks")


@hdtalk.command()
@click.argument("speech", type=click.Path())
@click.option("--video", required=True, type=click.Path(), help="The shot whose person shall speak.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="Landmarks to write (.npz).")
@click.option("--preview", type=click.Path(dir_okay=False), help="Video to write: the landmarks drawn on the shot.")
@click.option("--emotion", metavar="NAME[:0..1]", help="Instead of the voice's own, e.g. happy or sad:0.5.")
@click.option("--emotion-from", type=click.Path(), help="Another recording whose emotion is taken.")
@click.option(
    "--audio-longer",
    type=click.Choice(CHOICES["audio_longer"]),
    default=EditConfig().audio_longer,
    show_default=True,
    help="How the shot is prolonged when the speech outlasts it.",
)
@click.option("--track", type=click.Path(dir_okay=False), help="Known landmarks of the video (.npz).")
@click.option("--bundle", default="auto", show_default=True, help="Weights: auto, demo, ffhq or a folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@_set_option
@click.option("--overwrite", is_flag=True, help="Replace the outputs if they are there.")
def landmarks(
    speech, video, output, preview, emotion, emotion_from, audio_longer, track, bundle, device, settings, overwrite
):
    """Predict the landmarks of the person in a shot saying SPEECH, frame by frame, without editing the video.

    Example: hdtalk landmarks speech.wav --video shot.mp4 -o out.npz --preview out.mp4
    """
    from pathlib import Path

    from hdtalk import landmarks, media
    from hdtalk.device import resolve_device
    from hdtalk.outputs import check_outputs

    if not output.endswith(".npz"):
        raise UsageError(f"{output}: landmarks are written as .npz.")
    config = resolve(_given({"audio_longer": audio_longer}, settings))
    if preview:
        media.check_suffix(preview)
        media.check_encoder(config.media, Path(preview), media.probe(video, config.media))
    outputs, inputs = filter(None, (output, preview)), filter(None, (speech, video, emotion_from, track))
    check_outputs([Path(path) for path in outputs], map(Path, inputs), overwrite)
    shot = landmarks.speak_shot(
        video,
        speech,
        bundle=bundle,
        emotion=emotion,
        emotion_from=emotion_from,
        track=track,
        device=str(resolve_device(device)),
        config=config,
    )
    landmarks.save_landmarks(output, shot)
    click.echo(f"{output}: {len(shot.landmarks_px)} frames at {float(shot.fps):.2f} fps")
    if preview:
        landmarks.write_preview(preview, shot, video, speech, overwrite, config.media)
        click.echo(preview)


@hdtalk.command()
@click.argument("shot", required=False)
@click.option("-o", "--output", type=click.Path(file_okay=False), default="demo_out", show_default=True, help="Folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:n].")
def demo(shot: str | None, output: str, device: str) -> None:
    """Re-voice a sample shot (SHOT: anna or ben) and score it against its true second take.

    Writes the edited video, a comparison (original, landmarks, edited), a picture sheet and the scores.
    """
    from pathlib import Path

    from hdtalk import scores
    from hdtalk.demo import run_demo

    with _stage_bars() as progress:
        result = run_demo(Path(output), shot, device=device, progress=progress)
    click.echo(scores.to_text(result.scores))
    seconds = sum(result.edit.seconds.values())
    click.echo(f"\nedited video      {result.edit.output}   ({result.edit.num_frames} frames, {seconds:.0f} s)")
    click.echo(f"comparison        {result.edit.comparison}")
    click.echo(f"sheet             {result.sheet}   (rows: source, edited, truth)")


def _given(options: dict, settings: tuple[str, ...]) -> dict:
    """Options as the library takes them: those left open dropped, those that repeat a default too (presets decide)."""
    context = click.get_current_context()
    explicit = {
        name: value
        for name, value in options.items()
        if value is not None and context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    chosen = split_settings(settings)
    resolve(chosen)  # nothing but settings: `job` and others have options of their own
    return explicit | chosen


def _show_plan(plan, as_json: bool) -> None:
    if as_json:
        fields = {name: getattr(plan, name) for name in ("video", "speech", "output", "job", "bundle", "resolution")}
        numbers = {"frames": len(plan.order), "memory_bytes": plan.memory_bytes, "disk_bytes": plan.disk_bytes}
        click.echo(json.dumps(fields | numbers | {"seconds": plan.seconds, "notes": plan.notes}, indent=1))
        return
    for line in plan.lines():
        click.echo(line)


def _show_result(result, as_json: bool, summary: str) -> None:
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(result), indent=1, default=str))
        return
    seconds = sum(result.seconds.values())
    click.echo(f"{result.output}: {summary}, {seconds:.0f} s; reconstruction {result.scores['psnr_db']:.1f} dB")


@contextlib.contextmanager
def _stage_bars():
    """Yields a progress callback: one bar per stage with its ETA on a terminal, a line a minute elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from tqdm import tqdm

    bar, shown = None, ""

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal bar, shown
        if bar is None or stage != shown:
            if bar is not None:
                bar.close()
            bar, shown = tqdm(total=total, desc=f"{stage:13}", file=sys.stderr, leave=True, unit=""), stage
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


class _Lines:
    """Progress in a log file: `STAGE DONE/TOTAL, about N min left in it`, not sooner than LINE_S after the last."""

    LINE_S = 60.0

    def __init__(self) -> None:
        self.stage, self.begun_s, self.first, self.said_s = "", 0.0, 0, time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if stage != self.stage:
            self.stage, self.begun_s, self.first = stage, now_s, done
        if now_s - self.said_s < self.LINE_S:
            return
        self.said_s = now_s
        left = ""
        if self.first < done < total:
            minutes = (now_s - self.begun_s) / (done - self.first) * (total - done) / 60
            left = f", about {minutes:.0f} min left in it"
        click.echo(f"{stage} {done}/{total}{left}", err=True)


def main() -> None:
    try:
        hdtalk()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
