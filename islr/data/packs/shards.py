"""The writer of a pack's shards, which continues where a killed run stopped."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from islr.data.packs.format import SHARD_MAGIC, VERSION, Record, index_of, read_index
from islr.data.video.guard import DecodeError
from islr.files import file_sha256, write_atomic


class Shards:
    """The shard files of a pack, written one after another; a shard is finished when its index exists."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._number = 0
        self._file: Any = None
        self._records: list[dict[str, Any]] = []
        self.failed: list[str] = []  # "id (kind)" of the clips that earlier runs failed to decode

    def recover(self, ids: Sequence[str], check: bool) -> int:
        """Keep the clips among `ids` that earlier runs wrote; return how many need not be packed again."""
        done = 0
        while (index := self._finished(check)) is not None:
            done = self._same(ids, done, index["records"])
            self._number += 1
        path = self._path()
        if path.is_file():
            index_of(path).unlink(missing_ok=True)
            self._file = path.open("r+b")
            self._records = list(_whole_records(self._file, path))
            done = self._same(ids, done, self._records)
            self._file.truncate(self._size())
            self._file.seek(self._size())
            if not self._records:
                self._begin()
        return done

    def add(self, record: bytes) -> None:
        """Append a clip."""
        if self._file is None or (self._records and self._size() + len(record) > self._limit):
            self.finish()
            self._begin()
        offset = self._size()
        self._file.write(record)
        self._file.flush()  # a killed process would lose what it has buffered
        self._records.append(_entry(self._file, offset, len(record), str(self._path())))

    def finish(self) -> None:
        """Sync the open shard to disk and write its index."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        path = self._path()
        index = {"version": VERSION, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        write_atomic(index_of(path), json.dumps(index | {"records": self._records}, ensure_ascii=False) + "\n")
        self._number += 1
        self._records = []

    def _path(self) -> Path:
        return self._folder / _shard_name(self._number)

    def _size(self) -> int:
        last = self._records[-1] if self._records else {"offset": len(SHARD_MAGIC), "length": 0}
        return last["offset"] + last["length"]

    def _begin(self) -> None:
        path = self._path()
        index_of(path).unlink(missing_ok=True)  # of a later shard of an earlier run, to be made again
        self._file = path.open("w+b")
        self._file.write(SHARD_MAGIC)

    def _finished(self, check: bool) -> dict[str, Any] | None:
        """Return the index of the current shard if the shard agrees with it."""
        path = self._path()
        if not (path.is_file() and index_of(path).is_file()):
            return None
        index = read_index(path)
        whole = path.stat().st_size == index["bytes"] and (not check or file_sha256(path) == index["sha256"])
        return index if whole else None

    def _same(self, ids: Sequence[str], done: int, records: list[dict[str, Any]]) -> int:
        packed = [record["facts"]["id"] for record in records]
        assert packed == list(ids[done : done + len(packed)]), self._path()  # the caller has compared the clips
        self.failed += [
            f"{record['facts']['id']} ({record['facts']['failed']})" for record in records if failed_kind(record)
        ]
        return done + len(packed)


def _shard_name(number: int) -> str:
    return f"clips-{number:05d}.pack"


def failed_kind(entry: dict[str, Any]) -> str:
    """Return the kind of error that kept a clip out of the pack; "" for a packed clip."""
    return entry["facts"].get("failed", "")


def _entry(file: Any, offset: int, length: int | None, where: str) -> dict[str, Any]:
    """Return the index entry of a record, read back from the file."""
    record = Record(file.fileno(), offset, length, where)
    return {"offset": offset, "length": record.length, "frames": len(record.table), "facts": record.facts}


def _whole_records(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield index entries of the clips in a shard without index, up to the first incomplete clip."""
    offset = len(SHARD_MAGIC)
    if os.pread(file.fileno(), offset, 0) != SHARD_MAGIC:
        return
    while True:
        try:
            Record(file.fileno(), offset, None, str(path)).check()
            entry = _entry(file, offset, None, str(path))
        except DecodeError:
            return
        yield entry
        offset += entry["length"]


def entries(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (shard's name, index entry) of all clips of a pack, in their order."""
    number = 0
    while index_of(out / _shard_name(number)).is_file():
        name = _shard_name(number)
        yield from ((name, entry) for entry in read_index(out / name)["records"])
        number += 1
