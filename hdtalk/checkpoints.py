"""Reads checkpoint files of other projects without running anything they carry: out come plain dicts and tensors.

Pickles are programs. This reader follows them with an interpreter that knows a short list of harmless names (GLOBALS),
calls nothing else, and leaves every tensor on disk until somebody asks for it. TorchScript archives are read the same
way: their parameters are taken by name, their code is never loaded.
"""

import contextlib
import io
import itertools
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import safe_open

from hdtalk.errors import WeightsError

MAX_PICKLE_BYTES = 256 << 20
MAX_DEPTH = 64
MAX_DICTS = 100_000  # a dict that stands in many places counts in each
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}


@dataclass(frozen=True)
class Checkpoint:
    """A file's content as plain Python: dicts, lists, numbers, strings, `Tensor` leaves and `Record` objects.

    `container` is one of safetensors, torch, torch-legacy, torchscript, nvlabs-pickle, tensorflow-pickle, pickle.
    """

    path: Path
    container: str
    content: Any
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """A tensor that still lies in its file. `load()` reads it, contiguous, on the CPU; call it under `guarded`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]


class Record(dict):
    """An object of a foreign class, reduced to its attributes; `kind` is the class's name."""

    kind = ""

    def __setstate__(self, state: Any) -> None:
        if self.kind == "OrderedDict":  # torch hangs `_metadata` on state dicts
            return
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.update(part)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Open `path` by its content, whatever its suffix. Raises WeightsError when it is damaged, foreign, or unsafe."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read it ({error.strerror or error}). Check the path.") from None
    with guarded(path):
        if head[:4] == b"PK\x03\x04":
            return _read_zip(path)
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if head[:1] == b"\x80":
            return _read_pickle(path)
        raise WeightsError(f"{_what_is(head)}; expected safetensors, a PyTorch file or a StyleGAN2 pickle.")


@contextlib.contextmanager
def guarded(path: Any) -> Iterator[None]:
    """Whatever goes wrong while `path` is read becomes a WeightsError that names it."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (MemoryError, RecursionError):
        raise WeightsError(f"{path}: refused, it asks for more memory or depth than a checkpoint needs.") from None
    except Exception as error:  # a damaged file can break the parsers in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise WeightsError(f"{path}: damaged or cut off ({reason}). Fetch the file again.") from None


def flatten(
    tree: Any, prefix: str = "", depth: int = 0, visited: Iterator[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dicts as (dotted key, tensor), in file order; everything else is passed over."""
    visited = visited or itertools.count()
    if depth > MAX_DEPTH or next(visited) > MAX_DICTS:
        raise WeightsError("refused, its content is nested too deep or holds itself.")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            yield from flatten(value, f"{name}.", depth + 1, visited)


def flatten_module(
    module: dict, prefix: str = "", depth: int = 0, visited: Iterator[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The same for a recorded torch module: its parameters, buffers and sub-modules under their state-dict names."""
    visited = visited or itertools.count()
    if depth > MAX_DEPTH or next(visited) > MAX_DICTS:
        raise WeightsError("refused, its modules are nested too deep or hold each other.")
    for group in ("_parameters", "_buffers"):
        for key, value in (module.get(group) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
    for key, child in (module.get("_modules") or {}).items():
        if isinstance(child, dict):
            yield from flatten_module(child, f"{prefix}{key}.", depth + 1, visited)


# ---------------------------------------------------------------------------------------------- containers


def _read_safetensors(path: Path) -> Checkpoint:
    file = safe_open(path, framework="pt")  # stays open as long as its tensors may be loaded
    metadata, dtypes = dict(file.metadata() or {}), _safetensors_dtypes(path)
    content = {
        key: Tensor(tuple(file.get_slice(key).get_shape()), dtypes[key], partial(file.get_tensor, key))
        for key in file.keys()
    }
    return Checkpoint(path, "safetensors", content, metadata)


def _safetensors_dtypes(path: Path) -> dict[str, torch.dtype]:
    names = {name.upper().replace("FLOAT", "F").replace("INT", "I").replace("UI", "U"): name for name in DTYPE_NAMES}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    if unknown := {entry["dtype"] for entry in header.values()} - set(names):
        raise WeightsError(f"holds tensors of type {', '.join(sorted(unknown))}, which no network here uses.")
    return {key: DTYPE_NAMES[names[entry["dtype"]]] for key, entry in header.items()}


def _read_zip(path: Path) -> Checkpoint:
    archive = zipfile.ZipFile(path)  # stays open as long as its tensors may be loaded: opening reads the whole index
    names = set(archive.namelist())
    roots = sorted(name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl"))
    if len(roots) != 1:
        raise WeightsError("a zip archive, but not one that PyTorch wrote. Unpack it and give the file inside.")
    (root,) = roots
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() != b"little":
        raise WeightsError("written on a big-endian machine, which is not supported.")
    if archive.getinfo(f"{root}data.pkl").file_size > MAX_PICKLE_BYTES:
        raise WeightsError("refused, its index is larger than any checkpoint's.")
    stream = io.BytesIO(archive.read(f"{root}data.pkl"))
    is_script = any(name.startswith(f"{root}code/") for name in names) or f"{root}constants.pkl" in names

    def storage(reference: tuple) -> _Storage:
        _, storage_type, key, _, num_elements = reference
        return _Storage(storage_type.dtype, num_elements, partial(_from_zip, archive, f"{root}data/{key}"))

    content = _Interpreter(stream, storage, script=is_script).load()
    return Checkpoint(path, "torchscript" if is_script else "torch", content)


def _from_zip(archive: zipfile.ZipFile, name: str, num_bytes: int) -> bytes:
    if archive.getinfo(name).file_size != num_bytes:
        raise WeightsError(f"damaged, {name} has the wrong size. Fetch the file again.")
    with archive.open(name) as entry:
        return entry.read(num_bytes + 1)


def _read_pickle(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        first = _Interpreter(file, _no_storage).load()
        if first == LEGACY_MAGIC:
            file.seek(0)
            return Checkpoint(path, "torch-legacy", _read_legacy(file, path))
    if isinstance(first, tuple) and all(isinstance(item, Record) and item.kind == "Network" for item in first):
        return Checkpoint(path, "tensorflow-pickle", first)
    if isinstance(first, dict) and any(isinstance(item, Record) for item in first.values()):
        return Checkpoint(path, "nvlabs-pickle", first)
    return Checkpoint(path, "pickle", first)


def _read_legacy(file: io.BufferedIOBase, source: Path | bytes) -> Any:
    """torch.save before 1.6: magic, version, system, content, storage keys, then each storage's count and bytes."""
    storages: dict[str, _Storage] = {}

    def storage(reference: tuple) -> _Storage:
        _, storage_type, key, _, num_elements, *view = reference
        owner = storages.setdefault(str(key), _Storage(storage_type.dtype, num_elements, None))
        if view and view[0] is not None:
            _, offset, view_elements = view[0]
            return _View(owner, offset, view_elements)
        return owner

    magic, version, system = (_Interpreter(file, _no_storage).load() for _ in range(3))
    if magic != LEGACY_MAGIC or version != 1001 or not system.get("little_endian", True):
        raise WeightsError("an unknown variety of PyTorch's old format. Save it again with a current PyTorch.")
    content = _Interpreter(file, storage).load()
    for key in _Interpreter(file, _no_storage).load():
        count = int.from_bytes(file.read(8), "little")
        if str(key) not in storages:
            raise WeightsError("damaged, its list of storages does not fit its content.")
        owner = storages[str(key)]
        if count != owner.num_elements:
            raise WeightsError("damaged, a storage has the wrong size. Fetch the file again.")
        owner.read = _from_position(source, file.tell())
        file.seek(count * owner.dtype.itemsize, io.SEEK_CUR)
    end = file.tell()
    if end > file.seek(0, io.SEEK_END) or any(owner.read is None for owner in storages.values()):
        raise WeightsError("cut off before its end. Fetch the file again.")
    return content


def _from_position(source: Path | bytes, position: int) -> Callable[[int], bytes]:
    def read(num_bytes: int) -> bytes:
        if isinstance(source, bytes):
            return source[position : position + num_bytes]
        with source.open("rb") as file:
            file.seek(position)
            return file.read(num_bytes)

    return read


def _what_is(head: bytes) -> str:
    text = head.lstrip()[:15].lower()
    if not head:
        return "an empty file"
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps a download that wanted a confirmation"
    if head[257:262] == b"ustar":
        return "PyTorch's oldest (tar) format, or a tar archive"
    if head.startswith((b"version https://git-lfs", b"/annex/")):
        return "a placeholder of git's large-file storage, not the file itself"
    return "not a checkpoint"


# --------------------------------------------------------------------------------- the restricted interpreter


@dataclass
class _Storage:
    dtype: torch.dtype
    num_elements: int
    read: Callable[[int], bytes] | None

    def elements(self) -> torch.Tensor:
        num_bytes = self.num_elements * self.dtype.itemsize
        raw = self.read(num_bytes) if self.read else b""
        if len(raw) != num_bytes:
            raise WeightsError("cut off before its end. Fetch the file again.")
        return torch.frombuffer(bytearray(raw), dtype=self.dtype) if num_bytes else torch.empty(0, dtype=self.dtype)


class _View(_Storage):
    def __init__(self, owner: _Storage, offset: int, num_elements: int):
        if not (_is_count(offset) and _is_count(num_elements) and offset + num_elements <= owner.num_elements):
            raise WeightsError("damaged, a storage reaches past its owner.")
        super().__init__(owner.dtype, num_elements, None)
        self._owner, self._offset = owner, offset

    def elements(self) -> torch.Tensor:
        return self._owner.elements()[self._offset : self._offset + self.num_elements]


class _Harmless:
    """A function the interpreter may call. Being opaque, a pickle can neither inspect nor alter it."""

    __slots__ = ("function",)

    def __init__(self, function: Callable):
        self.function = function


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


class _Interpreter(pickle._Unpickler):  # the pure-Python one: its steps can be replaced one by one
    """Follows a pickle, but calls only `_Harmless` functions, creates only `Record` objects and alters only those."""

    stack: list[Any]  # these two belong to the base class
    append: Callable[[Any], None]

    def __init__(self, file: Any, storage: Callable[[tuple], _Storage], script: bool = False):
        super().__init__(file, encoding="latin1")
        self._storage, self._script = storage, script

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return _StorageType(DTYPES[name])
        if module == "torch" and name == "device":
            return _Harmless(lambda *parts: ":".join(map(str, parts)))
        if module == "torch" and name in DTYPE_NAMES:
            return DTYPE_NAMES[name]
        if (module, name) in OLD_TENSORS:
            return _OldTensor
        if self._script and (module == "__torch__" or module.startswith("__torch__.")):
            return type("Script", (Record,), {"kind": f"{module}.{name}"})
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in RECORDS:
            return type("Foreign", (Record,), {"kind": name})
        if (module, name) in GLOBALS:
            return _Harmless(GLOBALS[module, name])
        raise WeightsError(f"refused, it names {module}.{name}, and loading that could run code. Nothing was run.")

    def persistent_load(self, reference: Any) -> _Storage:
        if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
            raise WeightsError("refused, it refers to an object outside itself.")
        if not (isinstance(reference[1], _StorageType) and _is_count(reference[4])):
            raise WeightsError("refused, it describes a storage of an unknown kind.")
        return self._storage(reference)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if isinstance(function, type) and issubclass(function, Record | _OldTensor):
            self.stack[-1] = function(*arguments)
        elif isinstance(function, _Harmless):
            self.stack[-1] = function.function(*arguments)
        else:
            raise WeightsError("refused, it calls something that is not on the list of harmless functions.")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not (isinstance(kind, type) and issubclass(kind, Record | _OldTensor)):
            raise WeightsError("refused, it creates an object of an unknown class.")
        self.append(kind(*arguments))

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Record | _OldTensor | _Array | _DType):
            raise WeightsError("refused, it alters an object that should stay as it is.")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)
    for _opcode in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_opcode[0]]
    del _opcode
    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.BUILD[0]: load_build}


def _no_storage(reference: tuple) -> _Storage:
    raise WeightsError("refused, it refers to an object outside itself.")


# ------------------------------------------------------------------- what the harmless names stand for


def _tensor(storage: Any, offset: int, shape: tuple, stride: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage) or len(shape) != len(stride):
        raise WeightsError("refused, a tensor is not made of numbers.")
    if not all(_is_count(number) for number in (offset, *shape, *stride)):
        raise WeightsError("refused, a tensor's shape is not made of counts.")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if count else offset - 1
    if last >= storage.num_elements or count > max(storage.num_elements, 1 << 22):
        raise WeightsError("damaged, a tensor reaches past its storage.")

    def load() -> torch.Tensor:
        return storage.elements().as_strided(shape, stride, offset).contiguous()

    return Tensor(tuple(shape), storage.dtype, load)


class _OldTensor(Tensor):
    """A tensor or parameter of PyTorch 0.1: made empty or around its data, then given its state."""

    def __init__(self, data: Any = None, *_: Any):
        if data is not None:
            self._become(data)

    def __setstate__(self, state: tuple) -> None:
        if len(state) == 4:  # storage, offset, shape, stride
            self._become(_tensor(*state))
        elif len(state) == 5:  # a variable: data, gradient, hooks and two flags
            self._become(state[0])

    def _become(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            raise WeightsError("refused, a tensor is not made of numbers.")
        vars(self).update(vars(tensor))


def _persistent_object(meta: dict) -> Record:
    """NVlabs' persistence carries Python source to execute; only the object's state is kept."""
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise WeightsError("refused, a persistent object has no plain state.")
    record = Record(meta["state"])
    record.kind = str(meta.get("class_name", ""))
    return record


def _storage_from_bytes(raw: bytes) -> _Storage:
    if not isinstance(raw, bytes):
        raise WeightsError("refused, a storage is not made of bytes.")
    storage = _read_legacy(io.BytesIO(raw), raw)
    if not isinstance(storage, _Storage):
        raise WeightsError("refused, a storage holds something else.")
    return storage


class _DType:
    """numpy.dtype, of plain numbers only."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or code.lstrip("<>=|")[:1] not in "fiub":
            raise WeightsError("refused, an array is not made of numbers.")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """numpy.ndarray: shape, type and bytes."""

    def __init__(self, *_: Any):
        self.values = np.empty(0, np.float32)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes) or not all(map(_is_count, shape)):
            raise WeightsError("refused, an array is not made of numbers.")
        self.values = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


def _array_from_buffer(raw: Any, dtype: Any, shape: tuple, order: str, axes: Any = None) -> _Array:
    """How numpy pickles an array under protocol 5; `order` "K": in C order, its axes then moved to `axes`."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(raw) if isinstance(raw, bytearray) else raw))
    if order == "K" and axes is not None:
        array.values = array.values.transpose(axes)
    return array


def _scalar(dtype: _DType, raw: Any) -> float:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype.dtype)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise WeightsError("refused, it asks for an unusual text encoding.")
    return text.encode(encoding)


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 48


OLD_TENSORS = {("torch", name.replace("Storage", "Tensor")) for name in DTYPES} | {("torch.nn.parameter", "Parameter")}
RECORDS = {
    ("argparse", "Namespace"),
    ("collections", "OrderedDict"),
    ("dnnlib", "EasyDict"),
    ("dnnlib.tflib.network", "Network"),
    ("dnnlib.util", "EasyDict"),
}
GLOBALS: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch", "Size"): lambda sizes: tuple(sizes),
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, *_: value,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): list,
    ("__builtin__", "set"): list,
}
