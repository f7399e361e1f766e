"""Checks that a video file must pass before a decoder opens it, and the error for every file that fails.

A manifest may come from anybody. So a path must lead to a plain file inside the data root, and only video containers
are opened: a playlist could make a decoder read other files or the network.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

MAX_FILE_BYTES = 64 * 2**30  # hours of high-definition video
MAX_FRAME_PIXELS = 7680 * 4320  # 8K; anything larger is a broken header
MAX_OUTPUT_BYTES = 4 * 2**30  # the frames of one call must fit in memory

# What can be in `DecodeError.kind`.
KINDS = {
    "outside root": "the path, or what it links to, is not inside the data root",
    "missing": "no such file",
    "not a file": "a folder, a device or a pipe",
    "empty": "zero bytes",
    "too large": "more bytes, pixels or output than the caps",
    "not a video": "none of the containers we read, or its index is broken",
    "no video stream": "sound or text only",
    "truncated": "the file ends before its content does",
    "damaged": "some frames cannot be decoded, or only with errors",
    "no frames": "nothing to decode, or nothing inside the time range",
    "times": "the times of its frames do not rise, or rise at an impossible rate",
    "size changes": "the picture size changes inside the clip",
    "index": "a frame number is not inside the clip",
    "backend disagrees": "the chosen backend returns other frames than a checked decode of the file",
    "pose": "the clip's pose file is absent or cannot be read",
    "deadline": "decoding exceeded its deadline and its process was stopped",
    "crash": "the process that decoded the file died",
}

_ISO_FIRST = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_ISO_BOXES = _ISO_FIRST | {b"moof", b"mfra", b"udta", b"uuid", b"sidx", b"meta"}
HEAD_BYTES = 512  # enough to tell containers apart

_TS_PACKET, _TS_SYNC = 188, 0x47
_MAGIC = {
    b"FWS": ".swf",
    b"CWS": ".swf",
    b"FLV": ".flv",
    b"OggS": ".ogv",
    b"\x00\x00\x01\xba": ".mpg",
    b"\x00\x00\x01\xb3": ".mpg",
    b"\x30\x26\xb2\x75": ".wmv",
}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class DecodeError(ValueError):
    """A file that cannot give the requested frames.

    Attributes:
        kind: A key of `KINDS`.
        path: The file.
        detail: The particulars.
    """

    def __init__(self, kind: str, path: str | Path, detail: str = "") -> None:
        super().__init__(kind, str(path), detail)
        self.kind, self.path, self.detail = kind, str(path), detail

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


def container_suffix(head: bytes) -> str | None:
    """Return the usual suffix of the container that a file's first HEAD_BYTES belong to; None if we cannot read it.

    The suffix in an address proves nothing: a `.mp4` on the web may be a QuickTime file, a Flash film, or a web page.
    """
    if head[4:8] in _ISO_FIRST:
        # Old QuickTime files have no `ftyp` box.
        return ".mov" if head[4:8] not in (b"ftyp", b"styp") or head[8:12] == b"qt  " else ".mp4"
    if head[:4] == _EBML:
        return ".webm" if b"webm" in head[:64] else ".mkv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return ".avi"
    if len(head) > _TS_PACKET and head[0] == head[_TS_PACKET] == _TS_SYNC:
        return ".ts"
    return next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), None)


def check_path(path: str | Path, root: str | Path | None) -> Path:
    """Return the resolved path of a plain, whole, non-empty file inside `root` (None = anywhere).

    Raises:
        DecodeError: The path leads to anything else.
    """
    text = str(path)
    if any(ord(character) < 32 for character in text):
        raise DecodeError("outside root", repr(text), "a control character in the path")
    try:
        resolved = Path(text).resolve()
        if root is not None and not resolved.is_relative_to(Path(root).resolve()):
            link = f"a link to {resolved}; " if _absolute(text) != resolved else ""
            raise DecodeError("outside root", path, f"{link}the data root is {root}")
        size = resolved.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise DecodeError("missing", path, getattr(error, "strerror", "") or "") from None
    if not resolved.is_file():
        raise DecodeError("not a file", path)
    if size == 0:
        raise DecodeError("empty", path)
    if size > MAX_FILE_BYTES:
        raise DecodeError("too large", path, f"{size} bytes")
    with open(resolved, "rb") as file:
        end = _declared_end(file, size)
    if end > size:
        raise DecodeError("truncated", path, f"{end - size} of {end} bytes are missing")
    return resolved


def _absolute(text: str) -> Path:
    """Return the absolute path that a text names, with links as they are."""
    return Path(os.path.abspath(text))


def check_output(path: str | Path, size: int) -> None:
    """Refuse to build more than MAX_OUTPUT_BYTES of frames in one call."""
    if size > MAX_OUTPUT_BYTES:
        raise DecodeError("too large", path, f"{size / 2**30:.1f} GiB of frames in one call")


def _declared_end(file: BinaryIO, size: int) -> int:
    """Return where the file ends according to its outermost structure; 0 where the format does not say.

    Decoders report no error for a file that was cut between two frames.
    """
    head = file.read(64)
    if head[4:8] in _ISO_FIRST:
        return _iso_end(file, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return 8 + struct.unpack("<I", head[4:8])[0]
    if head[:4] == _EBML:
        at = head.find(_SEGMENT)
        if at < 0 or at + 12 > len(head):
            return 0
        length = 9 - head[at + 4].bit_length()  # an EBML number's leading zero bits encode its length
        if length > 8:
            return 0
        number = int.from_bytes(head[at + 4 : at + 4 + length], "big") & ((1 << 7 * length) - 1)
        unknown = (1 << 7 * length) - 1  # all ones: a stream of unknown length
        return 0 if number == unknown else at + 4 + length + number
    return 0


def _iso_end(file: BinaryIO, size: int) -> int:
    """Return the end of the last top-level box of an mp4 or mov file (ISO 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if kind not in _ISO_BOXES or 0 < length < 8:
            return 0  # players ignore what follows the last box
        if length == 0:
            return size  # the last box reaches to the end of the file
        at += length
    return at
