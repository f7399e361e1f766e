"""Shared fixtures: one torch thread, a mini corpus, and the folders of recorded numbers and real data."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from support.oracle_helpers import DIFFERENCES, Differences
from support.paths import CHECKOUT

torch.set_num_threads(1)
cv2.setNumThreads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ["WANDB_MODE"] = "disabled"


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
    """Compares with recorded numbers; `oracle_table.py` collects what it found."""
    found = Differences(request.node.name)
    yield found
    request.config.stash.setdefault(DIFFERENCES, []).append((request.node.path.stem, found))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that is never part of the repository."""
    return _folder("ISLR_SHARED", CHECKOUT.parent / "shared")


@pytest.fixture(scope="session")
def mini_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered corpus of 6 signs x 5 signers x 1: small files, all splits, poses and lexicon."""
    from islr.synth import SynthOptions, write_corpus

    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, SynthOptions(signs=6, signers=5, reps=1, size=64, val_signers=1, test_signers=1))
    return folder
