"""Reads the files in which others publish weights, as data: nothing that a file names is ever run.

safetensors files, folders of them as Hugging Face writes them, and `torch.save` files. The last are checked by
`islr/models/public/pickles.py` and then read by `torch.load(weights_only=True)`; there is no way around either.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import torch
from torch import Tensor

from islr.errors import UserError
from islr.files import file_sha256
from islr.models.public.pickles import check_torch_file, is_zip
from islr.models.weights import is_pickle, read_metadata, read_tensors, refuse_no_weights
from islr.untrusted.json_files import read_json

State = dict[str, Tensor]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"  # names in a Hugging Face folder
_PLAIN = (str, int, float, bool, type(None))  # what may lie between tensors: step counts, names


class ShardedWeights(pydantic.BaseModel):
    """Hugging Face's index of a folder: the file of each tensor."""

    weight_map: dict[str, str]


class PublicFile(NamedTuple):
    """A foreign file in memory.

    Attributes:
        path: The file, or the folder.
        sha256: Of the file's bytes; of a folder, of its index's.
        content: Tensors by name, or nested dicts that hold such dicts beside anything else.
        metadata: Of a safetensors file.
    """

    path: Path
    sha256: str
    content: Mapping[str, Any]
    metadata: dict[str, str]

    def state(self, entries: Sequence[str] = ()) -> State:
        """Return the tensors of the first of `entries` that the file has, or of the file itself.

        Raises:
            UserError: There is no tensor, or something other than numbers beside them.
        """
        entry = next((name for name in entries if isinstance(self.content.get(name), Mapping)), None)
        found = self.content if entry is None else self.content[entry]
        where = f"{self.path}" if entry is None else f"{self.path}, entry {entry}"
        unnamed = [name for name in found if not isinstance(name, str)]
        if unnamed:
            raise UserError(f"{where}: {unnamed[0]!r} is no name of a tensor; a state dict's keys are text")
        state = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        if not state:
            raise UserError(f"{where}: no tensors here; it has {', '.join(map(str, list(found)[:10])) or 'nothing'}")
        other = [name for name, value in found.items() if not isinstance(value, (Tensor, *_PLAIN))]
        if other:
            raise UserError(f"{where}: '{other[0]}' is a {type(found[other[0]]).__name__} among the tensors")
        return state


def open_public(path: str | Path) -> PublicFile:
    """Read a public file whole, its sizes and types checked before anything is allocated.

    Raises:
        UserError: Missing, truncated, of an unknown kind, with tensors that are neither floating point nor integer,
            or a pickle that names more than tensors in plain containers.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    refuse_no_weights(path)
    content: Mapping[str, Any]
    metadata: dict[str, str] = {}
    if is_pickle(path):
        content = _load_torch(path)
    else:
        content, metadata = read_tensors(path), read_metadata(path)
    return PublicFile(path, file_sha256(path), content, metadata)


def non_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold an infinity or a NaN."""
    return [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]


def _load_torch(path: Path) -> Mapping[str, Any]:
    check_torch_file(path)
    with path.open("rb") as file:
        zipped = is_zip(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # its reader raises what it likes on what the check does not know
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: torch.load(weights_only=True) refuses it: {line}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dict of tensors")
    return content


def _open_folder(folder: Path) -> PublicFile:
    """A Hugging Face folder: one safetensors file, or the shards of its index."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise UserError(f"{folder}: neither {SINGLE} nor {INDEX} is in this folder; name the weights file")
        return open_public(folder / SINGLE)
    found: ShardedWeights = read_json(ShardedWeights, index)
    shards = sorted(set(found.weight_map.values()))
    content: dict[str, Any] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise UserError(f"{index}: names {shard!r}, which is no file of this folder")
        content |= read_tensors(folder / shard)
    return PublicFile(folder, file_sha256(index), content, {})
