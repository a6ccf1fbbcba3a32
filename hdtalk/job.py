"""A run as a folder: stage artefacts with fingerprints, atomic writes, chunk checkpoints, resume and one lock.

    OUT.mp4.job/
      lock                      who is working here (held by the operating system, so it dies with its holder)
      unfinished.json           outputs of runs that were stopped between their outputs
      pivots/stage.json         fingerprint, files with their sha256, the stage's table, whether it is complete
      pivots/000000.safetensors one chunk of arrays

A stage whose fingerprint (inputs' content hashes, configuration, format version) is unchanged is not computed again; a
damaged file is noticed by its checksum and computed again. Only files of these names are ever removed.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np

from hdtalk.errors import DISK_FULL, HDTalkError, InputError, ResourceError, Stopped, UsageError
from hdtalk.files import file_hash, write_atomically

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
CLAIMS = "unfinished.json"
_OWN_FILE = re.compile(r"stage\.json|\d{6,}\.safetensors|\.(stage\.json|\d{6,}\.safetensors)(\.\w+)?\.part")


class Job:
    """A job folder that this process holds the lock of; `restart` names the stages to forget. Use as a context manager.

    Raises `HDTalkError` when another run holds the folder (naming it), `InputError` when the folder cannot be made.
    """

    def __init__(self, folder: str | Path, *, restart: Collection[str] = ()):
        self.folder = Path(folder)
        self._lock_file: TextIO | None = None
        self._restart = restart
        self._claimed: set[str] = set()

    def __enter__(self) -> "Job":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock_file = open(self.folder / "lock", "a+")  # noqa: SIM115 (held until __exit__)
        except OSError as error:
            raise InputError(
                f"{self.folder}: the job folder cannot be used ({error.strerror}). Try --job DIR."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise HDTalkError(
                f"{self.folder}: in use by {holder}. Wait for it, stop it, or give this run its own --job DIR."
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}\n")
        lock.flush()
        # of a run that was killed in the middle of a write
        leftovers = [path for path in self.folder.glob("*/.*.part") if _OWN_FILE.fullmatch(path.name)]
        for leftover in [*leftovers, *self.folder.glob(f".{CLAIMS}.*.part")]:
            leftover.unlink(missing_ok=True)
        for name in self._restart:
            if (self.folder / name / "stage.json").exists():
                _clear(self.folder / name)
        return self

    def __exit__(self, *exc_info) -> None:
        if self._lock_file is not None:
            self._lock_file.close()  # the file stays: removing it would let two later runs lock different inodes

    def claim(self, output: Path) -> None:
        """Remembers a finished output of a run that has more to do: a run that goes on may replace it."""
        name = str(output.resolve())
        self._claimed.add(name)
        self._write_claims(_claims(self.folder) | {name: _state(output)})

    def release(self) -> None:
        """The run has done everything: its outputs are replaced only where that is asked for."""
        self._write_claims({name: state for name, state in _claims(self.folder).items() if name not in self._claimed})

    def _write_claims(self, claims: dict[str, list[int]]) -> None:
        if claims:
            write_atomically(self.folder / CLAIMS, json.dumps(claims, indent=1).encode())
        else:
            (self.folder / CLAIMS).unlink(missing_ok=True)

    def stage(self, name: str, *, inputs: Mapping[str, str], config: object = None, version: int = 1) -> "Stage":
        """The stage `name` for exactly these inputs (name -> content hash) and this configuration.

        What an earlier run left for the same fingerprint is kept, what it left for another is removed. Raises
        `UsageError` where the stage's place is taken by something else."""
        return Stage(self.folder / name, fingerprint(name, inputs, config, version))


class Stage:
    """One stage's artefacts: numbered chunks of arrays and one table."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder
        self.fingerprint = fingerprint
        self._record = self._recover()

    @property
    def complete(self) -> bool:
        return self._record["complete"]

    @property
    def table(self) -> dict:
        return self._record["table"]

    @property
    def chunks(self) -> list[int]:
        """Numbers of the chunks that are there, in order."""
        return sorted(int(number) for number in self._record["chunks"])

    @property
    def content_hash(self) -> str:
        """What later stages put into their fingerprints."""
        parts = [self._record["chunks"][str(number)] for number in self.chunks]
        return _sha256(json.dumps([parts, self._record["table"]], sort_keys=True).encode())

    def save(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes one chunk: to a temporary name, flushed, renamed, then entered in stage.json."""
        from safetensors.numpy import save

        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        write_atomically(self._path(number), data)
        self._record["chunks"][str(number)] = _sha256(data)
        self._write_record()

    def load(self, number: int) -> dict[str, np.ndarray]:
        from safetensors.numpy import load

        return load(self._path(number).read_bytes())

    def read_rows(self, number: int, name: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of one array of a chunk, read from disk without the rest (no mapping: memory stays small)."""
        with open(self._path(number), "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(header_bytes))[name]
            dtype = {"U8": np.uint8, "F32": np.float32}[entry["dtype"]]
            shape = entry["shape"]
            row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
            out = np.empty((len(rows), *shape[1:]), dtype)
            for index, row in enumerate(rows):
                file.seek(8 + header_bytes + entry["data_offsets"][0] + int(row) * row_bytes)
                out[index] = np.frombuffer(file.read(row_bytes), dtype).reshape(shape[1:])
        return out

    def drop(self, number: int) -> None:
        """Removes a chunk (a checkpoint that a later one replaces)."""
        if self._record["chunks"].pop(str(number), None) is not None:
            self._write_record()
            self._path(number).unlink(missing_ok=True)

    def finish(self, table: Mapping | None = None) -> None:
        self._record["table"] = json.loads(json.dumps(table or {}, default=_plain))
        self._record["complete"] = True
        self._write_record()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _recover(self) -> dict:
        fresh = {
            "format": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "complete": False,
            "chunks": {},
            "table": {},
        }
        try:
            record = json.loads((self.folder / "stage.json").read_text())
            usable = record["format"] == FORMAT_VERSION and record["fingerprint"] == self.fingerprint
            usable = usable and set(record) == set(fresh)
        except FileNotFoundError:
            usable = False
        except (ValueError, KeyError, TypeError, OSError):
            log.warning("%s: its stage.json is damaged; the stage is computed again", self.folder)
            usable = False
        if not usable:
            _clear(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            return fresh
        for number, expected in list(record["chunks"].items()):
            if file_hash(self._path(int(number)), missing_ok=True) != expected:
                log.warning("%s: damaged or missing; it is computed again", self._path(int(number)))
                record["chunks"].pop(number)
                record["complete"] = False
        return record

    def _write_record(self) -> None:
        write_atomically(self.folder / "stage.json", json.dumps(self._record, indent=1).encode())


def folder_beside(output: Path) -> Path:
    """The job folder of a run that was given none."""
    return output.with_name(f"{output.name}.job")


def is_claimed(folder: Path, output: Path) -> bool:
    """Whether a run of this job that did not come to its end wrote the file as it is now."""
    return output.exists() and _claims(folder).get(str(output.resolve())) == _state(output)


def _claims(folder: Path) -> dict[str, list[int]]:
    try:
        return dict(json.loads((folder / CLAIMS).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def check_stage_folders(folders: Iterable[Path]) -> None:
    """Raises `UsageError` where one holds other files and has never been a stage."""
    for folder in folders:
        _own_files(folder)


def _clear(folder: Path) -> None:
    """Removes a stage's own files. Raises as `check_stage_folders`."""
    for path in _own_files(folder):
        path.unlink(missing_ok=True)


def _own_files(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    paths = list(folder.iterdir()) if folder.is_dir() else [folder]
    others = [path for path in paths if not _OWN_FILE.fullmatch(path.name)]
    if others and not (folder / "stage.json").exists():
        raise UsageError(f"{others[0]}: is in the way of this run's files. Give the run its own --job DIR.")
    return [path for path in paths if path not in others]


def fingerprint(name: str, inputs: Mapping[str, str], config: object, version: int) -> str:
    """Hash of everything that a stage's result depends on. `config`: a dataclass or anything that JSON can hold."""
    content = {"stage": name, "version": version, "format": FORMAT_VERSION, "inputs": dict(inputs), "config": config}
    return _sha256(json.dumps(content, sort_keys=True, default=_plain).encode())


def array_hash(array: np.ndarray) -> str:
    """Hash of an array's shape, type and content."""
    return _sha256(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())


def held_bytes(folder: Path, stages: Iterable[str]) -> int:
    """Size of what the stages of a job, if there is one, hold on disk."""
    return sum(path.stat().st_size for stage in stages for path in (folder / stage).glob("*.safetensors"))


@contextlib.contextmanager
def stoppable(job_folder: str | Path, restarted: bool = False) -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM end the run as `Stopped`, a full disk as `ResourceError`.

    Finished chunks stay, and the next run goes on from them. `restarted`: it began by forgetting what was there, which
    the next one must not."""
    command = "the same command without --restart" if restarted else "the same command again"
    message = f"stopped; what is done stays in {job_folder}. Run {command} to go on."

    def on_terminate(*_):
        raise Stopped(message)

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, on_terminate) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(message) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ResourceError(
            f"{error.filename or job_folder}: the disk is full. What is done stays in {job_folder}; free some space "
            f"and run {command}."
        ) from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
