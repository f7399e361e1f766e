"""Batches of samples in the order of a plan, made in this process or by worker processes.

Worker processes change the speed of a batch, never its content. They also contain damage: a clip that exceeds its
deadline, or crashes the decoder, costs its worker and is reported as failed, and another worker makes the batch again
without it. Large tensors travel in anonymous shared memory, so a killed run leaves nothing behind.
"""

import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import default_collate

from islr.processes.pool import Lost, Pool
from islr.processes.worker import Clock, Parcel

Batch = dict[str, Any]
Sample = dict[str, Any]
Key = tuple[int, int]  # (epoch, row)
Empty = Callable[..., torch.Tensor]

_AHEAD = 2  # batches under way per worker, so that it never waits for the training step
_SHARED_BYTES = 2**16  # smaller tensors travel in the message
# Forked workers share the parent's decoded clips and take any view; macOS cannot fork a process with threads.
METHOD = "fork" if sys.platform == "linux" else "spawn"


class Samples(Protocol):
    """A function from a key to its sample."""

    lost: dict[int, str]  # row -> kind of error of the clips that cost a worker; they are not tried again

    def __call__(self, key: Key) -> Sample:
        """Return the sample, or `{"failed": (row, reason)}`."""

    def failure(self, key: Key, kind: str) -> Sample:
        """Return `{"failed": (row, reason)}` for a clip that cannot be read."""


def pin_threads() -> None:
    """Limit this process to one thread: with more, small operations on busy cores run many times slower."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def collate(samples: Sequence[Sample], empty: Empty = torch.empty) -> Batch:
    """Stack samples; `failed` lists (row, reason) of the clips that could not be read.

    Args:
        samples: Results of `Samples`.
        empty: Allocates the stacked tensors; called with a shape and `dtype`.
    """
    failed = [sample["failed"] for sample in samples if "failed" in sample]
    good = [sample for sample in samples if "failed" not in sample]
    batch: Batch = {"index": torch.empty(0, dtype=torch.int64)}
    for name in good[0] if good else ():
        values = [sample[name] for sample in good]
        if isinstance(values[0], torch.Tensor):
            batch[name] = torch.stack(values, out=empty((len(values), *values[0].shape), dtype=values[0].dtype))
        else:
            batch[name] = default_collate(values)
    return {**batch, "failed": failed}


def load(samples: Samples, plan: Sequence[Sequence[Key]], *, workers: int, deadline_s: float) -> Iterator[Batch]:
    """Yield the plan's batches, in its order.

    Args:
        samples: Makes a sample.
        plan: The keys of each batch.
        workers: Worker processes; 0 = this process, which cannot stop a decoder that hangs.
        deadline_s: Seconds a worker may take for one sample.
    """
    workers = min(workers, len(plan))
    if workers:
        batches = _from_workers(samples, plan, workers, deadline_s)
    else:
        batches = (collate([_sample(samples, key, samples.lost) for key in keys]) for keys in plan)
    return _pinned(batches) if torch.cuda.is_available() else batches


def _sample(samples: Samples, key: Key, lost: dict[int, str]) -> Sample:
    return samples.failure(key, lost[key[1]]) if key[1] in lost else samples(key)


def _from_workers(samples: Samples, plan: Sequence[Sequence[Key]], workers: int, deadline_s: float) -> Iterator[Batch]:
    lost = samples.lost
    ready: dict[int, Batch] = {}
    given = 0

    def submit(number: int) -> None:
        keys = plan[number]
        pool.submit(number, (keys, {row: lost[row] for _, row in keys if row in lost}))

    with Pool(_Maker(samples, deadline_s), workers, METHOD) as pool:
        for number in range(len(plan)):
            while given < min(len(plan), number + workers * _AHEAD):
                submit(given)
                given += 1
            while number not in ready:
                for outcome in pool.wait():
                    if isinstance(outcome, Lost):
                        _, row = plan[outcome.job][outcome.step]
                        lost[row] = outcome.kind
                        submit(outcome.job)
                    else:
                        ready[outcome.job] = _unpack(outcome.result)
            yield ready.pop(number)


class _Maker:
    """The work of one worker process: the samples of a batch, each within its own deadline."""

    def __init__(self, samples: Samples, deadline_s: float) -> None:
        self.samples, self.deadline_s = samples, deadline_s

    def __call__(self, job: tuple[Sequence[Key], dict[int, str]], clock: Clock) -> Parcel:
        pin_threads()
        keys, lost = job
        made = []
        for step, key in enumerate(keys):
            clock.begin(step, self.deadline_s)
            made.append(_sample(self.samples, key, lost))
        memory = _Memory()
        batch = collate(made, memory.empty)
        return Parcel({name: memory.pack(value) for name, value in batch.items()}, tuple(memory.handles))


@dataclass(frozen=True)
class _Packed:
    """A tensor in a message: its bytes, or the index of the parcel's file that holds them."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    data: bytes | int


class _Memory:
    """Tensors in anonymous shared memory, to be handed to another process."""

    def __init__(self) -> None:
        self.handles: list[int] = []
        self._places: dict[int, int] = {}  # a tensor's address -> its file

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Allocate as `torch.empty` does; large tensors lie in shared memory where the system has `memfd_create`."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if size < _SHARED_BYTES or not hasattr(os, "memfd_create"):
            return torch.empty(shape, dtype=dtype)
        handle = os.memfd_create("batch")
        os.ftruncate(handle, size)
        tensor = _mapped(handle, shape, dtype)
        self._places[tensor.data_ptr()] = len(self.handles)
        self.handles.append(handle)
        return tensor

    def pack(self, value: Any) -> Any:
        """Return a batch's value in the form that the message carries."""
        if not isinstance(value, torch.Tensor):
            return value
        place = self._places.get(value.data_ptr()) if value.numel() else None
        data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes() if place is None else place
        return _Packed(tuple(value.shape), value.dtype, data)


def _unpack(parcel: Parcel) -> Batch:
    batch: Batch = {}
    for name, value in parcel.content.items():
        if not isinstance(value, _Packed):
            batch[name] = value
        elif isinstance(value.data, int):
            batch[name] = _mapped(parcel.handles[value.data], value.shape, value.dtype)
        elif value.data:
            batch[name] = torch.frombuffer(bytearray(value.data), dtype=value.dtype).reshape(value.shape)
        else:
            batch[name] = torch.empty(value.shape, dtype=value.dtype)
    for handle in parcel.handles:
        os.close(handle)
    return batch


def _mapped(handle: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor over a file's memory, which lives as long as the tensor."""
    # Populate all pages at once: one fault per page would cost as much as filling them.
    memory = mmap.mmap(handle, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


def _pinned(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches in pinned memory; a thread pins the next batch while the caller uses this one."""
    device = torch.cuda.current_device()
    with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(device,)) as thread:
        ahead = None
        for batch in batches:
            task = thread.submit(_pin, batch)
            if ahead is not None:
                yield ahead.result()
            ahead = task
        if ahead is not None:
            yield ahead.result()


def _pin(batch: Batch) -> Batch:
    return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
