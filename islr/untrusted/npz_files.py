"""Arrays in npz files: sizes are held against caps before anything is allocated, and no object is ever built."""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from islr.errors import UserError, one_line
from islr.untrusted.json_files import refuse_special

MAX_ARRAY_BYTES = 4 << 30  # of all arrays of a file
_KINDS = "fiubU"  # numbers, truth values and text; no objects, no structures
_SUFFIX = ".npy"
_HEADER_BYTES = 1 << 16


class DamagedArrays(UserError):
    """A file that is not an npz of plain arrays, or no longer; the message names it and `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: damaged, or not an npz of plain arrays ({reason})")
        self.reason = reason


def read_arrays(
    path: Path, wanted: Collection[str] | None = None, most_bytes: int = MAX_ARRAY_BYTES
) -> dict[str, np.ndarray]:
    """Read arrays of an npz file.

    Args:
        path: The file.
        wanted: Names to read, where the file has them; None = all.
        most_bytes: Largest size of all arrays together.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedArrays: Truncated, altered, encrypted, larger than the cap, or with arrays of anything but numbers and
            text.
    """
    try:
        refuse_special(path)
        with zipfile.ZipFile(path) as archive:
            members = {
                entry.filename.removesuffix(_SUFFIX): entry
                for entry in archive.infolist()
                if wanted is None or entry.filename.removesuffix(_SUFFIX) in wanted
            }
            size = sum(entry.file_size for entry in members.values())
            if size > most_bytes:
                raise ValueError(f"its arrays have {size:,} bytes, more than {most_bytes:,}")
            return {name: _read_member(archive, entry) for name, entry in members.items()}
    except (FileNotFoundError, DamagedArrays):
        raise
    except (
        *(OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, NotImplementedError),
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError),
        *(SyntaxError, tokenize.TokenError, RecursionError),
    ) as error:  # what zipfile, zlib and numpy raise on damaged bytes
        raise DamagedArrays(path, one_line(error)) from error


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"'{entry.filename}' is encrypted or packed by an unknown method")
    with archive.open(entry) as file:
        shape, by_column, kind = _header(file)
        if kind.hasobject or kind.kind not in _KINDS:
            raise ValueError(f"'{entry.filename}' holds {kind}; only numbers and text are read")
        count = 1
        for length in shape:
            count *= length
        expected = count * kind.itemsize
        if not all(length >= 0 for length in shape) or expected > entry.file_size:
            raise ValueError(f"'{entry.filename}' declares {list(shape)} of {kind}, more than it holds")
        content = bytearray(file.read(expected + 1))
    if len(content) != expected:
        raise ValueError(f"'{entry.filename}' has {len(content)} bytes for {list(shape)} of {kind}")
    return np.frombuffer(content, kind).reshape(shape, order="F" if by_column else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file, max_header_size=_HEADER_BYTES)
