"""Stages of a study: what depends on what, run by several processes at once, resumable after any interruption.

A stage is a command line of this program and the file that it leaves when it is done. A stage whose file exists is
not run again; a stage that was cut short goes on from its own checkpoint. A stage that fails is reported, those that
need its result are skipped, and the others go on.
"""

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from islr.errors import Interrupted, UserError
from islr.study.launchers import Launcher, StageJob

LOST = ("failed", "skipped")  # states of stages without a result
INTERRUPTED = 75  # exit code of a command that was told to stop and saved its state
_MOST_LAUNCHES = 100  # of a stage that keeps being interrupted, by a cluster's time limit for instance


@dataclass(frozen=True)
class Stage:
    """One command of a study.

    Attributes:
        name: Unique; names the log file.
        arguments: Command line, without the program's name.
        done: The file that the command leaves, whole or not at all.
        needs: Names of stages whose results it cannot do without.
        after: Names of stages that must have ended, well or not.
        cost: Rough share of the work; among the stages that are ready, the costliest starts first.
        settle: Of the names of the stages without a result, the stage to run in place of this one, under its name.
    """

    name: str
    arguments: tuple[str, ...]
    done: Path
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cost: float = 1.0
    settle: "Callable[[frozenset[str]], Stage] | None" = None


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended.

    Attributes:
        stage: Which.
        state: `done`, `already done`, `failed` or `skipped`.
        seconds: Wall time of this launch.
        why: Last error of ours in the log of a failed stage, or its last line; the missing stage of a skipped one.
    """

    stage: Stage
    state: str
    seconds: float = 0.0
    why: str = ""


def run_stages(
    stages: Sequence[Stage],
    launcher: Launcher,
    logs: Path,
    processes: int,
    report: Callable[[str], None] = print,
) -> list[StageOutcome]:
    """Run stages in dependency order, up to `processes` at once, each as a job of its own.

    Args:
        stages: The study.
        launcher: Starts a command line as a job: on this machine, under torchrun, or on a cluster.
        logs: Folder for `<stage>.log`, which takes the output of the stage.
        processes: Stages at once.
        report: Called with one line when a stage ends.

    Raises:
        UserError: Stages need each other in a circle, or a name that does not exist.
        Interrupted: A signal came; running stages were told to save and have ended.
    """
    _check(stages)
    logs.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, StageOutcome] = {}
    running: dict[str, tuple[Stage, StageJob, float]] = {}
    launches: dict[str, int] = defaultdict(int)
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: stopped.append(n)) for number in (15, 2)}

    def end(outcome: StageOutcome, line: str) -> None:
        outcomes[outcome.stage.name] = outcome
        report(f"  {outcome.stage.name:28} {line}")

    try:
        while len(outcomes) < len(stages):
            waiting = [stage for stage in stages if stage.name not in outcomes and stage.name not in running]
            for stage in sorted(waiting, key=lambda stage: -stage.cost):
                bad = [need for need in stage.needs if need in outcomes and outcomes[need].state in LOST]
                if stage.done.exists():
                    end(StageOutcome(stage, "already done"), "already done")
                elif bad:
                    end(
                        StageOutcome(stage, "skipped", why=f"{bad[0]} has no result"),
                        f"skipped: {bad[0]} has no result",
                    )
                elif (
                    all(name in outcomes for name in (*stage.needs, *stage.after))
                    and len(running) < processes
                    and not stopped
                ):
                    lost = frozenset(name for name, outcome in outcomes.items() if outcome.state in LOST)
                    settled = stage.settle(lost) if stage.settle else stage
                    if settled.done.exists():
                        end(StageOutcome(settled, "already done"), "already done")
                        continue
                    job = launcher.start(stage.name, settled.arguments, logs / f"{stage.name}.log")
                    running[stage.name] = (settled, job, time.monotonic())
                    launches[stage.name] += 1
            if stopped:
                for _, job, _ in running.values():
                    job.stop()
                for _, job, _ in running.values():
                    job.wait()
                raise Interrupted(f"stopped with {len(outcomes)} of {len(stages)} stages done; run it again to go on")
            if not running:
                continue
            launcher.pause([job for _, job, _ in running.values()])
            for name in [name for name, (_, job, _) in running.items() if job.ended()]:
                stage, job, began = running.pop(name)
                code, seconds = job.wait(), time.monotonic() - began
                if code == INTERRUPTED and launches[name] < _MOST_LAUNCHES:
                    report(f"  {name:28} interrupted after {seconds:.0f} s, goes on")
                    continue
                outcome = _outcome(stage, code, seconds, logs)
                tail = f" ({outcome.why})" if outcome.why else ""
                end(outcome, f"{outcome.state} in {outcome.seconds:.0f} s{tail}")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return [outcomes[stage.name] for stage in stages]


def _check(stages: Sequence[Stage]) -> None:
    known: set[str] = set()
    names = {stage.name for stage in stages}
    left = list(stages)
    while left:
        ready = [stage for stage in left if {*stage.needs, *stage.after} <= known]
        for stage in left:
            unknown = {*stage.needs, *stage.after} - names
            if unknown:
                raise UserError(f"stage {stage.name} needs {min(unknown)}, which is no stage")
        if not ready:
            raise UserError(f"stages need each other in a circle: {', '.join(stage.name for stage in left)}")
        known |= {stage.name for stage in ready}
        left = [stage for stage in left if stage not in ready]


def _outcome(stage: Stage, code: int | None, seconds: float, logs: Path) -> StageOutcome:
    if code == 0 and stage.done.exists():
        return StageOutcome(stage, "done", seconds)
    path = logs / f"{stage.name}.log"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.rpartition("\n$ ")[2].strip().splitlines()  # of this launch, which begins with its command line
    # Our own word comes before what torchrun says of it.
    ours = [line for line in lines if line.startswith("islr: ")] or lines
    why = ours[-1] if ours and code != 0 else f"it left no {stage.done.name}"
    return StageOutcome(stage, "failed", seconds, f"exit {code}: {why}; see {path}")
