"""The loader's processes: the batches of one process, and a clip that hangs or kills its process costs only itself."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from islr.data.loading.batches import TrainBatches, eval_batches
from islr.data.loading.config import DataConfig
from islr.data.loading.loader import collate, load
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.video.decode import BACKENDS
from islr.data.views.views import eval_view
from islr.errors import RunFailed, UserError
from islr.models import InputSpec

SPEC = InputSpec(4, 32, (0.45,) * 3, (0.225,) * 3, "video")
VICTIM = 5
linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


def hang(*_: Any) -> np.ndarray:
    """A native call that never returns and keeps the interpreter lock, as a decoder's endless loop does."""
    ctypes.PyDLL(None).sleep(1000)
    raise AssertionError


def crash(*_: Any) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Samples:
    """Samples whose value is their row; `act` is called with each row first."""

    def __init__(self, act: Callable[[int], None] = lambda row: None, shape: tuple[int, ...] = (3, 100, 100)) -> None:
        self.lost: dict[int, str] = {}
        self.act, self.shape = act, shape

    def __call__(self, key: tuple[int, int]) -> dict[str, Any]:
        self.act(key[1])
        clip = torch.arange(int(np.prod(self.shape)), dtype=torch.float32).reshape(self.shape) + 1000 * key[0] + key[1]
        return {"clip": clip, "half": clip[..., :2].bfloat16(), "mask": clip > 500, "index": key[1], "name": str(key)}

    def failure(self, key: tuple[int, int], kind: str) -> dict[str, Any]:
        return {"failed": (key[1], kind)}


PLAN = [[(epoch, row) for row in range(start, start + 4)] for epoch in range(2) for start in range(0, 12, 4)]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def same_batches(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        list(a) == list(b) and all(same(a[name], b[name]) for name in a) for a, b in zip(one, other, strict=True)
    )


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@linux
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shape", [(3, 100, 100), (2, 3, 4), (3, 0, 2)])  # in shared memory, in the message, empty
def test_workers_make_the_batches_that_one_process_makes(shape: tuple[int, ...], workers: int) -> None:
    expected = list(load(Samples(shape=shape), PLAN, workers=0, deadline_s=30))
    assert expected[0]["clip"].shape == (4, *shape)
    assert expected[0]["half"].dtype == torch.bfloat16
    assert same_batches(list(load(Samples(shape=shape), PLAN, workers=workers, deadline_s=30)), expected)


@linux
def test_systems_without_nameless_memory_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(load(Samples(), PLAN, workers=0, deadline_s=30))
    monkeypatch.delattr(os, "memfd_create")
    assert same_batches(list(load(Samples(), PLAN, workers=1, deadline_s=30)), expected)


@linux
def test_batches_are_the_callers_and_leave_no_open_files() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    batches = list(load(Samples(), PLAN, workers=1, deadline_s=30))
    batches[0]["clip"].zero_()
    assert batches[1]["clip"][0, 0, 0, 0] == 4
    part = batches[2]["clip"][3]
    del batches
    assert part[0, 0, 0] == 11  # a part of a batch keeps its memory
    del part
    assert len(os.listdir("/proc/self/fd")) == descriptors


@linux
@pytest.mark.parametrize(
    ("fault", "kind", "workers", "cache"),
    [
        (hang, "deadline", 1, "none"),
        (hang, "deadline", 2, "memory"),
        (crash, "crash", 2, "none"),
        (crash, "crash", 2, "memory"),
    ],
)
def test_clip_that_hangs_or_kills_its_process_is_left_out_of_training(
    mini_corpus: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, kind: str, workers: int, cache: str
) -> None:
    path = str(mini_corpus / "manifest.csv")

    def open_store(count: int) -> ClipStore:
        config = DataConfig(manifest=(path,), workers=count, deadline_s=1.0, cache=cache)
        store = ClipStore(Manifest.load(path).select("train"), config)
        store.fill_cache()
        return store

    def steps(store: ClipStore) -> list[dict[str, Any]]:
        batches = TrainBatches(store, eval_view(SPEC), batch_size=6, seed=1)
        last = 2 * batches.steps_per_epoch
        return [part for parts in batches.iterate(0, last) for part in parts]

    expected = steps(open_store(0))
    victim = open_store(0).manifest.clips[VICTIM].path
    real = BACKENDS["pyav"]
    monkeypatch.setitem(
        BACKENDS, "pyav", lambda file, *rest: (fault if file.name == Path(victim).name else real)(file, *rest)
    )
    store = open_store(workers)
    found = steps(store)
    assert store.lost == {VICTIM: kind}
    seen = 0
    for good, bad in zip(expected, found, strict=True):
        keep = good["index"] != VICTIM
        seen += int((~keep).sum())
        assert torch.equal(good["index"][keep], bad["index"])
        assert torch.equal(good["clip"][keep], bad["clip"])
        assert bad["failed"] == ([] if keep.all() else [(VICTIM, f"{kind}: {victim}")])
    assert seen == 2  # once in each epoch
    # Evaluation with the same store counts it too.
    scored = list(eval_batches(store, eval_view(SPEC), batch_size=4))
    assert [row for batch in scored for row, _ in batch["failed"]] == [VICTIM]
    assert sorted(int(row) for batch in scored for row in batch["index"]) == sorted(set(range(len(store))) - {VICTIM})


@linux
def test_every_clip_may_fail() -> None:
    def act(row: int) -> None:
        if row < 4:
            crash()

    samples = Samples(act)
    first, second = load(samples, PLAN[:2], workers=2, deadline_s=30)
    assert first["failed"] == [(row, "crash") for row in range(4)]
    assert len(first["index"]) == 0
    assert second["index"].tolist() == [4, 5, 6, 7]


@linux
def test_slow_batches_are_not_late_clips() -> None:
    (batch,) = load(Samples(lambda row: time.sleep(0.5)), PLAN[:1], workers=1, deadline_s=1.8)
    assert batch["failed"] == []  # 2 s, of which 0.5 s a clip


@linux
def test_user_errors_come_back_as_they_are_and_others_say_where() -> None:
    def refuse(row: int) -> None:
        raise UserError("install it")

    def fail(row: int) -> None:
        raise KeyError("column")

    with pytest.raises(UserError) as refused:
        next(load(Samples(refuse), PLAN, workers=1, deadline_s=30))
    assert str(refused.value) == "install it"
    with pytest.raises(KeyError) as failed:
        next(load(Samples(fail), PLAN, workers=1, deadline_s=30))
    assert "in fail" in failed.value.__notes__[0]
    assert children() == set()


@linux
def test_signal_to_the_whole_group_blames_no_clip() -> None:
    batches = load(Samples(lambda row: time.sleep(0.05)), PLAN, workers=2, deadline_s=30)
    found = [next(batches)]
    for pid in children():
        os.kill(pid, signal.SIGINT)  # ignored: the parent decides
        os.kill(pid, signal.SIGTERM)
    found += batches
    assert same_batches(found, list(load(Samples(), PLAN, workers=0, deadline_s=30)))


@linux
def test_workers_that_cannot_start_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("islr.processes.worker.end_with_parent", lambda parent: os._exit(3))
    with pytest.raises(RunFailed, match=r"3 worker processes in a row .* \(exit code 3\)"):
        next(load(Samples(), PLAN, workers=1, deadline_s=30))


@linux
def test_leaving_early_ends_the_workers() -> None:
    batches = load(Samples(lambda row: hang() if row == 4 else None), PLAN, workers=2, deadline_s=1000)
    next(batches)
    assert len(children()) == 2
    del batches
    assert children() == set()


def _run_until_told(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes that run tests side by side ignore it
    batches = load(Samples(lambda row: hang() if row == 6 else None), PLAN, workers=2, deadline_s=1000)
    next(batches)
    time.sleep(0.3)  # one worker is in its endless call now, the other waits for work
    with contextlib.suppress(KeyboardInterrupt):  # it may come while the pipe is still being written
        pipe.send(list(children()))
        time.sleep(1000)


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ending_the_run_leaves_no_process_and_no_shared_memory(number: int) -> None:
    before = set(os.listdir("/dev/shm"))
    pipe, other = multiprocessing.Pipe()
    run = multiprocessing.get_context("fork").Process(target=_run_until_told, args=(other,))
    run.start()
    assert run.pid is not None
    workers = pipe.recv()
    assert len(workers) == 2
    os.kill(run.pid, number)
    run.join(20)
    assert run.exitcode == (0 if number == signal.SIGINT else -number)
    limit = time.monotonic() + 10
    while any(_runs(pid) for pid in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [pid for pid in workers if _runs(pid)]
    left = set(os.listdir("/dev/shm")) - before
    assert not {name for name in left if any(str(pid) in name for pid in (run.pid, *workers))}


def _runs(pid: int) -> bool:
    """Whether a process exists and is not only waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("count", [0, 1, 5])
def test_pinning_loses_and_reorders_nothing(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """With a GPU, a thread copies each batch one ahead; the copy itself is stood in for here."""
    expected = list(load(Samples(), PLAN[:count], workers=0, deadline_s=30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    assert same_batches(list(load(Samples(), PLAN[:count], workers=0, deadline_s=30)), expected)


@pytest.mark.gpu
def test_batches_are_pinned_for_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for batch in load(Samples(), PLAN, workers=2, deadline_s=30):
        assert batch["clip"].is_pinned()
        assert torch.equal(batch["clip"].to("cuda", non_blocking=True).cpu(), batch["clip"])


def test_collating_keeps_order_and_names_failures() -> None:
    samples = Samples()
    made = [samples((0, 3)), samples.failure((0, 9), "damaged"), samples((0, 1))]
    batch = collate(made)
    assert batch["index"].tolist() == [3, 1]
    assert batch["clip"].shape == (2, 3, 100, 100)
    assert batch["name"] == ["(0, 3)", "(0, 1)"]
    assert batch["failed"] == [(9, "damaged")]
    assert list(collate([samples.failure((0, 9), "damaged")])) == ["index", "failed"]
