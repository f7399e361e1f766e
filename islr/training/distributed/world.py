"""This rank among the ranks of a run: its device, the process group, and small numbers shared by all ranks."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from islr.errors import Interrupted, ProcessLost, RunFailed, UserError, one_line
from islr.training.distributed.collectives import average
from islr.training.distributed.heartbeat import Heartbeat

# Beyond `run.timeout_s`, after which a process that waits names whom it waits for; then the library itself gives up.
_GRACE_S = 60.0


class World:
    """This process among the processes of the run (`torchrun`), or alone.

    Attributes:
        rank, size: Position and number of processes.
        device: Where this process computes.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("run.device is cuda and no CUDA device is visible; use run.device=cpu or auto")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        self._heartbeat: Heartbeat | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextmanager
    def connected(self, timeout_s: float) -> Iterator["World"]:
        """Join the process group for the length of the block; nothing to do for a single process.

        Args:
            timeout_s: How long to wait for another process, here and within the block.

        Raises:
            RunFailed: Not all processes came.
            ProcessLost: Another process failed, died or did not answer within the block; the message names it.
        """
        if self.size == 1:
            yield self
            return
        heartbeat = self._heartbeat = self._join(timeout_s)
        try:
            yield self
        except (UserError, RunFailed, Interrupted) as error:
            heartbeat.end(str(error))
            raise
        except Exception as error:
            # A broken connection is a RuntimeError of no type of its own.
            lost = heartbeat.lost() if isinstance(error, RuntimeError) else ""
            heartbeat.end(lost or f"{type(error).__name__}: {one_line(error)}")
            if lost:
                raise ProcessLost(lost) from error
            raise
        # Only here: after an error the group may wait for a process that is gone, and this one ends anyway.
        heartbeat.end()
        self._heartbeat = None
        distributed.destroy_process_group()

    def _join(self, timeout_s: float) -> Heartbeat:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
            distributed.init_process_group(
                backend,
                store=distributed.PrefixStore("group", store),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=timeout_s + _GRACE_S),
            )
            return Heartbeat(distributed.PrefixStore("heartbeat", store), self.rank, self.size, timeout_s)
        except RuntimeError as error:
            raise RunFailed(
                f"the {self.size} processes did not find each other within {timeout_s:g} s (run.timeout_s): "
                f"{one_line(error)}"
            ) from error

    def at(self, what: str) -> None:
        """Note a place of the run that every rank passes; errors about a rank that is lost or late name it."""
        if self._heartbeat is not None:
            self._heartbeat.at(what)

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag, true on every rank when it is true on one."""
        if self.size == 1:
            return list(flags)
        value = torch.tensor([int(flag) for flag in flags], device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return [bool(one) for one in value.tolist()]

    def average(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """Means of numbers over the ranks, on every rank."""
        if self.size == 1:
            return {name: float(value) for name, value in values.items()}
        means = average(torch.stack([value.double() for value in values.values()]))
        return dict(zip(values, means.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            distributed.barrier()


def device_name(device: torch.device) -> str:
    """What the run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s)"
