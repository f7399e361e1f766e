"""The file format of packs: shards of JPEG frames, an index beside each, and a description of the whole.

A pack is a folder of shards `clips-00000.pack`, each with an index `clips-00000.json` (offset and facts of each clip,
sha256 of the shard), a `pack.json` (codec, size, decoder, source) and a `manifest.csv` that every command takes as it
is. A manifest row names its clip as `clips-00000.pack#OFFSET+LENGTH`, so a reader needs no index: opening a pack of a
million clips costs one read per clip.

A shard is 8 bytes of magic and then records (little-endian):

    "CLIP", bytes of the facts u4, frames n u4, crc32 u4 of facts and table
    facts   json: clip id, size, rate, origin, pose; or the kind of error that kept the clip out
    table   n times (bytes u4, crc32 u4)
    frames  n JPEG pictures
    pose    keypoints and confidences of the clip's range as float32, deflated (crc32 in the facts)

Every frame has its own checksum, so that a reader skips the frames it does not need.
"""

import json
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from islr.data.poses.pose import Pose
from islr.data.video.guard import DecodeError
from islr.errors import UserError
from islr.untrusted.json_files import Count, Facts, Number, check_facts, parse_json, read_json

ABOUT = "pack.json"


VERSION = 1


SHARD_MAGIC = b"ISLRPK1\n"


RECORD_MAGIC = b"CLIP"


HEAD = struct.Struct("<4sIII")


TABLE = np.dtype([("bytes", "<u4"), ("crc", "<u4")])


_REFERENCE = re.compile(r"(.+\.pack)#(\d+)\+(\d+)")


_WHOLE_BYTES = 2**20  # shorter records are read in one go: a second read costs more than a megabyte does


_HEAD_BYTES = 2**16  # of longer records, first: facts and table of some 8000 frames


@dataclass(frozen=True)
class Origin:
    """The original file of a packed clip: its size, its sha256 and the clip's time range in it."""

    bytes: int
    sha256: str
    start: float | None
    end: float | None


class _Loose(pydantic.BaseModel, extra="allow"):
    """A description of which only some keys are used."""


class _Origin(pydantic.BaseModel, extra="forbid"):
    bytes: Count
    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    start: Number | None
    end: Number | None


class _PackedPose(_Loose):
    frames: Count
    fps: Number
    width: Count
    height: Count
    bytes: Count
    crc: Count


class _RecordFacts(_Loose):
    """A packed clip, or one that could not be decoded (`failed`)."""

    id: str
    failed: str = ""
    width: Count = 0
    height: Count = 0
    fps: Number = 0.0
    original: Annotated[list[Count], pydantic.Field(min_length=2, max_length=2)] = [1, 1]
    origin: _Origin | None = None
    pose: _PackedPose | None = None


class _IndexEntry(_Loose):
    offset: Count
    length: Count
    frames: Count
    facts: _RecordFacts


class _ShardIndex(_Loose):
    bytes: Count
    sha256: str
    records: list[_IndexEntry]


class _About(_Loose):
    short_side: Count
    codec: str
    quality: Count
    decoder: str


def is_packed(path: str | Path) -> bool:
    """Return whether a manifest's `path` or `pose` names a clip in a pack."""
    return _REFERENCE.fullmatch(str(path)) is not None


def reference(shard: str, offset: int, length: int) -> str:
    """Return the name of a packed clip in a manifest row."""
    return f"{shard}#{offset}+{length}"


def locate(path: str | Path) -> tuple[Path, int, int]:
    match = _REFERENCE.fullmatch(str(path))
    assert match is not None, path
    return Path(match[1]), int(match[2]), int(match[3])


def index_of(shard: Path) -> Path:
    """Return the index file of a shard."""
    return shard.with_suffix(".json")


def pack_record(facts: dict[str, Any], pictures: list[bytes], pose: Pose | None) -> bytes:
    """Encode one clip; its facts are `facts` and the description of the pose."""
    block = b""
    if pose is not None:
        arrays = [pose.keypoints.astype("<f4"), pose.confidences.astype("<f4")]
        block = zlib.compress(b"".join(array.tobytes() for array in arrays))
        facts = facts | {
            "pose": {
                "frames": len(pose.keypoints),
                "fps": pose.fps,
                "width": pose.width,
                "height": pose.height,
                "bytes": len(block),
                "crc": zlib.crc32(block),
            }
        }
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()
    table = np.array([(len(picture), zlib.crc32(picture)) for picture in pictures], TABLE).tobytes()
    head = HEAD.pack(RECORD_MAGIC, len(text), len(pictures), zlib.crc32(text + table))
    return b"".join([head, text, table, *pictures, block])


class Record:
    """One packed clip of an open shard.

    Attributes:
        facts: Description of the clip.
        length: Bytes of the record.

    Raises:
        DecodeError: "damaged" or "truncated"; the message names the clip.
    """

    def __init__(self, descriptor: int, offset: int, length: int | None, where: str) -> None:
        """Read the facts; `length` None = the length that the record declares."""
        self._descriptor, self._offset, self._where = descriptor, offset, where
        size = _HEAD_BYTES if length is None or length > _WHOLE_BYTES else length
        self._begin = os.pread(descriptor, size, offset)
        if len(self._begin) < HEAD.size:
            raise DecodeError("truncated", where)
        magic, text, count, crc = HEAD.unpack_from(self._begin)
        if magic != RECORD_MAGIC:
            raise DecodeError("damaged", where, "no clip begins there")
        self._pictures = HEAD.size + text + count * TABLE.itemsize
        self._within(self._pictures)
        facts = self._read(HEAD.size, self._pictures)
        if zlib.crc32(facts) != crc:
            raise DecodeError("damaged", where, "its description fails its checksum")
        self.facts = self._described(facts[:text], count)
        self.table = np.frombuffer(facts, TABLE, count, text)
        self.ends = self._pictures + np.cumsum(self.table["bytes"], dtype=np.int64)
        self._pose = int(self.ends[-1]) if count else self._pictures
        pose = self.facts.get("pose")
        self.length = self._pose + (pose["bytes"] if pose else 0)
        self._within(self.length)
        if length is not None and length != self.length:
            raise DecodeError("damaged", where, f"{self.length} bytes where the manifest says {length}")

    def _within(self, length: int) -> None:
        """Refuse a record that declares more bytes than its shard has, before they are allocated."""
        held = os.fstat(self._descriptor).st_size - self._offset
        if length > held:
            raise DecodeError("truncated", self._where, f"{length - held} bytes are missing")

    def _described(self, text: bytes, pictures: int) -> dict[str, Any]:
        try:
            facts = check_facts(_RecordFacts, parse_json(Facts, text, "its description"), "its description")
        except UserError as error:
            raise DecodeError("damaged", self._where, str(error)) from error
        if pictures and not {"width", "height", "fps"} <= facts.keys():
            raise DecodeError("damaged", self._where, "its description lacks the size or rate of its pictures")
        return facts

    def _read(self, start: int, stop: int) -> bytes:
        if stop <= len(self._begin):
            return self._begin[start:stop]
        content = os.pread(self._descriptor, stop - start, self._offset + start)
        if len(content) < stop - start:
            raise DecodeError("truncated", self._where, f"{stop - start - len(content)} bytes are missing")
        return content

    def picture(self, index: int) -> bytes:
        """Return the JPEG bytes of a frame, verified."""
        entry = self.table[index]
        end = int(self.ends[index])
        data = self._read(end - int(entry["bytes"]), end)
        if zlib.crc32(data) != entry["crc"]:
            raise DecodeError("damaged", self._where, f"frame {index} fails its checksum")
        return data

    def pose_block(self) -> bytes:
        """Return the bytes of the pose, verified."""
        if "pose" not in self.facts:
            raise DecodeError("pose", self._where, "it has no pose")
        block = self._read(self._pose, self.length)
        if zlib.crc32(block) != self.facts["pose"]["crc"]:
            raise DecodeError("damaged", self._where, "its pose fails its checksum")
        return block

    def check(self) -> None:
        """Verify every frame and the pose."""
        for index in range(len(self.table)):
            self.picture(index)
        if "pose" in self.facts:
            self.pose_block()


def read_about(folder: Path) -> dict[str, Any]:
    """Read `pack.json`.

    Raises:
        UserError: It is absent, cannot be read, or is of another version.
    """
    path = folder / ABOUT
    about = _whole_json(path)
    if about.get("version") != VERSION:
        raise UserError(f"{path}: not the description of a pack of version {VERSION}")
    return check_facts(_About, about, str(path))


def read_index(shard: Path) -> dict[str, Any]:
    """Read the index of a finished shard.

    Raises:
        UserError: It is absent or cannot be read.
    """
    path = index_of(shard)
    return check_facts(_ShardIndex, _whole_json(path), str(path))


def _whole_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(Facts, path)
        return content
    except (UserError, FileNotFoundError) as error:
        raise UserError(f"{path}: cannot be read ({error}); the pack is not whole, make it again") from error
