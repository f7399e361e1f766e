"""The run folder: who may write in it, the configuration it belongs to, and the environment of the run."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from islr.config import Config, dump_yaml
from islr.environment import commit, libraries
from islr.errors import UserError
from islr.files import write_atomic
from islr.training.distributed.world import World, device_name
from islr.training.run_lock import only_writer


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
