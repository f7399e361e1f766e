"""Stages of a study: what depends on what, run by several processes at once, resumable after any interruption.

A stage is a command line of this program and the file that it leaves when it is done. A stage whose file exists is
not run again; a stage that was cut short goes on from its own checkpoint. A stage that fails is reported, those that
need its result are skipped, and the others go on.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from islr.errors import Interrupted, UserError

Execute = Callable[[list[str]], int]
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Stage:
    """One command of a study.

    Attributes:
        name: Unique; names the log file.
        arguments: Command line, without the program's name.
        done: The file that the command leaves, whole or not at all.
        needs: Names of stages whose results it reads.
        cost: Rough share of the work; among the stages that are ready, the costliest starts first.
    """

    name: str
    arguments: tuple[str, ...]
    done: Path
    needs: tuple[str, ...] = ()
    cost: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        stage: Which.
        state: `done`, `already done`, `failed` or `skipped`.
        seconds: Wall time of this launch.
        why: Last line of the log of a failed stage; the missing stage of a skipped one.
    """

    stage: Stage
    state: str
    seconds: float = 0.0
    why: str = ""


def run_stages(
    stages: Sequence[Stage],
    execute: Execute,
    logs: Path,
    processes: int,
    report: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run stages in dependency order, up to `processes` at once, each in a process of its own.

    Args:
        stages: The study.
        execute: Runs one command line in the child process and returns its exit code.
        logs: Folder for `<stage>.log`, which takes the output of the stage.
        processes: Stages at once.
        report: Called with one line when a stage starts and ends.

    Raises:
        UserError: Stages need each other in a circle, or a name that does not exist.
        Interrupted: A signal came; running stages were told to save and have ended.
    """
    _check(stages)
    logs.mkdir(parents=True, exist_ok=True)
    # A forked child has everything imported already; CUDA and macOS do not allow it.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    outcomes: dict[str, Outcome] = {}
    running: dict[str, tuple[multiprocessing.process.BaseProcess, float]] = {}
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: stopped.append(n)) for number in (15, 2)}
    try:
        while len(outcomes) < len(stages):
            waiting = [stage for stage in stages if stage.name not in outcomes and stage.name not in running]
            for stage in sorted(waiting, key=lambda stage: -stage.cost):
                states = [outcomes[name].state if name in outcomes else "" for name in stage.needs]
                bad = [need for need, state in zip(stage.needs, states, strict=True) if state in ("failed", "skipped")]
                if bad:
                    outcomes[stage.name] = Outcome(stage, "skipped", why=f"{bad[0]} has no result")
                    report(f"  {stage.name:28} skipped: {bad[0]} has no result")
                elif stage.done.exists():
                    outcomes[stage.name] = Outcome(stage, "already done")
                    report(f"  {stage.name:28} already done")
                elif all(states) and len(running) < processes and not stopped:
                    process = context.Process(target=_child, args=(stage, execute, logs), name=stage.name)
                    process.start()
                    running[stage.name] = (process, time.monotonic())
            if stopped:
                for process, _ in running.values():
                    process.terminate()
                for process, _ in running.values():
                    process.join()
                raise Interrupted(f"stopped with {len(outcomes)} of {len(stages)} stages done; run it again to go on")
            if not running:
                continue
            wait([process.sentinel for process, _ in running.values()], timeout=1.0)
            for stage in stages:
                if stage.name in running and not running[stage.name][0].is_alive():
                    process, began = running.pop(stage.name)
                    process.join()
                    outcomes[stage.name] = _outcome(stage, process.exitcode, time.monotonic() - began, logs)
                    last = outcomes[stage.name]
                    tail = f" ({last.why})" if last.why else ""
                    report(f"  {stage.name:28} {last.state} in {last.seconds:.0f} s{tail}")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return [outcomes[stage.name] for stage in stages]


def _check(stages: Sequence[Stage]) -> None:
    known: set[str] = set()
    names = {stage.name for stage in stages}
    left = list(stages)
    while left:
        ready = [stage for stage in left if set(stage.needs) <= known]
        for stage in left:
            if not set(stage.needs) <= names:
                raise UserError(f"stage {stage.name} needs {sorted(set(stage.needs) - names)[0]}, which is no stage")
        if not ready:
            raise UserError(f"stages need each other in a circle: {', '.join(stage.name for stage in left)}")
        known |= {stage.name for stage in ready}
        left = [stage for stage in left if stage not in ready]


def _child(stage: Stage, execute: Execute, logs: Path) -> None:
    """Body of a stage's process: output to its log, signals as in a fresh process, ends with its parent."""
    for number in (15, 2):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    with (logs / f"{stage.name}.log").open("a", encoding="utf-8") as log:
        print(f"$ islr {' '.join(stage.arguments)}", file=log, flush=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        code = execute(list(stage.arguments))
        log.flush()
    os._exit(code)


def _outcome(stage: Stage, code: int | None, seconds: float, logs: Path) -> Outcome:
    if code == 0 and stage.done.exists():
        return Outcome(stage, "done", seconds)
    path = logs / f"{stage.name}.log"
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    why = lines[-1] if lines and code != 0 else f"it left no {stage.done.name}"
    return Outcome(stage, "failed", seconds, f"exit {code}: {why}; see {path}")
