"""`islr check`: run the checks of a planned run and report their outcomes. Nothing is written into the run folder.

The task's own part is `islr/checks/finetune.py` or `pretrain/check.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from islr.checks.facts import facts
from islr.checks.overfit import one_batch, overfit
from islr.checks.reload import reload
from islr.checks.shuffled import shuffled
from islr.checks.speed import speed
from islr.checks.subject import CheckLimits, CheckOutcome, Subject
from islr.errors import RunFailed, UserError
from islr.files import write_atomic
from islr.training.determinism import prepare_process
from islr.training.distributed.world import World, device_name
from islr.training.optim import schedule_description

CHECKS = ("data", "speed", "overfit", "reload", "shuffled")


def run_checks(subject: Subject, limits: CheckLimits, only: Sequence[str] = ()) -> list[CheckOutcome]:
    """Run the checks, in the order of `CHECKS`.

    Args:
        subject: The planned run.
        limits: Bounds of each check.
        only: Names of checks; empty = all.

    Raises:
        UserError: The configuration does not fit the data or this machine, or several processes run the checks.
    """
    unknown = sorted(set(only) - set(CHECKS))
    if unknown:
        raise UserError(f"unknown check '{unknown[0]}'; checks are {', '.join(CHECKS)}")
    world = World(subject.run.device)
    if world.size > 1:
        raise UserError("islr check runs in one process; set --processes to the number of the planned run")
    if subject.optim.batch_size % (limits.processes * subject.optim.accumulate):
        raise UserError(
            f"optim.batch_size {subject.optim.batch_size} is not a multiple of {limits.processes} processes x "
            f"optim.accumulate {subject.optim.accumulate}"
        )
    prepare_process(subject.run.threads)
    requested = only or CHECKS
    outcomes = []
    if "data" in requested:
        outcomes.append(facts(subject, limits))
    if "speed" in requested:  # first, while the process is small
        outcomes += speed(subject, subject.build(False).to(world.device), world, limits)
    if "overfit" in requested or "reload" in requested:
        module = subject.build(True).to(world.device)
        batch = one_batch(subject, limits.clips, world)
        overfitted = overfit(subject, module, batch, world, limits)
        if "overfit" in requested:
            outcomes.append(overfitted)
        if "reload" in requested:
            outcomes.append(reload(subject, module, limits.clips, world))
        del module, batch
    if "shuffled" in requested:
        outcomes.append(shuffled(subject, world, limits))
    return outcomes


def report_checks(subject: Subject, limits: CheckLimits, only: Sequence[str], path: Path | None) -> None:
    """Run the checks, print their outcomes, and write them to `path` if it is given.

    Raises:
        UserError: As `run_checks`.
        RunFailed: A check failed.
    """
    outcomes = run_checks(subject, limits, only)
    print(table(subject, outcomes, limits))
    if path is not None:
        save_outcomes(path, subject, outcomes)
    failed = [outcome.check for outcome in outcomes if outcome.state == "fail"]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(outcomes)} checks failed: {', '.join(failed)}")


def table(subject: Subject, outcomes: Sequence[CheckOutcome], limits: CheckLimits) -> str:
    """Return the outcomes as text, one line a check."""
    device = device_name(World(subject.run.device).device)
    lines = [f"{subject.name}: {subject.task}, {schedule_description(subject.optim, limits.processes)}; {device}"]
    marks = {"pass": "pass", "fail": "FAIL", "skip": "  - "}
    lines += [f"{marks[outcome.state]}  {outcome.check:<10}  {outcome.message}" for outcome in outcomes]
    return "\n".join(lines)


def save_outcomes(path: Path, subject: Subject, outcomes: Sequence[CheckOutcome]) -> None:
    """Write the outcomes as JSON."""
    checks = {
        outcome.check: {"state": outcome.state, "message": outcome.message} | outcome.values for outcome in outcomes
    }
    content = {"name": subject.name, "task": subject.task, "checks": checks}
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
