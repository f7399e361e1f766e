"""Functions and commands in processes from a fork server (see `killed_runs.py`), alone or as a small world on gloo."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from islr.cli import run
from islr.training.run_lock import only_writer

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pretrain.run"])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def background(function: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start `function(*arguments)`, of a module, in a process of its own."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def start_world(size: int, function: Callable[..., object], *arguments: Any) -> list[BaseProcess]:
    """Start `function(*arguments)` in `size` processes that find each other.

    Args:
        size: Processes.
        function: Of a module.
        arguments: The same for all; a process finds its rank in the environment.
    """
    port = free_ports(1)[0]
    processes: list[BaseProcess] = []
    for rank in range(size):
        processes.append(_CONTEXT.Process(target=_member, args=(rank, size, port, function, arguments)))
    for process in processes:
        process.start()
    return processes


def run_world(size: int, function: Callable[..., object], *arguments: Any) -> list[int | None]:
    """As `start_world`, to the end; the exit codes."""
    processes = start_world(size, function, *arguments)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def run_command(words: Sequence[str], log: Path) -> None:
    """Be `islr WORDS`, from the exit code to what it says, which goes to a file for each rank."""
    file = os.open(log_of(log, int(os.environ.get("RANK", 0))), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    sys.exit(run(list(words)))


def log_of(log: Path, rank: int) -> Path:
    """The file to which a rank's messages go."""
    return log.with_suffix(f".{rank}.log")


def hold_run_folder(folder: Path) -> None:
    """Be the writer until killed."""
    with only_writer(folder):
        time.sleep(600)


def _member(rank: int, size: int, port: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    function(*arguments)
