"""What a file written by `torch.save` says of itself, read without running any of it and before anything is allocated.

A pickle is a program. `torch.load(weights_only=True)` runs only a short list of functions, but it allocates what
these are told to: a file of a kilobyte can ask for a terabyte, by the length of a storage or by the shape of a
tensor. Here the same program is run with stand-ins that allocate nothing, and what it asks for is held against
what the file holds.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from islr.errors import UserError
from islr.untrusted.pickle_files import BoundedUnpickler, check_keys

MAX_PICKLE = 64 << 20  # bytes of opcodes; a checkpoint with optimiser state has a few megabytes
MAX_TENSORS = 64 << 30  # bytes of all tensors: ten times the largest public video encoder with its optimiser

# torch's storage classes; what is not here (complex, quantised) is no weight.
_STORAGES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
}
# All that torch.save writes.
_OPCODES = {
    *("PROTO", "STOP", "MARK", "POP", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
}
_MOST_DIMENSIONS = 16  # of a tensor
_MOST_VIEWS = 8  # bytes of all tensors per byte of storage; tied weights share one
_DEEPEST_MODULE, _MOST_PARTS = 64, 100_000  # of a module, whose parts may be shared
_ZIP_START = b"PK\x03\x04"
_LOCAL_HEADER, _LOCAL_LENGTHS = 30, 26  # bytes of a zip entry's own header, and where in it two lengths are
_LEGACY_LENGTH = 8  # bytes before a storage that repeat its length
_LEGACY_HEADERS = 3  # pickles before the content: magic number, protocol, the writer's machine


class Refused(UserError):
    """The file is not what is read here; the message lacks the file's name."""


class _Storage(NamedTuple):
    """A storage as it is declared: where it is found, its type and its length."""

    key: str
    dtype: torch.dtype
    elements: int


class _Tensor:
    """A tensor that was declared and fits its storage."""

    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __setstate__(self, state: Any) -> None:
        raise Refused("a tensor is given a second shape")


class _Module:
    """A module: what `nn.Module` keeps of itself, and none of its class."""

    parts: Mapping[str, Any] = MappingProxyType({})  # pickles make objects without calling __init__

    def __setstate__(self, state: Any) -> None:
        self.parts = state


class _Mapping(dict):
    """An OrderedDict, whose attributes (`_metadata` of a state dict) do not matter here."""

    def __init__(self, pairs: Any = ()) -> None:
        items = list(pairs.items()) if isinstance(pairs, dict) else [tuple(pair) for pair in pairs]
        check_keys(key for key, _ in items)
        super().__init__(items)

    def __setstate__(self, state: Any) -> None:
        pass


class _Namespace:
    """An argparse.Namespace, as training scripts put beside their weights."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    numbers = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if numbers and len(size) > _MOST_DIMENSIONS:
        raise Refused(f"a tensor of {len(size)} dimensions")
    if not isinstance(storage, _Storage) or not numbers or not all(_is_count(n) for n in (offset, *size, *stride)):
        raise Refused("a tensor is not declared by a storage, an offset, a shape and strides")
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if math.prod(size) and (reach > storage.elements or math.prod(size) > storage.elements):
        raise Refused(f"a tensor of {list(size)} is larger than the {storage.elements} elements it is stored in")
    return _Tensor(storage, offset, size, stride)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _nothing(*_: Any) -> None:
    return None


# What a checkpoint may name, and what stands for it here. All of it is also let through by torch's own reader.
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _Mapping,
    "collections.Counter": _Mapping,
    "argparse.Namespace": _Namespace,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _nothing,
    "torch.device": _nothing,
    "_codecs.encode": _nothing,  # of byte strings
    "builtins.set": _nothing,
    "__builtin__.set": _nothing,
}
_DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


class _Inert(BoundedUnpickler):
    """Runs a pickle with stand-ins for everything it may name, and refuses it when it names anything else."""

    def __init__(self, content: bytes, classes: Collection[str]) -> None:
        super().__init__(content)
        self.classes = classes  # of modules, beside torch's own where there are any
        self.storages: dict[str, int] = {}  # key -> bytes
        self.viewed = 0  # bytes of all tensors, which may share storages
        self.content: Any = None

    def _rebuilt(self, *arguments: Any) -> _Tensor:
        tensor = _rebuild(*arguments)
        self.viewed += math.prod(tensor.size) * tensor.storage.dtype.itemsize
        return tensor

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if whole in _KNOWN:
            return self._rebuilt if _KNOWN[whole] is _rebuild else _KNOWN[whole]
        if self.classes and (whole in self.classes or module.startswith("torch.nn.modules.")):
            return _Module
        if module == "torch" and name in _DTYPES:
            return None
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name.endswith("Storage"):
            raise Refused(f"it holds tensors of {whole}; weights are floating point or integer")
        raise Refused(
            f"it names {whole}, and only tensors in plain containers are read. If you trust the file, load it where "
            "that class exists and write its state dict with safetensors.torch.save_file"
        )

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and pid[1] is _Module:
            return _Module  # beside the text of the class, in legacy files
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("it refers to something other than a storage")
        dtype, key, elements = pid[1], pid[2], pid[4]
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_count(elements):
            raise Refused("a storage is not declared by a class, a key and a length")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("it has storages that are views of others, as torch wrote before version 0.4")
        size = elements * dtype.itemsize
        if self.storages.setdefault(key, size) != size:
            raise Refused(f"storage {key} is declared with two lengths")
        return _Storage(key, dtype, elements)


class _Checked(NamedTuple):
    """The content of a file with stand-ins in it, and where each storage's bytes begin and how many there are."""

    content: Any
    places: dict[str, tuple[int, int]]


def check_torch_file(path: Path) -> None:
    """Refuse a `torch.save` file, zip or legacy, unless it holds all it declares and names nothing but tensors.

    Raises:
        UserError: What it names that is not read and how to convert it, or in what it is broken.
    """
    _check(path, ())


def read_modules(path: Path, classes: Collection[str]) -> dict[str, Tensor]:
    """Read the state dict of a module that was pickled whole, without its classes.

    Args:
        path: Written by `torch.save(module, path)`, zip or legacy.
        classes: Full names of its classes, beside torch's own. They are stood for, never imported.

    Raises:
        UserError: As `check_torch_file`, or there is no module in it.
    """
    content, places = _check(path, classes)
    if not isinstance(content, _Module):
        raise UserError(f"{path}: holds a {type(content).__name__.strip('_').lower()}, not a pickled module")
    state = {}
    with _said_of(path), path.open("rb") as file:
        for name, tensor in islice(_flattened(content, ""), _MOST_PARTS):
            start, length = places[tensor.storage.key]
            file.seek(start)
            values = torch.frombuffer(bytearray(file.read(length)), dtype=tensor.storage.dtype)
            state[name] = values.as_strided(tensor.size, tensor.stride, tensor.offset).clone()
    return state


def _flattened(module: _Module, prefix: str) -> Iterator[tuple[str, _Tensor]]:
    if prefix.count(".") > _DEEPEST_MODULE:
        raise Refused(f"its modules are nested more than {_DEEPEST_MODULE} deep")
    for kind in ("_parameters", "_buffers", "_modules"):
        for name, part in module.parts.get(kind, {}).items():
            if isinstance(part, _Module):
                yield from _flattened(part, f"{prefix}{name}.")
            elif isinstance(part, _Tensor):
                yield f"{prefix}{name}", part


def _check(path: Path, classes: Collection[str]) -> _Checked:
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    with _said_of(path), path.open("rb") as file:
        return _check_zip(file, path, classes) if is_zip(file) else _check_legacy(file, path, classes)


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Name the file in errors about it."""
    try:
        yield
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    except (
        *(pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
        *(OverflowError, MemoryError, RecursionError, zipfile.BadZipFile, NotImplementedError, struct.error),
    ) as error:  # what a broken file or a made-up stream of opcodes can raise
        raise UserError(f"{path}: truncated or not written by torch.save ({error or type(error).__name__})") from None


def is_zip(file: BinaryIO) -> bool:
    """Whether torch reads an open file as a zip: by its first bytes alone, unlike `zipfile.is_zipfile`."""
    start = file.read(len(_ZIP_START))
    file.seek(0)
    return start == _ZIP_START


def _check_zip(file: BinaryIO, path: Path, classes: Collection[str]) -> _Checked:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()) or min(entry.header_offset for entry in entries.values()) != 0:
            raise Refused("its entries are ambiguous: two of one name, or others before them")
        packed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Refused(f"entry {packed[0]} is compressed; torch.save never does that")
        # Stored entries that do not overlap add up to less than the file.
        total, length = sum(entry.file_size for entry in entries.values()), path.stat().st_size
        if total > min(length, MAX_TENSORS):
            raise Refused(f"its entries declare {total} bytes, the file has {length}")
        if "constants.pkl" in entries:
            raise Refused("is a TorchScript program, not weights; load it where you trust it and save its state dict")
        if "data.pkl" not in entries:
            raise Refused("is a zip archive without data.pkl; it was not written by torch.save")
        if entries["data.pkl"].file_size > MAX_PICKLE:
            raise Refused(f"its data.pkl has {entries['data.pkl'].file_size} bytes, more than {MAX_PICKLE}")
        found = _inspect(io.BytesIO(archive.read(entries["data.pkl"])), classes)
    places = {}
    for key, size in found.storages.items():
        held = entries.get(f"data/{key}")
        if held is None or held.file_size < size:
            raise Refused(f"storage {key} is declared with {size} bytes, the file has {held.file_size if held else 0}")
        # A local header has a name and an extra field of its own lengths before the bytes.
        file.seek(held.header_offset + _LOCAL_LENGTHS)
        name, extra = struct.unpack("<HH", file.read(4))
        places[key] = (held.header_offset + _LOCAL_HEADER + name + extra, size)
    return _Checked(found.content, places)


def _check_legacy(file: BinaryIO, path: Path, classes: Collection[str]) -> _Checked:
    for _ in range(_LEGACY_HEADERS):
        _inspect(file, ())
    found = _inspect(file, classes)
    order = _inspect(file, ()).content  # of the storages, which follow, each behind its length
    places, end = {}, file.tell()
    for key in order:
        start = end + _LEGACY_LENGTH
        places[key] = (start, found.storages[key])
        end = start + found.storages[key]
    length = path.stat().st_size
    if end > length or end > MAX_TENSORS or places.keys() != found.storages.keys():
        raise Refused(f"its storages are declared to end at byte {end}, the file has {length} bytes")
    return _Checked(found.content, places)


def _inspect(file: Any, classes: Collection[str]) -> _Inert:
    """Run one pickle of a stream with stand-ins; the stream is left behind it."""
    start = file.tell()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if opcode.name not in _OPCODES:
            raise Refused(f"its pickle uses {opcode.name}, which torch.save does not write")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > count:
            raise Refused("its pickle numbers its objects out of order")  # the number is an allocation
        if (position or 0) - start > MAX_PICKLE:
            raise Refused(f"its pickle is longer than {MAX_PICKLE} bytes")
    end = file.tell()
    file.seek(start)
    machine = _Inert(file.read(end - start), classes)
    machine.content = machine.load()
    if machine.viewed > _MOST_VIEWS * sum(machine.storages.values()):
        raise Refused(f"its tensors show the bytes of their storages more than {_MOST_VIEWS} times over")
    return machine
