"""Damaged and forged files: every reader answers with its one error that names the file, in bounded time and memory."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from islr.data.manifest import Clip, Manifest
from islr.data.packs.format import SHARD_MAGIC, pack_record, read_about, read_index, reference
from islr.data.packs.reader import PackReader
from islr.data.poses.pickles import load_arrays
from islr.data.poses.pose import POINTS, Pose, read_pose, write_pose
from islr.data.video.guard import DecodeError
from islr.errors import UserError
from islr.evaluation.classifier import load_classifier
from islr.models.public.reader import open_public
from islr.models.weights import arguments_in, load_encoder, read_tensors, stages_in
from islr.training.checkpoint import restoring
from islr.training.tracking import read_metrics
from islr.untrusted.npz_files import DamagedArrays, read_arrays

FLIPS = 150
PACKED = {"width": 8, "height": 8, "fps": 25.0}


def _pose(frames: int = 3) -> Pose:
    points = np.linspace(0, 1, frames * POINTS * 3, dtype=np.float32).reshape(frames, POINTS, 3)
    return Pose(points, np.ones((frames, POINTS), np.float32), 25.0, 64, 64)


def _flipped(content: bytes, dice: random.Random) -> bytes:
    """Flip a bit of the first or last part of a file, where its structure lies, or anywhere."""
    places = [dice.randrange(min(400, len(content))), dice.randrange(len(content)), -1 - dice.randrange(300)]
    changed = bytearray(content)
    changed[dice.choice(places)] ^= 1 << dice.randrange(8)
    return bytes(changed) if dice.random() < 0.9 else bytes(changed[: dice.randrange(len(changed))])


def _survives(path: Path, content: bytes, read: Callable[[], Any], *errors: type[Exception]) -> None:
    dice = random.Random(0)
    refused = unnamed = 0
    for _ in range(FLIPS):
        path.write_bytes(_flipped(content, dice))
        try:
            read()
        except errors as error:
            named = path.name in str(error)
            refused += named
            unnamed += not named
    assert not unnamed
    assert refused > FLIPS / 10


def test_a_damaged_pose_file_is_a_wrong_input(tmp_path: Path) -> None:
    path = tmp_path / "pose.npz"
    write_pose(path, _pose())
    _survives(path, path.read_bytes(), lambda: read_pose(path), UserError)


def test_a_damaged_record_of_a_pack_is_an_unreadable_clip(tmp_path: Path) -> None:
    jpeg = bytes(torch.zeros(50, dtype=torch.uint8).numpy())
    record = pack_record({"id": "a", "width": 8, "height": 8, "fps": 25.0}, [jpeg, jpeg], _pose())
    path = tmp_path / "clips-00000.pack"
    place = tmp_path / reference(path.name, len(SHARD_MAGIC), len(record))

    def read() -> None:
        reader = PackReader(tmp_path)
        reader.length(place, "a")
        reader.pose(place, "a")

    _survives(path, SHARD_MAGIC + record, read, DecodeError)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            PACKED | {"pose": {"frames": 2**40, "fps": 1, "width": 1, "height": 1, "bytes": 5, "crc": 0}},
            "bytes are missing",
        ),
        (PACKED | {"pose": {"frames": 2**40, "fps": 1}}, "its description: pose.width"),
        ({"width": "wide", "height": 8, "fps": 25.0}, "its description: width"),
        ({"id": 7, "width": 8, "height": 8, "fps": 25.0}, "its description: id"),
        ({"width": 8}, "lacks the size or rate"),
    ],
)
def test_forged_facts_of_a_packed_clip_are_refused(facts: dict[str, Any], message: str, tmp_path: Path) -> None:
    record = pack_record({"id": "a"} | facts, [b"x"], None)
    (tmp_path / "clips-00000.pack").write_bytes(SHARD_MAGIC + record)
    place = tmp_path / reference("clips-00000.pack", len(SHARD_MAGIC), len(record))
    with pytest.raises(DecodeError, match=message):
        PackReader(tmp_path).pose(place, "a")


def test_a_record_that_declares_more_than_its_shard_allocates_nothing(tmp_path: Path) -> None:
    head = struct.pack("<4sIII", b"CLIP", 2**31, 2**31, 0)
    (tmp_path / "clips-00000.pack").write_bytes(SHARD_MAGIC + head)
    place = tmp_path / reference("clips-00000.pack", len(SHARD_MAGIC), 2**21)
    with pytest.raises(DecodeError, match="bytes are missing"):
        PackReader(tmp_path).length(place, "a")


def _npz(path: Path, header: dict[str, Any], content: bytes, **options: Any) -> None:
    body = io.BytesIO()
    np.lib.format.write_array_header_1_0(body, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", body.getvalue() + content, **options)


def test_arrays_are_held_against_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    whole = {"descr": "<f4", "fortran_order": False, "shape": (2,)}
    _npz(path, whole, b"\0" * 8)
    assert read_arrays(path)["a"].tolist() == [0, 0]
    _npz(path, whole, b"\0" * 8, compress_type=zipfile.ZIP_BZIP2)
    with pytest.raises(DamagedArrays, match="unknown method"):
        read_arrays(path)
    for header in (whole | {"shape": (2**50,)}, whole | {"shape": (-2,)}, whole | {"descr": "|O"}):
        _npz(path, header, b"\0" * 8)
        with pytest.raises(DamagedArrays, match=r"a\.npz: damaged, or not an npz"):
            read_arrays(path)
    np.savez_compressed(path, a=np.zeros(1_000_000, np.uint8))
    with pytest.raises(DamagedArrays, match="more than 1,000"):
        read_arrays(path, most_bytes=1000)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for name, read in {"a.npz": read_arrays, "a.csv": Manifest.load, "a.safetensors": read_tensors}.items():
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=r"not a regular file|no such weights file"):
            read(tmp_path / name)


def _doubling_key(depth: int) -> bytes:
    """A pickle of {key: None}, whose key is a tuple of a tuple of ... that hashes in 2 ** depth steps."""
    tuples = b"".join(pickle.BINPUT + b"\0" + pickle.BINGET + b"\0" + pickle.TUPLE2 for _ in range(depth))
    return pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + tuples + pickle.NONE + pickle.SETITEM + b"."


@pytest.mark.parametrize("wrapped", [False, True])
def test_keys_that_take_for_ever_to_hash_are_refused(wrapped: bool, tmp_path: Path) -> None:
    content = _doubling_key(80)
    with pytest.raises(ValueError, match="a tuple is the key of a mapping"):
        load_arrays(content)
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(UserError, match="a tuple is the key of a mapping"):
        open_public(path)


def test_a_storage_shown_thousands_of_times_is_refused(tmp_path: Path) -> None:
    base = torch.zeros(1000)
    torch.save({f"view{number}": base[:] for number in range(50)}, tmp_path / "views.pth")
    with pytest.raises(UserError, match="show the bytes of their storages more than 8 times"):
        open_public(tmp_path / "views.pth")


def test_weights_are_named_tensors_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(UserError, match=r"'a' is torch\.float8_e4m3fn; weights are"):
        read_tensors(path)
    header = json.dumps({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(UserError, match=r"float4|not a safetensors file of tensors that torch has"):
        read_tensors(path)
    torch.save({1: torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "keys.pth")
    with pytest.raises(UserError, match="1 is no name of a tensor"):
        open_public(tmp_path / "keys.pth").state()
    with (tmp_path / "sparse.safetensors").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(UserError, match="are on the disk"):
        open_public(tmp_path / "sparse.safetensors")


def test_weights_whose_metadata_builds_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for arguments in ({"frames": "many"}, {"frames": 4, "size": -3}, {"size": [1]}):
        facts = {"architecture": "mvit_tiny", "arguments": json.dumps(arguments), "classes": '["a"]'}
        save_file({"a": torch.zeros(4)}, path, metadata=facts)
        for load in (load_encoder, load_classifier):
            with pytest.raises(UserError, match=r"w\.safetensors|mvit_tiny|size=-3"):
                load(path)
    save_file({"a": torch.zeros(4)}, path, metadata=facts | {"arguments": '{"frames": 4, "size": 32}'})
    with pytest.raises(UserError, match="not those of the classifier it describes"):
        load_classifier(path)


def test_a_checkpoint_of_something_else_does_not_fit(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"the checkpoint in .* does not fit this run: 'optimizer'"),
        restoring(tmp_path),
    ):
        {"module": {}}["optimizer"]


BAD_JSON = {
    "other type": "[1, 2]",
    "no json": "{",
    "not text": b"\xff\xfe",
    "deep": "[" * 100_000,
    "long number": '{"version": 1, "name": ' + "9" * 5000 + "}",
    "missing keys": '{"version": 1}',
    "other types": '{"version": 1, "name": 1, "root": [], "classes": {}, "sources": 3, "fingerprints": null}',
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_of_other_shape_is_refused_by_name(name: str, tmp_path: Path) -> None:
    text = BAD_JSON[name]
    content = text if isinstance(text, bytes) else text.encode()
    Manifest("corpus", (Clip("a", "a.mp4"),), tmp_path).save(tmp_path / "manifest.csv")
    for file, read in {
        "manifest.json": lambda: Manifest.load(tmp_path / "manifest.csv"),
        "pack.json": lambda: read_about(tmp_path),
        "clips-00000.json": lambda: read_index(tmp_path / "clips-00000.pack"),
    }.items():
        (tmp_path / file).write_bytes(content)
        with pytest.raises(UserError, match=file):
            read()
    for read_key in (arguments_in, stages_in):
        key = "arguments" if read_key is arguments_in else "pretraining"
        broken = content.decode(errors="replace") if name != "other types" else "7"
        if (key, name) not in {("arguments", "missing keys"), ("arguments", "long number")}:
            with pytest.raises(UserError, match=f"w: metadata '{key}'"):
                read_key({key: broken}, "w")
    (tmp_path / "metrics.jsonl").write_bytes(content + b'\n{"kind": "train", "step": 3, "epoch": 0.1, "loss": NaN}\n')
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [3]
