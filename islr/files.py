"""Files that are whole or absent, their hashes, and names that are safe for them."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whose name only ever holds complete content: a temporary file, synced and then renamed.

    Raises:
        OSError: The disk is full or not writable; what was there before is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    write_atomic_with(path, lambda file: file.write(data))


def write_atomic_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Do as `write_atomic` does, for content that a function writes into an open binary file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself must survive a power cut.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slug(name: str) -> str:
    """Return a name as lower-case letters and digits of any script with hyphens between them, for files and anchors."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-") or "x"
