"""Shared fixtures: one torch thread, a mini corpus, and the folders of recorded numbers and real data."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from support.oracle_helpers import DIFFERENCES, Differences
from support.paths import CHECKOUT
from support.slow_tests import slow_tests

torch.set_num_threads(1)
cv2.setNumThreads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ["WANDB_MODE"] = "disabled"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow, root = slow_tests(), CHECKOUT / "tests"
    for item in items:
        if item.path.relative_to(root).as_posix() + item.nodeid.split("[")[0].partition(".py")[2] in slow:
            item.add_marker("slow")


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} does not exist; set {variable}")
    return path


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Numbers recorded from the original implementations."""
    return _folder("ISLR_ORACLES", CHECKOUT.parent / "shared" / "oracles")


@pytest.fixture
def differences(request: pytest.FixtureRequest) -> Iterator[Differences]:
    """Compare with recorded numbers; `oracle_table.py` collects the differences."""
    found = Differences(request.node.name)
    yield found
    request.config.stash.setdefault(DIFFERENCES, []).append((request.node.path.stem, found))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that is never part of the repository."""
    return _folder("ISLR_SHARED", CHECKOUT.parent / "shared")


@pytest.fixture(scope="session")
def mini_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered corpus of 6 signs x 5 signers x 1, all splits, with poses and lexicon; shared by all workers."""
    from islr.synth import SynthOptions, write_corpus

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mini_corpus"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            write_corpus(folder, SynthOptions(signs=6, signers=5, reps=1, size=64, val_signers=1, test_signers=1))
            (folder / "finished").touch()
    return folder
