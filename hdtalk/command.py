"""Commands whose expected failures are one line on stderr and an exit code, never a traceback."""

import re
from typing import Any

import click

from hdtalk.errors import DISK_FULL, HDTalkError, ResourceError, Stopped


class OneLineErrors:
    """Makes HDTalk's errors, a full disk, unusable paths, spent memory and Ctrl-C of a click command one line, which
    begins with its name, and their exit code; where it has a parameter `debug` and that is set, a traceback. Refuses
    empty arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "" in args:  # a folder to pathlib, the present one
            raise click.UsageError("An argument is empty. Is a variable of the shell not set?", ctx)
        return super().parse_args(ctx, args)  # type: ignore[misc]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except BaseException as error:
            failure = self._failure(error, ctx)
            if failure is None or failure is error and ctx.params.get("debug"):
                raise
            if ctx.params.get("debug"):
                raise failure from error
        click.echo(f"{ctx.command.name}: {' '.join(str(failure).split())}", err=True)
        ctx.exit(failure.exit_code)

    def _failure(self, error: BaseException, ctx: click.Context) -> HDTalkError | None:
        """What an error means to people; None: it is no expected failure."""
        if isinstance(error, HDTalkError):
            return error
        if isinstance(error, KeyboardInterrupt):
            again = "; run the same command again to go on where it stopped"
            return Stopped(f"stopped{again if self.goes_on(ctx) else ''}")
        if isinstance(error, click.Abort):  # Ctrl-C at a question
            return Stopped("stopped")
        if isinstance(error, click.exceptions.Exit):  # a RuntimeError, too
            return None
        if isinstance(error, OSError):
            if error.errno in DISK_FULL:
                return ResourceError(f"{error.filename or 'output'}: the disk is full. Free some space and run again.")
            if isinstance(error, BrokenPipeError) or error.filename is None:
                return None
            why = error.strerror or type(error).__name__
            return HDTalkError(f"{error.filename}: {why}. Check the path and its permissions.")
        if isinstance(error, MemoryError | RuntimeError):
            from hdtalk.device import is_out_of_memory

            if is_out_of_memory(error):
                return ResourceError("memory ran out. Try a shorter clip, smaller batches, or --device cpu.")
        return None

    def goes_on(self, ctx: click.Context) -> bool:
        """Whether the same command goes on where it was stopped."""
        return False


class Command(OneLineErrors, click.Command):
    """The command of a script. Indented paragraphs of its help are shown as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.help:
            self.help = re.sub(r"\n\n(?=    )", "\n\n\b\n", self.help)  # click's mark of what it shall not wrap


class ResumableCommand(Command):
    """The command of a script that goes on where it was stopped."""

    def goes_on(self, ctx: click.Context) -> bool:
        return True
