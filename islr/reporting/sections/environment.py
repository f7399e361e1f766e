"""Machines, times, and the runs that failed or did not finish."""

import json

import numpy as np

from islr.progress import duration
from islr.reporting.document import text
from islr.reporting.document.blocks import ABSENT, Block, Column, Notice, ReportTable, Section, TableCell, number_column
from islr.reporting.document.cells import hash_cell
from islr.reporting.findings.standings import MOST_ROWS
from islr.reporting.gather import Gathered
from islr.reporting.run_files import ReportedRun
from islr.reporting.sections.corpora import facts_of


def section(gathered: Gathered) -> Section:
    """Return the section on machines and wall times."""
    rows = [_times(run) for run in gathered.runs if run.task != "unknown"]
    heads = (
        *(Column("Run folder"), Column("Task"), Column("Row"), number_column("Steps")),
        *(number_column("Last training loss"), number_column("Clips/s")),
        number_column("Wall time", title="time of the process that made the numbers"),
    )
    blocks: list[Block] = []
    if rows:
        keep = [i for i in range(len(heads)) if i < 3 or any(row[i].text != "–" for row in rows)]
        body = tuple(tuple(row[i] for i in keep) for row in rows)
        folded = len(body) > MOST_ROWS
        blocks.append(ReportTable("runs", f"{len(body)} runs", tuple(heads[i] for i in keep), body, folded=folded))
    blocks += _machines(gathered)
    return Section("environment", "Machines and times", tuple(blocks or [Notice("No run recorded its environment.")]))


def _times(run: ReportedRun) -> tuple[TableCell, ...]:
    """Return the row of one run: its steps, last training loss, speed and wall time."""
    seconds = max((r.provenance.wall_time_s for r in run.results), default=None)
    rate = run.rows("train", "clips_per_s")[1]
    steps = max((int(row.get("step", 0)) for row in run.metrics), default=0)
    losses = run.rows("train", "loss")[1]
    return (
        TableCell(run.label, anchor=f"{run.anchor}-times"),
        TableCell(run.task),
        TableCell(run.name),
        TableCell(text.count(steps), steps) if steps else ABSENT,
        TableCell(f"{losses[-1]:.4g}", losses[-1]) if losses else ABSENT,
        TableCell(f"{np.median(rate):.0f}", float(np.median(rate))) if rate else ABSENT,
        ABSENT if seconds is None else TableCell(duration(seconds), seconds),
    )


def _machines(gathered: Gathered) -> list[Block]:
    """Return one folded table for each environment that runs recorded."""
    machines: dict[str, list[str]] = {}
    for run in gathered.runs:
        if run.env:
            machines.setdefault(json.dumps(run.env, sort_keys=True), []).append(run.label)
    columns = (Column("Fact"), Column("Value"))
    blocks: list[Block] = []
    for number, (env, labels) in enumerate(machines.items(), start=1):
        facts = tuple((TableCell(name), hash_cell(value)) for name, value in facts_of(json.loads(env)))
        which = "all runs" if len(machines) == 1 else text.enumerate_words(labels)
        blocks.append(ReportTable(f"environment-{number}", f"Environment of {which}", columns, facts, folded=True))
    return blocks


def unfinished(gathered: Gathered) -> Section | None:
    """Return the section on runs that failed or did not finish; the tables above hold none of their numbers."""
    rows = tuple(
        (TableCell(run.label), TableCell(run.task), TableCell(run.problem)) for run in gathered.runs if run.problem
    )
    if not rows:
        return None
    columns = (Column("Run folder"), Column("Task"), Column("What happened"))
    note = "An interrupted run resumes when its command is run again."
    table = ReportTable("unfinished", "Failed and incomplete runs", columns, rows, note)
    return Section("unfinished", "Failed and incomplete runs", (table,))
