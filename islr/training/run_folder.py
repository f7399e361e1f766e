"""The run folder: who may write in it, the configuration it belongs to, its environment, and why the run failed."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from islr.config import Config, dump_yaml
from islr.environment import commit, libraries
from islr.errors import Interrupted, UserError, describe
from islr.files import write_atomic
from islr.training.distributed.world import World, device_name
from islr.training.run_lock import only_writer

ERROR = "error.txt"  # one line: why the last launch failed; reports show it


@contextmanager
def run_folder(config: Config, out: str, world: World) -> Iterator[Path]:
    """Create and lock a run folder and write its `config.yaml` and `env.json`; a failure in the block is noted there.

    Raises:
        UserError: Another process works in the folder, or it holds a run of a different configuration.
        ProcessLost: Another rank failed, died or did not answer within the block.
    """
    folder = Path(out)
    with ExitStack() as held:
        problem = _take(config, folder, world, held) if world.main else ""
        problem = world.gather(problem)[0]
        if problem:
            raise UserError(problem)
        if world.main:
            world.on_give_up(lambda reason: _note_failure(folder, reason))
        try:
            yield folder
        except Interrupted:
            raise
        except Exception as error:
            cause = world.cause(error)
            if world.main:
                _note_failure(folder, describe(cause))
            if cause is error:
                raise
            raise cause from error


def _take(config: Config, folder: Path, world: World, held: ExitStack) -> str:
    """Lock the folder and describe the run in it; return why that is impossible, or an empty string."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(only_writer(folder))
        _describe_run(config, folder, world)
        (folder / ERROR).unlink(missing_ok=True)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"run folder {folder} cannot be created ({error.strerror})"
    return ""


def _note_failure(folder: Path, reason: str) -> None:
    with suppress(OSError):  # on a full disk, the reason itself is what the user must see
        write_atomic(folder / ERROR, reason + "\n")


def _describe_run(config: Config, folder: Path, world: World) -> None:
    """Write the run's configuration and environment.

    Raises:
        UserError: The folder holds a run of another configuration.
    """
    text = dump_yaml(config)
    path = folder / "config.yaml"
    if path.is_file() and _comparable(path.read_text(encoding="utf-8")) != _comparable(text):
        raise UserError(f"run folder {folder} holds a run of another configuration; choose another folder")
    write_atomic(path, text)
    write_atomic(folder / "env.json", json.dumps(environment(world), indent=2) + "\n")


def _comparable(text: str) -> str:
    """Return a config's text without the keys that may change between launches of one run."""
    names = ("device", "wandb", "log_every", "checkpoint_every", "timeout_s", "workers", "deadline_s", "out")
    free = tuple(f"  {name}:" for name in names)
    return "\n".join(line for line in text.splitlines() if not line.startswith(free))


def environment(world: World) -> dict[str, Any]:
    """Return the record kept in `env.json`: versions, commit, machine; no paths, no environment variables."""
    return {
        "commit": commit(),
        "libraries": libraries(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "device": device_name(world.device),
        "processes": world.size,
        "command": Path(sys.argv[0]).name,
    }
