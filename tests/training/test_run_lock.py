"""One writer per run folder: who holds it is named, the dead are followed, other machines are looked for."""

import errno
import fcntl
import json
import platform
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.process_groups import background, hold_run_folder

from islr.errors import UserError
from islr.training import run_lock as lock
from islr.training.run_lock import LOCK, only_writer


def test_the_living_are_named_and_the_dead_followed(tmp_path: Path) -> None:
    process = background(hold_run_folder, tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((tmp_path / LOCK).exists() and (tmp_path / LOCK).stat().st_size):
        time.sleep(0.01)
    try:
        named = rf"in use by another process \(pid {process.pid} on {platform.node()}\)"
        with pytest.raises(UserError, match=named), only_writer(tmp_path):
            pass
    finally:
        process.kill()
        process.join()
    began = time.monotonic()
    with only_writer(tmp_path):
        assert time.monotonic() - began < lock.SILENCE_S / 2  # it died here, which needs no waiting
        assert json.loads((tmp_path / LOCK).read_text())["host"] == platform.node()
    assert (tmp_path / LOCK).read_bytes() == b""


@pytest.fixture
def impatient(monkeypatch: Any) -> None:
    """Signs of life are frequent, and waiting for them is short."""
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "SILENCE_S", 1.0)


@pytest.mark.usefixtures("impatient")
def test_another_machine_s_writer_is_followed_when_it_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 7, "beat": 3}))
    began = time.monotonic()
    with only_writer(tmp_path):
        assert time.monotonic() - began >= lock.SILENCE_S
    assert "pid 7 on elsewhere" in caplog.text


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_signs_of_life_decide(number: int, tmp_path: Path, monkeypatch: Any) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with only_writer(tmp_path), pytest.raises(UserError, match="is in use by another process"), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        assert threading.active_count() > 1
    assert not [thread for thread in threading.enumerate() if thread.name == "lock"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="cannot be written"), only_writer(tmp_path):
        pass
