"""Where a run happens: its folder and lock, seeds, devices, processes, signals and the record of the environment."""

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import distributed

import islr
from islr.config import Config, dump_yaml
from islr.data.loader import pin_threads
from islr.errors import UserError
from islr.files import write_atomic

# A rank that waits longer than this for the others gives up with an error instead of hanging.
RANK_TIMEOUT = timedelta(minutes=10)
RECORDED_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "av",
    "decord",
    "torchcodec",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
)


class RunConfig(Config):
    """How and where a run executes; none of it changes what is computed, except `seed` and `precision`."""

    out: str = Field(description="run folder; a second launch in the same folder continues it")
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(1, ge=1, description="CPU threads; results are bit-identical for a fixed count")
    compile: bool = Field(False, description="torch.compile the training module")
    log_every: int = Field(10, ge=1, description="steps between rows of metrics.jsonl")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; none = every epoch")
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

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextmanager
    def connected(self) -> Iterator["World"]:
        """Join the process group for the length of the block; nothing to do for a single process."""
        if self.size == 1:
            yield self
            return
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=RANK_TIMEOUT)
        try:
            yield self
        finally:
            distributed.destroy_process_group()

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return bool(value)

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
    if not world.main:
        world.barrier()
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be created ({error.strerror})") from error
    with lock:
        try:
            # A record lock belongs to this process alone: loader workers that outlive a kill do not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"run folder {folder} is in use by another process") from error
        text = dump_yaml(config)
        kept = folder / "config.yaml"
        if kept.is_file() and _comparable(kept.read_text(encoding="utf-8")) != _comparable(text):
            raise UserError(f"run folder {folder} holds a run of another configuration; choose another run.out")
        write_atomic(kept, text)
        write_atomic(folder / "env.json", json.dumps(environment(world), indent=2) + "\n")
        world.barrier()
        yield folder


def _comparable(text: str) -> str:
    """A config's text without what may change between launches of one run."""
    free = ("  device:", "  wandb:", "  log_every:", "  checkpoint_every:", "  workers:", "  deadline_s:", "  out:")
    return "\n".join(line for line in text.splitlines() if not line.startswith(free))


@cache
def commit() -> str:
    """The checkout's commit, with `+changes` when tracked files differ; the version outside a checkout."""
    root = Path(islr.__file__).parent.parent
    if not (root / ".git").exists():
        return f"release {islr.__version__}"
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"release {islr.__version__}"
    return head + ("+changes" if changed.stdout.strip() else "")


@cache
def libraries() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    versions = {"islr-bench": islr.__version__, "python": platform.python_version()}
    for name in RECORDED_LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


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
