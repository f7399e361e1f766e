"""Stages of a study: what depends on what, run by several processes at once, resumable after any interruption.

A stage is a command line of this program and the file that it leaves when it is done. A stage whose file exists is
not run again; a stage that was cut short goes on from its own checkpoint. A stage that fails is reported, those that
need its result are skipped, and the others go on.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from islr.errors import DONE, INTERRUPTED, Interrupted, UserError
from islr.evaluation.results import load_results
from islr.processes.signals import StopSignal
from islr.study.launchers import Launcher, StageJob

LOST = ("failed", "skipped")  # states of stages without a result
_RESULT = "result.json"
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
        settle: Returns the stage to run in place of this one, under its name, given the names of the stages that have
            no result.
    """

    name: str
    arguments: tuple[str, ...]
    done: Path
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cost: float = 1.0
    settle: "Callable[[frozenset[str]], Stage] | None" = None

    def check_result(self) -> None:
        """Refuse a file under the name of the result that is empty or broken: it would count as done.

        Raises:
            UserError: Says what to delete.
        """
        if not self.done.exists():
            return
        try:
            if self.done.name == _RESULT:
                load_results(self.done)
            elif not self.done.stat().st_size:
                raise UserError(f"{self.done} is empty")
        except UserError as error:
            raise UserError(f"{error}; delete it to run {self.name} again") from error


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended.

    Attributes:
        stage: The stage, as settled.
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
    at_once: int,
    report: Callable[[str], None] = print,
) -> list[StageOutcome]:
    """Run stages in dependency order, up to `at_once` at the same time, each as a job of its own.

    Args:
        stages: The study.
        launcher: Starts a command line as a job: on this machine, under torchrun, or on a cluster.
        logs: Folder for `<stage>.log`, which takes the output of the stage.
        at_once: Most stages at the same time.
        report: Called with one line when a stage ends.

    Raises:
        UserError: Stages need each other in a circle, or a name that does not exist; or a result is broken.
        Interrupted: A stop signal came; the running stages have saved and ended.
    """
    _check(stages)
    for stage in stages:
        stage.check_result()
    logs.mkdir(parents=True, exist_ok=True)
    return _StageRunner(stages, launcher, logs, at_once, report).run()


class _StageRunner:
    """The state of one launch of a study: which stages have ended, which run."""

    def __init__(
        self, stages: Sequence[Stage], launcher: Launcher, logs: Path, at_once: int, report: Callable[[str], None]
    ) -> None:
        self.stages, self.launcher, self.logs, self.at_once, self.report = stages, launcher, logs, at_once, report
        self.outcomes: dict[str, StageOutcome] = {}
        self.running: dict[str, _RunningStage] = {}
        self.launches: Counter[str] = Counter()

    def run(self) -> list[StageOutcome]:
        """Run everything; see `run_stages`."""
        with StopSignal() as stop:
            while len(self.outcomes) < len(self.stages):
                self._advance(starting=not stop.received)
                if stop.received:
                    self._stop()
                if self.running:
                    self.launcher.pause([one.job for one in self.running.values()])
                    self._collect()
        return [self.outcomes[stage.name] for stage in self.stages]

    def _advance(self, starting: bool) -> None:
        """Record the stages that need no run, and start those that are ready, the costliest first."""
        waiting = [stage for stage in self.stages if stage.name not in self.outcomes | self.running]
        for stage in sorted(waiting, key=lambda stage: -stage.cost):
            missing = next((need for need in stage.needs if need in self._lost()), None)
            if stage.done.exists():
                self._end(StageOutcome(stage, "already done"))
            elif missing:
                self._end(StageOutcome(stage, "skipped", why=f"{missing} has no result"))
            elif starting and len(self.running) < self.at_once and {*stage.needs, *stage.after} <= self.outcomes.keys():
                self._start(stage.settle(self._lost()) if stage.settle else stage)

    def _lost(self) -> frozenset[str]:
        """Return the names of the stages that have ended without a result."""
        return frozenset(name for name, outcome in self.outcomes.items() if outcome.state in LOST)

    def _start(self, stage: Stage) -> None:
        if stage.done.exists():  # settled to one that an earlier launch has run
            self._end(StageOutcome(stage, "already done"))
            return
        job = self.launcher.start(stage.name, stage.arguments, self.logs / f"{stage.name}.log")
        self.running[stage.name] = _RunningStage(stage, job, time.monotonic())
        self.launches[stage.name] += 1

    def _collect(self) -> None:
        """Take in the stages that have ended; one that was interrupted waits for its next launch."""
        for name in [name for name, one in self.running.items() if one.job.ended()]:
            one = self.running.pop(name)
            code, seconds = one.job.wait(), time.monotonic() - one.began
            if code == INTERRUPTED and self.launches[name] < _MOST_LAUNCHES:
                self.report(f"  {name:28} interrupted after {seconds:.0f} s, goes on")
            else:
                self._end(_outcome(one.stage, code, seconds, self.logs))

    def _end(self, outcome: StageOutcome) -> None:
        self.outcomes[outcome.stage.name] = outcome
        line = outcome.state
        if outcome.state == "skipped":
            line += f": {outcome.why}"
        elif outcome.state != "already done":
            line += f" in {outcome.seconds:.0f} s" + (f" ({outcome.why})" if outcome.why else "")
        self.report(f"  {outcome.stage.name:28} {line}")

    def _stop(self) -> None:
        """Stop the running stages and wait until they have saved.

        Raises:
            Interrupted: Always.
        """
        for one in self.running.values():
            one.job.stop()
        for one in self.running.values():
            one.job.wait()
        done = f"{len(self.outcomes)} of {len(self.stages)} stages done"
        raise Interrupted(f"stopped with {done}; run the same command to go on")


@dataclass(frozen=True)
class _RunningStage:
    stage: Stage
    job: StageJob
    began: float


def _check(stages: Sequence[Stage]) -> None:
    """Refuse names that do not exist, and circles; see `run_stages`."""
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
    if code == DONE and stage.done.exists():
        return StageOutcome(stage, "done", seconds)
    path = logs / f"{stage.name}.log"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.rpartition("\n$ ")[2].strip().splitlines()  # of this launch, which begins with its command line
    # Our own error message says more than torchrun's summary of it.
    ours = [line for line in lines if line.startswith("islr: ")] or lines
    why = ours[-1] if ours and code != DONE else f"it left no {stage.done.name}"
    return StageOutcome(stage, "failed", seconds, f"exit {code}: {why}; see {path}")
