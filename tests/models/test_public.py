"""Public weight files: what is read, and that nothing is run or allocated for what is not."""

import argparse
import io
import json
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from islr.errors import UserError
from islr.models.public import pickles
from islr.models.public.reader import non_finite, open_public
from islr.models.weights import read_tensors

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}
ELEMENTS = 12345  # of the tensor whose declared sizes are falsified; written as two bytes in a pickle


class _Touch:
    """Runs when it is unpickled by a reader that runs things."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _state(path: Path, entries: tuple[str, ...] = ()) -> dict[str, Tensor]:
    return open_public(path).state(entries)


def _same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def _refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(path.name)}.*({message})"):
        open_public(path)


def _rewritten(path: Path, entry: str, content: bytes) -> None:
    """Replace one entry of a zip, stored."""
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in held.items():
            archive.writestr(name, content if name.endswith(entry) else old)


def _entry(path: Path, entry: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(entry)))


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest) -> Any:
    def write(content: Any, path: Path) -> Path:
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return write


def test_torch_files_are_read_with_what_training_scripts_put_beside(tmp_path: Path, save: Any) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": nn.ParameterDict(model.state_dict()).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4]).state_dict(),
        "args": argparse.Namespace(lr=1e-3, sizes=[1, 2], name=None),
        "epoch": 12345678901,
        "raw": b"bytes",
        "parameter": nn.Parameter(torch.ones(2)),
        "size": torch.Size((1, 2)),
        "dtype": torch.bfloat16,
    }
    path = save(content, tmp_path / "file.pth")
    found = _state(path, ("state_dict", "model"))
    assert torch.equal(found["weight"], model.weight)
    with pytest.raises(UserError, match=r"'model' is a .*among the tensors"):
        _state(path)


def test_views_and_empty_tensors_are_whole(tmp_path: Path, save: Any) -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    state = {"turned": whole.transpose(0, 2), "part": whole[:, 1], "empty": torch.empty(0, 4), "one": whole[1, 2, 3]}
    found = _state(save(state, tmp_path / "views.pt"))
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_safetensors_and_folders_of_shards(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "one.safetensors", metadata={"who": "me"})
    assert _same(_state(tmp_path / "one.safetensors"))
    assert open_public(tmp_path / "one.safetensors").metadata == {"who": "me"}
    folder = tmp_path / "hub"
    folder.mkdir()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        open_public(folder)
    save_file({"a.weight": STATE["a.weight"]}, folder / "model-1.safetensors")
    save_file({"a.bias": STATE["a.bias"], "n": STATE["n"]}, folder / "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "model-1.safetensors", "n": "model-2.safetensors"}}))
    assert _same(_state(folder))
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(UserError, match=r"names '\.\./one\.safetensors', which is no file of this folder"):
        open_public(folder)
    index.unlink()
    save_file(STATE, folder / "model.safetensors")
    assert _same(_state(folder))


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in range(200, 700):  # one of these makes a header of 640 = 0x0280 bytes
        save_file({"a": torch.ones(1)}, path, metadata={"x": "x" * length})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(_state(path)["a"], torch.ones(1))
    assert torch.equal(read_tensors(path)["a"], torch.ones(1))


def test_the_first_entry_that_is_there_wins(tmp_path: Path, save: Any) -> None:
    path = save({"student": {"x": torch.ones(1)}, "teacher": {"y": torch.ones(1)}}, tmp_path / "a.pth")
    assert set(_state(path, ("teacher", "student"))) == {"y"}
    assert set(_state(path, ("student", "teacher"))) == {"x"}
    path = save({"epoch": 3, "x": torch.ones(1)}, tmp_path / "b.pth")
    assert set(_state(path, ("model",))) == {"x"}
    path = save({"epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"no tensors here; it has epoch"):
        _state(path)
    _refused(save([torch.ones(1)], tmp_path / "d.pth"), "holds a list")


def test_what_is_no_tensor_is_named_and_never_run(tmp_path: Path, save: Any) -> None:
    marker = tmp_path / "was_run"
    path = save({"model": STATE, "extra": _Touch(marker)}, tmp_path / "run.pth")
    _refused(path, r"it names posix\.mkdir, .*safetensors\.torch\.save_file")
    _refused(save(nn.Linear(1, 1), tmp_path / "module.pth"), r"it names torch\.nn\.modules\.linear\.Linear")
    with (tmp_path / "bare.pkl").open("wb") as file:
        pickle.dump(_Touch(marker), file)
    _refused(tmp_path / "bare.pkl", "not written by torch.save|it names|does not write")
    assert not marker.exists()


def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, save: Any) -> None:
    _refused(save({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "a.pt"), "ComplexFloatStorage; weights are")
    save_file({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "a.safetensors")
    _refused(tmp_path / "a.safetensors", "'a' is torch.complex64; weights are")


def _claims(path: Path, old: bytes, new: bytes) -> None:
    """Replace a number in the pickle of a file, zip or legacy."""
    zipped = zipfile.is_zipfile(path)
    content = _entry(path, "data.pkl") if zipped else path.read_bytes()
    assert old in content
    content = content.replace(old, new)
    if zipped:
        _rewritten(path, "data.pkl", content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("what", ["storage", "shape", "stride", "offset"])
def test_claims_beyond_the_file_are_refused_before_allocation(tmp_path: Path, save: Any, what: str) -> None:
    path = save({"a": torch.ones(ELEMENTS)}, tmp_path / "big.pth")
    number = b"M" + ELEMENTS.to_bytes(2, "little")  # BININT2
    huge = b"J" + (2**31 - 1).to_bytes(4, "little")  # BININT: 8 GiB of float32
    # In the pickle: storage (..., elements, [None]); then offset, (shape,), (stride,).
    old, new = {
        "storage": (number, huge),
        "shape": (number + b"\x85", huge + b"\x85"),
        "stride": (b"K\x01\x85", huge + b"\x85"),
        "offset": (b"QK\x00", b"Q" + huge),
    }[what]
    _claims(path, old, new)
    _refused(path, "declared .* bytes?|is larger than the")


def test_a_tensor_cannot_be_given_a_second_shape(tmp_path: Path, save: Any) -> None:
    path = save({"a": torch.ones(3)}, tmp_path / "a.pth")
    # After the tensor was made (R) and noted (q, number), BUILD it with an empty tuple.
    content = _entry(path, "data.pkl") if zipfile.is_zipfile(path) else path.read_bytes()
    made = re.search(rb"tq.Rq.", content, re.DOTALL)
    assert made
    _claims(path, made[0], made[0] + b")b")
    _refused(path, "second shape")


def test_zip_bombs_and_ambiguous_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}

    def written(change: Any, compression: int = zipfile.ZIP_STORED, prefix: bytes = b"") -> Path:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, content in held.items():
                archive.writestr(name, content)
            change(archive)
        path.write_bytes(prefix + buffer.getvalue())
        return path

    assert torch.equal(_state(written(lambda archive: None))["a"], torch.zeros(100_000))
    _refused(written(lambda archive: None, zipfile.ZIP_DEFLATED), "is compressed")
    _refused(written(lambda archive: archive.writestr("archive/constants.pkl", b"")), "TorchScript")
    _refused(written(lambda archive: archive.writestr("other/data.pkl", b"\x80\x02N.")), "ambiguous")
    _refused(written(lambda archive: None, prefix=b"PK\x03\x04" + b"\0" * 60), "ambiguous")
    held.pop(next(name for name in held if name.endswith("data.pkl")))
    _refused(written(lambda archive: None), "without data.pkl")
    # A pickle with a zip behind it is a pickle to torch; it must be one to the check.
    torch.save({"a": torch.zeros(2)}, path)
    disguised = tmp_path / "b.pth"
    with disguised.open("wb") as file:
        pickle.dump(_Touch(tmp_path / "was_run"), file, protocol=2)
        file.write(path.read_bytes())
    _refused(disguised, r"it names|truncated")
    assert not (tmp_path / "was_run").exists()


def test_a_pickled_module_is_read_without_its_class(tmp_path: Path, save: Any) -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
            self.turned = nn.Parameter(torch.arange(6.0).view(2, 3).t())
            self.register_buffer("none", None)
            self.device = torch.device("cpu")

    Custom.__qualname__ = "Custom"
    globals()["Custom"] = Custom  # pickle looks a class up by its name
    try:
        module = Custom()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # legacy files carry the source of the class, which this one has none of
            path = save(module, tmp_path / "module.pkl")
    finally:
        del globals()["Custom"]
    found = pickles.read_modules(path, [f"{__name__}.Custom"])
    assert found.keys() == module.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())
    with pytest.raises(UserError, match=rf"module\.pkl: it names {__name__}\.Custom"):
        pickles.read_modules(path, ["other.Custom"])
    _refused(path, rf"it names {__name__}\.Custom|something other than a storage")
    with pytest.raises(UserError, match=r"holds a (mapping|dict)"):
        pickles.read_modules(save({"a": torch.ones(1)}, tmp_path / "dict.pth"), ["any.Class"])


def test_a_module_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1)}, path)
    # m = Sequential.__new__(Sequential); m.__setstate__({"_modules": {"m": m}})
    name = b"ctorch.nn.modules.container\nSequential\n"
    _rewritten(path, "data.pkl", b"\x80\x02" + name + b")\x81q\x00}X\x08\0\0\0_modules}X\x01\0\0\0mh\x00ssb.")
    with pytest.raises(UserError, match=r"a\.pth: its modules are nested more than 64 deep"):
        pickles.read_modules(path, ["any.Class"])


def test_limits_hold(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({f"{i}": torch.ones(1) for i in range(50)}, tmp_path / "a.pth")
    assert len(_state(path)) == 50
    monkeypatch.setattr(pickles, "MAX_PICKLE", 1000)
    _refused(path, "more than 1000|longer than 1000")
    monkeypatch.setattr(pickles, "MAX_PICKLE", 1 << 20)
    monkeypatch.setattr(pickles, "MAX_TENSORS", 100)
    _refused(path, "declared? .*bytes")


def test_a_memo_number_is_an_allocation(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1)}, path)
    _rewritten(path, "data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")
    _refused(path, "out of order")
    _rewritten(path, "data.pkl", b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".")
    _refused(path, "BYTEARRAY8|truncated")


def test_broken_files_are_named(tmp_path: Path, save: Any) -> None:
    whole = save({"model": STATE}, tmp_path / "whole.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    for length in (0, 1, 8, 40, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        _refused(cut, "truncated|declared")
    with pytest.raises(UserError, match="no such weights file"):
        open_public(tmp_path / "absent.pth")


def test_damaged_pickles_raise_one_kind_of_error(tmp_path: Path, save: Any) -> None:
    path = save({"model": STATE, "args": argparse.Namespace(a=1)}, tmp_path / "a.pth")
    zipped = zipfile.is_zipfile(path)
    content = _entry(path, "data.pkl") if zipped else path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(100):
        place = int(torch.randint(len(content), (1,), generator=generator))
        value = int(torch.randint(256, (1,), generator=generator))
        damaged = content[:place] + bytes([value]) + content[place + 1 :]
        if zipped:
            _rewritten(path, "data.pkl", damaged)
        else:
            path.write_bytes(damaged)
        try:
            _state(path, ("model",))
        except UserError:
            refused += 1
    assert 20 < refused < 100  # many bytes are of names, whose damage does no harm


def test_values_that_are_not_finite_are_named() -> None:
    state = {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2), "c": torch.tensor([float("inf")])}
    assert non_finite(state | {"n": torch.tensor(1)}) == ["a", "c"]
