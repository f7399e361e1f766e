"""Protocol and fingerprints of every number, machines and times, unfinished runs, and all records as one
CSV."""

import csv
import io
import json

import numpy as np

from islr.evaluation.results import Provenance
from islr.reporting import text
from islr.reporting.background import clips_words
from islr.reporting.blocks import Block, Cell, Column, Notice, Section, Table
from islr.reporting.corpora import facts_of
from islr.reporting.scan import Gathered

PROVENANCE_NAMES = {
    "protocol": "Protocol",
    "manifest": "Corpus",
    "split": "Split scored",
    "split_fingerprint": "Split fingerprint",
    "label_space": "Label space",
    "label_fingerprint": "Label fingerprint",
    "clips": "Clips scored / expected",
    "selection_set": "Chosen on",
    "views": "Views (time x space)",
    "decoder": "Decoder",
    "encoder": "Encoder",
    "pretraining": "Pre-training",
    "seed": "Seed",
    "config_hash": "Configuration",
    "checkpoint_hash": "Weights",
    "commit": "Code",
    "libraries": "Libraries",
    "device": "Device",
    "wall_time": "Wall time",
}


def provenance(gathered: Gathered) -> Section:
    """Protocol and fingerprints of every number: once what all share, then what differs."""
    entries: list[tuple[str, str, dict[str, str]]] = []  # run anchor, row, field -> full text
    for run in gathered.runs:
        known: list[Provenance] = []
        for record in run.results:
            if record.provenance not in known:
                known.append(record.provenance)
                label = f"{record.name} ({run.label})" if record.name != run.label else run.label
                entries.append((run.anchor, label, provenance_words(record.provenance)))
    if not entries:
        return Section(
            "provenance", "Protocol and fingerprints", (Notice("There is no result, so no provenance."),)
        )
    fields = list(PROVENANCE_NAMES)
    shared = [f for f in fields if len({words[f] for _, _, words in entries}) == 1]
    rows = [(Cell(PROVENANCE_NAMES[f]), _hash_cell(entries[0][2][f])) for f in shared]
    columns = (Column("Field"), Column("Value"))
    blocks: list[Block] = []
    if rows:
        blocks.append(
            Table("provenance-shared", "The same for every number in this report", columns, tuple(rows))
        )
    differing = [f for f in fields if f not in shared]
    if differing:
        heads = (Column("Row (run folder)"), *(Column(PROVENANCE_NAMES[f]) for f in differing))
        body = tuple(
            (Cell(label, anchor=anchor), *(_hash_cell(words[f]) for f in differing))
            for anchor, label, words in entries
        )
        blocks.append(Table("provenance-by-run", "What differs from run to run", heads, body))
    lead = (
        "Every number names what it depends on. Two numbers compare only when split, labels and clips "
        "have the same fingerprints. Hashes are sha256, shortened here; the full ones are in the "
        "tooltips and in the CSV."
    )
    return Section("provenance", "Protocol and fingerprints", tuple(blocks), lead)


def _hash_cell(words: str) -> Cell:
    return Cell(text.short_hash(words) or "–", words, title=words if text.short_hash(words) != words else "")


def provenance_words(p: Provenance) -> dict[str, str]:
    """All fields of a provenance as words, with full hashes; keys as in `PROVENANCE_NAMES`."""
    stages = [
        f"{s.get('recipe', '?')} on {s.get('manifest', '?')} ({clips_words(s.get('clips', '?'))} clips, "
        f"{s.get('fingerprint', 'no fingerprint')})"
        for s in p.pretraining
    ]
    own = {key: str(value) for key, value in p.model_dump().items() if key in PROVENANCE_NAMES}
    return own | {
        "clips": f"{p.clips_present} / {p.clips_expected}",
        "pretraining": " → ".join(stages) or "none",
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(p.libraries.items())),
        "wall_time": text.duration(p.wall_time_s),
    }


def environment(gathered: Gathered) -> Section:
    """Machines and wall times."""
    rows = []
    for run in gathered.runs:
        if run.task == "unknown":
            continue
        seconds = max((r.provenance.wall_time_s for r in run.results), default=None)
        rate = run.rows("train", "clips_per_s")[1]
        steps = max((int(row.get("step", 0)) for row in run.metrics), default=0)
        losses = run.rows("train", "loss")[1]
        rows.append(
            (
                Cell(run.label, anchor=f"{run.anchor}-times"),
                Cell(run.task),
                Cell(run.name),
                Cell(text.count(steps) if steps else "–", steps or ""),
                Cell(f"{losses[-1]:.4g}" if losses else "–", losses[-1] if losses else ""),
                Cell(f"{np.median(rate):.0f}" if rate else "–", float(np.median(rate)) if rate else ""),
                Cell("–" if seconds is None else text.duration(seconds), "" if seconds is None else seconds),
            )
        )
    columns = [Column("Run folder"), Column("Task"), Column("Row"), Column("Steps", numeric=True)]
    columns += [Column("Last training loss", numeric=True), Column("Clips/s", numeric=True)]
    columns += [Column("Wall time", numeric=True, title="time of the process that made the numbers")]
    blocks: list[Block] = []
    if rows:
        keep = [i for i in range(7) if i < 3 or any(row[i].text != "–" for row in rows)]
        body = tuple(tuple(row[i] for i in keep) for row in rows)
        blocks.append(Table("runs", "Runs", tuple(columns[i] for i in keep), body))
    machines: dict[str, list[str]] = {}
    for run in gathered.runs:
        if run.env:
            machines.setdefault(json.dumps(run.env, sort_keys=True), []).append(run.label)
    for number, (env, labels) in enumerate(machines.items(), start=1):
        facts = tuple((Cell(name), _hash_cell(value)) for name, value in facts_of(json.loads(env)))
        which = "all runs" if len(machines) == 1 else text.enumerate_words(labels)
        name = f"environment-{number}"
        columns_env = (Column("Fact"), Column("Value"))
        blocks.append(Table(name, f"Environment of {which}", columns_env, facts, folded=True))
    if not blocks:
        blocks.append(Notice("No run recorded its environment."))
    return Section("environment", "Machines and times", tuple(blocks))


def unfinished(gathered: Gathered) -> Section | None:
    """Runs that failed or did not finish; none of their numbers is in the tables above."""
    rows = tuple((Cell(run.label), Cell(run.task), Cell(run.problem)) for run in gathered.runs if run.problem)
    if not rows:
        return None
    columns = (Column("Run folder"), Column("Task"), Column("What happened"))
    note = "A run that was interrupted goes on when its command is run again."
    table = Table("unfinished", "Failed and incomplete runs", columns, rows, note)
    return Section("unfinished", "Failed and incomplete runs", (table,))


def records_csv(gathered: Gathered) -> str:
    """Every record of every run, one line each, with its whole provenance; numbers unrounded."""
    group_keys = sorted({key for run in gathered.runs for record in run.results for key in record.group})
    fields = [field for field in Provenance.model_fields if field not in ("libraries", "pretraining")]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    head = ["run", "name", "metric", "value", "ci_low", "ci_high", "ci_method", "n", "higher_is_better"]
    writer.writerow([*head, *group_keys, *fields, "pretraining", "libraries"])
    for run in gathered.runs:
        for record in run.results:
            p = record.provenance
            row: list[object] = [run.label, record.name, record.metric, record.value]
            row += ["" if bound is None else bound for bound in (record.ci_low, record.ci_high)]
            row += [record.ci_method, record.n, record.higher_is_better]
            row += [record.group.get(key, "") for key in group_keys]
            row += [getattr(p, field) for field in fields]
            writer.writerow([*row, json.dumps(p.pretraining), json.dumps(p.libraries)])
    return out.getvalue()
