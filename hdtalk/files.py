"""Files that others see whole or not at all, and what they hold as a hash."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path` that takes its name, on disk, when the block succeeds, and vanishes when it fails.

    A process that is killed leaves it behind, as `.NAME.*.part`."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    unfinished.touch(exist_ok=False)
    try:
        yield unfinished
        _flush(unfinished)
        os.replace(unfinished, path)
        _flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes, flushes to disk, renames: a reader sees the old file or the new one, never a part."""
    with temporary(path) as unfinished:
        unfinished.write_bytes(content)


def file_hash(path: str | os.PathLike, *, missing_ok: bool = False) -> str:
    """sha256 of a file's content; "" of a missing one, where that is `missing_ok`."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        if not missing_ok:
            raise
        return ""


def _flush(path: str | os.PathLike) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
