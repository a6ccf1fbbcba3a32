"""Scripts end in one line and an exit code, whatever a person passes or does."""

import errno
import subprocess
import sys

import click
import pytest
import torch
from click.testing import CliRunner
from script_module import load_script

from hdtalk.command import Command, ResumableCommand
from hdtalk.errors import InputError, WeightsError


def ends(kind, failure, *arguments):
    @click.command("measure", cls=kind)
    @click.option("--debug", is_flag=True)
    def main(debug):
        raise failure

    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    "failure, code, line",
    [
        (InputError("talk.mp4: no face.\nTry another."), 3, "measure: talk.mp4: no face. Try another.\n"),
        (WeightsError("demo: damaged."), 4, "measure: demo: damaged.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.mp4"),
            5,
            "measure: out/a.mp4: the disk is full. Free some space and run again.\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            1,
            "measure: out: Permission denied. Check the path and its permissions.\n",
        ),
        (KeyboardInterrupt(), 130, "measure: stopped\n"),
        (click.Abort(), 130, "measure: stopped\n"),
        *[
            (error, 5, "measure: memory ran out. Try a shorter clip, smaller batches, or --device cpu.\n")
            for error in (
                MemoryError(),
                torch.OutOfMemoryError("CUDA out of memory."),
                RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            )
        ],
    ],
)
def test_expected_failures_are_one_line(failure, code, line):
    assert ends(Command, failure) == (code, line)


def test_who_can_go_on_is_told_so():
    assert ends(ResumableCommand, KeyboardInterrupt())[1].endswith("go on where it stopped\n")


def test_a_defect_keeps_its_traceback():
    for failure in (ZeroDivisionError(), RuntimeError("shapes differ")):
        assert ends(Command, failure) == (1, "")
    assert ends(Command, click.exceptions.Exit(7)) == (7, "")


def test_debug_shows_where_it_failed():
    assert ends(Command, InputError("talk.mp4: no face."), "--debug") == (1, "")

    @click.command(cls=Command)
    @click.option("--debug", is_flag=True)
    def main(debug):
        open("absent/talk.mp4")

    error = CliRunner().invoke(main, ["--debug"]).exception
    assert "absent/talk.mp4: No such file" in str(error) and isinstance(error.__cause__, FileNotFoundError)


def test_examples_in_a_script_s_help_keep_their_lines():
    text = "Measures.\n\n    measure a.mp4\n    measure b.mp4\n\nWords that\nflow."
    shown = CliRunner().invoke(click.command("measure", cls=Command, help=text)(lambda: None), ["--help"]).output
    assert "      measure a.mp4\n      measure b.mp4\n" in shown and "Words that flow." in shown


def test_empty_arguments_are_refused():
    """pathlib would take an unset variable for the present folder."""
    assert ends(Command, ZeroDivisionError(), "")[0] == 2
    assert "argument is empty" in ends(ResumableCommand, ZeroDivisionError(), "--debug", "")[1]


def test_models_to_train_are_names_that_there_are(tmp_path):
    train_demo = load_script("train_demo")
    (tmp_path / "data").mkdir()
    assert [stage.model for stage in train_demo.chosen_stages("parser, generator")] == ["generator", "parser"]
    folders = [word for name in ("data", "out", "bundle") for word in (f"--{name}", str(tmp_path / name))]
    result = CliRunner().invoke(train_demo.main, [*folders, "--models", "parser,generater"])
    known = ", ".join(stage.model for stage in train_demo.STAGES)
    assert result.stderr == f"train_demo: --models: no model called 'generater'; there are {known}.\n"
    assert result.exit_code == 2 and not (tmp_path / "out").exists()


def test_what_builds_on_a_failed_training_is_left_out(tmp_path, monkeypatch):
    """An encoder of a generator that is half trained would take the bundle's apart."""
    train_demo = load_script("train_demo")
    begun = []

    def start(stage, *_):
        begun.append(stage.model)
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({stage.model == 'generator'})"])

    monkeypatch.setattr(train_demo, "start", start)
    monkeypatch.setattr(train_demo, "has_shards", lambda data: True)
    folders = [word for name in ("data", "out", "bundle") for word in (f"--{name}", str(tmp_path / name))]
    (tmp_path / "data").mkdir()
    result = CliRunner().invoke(train_demo.main, [*folders, "--models", "generator,landmarker,encoder,latents"])
    assert begun == ["generator", "landmarker"] and result.exit_code == 1
    assert "these models failed: generator, encoder, latents" in result.output
