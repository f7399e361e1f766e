"""The speed check: throughput, waiting for data, and memory, from a few steps at the run's own batch size.

The model's step and the loading of a batch are timed separately, so that the slower one can be named. With loader
processes the two overlap; without them they add up.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from islr.checks.subject import CheckLimits, CheckOutcome, Subject, evenly
from islr.data.loading.batches import TrainBatches
from islr.data.loading.loader import Batch
from islr.data.loading.store import ClipStore
from islr.progress import duration
from islr.training.distributed.world import World
from islr.training.engine import to_device
from islr.training.memory import saved_bytes
from islr.training.optim import build_optimizer, clip_gradients

MOST_WAIT = 0.5  # share of the time that may be spent waiting for data
FULL = 0.95  # share of the memory that a run may fill; fragmentation takes the rest
_WARM_UP = 2  # steps in which libraries choose kernels and allocators grow
_MOST_STEPS = 20
_CACHED_BATCHES = 3  # batches whose clips are loaded of a run that caches clips in memory
MIB = 2**20
GIB = 2**30


class _Loading(NamedTuple):
    seconds: float  # per batch
    fill_seconds: float  # to fill the run's cache
    cache_bytes: float  # of the run's cache
    batch: Batch
    steps_per_epoch: int


def speed(subject: Subject, module: nn.Module, world: World, limits: CheckLimits) -> list[CheckOutcome]:
    """Measure throughput and memory of the run's step.

    Args:
        subject: The run.
        module: The result of `subject.build(False)`, on the device; it is trained.
        world: The device.
        limits: Seconds, and the number of processes of the planned run.
    """
    loading = _load(subject, limits)
    clips = len(loading.batch["index"])
    batch = to_device(loading.batch, world.device)
    before = _restart_peak(world)
    try:
        step_seconds = _step_seconds(subject, module, batch, world, limits)
    except torch.OutOfMemoryError as error:
        message = f"a step of {clips} clips does not fit: {' '.join(str(error).split())[:160]}"
        return [CheckOutcome("throughput", "skip", "no step fits the memory"), CheckOutcome("memory", "fail", message)]
    throughput = _throughput(subject, loading, step_seconds, limits)
    if before is None:
        return [
            throughput,
            CheckOutcome("memory", "skip", "this system does not report a process's peak of resident memory"),
        ]
    return [throughput, _memory(subject, module, batch, loading, (before, _peak(world)), world, limits)]


def _load(subject: Subject, limits: CheckLimits) -> _Loading:
    """Time the loading of one process's part of a step, and the filling of the cache if the run has one."""
    manifest = subject.train.select()
    parts = limits.processes * subject.optim.accumulate
    size = max(1, subject.optim.batch_size // parts)
    cached = subject.data.cache == "memory"
    rows = evenly(list(manifest), _CACHED_BATCHES * size) if cached else list(manifest)
    store = ClipStore(manifest.replace(rows), subject.data)
    began = time.monotonic()
    store.fill_cache()
    fill = (time.monotonic() - began) / len(store) * len(manifest)
    batches = TrainBatches(store, subject.view, batch_size=min(size, len(store)), seed=subject.run.seed)
    stream = batches.iterate(0, _MOST_STEPS)
    (first,) = next(stream)  # the loader's processes start
    seconds = _timed(lambda: next(stream), limits, _MOST_STEPS - 1)
    _close(stream)
    cache = store.cached_bytes / len(store) * len(manifest)
    return _Loading(seconds, fill, cache, first, max(1, len(manifest) // subject.optim.batch_size))


def _close(stream: Iterator[list[Batch]]) -> None:
    close = getattr(stream, "close", None)
    assert close is not None
    close()


def _timed(action: Callable[[], object], limits: CheckLimits, most: int) -> float:
    """Return the median seconds of an action repeated for a quarter of the time allowed."""
    durations: list[float] = []
    while len(durations) < most and (not durations or sum(durations) < limits.seconds / 4):
        began = time.perf_counter()
        action()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def _step_seconds(subject: Subject, module: nn.Module, batch: Batch, world: World, limits: CheckLimits) -> float:
    """Return the seconds of one process's whole step: all its parts and the optimiser's update."""
    optimizer = build_optimizer(subject.optim, subject.groups(module))
    trained = torch.compile(module) if subject.run.compile else module
    module.train()

    def step() -> None:
        for _ in range(subject.optim.accumulate):
            with world.autocast(subject.run.precision):
                loss = trained(batch)["loss"]
            (loss / subject.optim.accumulate).backward()
        clip_gradients(module.parameters(), subject.optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if world.device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(_WARM_UP):
        step()
    return _timed(step, limits, _MOST_STEPS)


def _throughput(subject: Subject, loading: _Loading, step_seconds: float, limits: CheckLimits) -> CheckOutcome:
    optim = subject.optim
    load_seconds = loading.seconds * optim.accumulate
    workers = subject.data.workers
    whole = max(step_seconds, load_seconds) if workers else step_seconds + load_seconds
    wait = (whole - step_seconds) / whole
    steps = max(1, round(optim.epochs * loading.steps_per_epoch))
    hours = (steps * whole + loading.fill_seconds) / 3600
    per_process = optim.batch_size / limits.processes
    rates = {"model": per_process / step_seconds, "data": per_process / load_seconds}
    how = f"{workers} loader processes" if workers else "no loader process (data.workers)"
    message = (
        f"model {rates['model']:.1f} clips/s, data {rates['data']:.1f} clips/s with {how}: {100 * wait:.0f} % of the "
        f"time waits for data; {steps} steps of {optim.batch_size} clips take {duration(3600 * hours)}"
    )
    message += f" on {limits.processes} such processes" if limits.processes > 1 else ""
    message += f", {duration(loading.fill_seconds)} of it to fill the cache" if loading.cache_bytes else ""
    values = {"model_clips_per_s": rates["model"], "data_clips_per_s": rates["data"], "data_wait": wait}
    values |= {"steps": steps, "hours": hours, "cache_fill_hours": loading.fill_seconds / 3600}
    return CheckOutcome.of("throughput", wait <= MOST_WAIT, f"{message}; without evaluations", values)


def _memory(
    subject: Subject,
    module: nn.Module,
    batch: Batch,
    loading: _Loading,
    used: tuple[int, int],
    world: World,
    limits: CheckLimits,
) -> CheckOutcome:
    """Compare the peak of the steps with the available memory; `used` holds the use before, and the peak."""
    before, peak = used
    clips = len(batch["index"])
    available = available_memory(world)
    cache = int(loading.cache_bytes)
    values: dict[str, Any] = {"peak_bytes": peak, "available_bytes": available, "cache_bytes": cache, "clips": clips}
    if world.device.type == "cuda":
        fits = peak <= FULL * available
        message = f"peak {peak / GIB:.2f} GiB allocated of the GPU's {available / GIB:.1f} GiB, at {clips} clips a step"
        if cache:
            host = host_memory()
            fits = fits and limits.processes * cache <= FULL * host
            message += (
                f"; the cache takes {limits.processes * cache / GIB:.2f} GiB of {host / GIB:.1f} GiB of main memory"
            )
        return CheckOutcome.of("memory", fits, message, values)
    module.train()

    def forward() -> object:
        with world.autocast(subject.run.precision):
            return module(batch)["loss"]

    saved = saved_bytes(forward, module)
    # The clips that the trial cached are in the peak already; they count twice, to be on the safe side.
    needed = limits.processes * (peak + cache)
    message = (
        f"peak {peak / MIB:.0f} MiB resident, {(peak - before) / MIB:.0f} MiB of it in steps of {clips} clips "
        f"({saved / MIB:.0f} MiB saved for the backward pass)"
    )
    message += f"; the cache takes {cache / MIB:.0f} MiB" if cache else ""
    message += f"; {available / GIB:.1f} GiB are available"
    return CheckOutcome.of(
        "memory", needed <= FULL * available, message, values | {"saved_bytes": saved, "step_bytes": peak - before}
    )


def available_memory(world: World) -> int:
    """Return the bytes that a process may use: the GPU's, or main memory that is free or its own."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    return host_memory()


def host_memory() -> int:
    """Return the bytes of main memory that are free or this process's own, within its control group's limit."""
    fields = _fields(Path("/proc/meminfo"))
    free = fields.get("MemAvailable", 0) + _fields(Path("/proc/self/status")).get("VmRSS", 0)
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(free, int(text)) if text.isdigit() else free


def _restart_peak(world: World) -> int | None:
    """Reset the peak and return the bytes in use; None on systems that do not report them (outside Linux)."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of resident memory
    except OSError:
        return None
    return _fields(Path("/proc/self/status"))["VmRSS"]


def _peak(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _fields(Path("/proc/self/status"))["VmHWM"]


def _fields(path: Path) -> dict[str, int]:
    """Return the lines `Name: number kB` of a file of /proc, in bytes."""
    sizes = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.strip().endswith(" kB"):
            sizes[name] = 1024 * int(rest.split()[0])
    return sizes
