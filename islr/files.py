"""Files that are whole or absent, their hashes, and names that are safe for them."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from islr.errors import UserError


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


def walk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of folders, names of files) from the top down, each sorted, as `os.walk` does.

    Links to folders are followed, since corpora lie in caches and trees of links; one that leads back to a folder above
    it is not. Hidden folders and those that systems write beside files are left out. The caller may remove names of
    folders that are not to be entered.

    Raises:
        UserError: A folder cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, os.path.isdir(entry)) for entry in found)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
    folders = [name for name, is_folder in entries if is_folder and not _is_system_folder(name)]
    yield folder, folders, [name for name, is_folder in entries if not is_folder]
    inside = above | {os.path.realpath(folder)}
    for name in folders:
        if os.path.realpath(folder / name) not in inside:
            yield from walk(folder / name, inside)


def _is_system_folder(name: str) -> bool:
    """Return whether a folder is hidden, or one that an operating or file system writes beside people's files."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN")
