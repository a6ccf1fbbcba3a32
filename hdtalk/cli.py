"""The command line: each command parses its options, calls one library function, and reports."""

import logging
import os
import sys

import click

from hdtalk import __version__
from hdtalk.errors import HDTalkError, ResourceError, Stopped


class HDTalkGroup(click.Group):
    """Turns HDTalk's errors into one line on stderr and their exit code; --debug shows the traceback instead."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except HDTalkError as error:
            failure = error
        except KeyboardInterrupt:
            failure = Stopped("stopped; run the same command again to go on where it stopped")
        except OSError as error:
            if error.errno not in (28, 122):  # no space left, quota exceeded
                raise
            failure = ResourceError(f"{error.filename or 'output'}: the disk is full. Free some space and run again.")
        except MemoryError:
            failure = ResourceError("memory ran out. Try a smaller --batch-size or a shorter clip.")
        if ctx.params.get("debug"):
            raise failure
        click.echo(f"hdtalk: {' '.join(str(failure).split())}", err=True)
        ctx.exit(failure.exit_code)


@click.group(cls=HDTalkGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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


def main() -> None:
    try:
        hdtalk()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
