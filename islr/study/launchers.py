"""Where the stages of a study run: processes of this machine, torchrun, or a SLURM cluster.

A launcher starts one command line of this program as a job. All launchers keep the promises a study rests on: the
output goes to the stage's log, a stopped job saves and ends with exit code 75, and an exit code comes back.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from islr.errors import UserError
from islr.processes.parent import end_with_parent
from islr.processes.signals import STOP_SIGNALS

Execute = Callable[[list[str]], int]
_POLL_S = 1.0
_CLUSTER_POLL_S = 10.0  # more frequent queries burden the scheduler


class StageJob(Protocol):
    """One started stage."""

    def ended(self) -> bool:
        """Return whether the stage has ended."""

    def wait(self) -> int | None:
        """Wait until the stage has ended, and return its exit code; None when that is unknown."""

    def stop(self) -> None:
        """Ask the stage to save and end."""


class Launcher(Protocol):
    """Starts stages."""

    def start(self, name: str, arguments: Sequence[str], log: Path) -> StageJob:
        """Run `islr ARGUMENTS` as a job whose output is appended to `log`."""

    def pause(self, jobs: Sequence[Any]) -> None:
        """Wait until one of the jobs may have ended."""


class Processes:
    """Jobs are forked from this process, so that what it has imported is imported once.

    Args:
        execute: Runs one command line in the child and returns its exit code.
    """

    def __init__(self, execute: Execute) -> None:
        self.execute = execute
        # CUDA and macOS do not allow a fork.
        self._context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

    def start(self, name: str, arguments: Sequence[str], log: Path) -> "_Forked":
        """See `Launcher.start`."""
        process = self._context.Process(
            target=_child, args=(self.execute, list(arguments), log, os.getpid()), name=name
        )
        process.start()
        return _Forked(process)

    def pause(self, jobs: Sequence["_Forked"]) -> None:
        """See `Launcher.pause`."""
        wait([job.process.sentinel for job in jobs], timeout=_POLL_S)


class _Forked:
    def __init__(self, process: BaseProcess) -> None:
        self.process = process

    def ended(self) -> bool:
        return not self.process.is_alive()

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def stop(self) -> None:
        self.process.terminate()


def _child(execute: Execute, arguments: list[str], log: Path, parent: int) -> None:
    """Run a command line in a forked process: output goes to the log, and the process ends with its parent."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which asks every stage once to save and end
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    end_with_parent(parent, signal.SIGTERM)  # it saves and ends
    with log.open("a", encoding="utf-8") as file:
        print(f"$ islr {' '.join(arguments)}", file=file, flush=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        code = execute(arguments)
        file.flush()
    os._exit(code)


TRAINING = ("pretrain", "finetune")  # commands that several processes can share


def command_line(arguments: Sequence[str], processes: int) -> list[str]:
    """Return the command line of a job; a training job of several ranks runs under torchrun."""
    program = [sys.executable, "-m"]
    if arguments[0] in TRAINING and processes > 1:
        program += ["islr.torchrun", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*program, "islr", *arguments]


class Torchrun:
    """Jobs that train run under torchrun with several processes on this machine; the others run as one process.

    Args:
        processes: Processes of a training job.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def start(self, name: str, arguments: Sequence[str], log: Path) -> "_Started":
        """See `Launcher.start`."""
        command = command_line(arguments, self.processes)
        with log.open("a", encoding="utf-8") as file:
            print(f"$ {' '.join(command)}", file=file, flush=True)
            return _Started(
                subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
                )
            )

    def pause(self, jobs: Sequence["_Started"]) -> None:
        """See `Launcher.pause`."""
        until = time.monotonic() + _POLL_S
        while time.monotonic() < until and not any(job.ended() for job in jobs):
            time.sleep(_POLL_S / 10)


class _Started:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int | None:
        return self.process.wait()

    def stop(self) -> None:
        self.process.terminate()  # torchrun passes it on to its processes


class Slurm:
    """Jobs are submitted to a SLURM cluster, or run by submitit on this machine where there is none.

    A job that the scheduler preempts or that reaches its time limit gets a signal: it saves, ends with 75, and is
    started again.

    Args:
        folder: Where submitit keeps its files; seen by all nodes.
        cluster: `slurm`, or `local` for subprocesses of this machine under the same code.
        parameters: What `sbatch` is given, under submitit's names (`slurm_partition`, `timeout_min`, `gpus_per_node`).
        processes: Processes of a training job, on the job's one node.

    Raises:
        UserError: submitit is not installed, or there is no such cluster here.
    """

    def __init__(self, folder: Path, cluster: str, parameters: dict[str, Any], processes: int) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError("SLURM jobs need submitit: pip install 'islr-bench[slurm]'") from None
        self.processes = processes
        self._poll_s = _POLL_S if cluster == "local" else _CLUSTER_POLL_S
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"cluster '{cluster}' cannot be used: {error}") from error

    def start(self, name: str, arguments: Sequence[str], log: Path) -> "_Submitted":
        """See `Launcher.start`."""
        self._executor.update_parameters(name=name)
        command = command_line(arguments, self.processes)
        return _Submitted(self._executor.submit(run_command, command, str(log)))

    def pause(self, jobs: Sequence["_Submitted"]) -> None:
        """See `Launcher.pause`."""
        time.sleep(self._poll_s)


class _Submitted:
    def __init__(self, job: Any) -> None:
        self.job = job

    def ended(self) -> bool:
        return bool(self.job.done())

    def wait(self) -> int | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return int(self.job.result())
        except (FailedJobError, UncompletedJobError):
            return None

    def stop(self) -> None:
        self.job.cancel()


def run_command(command: list[str], log: str) -> int:
    """Run the command line of a submitted job: output is appended to `log`, and signals are passed on."""
    with open(log, "a", encoding="utf-8") as file:
        print(f"$ {' '.join(command)}", file=file, flush=True)
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGTERM))
        return process.wait()
