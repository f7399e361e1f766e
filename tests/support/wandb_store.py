"""What an offline wandb run holds, read with wandb's own record type.

The file is a header of 7 bytes and the log format of LevelDB: blocks of 32 KiB, in them chunks of a header (checksum,
length, kind) and a piece of a record; kinds 1 and 4 end a record.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32 * 1024
_CHUNK = struct.Struct("<IHB")
_ENDS = (1, 4)


def records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    data, at, piece = path.read_bytes(), _HEADER, b""
    while at + _CHUNK.size <= len(data):
        if _BLOCK - at % _BLOCK < _CHUNK.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        piece += data[at : at + length]
        at += length
        if kind in _ENDS:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(piece)
            yield record
            piece = b""


class Stored:
    """The offline runs of a run folder, in the order of their launches."""

    def __init__(self, folder: Path) -> None:
        self.folders = sorted(folder.glob("wandb/offline-run-*"))
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.runs: list[Any] = []
        for one in self.folders:
            for record in records(next(one.glob("*.wandb"))):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    self.runs.append(record.run)
                    self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
                elif kind == "history":
                    self.history.append({_name(item): json.loads(item.value_json) for item in record.history.item})
                elif kind == "summary":
                    self.summary |= {_name(item): json.loads(item.value_json) for item in record.summary.update}

    def files(self, pattern: str) -> list[Path]:
        return sorted(path for one in self.folders for path in (one / "files" / "media").rglob(pattern))


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
