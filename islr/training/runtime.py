"""Where a run happens: its folder and lock, seeds, devices, processes, signals and the record of the environment."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from islr.config import Config, dump_yaml
from islr.data.loading.loader import pin_threads
from islr.environment import commit, libraries
from islr.errors import Interrupted, ProcessLost, RunFailed, UserError, one_line
from islr.files import write_atomic
from islr.training.distributed.collectives import average
from islr.training.distributed.heartbeat import Watch
from islr.training.run_lock import only_writer

# Beyond `run.timeout_s`, after which a process that waits names whom it waits for; then the library itself gives up.
_GRACE_S = 60.0


class RunConfig(Config):
    """How and where a run executes; none of it changes what is computed, except `seed` and `precision`."""

    out: str = Field(description="run folder; a second launch in the same folder continues it")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(1, ge=1, description="CPU threads; results are bit-identical for a fixed count")
    compile: bool = Field(False, description="torch.compile the training module")
    sync_batch_norm: bool = Field(
        False, description="batch norms see the batches of all processes; otherwise each its own, as DDP has it"
    )
    log_every: int = Field(10, ge=1, description="steps between rows of metrics.jsonl")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; none = every epoch")
    timeout_s: float = Field(600.0, gt=0, description="seconds that processes of a run wait for one that is late")
    wandb: Literal["offline", "online", "disabled"] = "offline"


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
        self._watch: Watch | None = None

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
        watch = self._watch = self._join(timeout_s)
        try:
            yield self
        except (UserError, RunFailed, Interrupted) as error:
            watch.end(str(error))
            raise
        except Exception as error:
            # A broken connection is a RuntimeError of no type of its own.
            lost = watch.lost() if isinstance(error, RuntimeError) else ""
            watch.end(lost or f"{type(error).__name__}: {one_line(error)}")
            if lost:
                raise ProcessLost(lost) from error
            raise
        # Only here: after an error the group may wait for a process that is gone, and this one ends anyway.
        watch.end()
        self._watch = None
        distributed.destroy_process_group()

    def _join(self, timeout_s: float) -> Watch:
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
            return Watch(distributed.PrefixStore("watch", store), self.rank, self.size, timeout_s)
        except RuntimeError as error:
            raise RunFailed(
                f"the {self.size} processes did not find each other within {timeout_s:g} s (run.timeout_s): "
                f"{one_line(error)}"
            ) from error

    def at(self, what: str) -> None:
        """Note a place of the run that every rank passes; errors about a rank that is lost or late name it."""
        if self._watch is not None:
            self._watch.at(what)

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


def prepare_process(threads: int) -> None:
    """Thread counts and the switches that make repeated runs agree."""
    pin_threads()
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the model's own randomness (dropout, drop path, mixing) as a function of the step, so none is saved."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))


@contextmanager
def run_folder(config: Config, out: str, world: World) -> Iterator[Path]:
    """Create and lock a run folder and write its `config.yaml` and `env.json`.

    Raises:
        UserError: Another process works in the folder, or it holds a run of a different configuration.
    """
    folder = Path(out)
    problem = ""
    with ExitStack() as held:
        if world.main:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(only_writer(folder))
                _describe(config, folder, world)
            except UserError as error:
                problem = str(error)
            except OSError as error:
                problem = f"run folder {folder} cannot be created ({error.strerror})"
        problem = world.gather(problem)[0]  # the first process's, on all
        if problem:
            raise UserError(problem)
        yield folder


def _describe(config: Config, folder: Path, world: World) -> None:
    """Write what the run is.

    Raises:
        UserError: The folder holds another.
    """
    text = dump_yaml(config)
    kept = folder / "config.yaml"
    if kept.is_file() and _comparable(kept.read_text(encoding="utf-8")) != _comparable(text):
        raise UserError(f"run folder {folder} holds a run of another configuration; choose another folder")
    write_atomic(kept, text)
    write_atomic(folder / "env.json", json.dumps(environment(world), indent=2) + "\n")


def _comparable(text: str) -> str:
    """A config's text without what may change between launches of one run."""
    names = ("device", "wandb", "log_every", "checkpoint_every", "timeout_s", "workers", "deadline_s", "out")
    free = tuple(f"  {name}:" for name in names)
    return "\n".join(line for line in text.splitlines() if not line.startswith(free))


def device_name(device: torch.device) -> str:
    """What the run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s)"


def environment(world: World) -> dict[str, Any]:
    """The record kept in `env.json`: versions, commit, machine; no paths, no environment variables."""
    return {
        "commit": commit(),
        "libraries": libraries(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "device": device_name(world.device),
        "processes": world.size,
        "command": Path(sys.argv[0]).name,
    }
