"""Files that a command is going to write: what stands in their way is found before the work starts."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hdtalk.errors import DISK_FULL, UsageError


def manifest_path(output: Path) -> Path:
    """OUT.json, what a run says of itself."""
    return output.with_suffix(".json")


def comparison_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_compare{output.suffix}")


def report_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_report.html")


def check_writable(path: str | os.PathLike, overwrite: bool) -> None:
    """Raises UsageError when `path` cannot be written: folder missing or read-only, or a file in the way."""
    path = Path(path)
    if path.exists() and (not overwrite or not path.is_file()):
        raise UsageError(f"{path} exists already. Choose another name or add --overwrite.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.absolute().parent} does not exist.")
    try:
        path.with_name(f".{path.name}.json.12345678.part").exists()  # longer than any name that is used on the way
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}. Choose a shorter name.") from error
    try:  # permissions alone do not tell: file systems may be read-only
        tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        if error.errno not in DISK_FULL:  # room is counted later
            reason = f"the folder {path.absolute().parent} is not writable ({error.strerror})"
            raise UsageError(f"{path}: {reason}. Choose another.") from error


def check_outputs(outputs: Sequence[Path], inputs: Iterable[Any], overwrite: bool) -> None:
    """Raises UsageError when an output is one of the inputs, two outputs are one file, or one cannot be written. Inputs
    that are no paths (none, or given as arrays) do not count."""
    paths = {Path(given) for given in inputs if isinstance(given, str | os.PathLike)}
    for number, output in enumerate(outputs):
        if any(_same_file(output, path) for path in paths):
            raise UsageError(f"{output}: the output would overwrite an input. Choose another name.")
        if any(_same_file(output, other) for other in outputs[:number]):
            raise UsageError(f"{output}: two outputs have this name. Give each its own.")
        check_writable(output, overwrite)


def _same_file(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))
