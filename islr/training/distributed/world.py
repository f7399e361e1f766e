"""This rank among the ranks of a run: its device, the process group, and small numbers shared by all ranks."""

import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from islr.errors import ProcessLost, RunFailed, UserError, describe, one_line
from islr.training.distributed.collectives import average
from islr.training.distributed.heartbeat import Heartbeat

# After `run.timeout_s` a waiting rank names the one it waits for; the library's own limit comes this much later.
_GRACE_S = 60.0


class World:
    """This rank among the ranks of the run (`torchrun`), or a process alone.

    Attributes:
        rank, size: This rank, and how many there are.
        device: Where this rank computes.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank, self.size, local = _number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
        if not 0 <= self.rank < self.size:
            raise UserError(
                f"the environment says RANK={self.rank} and WORLD_SIZE={self.size}; start several processes with "
                "torchrun, or unset both"
            )
        lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if self.size > 1 and not os.environ.get(name)]
        if lacking:
            raise UserError(f"the environment says WORLD_SIZE={self.size} and lacks {lacking[0]}; start with torchrun")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("run.device is cuda and no CUDA device is visible; use run.device=cpu or auto")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        self._heartbeat: Heartbeat | None = None

    @classmethod
    def planned(cls, size: int) -> "World":
        """Return rank 0 of a run of `size` ranks that has not begun."""
        world = cls("cpu")
        world.rank, world.size = 0, size
        return world

    @property
    def main(self) -> bool:
        """Return whether this is the rank that writes."""
        return self.rank == 0

    def autocast(self, precision: str) -> torch.autocast:
        """Return the context in which a forward pass has the run's `precision`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    @contextmanager
    def connected(self, timeout_s: float) -> Iterator["World"]:
        """Join the process group for the length of the block; a single process has none.

        Args:
            timeout_s: How long to wait for another rank, here and within the block.

        Raises:
            RunFailed: Not all ranks came.
            ProcessLost: Another rank failed, died or did not answer within the block; the message names it.
        """
        if self.size == 1:
            yield self
            return
        heartbeat = self._heartbeat = self._join(timeout_s)
        try:
            yield self
        except Exception as error:
            cause = self.cause(error)
            heartbeat.end(describe(cause))
            if cause is error:
                raise
            raise cause from error
        # Only here: after an error the group may wait for a rank that is gone, and this one ends anyway.
        heartbeat.end()
        self._heartbeat = None
        distributed.destroy_process_group()

    def cause(self, error: Exception) -> Exception:
        """Return `ProcessLost` where `error` comes of a connection that another rank broke, else `error`."""
        # A broken connection is a RuntimeError of no type of its own.
        if self._heartbeat is None or not isinstance(error, RuntimeError) or isinstance(error, RunFailed):
            return error
        lost = self._heartbeat.lost()
        return ProcessLost(lost) if lost else error

    def on_give_up(self, action: Callable[[str], None]) -> None:
        """Call `action` with the reason before this process ends because another rank is late or gone."""
        if self._heartbeat is not None:
            self._heartbeat.on_give_up = action

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
        except (RuntimeError, ValueError) as error:
            raise RunFailed(
                f"the {self.size} processes did not find each other within {timeout_s:g} s (run.timeout_s): "
                f"{one_line(error)}"
            ) from error

    def at(self, what: str) -> None:
        """Note a place of the run that every rank passes; errors about a rank that is lost or late name the place."""
        if self._heartbeat is not None:
            self._heartbeat.at(what)

    def any(self, *flags: bool) -> list[bool]:
        """Return each flag as true on every rank when it is true on one."""
        if self.size == 1:
            return list(flags)
        value = torch.tensor([int(flag) for flag in flags], device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return [bool(one) for one in value.tolist()]

    def average(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return the means of numbers over the ranks, on every rank."""
        if self.size == 1:
            return {name: float(value) for name, value in values.items()}
        means = average(torch.stack([value.double() for value in values.values()]))
        return dict(zip(values, means.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            distributed.barrier()


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise UserError(f"the environment variable {variable} is {text!r}, not a whole number")
    return int(text)


def device_name(device: torch.device) -> str:
    """Return the name of a device, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s)"
