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
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from islr.errors import UserError

MAX_PICKLE = 64 << 20  # bytes of opcodes; a checkpoint with optimiser state has a few megabytes
MAX_TENSORS = 64 << 30  # bytes of all tensors: ten times the largest public video encoder with its optimiser

# Bytes per element of torch's storage classes; what is not here (complex, quantised) is no weight.
_ELEMENT = {
    **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1},
}
# All that torch.save writes.
_OPCODES = {
    *("PROTO", "STOP", "MARK", "POP", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
}
_ZIP_START = b"PK\x03\x04"
_LEGACY_LENGTH = 8  # bytes before a storage that repeat its length
_LEGACY_HEADERS = 3  # pickles before the content: magic number, protocol, the writer's machine


class Refused(UserError):
    """The file is not what is read here; the message lacks the file's name."""


class _Storage(NamedTuple):
    elements: int


class _Kind(NamedTuple):
    """A storage class, by its name."""

    name: str


class _Tensor:
    """A tensor that was declared and fits its storage."""

    def __setstate__(self, state: Any) -> None:
        raise Refused("a tensor is given a second shape")


class _Mapping(dict):
    """An OrderedDict, whose attributes (`_metadata` of a state dict) do not matter here."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Namespace:
    """An argparse.Namespace, as training scripts put beside their weights."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    numbers = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not isinstance(storage, _Storage) or not numbers or not all(_is_count(n) for n in (offset, *size, *stride)):
        raise Refused("a tensor is not declared by a storage, an offset, a shape and strides")
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if math.prod(size) and (reach > storage.elements or math.prod(size) > storage.elements):
        raise Refused(f"a tensor of {list(size)} is larger than the {storage.elements} elements it is stored in")
    return _Tensor()


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


class _Inert(pickle.Unpickler):
    """Runs a pickle with stand-ins for everything it may name, and refuses it when it names anything else."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.storages: dict[str, int] = {}  # key -> bytes

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if whole in _KNOWN:
            return _KNOWN[whole]
        if module == "torch" and name in _DTYPES:
            return None
        if module == "torch" and name in _ELEMENT:
            return _Kind(name)
        if module == "torch" and name.endswith("Storage"):
            raise Refused(f"it holds tensors of {whole}; weights are floating point or integer")
        raise Refused(
            f"it names {whole}, and only tensors in plain containers are read. If you trust the file, load it where "
            "that class exists and write its state dict with safetensors.torch.save_file"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("it refers to something other than a storage")
        kind, key, elements = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_count(elements):
            raise Refused("a storage is not declared by a class, a key and a length")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("it has storages that are views of others, as torch wrote before version 0.4")
        size = elements * _ELEMENT[kind.name]
        if self.storages.setdefault(key, size) != size:
            raise Refused(f"storage {key} is declared with two lengths")
        return _Storage(elements)


def check_torch_file(path: Path) -> None:
    """Refuse a `torch.save` file, zip or legacy, unless it holds all it declares and names nothing but tensors.

    Raises:
        UserError: What it names that is not read and how to convert it, or in what it is broken.
    """
    try:
        with path.open("rb") as file:
            if is_zip(file):
                _check_zip(path)
            else:
                _check_legacy(file, path.stat().st_size)
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    except (
        *(pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
        *(OverflowError, MemoryError, RecursionError, zipfile.BadZipFile, NotImplementedError),
    ) as error:  # what a broken file or a made-up stream of opcodes can raise
        raise UserError(f"{path}: truncated or not written by torch.save ({error or type(error).__name__})") from None


def is_zip(file: BinaryIO) -> bool:
    """Whether torch reads an open file as a zip: by its first bytes alone, unlike `zipfile.is_zipfile`."""
    start = file.read(len(_ZIP_START))
    file.seek(0)
    return start == _ZIP_START


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()) or min(entry.header_offset for entry in entries.values()) != 0:
            raise Refused("its entries are ambiguous: two of one name, or others before them")
        packed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Refused(f"entry {packed[0]} is compressed; torch.save never does that")
        # Stored entries that do not overlap add up to less than the file.
        total = sum(entry.file_size for entry in archive.infolist())
        if total > min(path.stat().st_size, MAX_TENSORS):
            raise Refused(f"its entries declare {total} bytes, the file has {path.stat().st_size}")
        if "constants.pkl" in entries:
            raise Refused("is a TorchScript program, not weights; load it where you trust it and save its state dict")
        if "data.pkl" not in entries:
            raise Refused("is a zip archive without data.pkl; it was not written by torch.save")
        if entries["data.pkl"].file_size > MAX_PICKLE:
            raise Refused(f"its data.pkl has {entries['data.pkl'].file_size} bytes, more than {MAX_PICKLE}")
        content = archive.read(entries["data.pkl"])
    found = _inspect(io.BytesIO(content))
    for key, size in found.storages.items():
        held = entries.get(f"data/{key}")
        if held is None or held.file_size < size:
            raise Refused(f"storage {key} is declared with {size} bytes, the file has {held.file_size if held else 0}")


def _check_legacy(file: BinaryIO, length: int) -> None:
    for _ in range(_LEGACY_HEADERS):
        _inspect(file)
    found = _inspect(file)
    _inspect(file)  # the order of the storages, which follow, each behind its length
    declared = sum(found.storages.values()) + _LEGACY_LENGTH * len(found.storages)
    if declared > min(length - file.tell(), MAX_TENSORS):
        raise Refused(f"its storages are declared with {declared} bytes, the file has {length - file.tell()} left")


def _inspect(file: Any) -> _Inert:
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
    machine = _Inert(file.read(end - start))
    machine.load()
    return machine
