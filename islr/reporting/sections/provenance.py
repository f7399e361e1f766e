"""Protocol and fingerprints of every number, machines and times, unfinished runs, and all records as one
CSV."""

import csv
import io
import json
from collections.abc import Sequence

import numpy as np

from islr.evaluation.results import Provenance, Result
from islr.files import slug
from islr.progress import duration
from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Cell, Column, Notice, Section, Table
from islr.reporting.gather import Gathered, Run
from islr.reporting.sections.corpora import facts_of
from islr.reporting.sections.lineage import clips_words

_MOST_ROWS = 16  # of an open table; longer ones are folded
_MOST_EMBEDDED = 20_000  # records inside a page; comparisons of two encoders go first

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
    "cluster": "Intervals and tests draw",
    "parents": "Fused from",
}


def provenance(gathered: Gathered) -> Section:
    """Protocol and fingerprints of every number: for each protocol what all rows share, then what differs."""
    by_protocol: dict[str, list[tuple[str, str, dict[str, str]]]] = {}  # -> run anchor, row, field -> words
    for run in gathered.runs:
        known: list[Provenance] = []
        for record in run.results:
            p = record.provenance
            if p not in known:
                known.append(p)
                label = record.name if record.name == run.label else f"{record.name} ({run.label})"
                by_protocol.setdefault(p.protocol, []).append((run.anchor, label, provenance_words(p)))
    if not by_protocol:
        nothing = Notice("There is no result, so no provenance.")
        return Section("provenance", "Protocol and fingerprints", (nothing,))
    blocks = [block for protocol, rows in sorted(by_protocol.items()) for block in _protocol(protocol, rows)]
    lead = (
        "Every number names what it depends on. Two numbers compare only when split, labels and clips "
        "have the same fingerprints. Hashes are sha256, shortened here; the full ones are in the "
        "tooltips and in the CSV."
    )
    return Section("provenance", "Protocol and fingerprints", tuple(blocks), lead)


def _protocol(protocol: str, entries: Sequence[tuple[str, str, dict[str, str]]]) -> list[Block]:
    fields = list(PROVENANCE_NAMES)
    shared = [f for f in fields if len({words[f] for _, _, words in entries}) == 1]
    differing = [f for f in fields if f not in shared]
    name = slug(protocol)
    blocks: list[Block] = []
    if shared:
        rows = tuple((Cell(PROVENANCE_NAMES[f]), _hash_cell(entries[0][2][f])) for f in shared)
        columns = (Column("Field"), Column("Value"))
        blocks.append(Table(f"provenance-{name}", f"The same for every {protocol} number", columns, rows))
    if differing:
        heads = (Column("Row (run folder)"), *(Column(PROVENANCE_NAMES[f]) for f in differing))
        anchored: set[str] = set()
        body = []
        for anchor, label, words in entries:
            first = Cell(label, anchor="" if anchor in anchored else anchor)
            anchored.add(anchor)
            body.append((first, *(_hash_cell(words[f]) for f in differing)))
        title = f"What differs between {protocol} numbers"
        blocks.append(Table(f"provenance-{name}-rows", title, heads, tuple(body), folded=len(body) > _MOST_ROWS))
    return blocks


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
        "wall_time": duration(p.wall_time_s),
        "cluster": "whole signers" if p.cluster else "as each interval says",
        "parents": " + ".join(_parent_words(parent) for parent in p.parents),
    }


def _parent_words(parent: dict[str, str]) -> str:
    facts = (
        f"{parent.get('encoder', '?')}, views {parent.get('views', '?')}, weights {parent.get('checkpoint_hash', '?')}"
    )
    return f"{parent.get('weight', '?')} x {parent.get('name', '?')} ({facts})"


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
                Cell("–" if seconds is None else duration(seconds), "" if seconds is None else seconds),
            )
        )
    columns = [Column("Run folder"), Column("Task"), Column("Row"), Column("Steps", numeric=True)]
    columns += [Column("Last training loss", numeric=True), Column("Clips/s", numeric=True)]
    columns += [Column("Wall time", numeric=True, title="time of the process that made the numbers")]
    blocks: list[Block] = []
    if rows:
        keep = [i for i in range(7) if i < 3 or any(row[i].text != "–" for row in rows)]
        body = tuple(tuple(row[i] for i in keep) for row in rows)
        folded = len(body) > _MOST_ROWS
        blocks.append(Table("runs", f"{len(body)} runs", tuple(columns[i] for i in keep), body, folded=folded))
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


_HEAD = ("run", "name", "metric", "value", "ci_low", "ci_high", "ci_method", "n", "higher_is_better")


def records_csv(gathered: Gathered) -> str:
    """Every record of every run, one line each, with its whole provenance; numbers unrounded."""
    keys = _group_keys(gathered)
    rows = [[*_HEAD, *keys, *Provenance.model_fields]]
    for run in gathered.runs:
        rows += [[*_values(run, record, keys), *_fields(record.provenance)] for record in run.results]
    return _csv(rows)


def compact_csv(gathered: Gathered) -> dict[str, str]:
    """The same in two files that go inside a page: records that name their provenance, and the provenances.

    Of very many records those that compare two encoders are left out: their number grows with the square of the
    encoders, and `records_csv` has them."""
    keys = _group_keys(gathered)
    known: list[Provenance] = []
    numbers: dict[int, str] = {}  # id of a provenance -> its number; records of one file share the object
    records: list[list[str]] = [[*_HEAD, *keys, "provenance"]]
    many = sum(len(run.results) for run in gathered.runs) > _MOST_EMBEDDED
    for run in gathered.runs:
        for record in run.results:
            p = record.provenance
            if many and ":" in record.metric:
                continue
            if id(p) not in numbers:
                if p not in known:
                    known.append(p)
                numbers[id(p)] = str(known.index(p) + 1)
            records.append([*_values(run, record, keys), numbers[id(p)]])
    sources = [["provenance", *Provenance.model_fields]]
    sources += [[str(number), *_fields(p)] for number, p in enumerate(known, start=1)]
    return {"records": _csv(records), "provenance": _csv(sources)}


def _group_keys(gathered: Gathered) -> list[str]:
    return sorted({key for run in gathered.runs for record in run.results for key in record.group})


def _values(run: Run, record: Result, keys: Sequence[str]) -> list[str]:
    bounds = ["" if bound is None else repr(bound) for bound in (record.ci_low, record.ci_high)]
    row = [
        run.label,
        record.name,
        record.metric,
        repr(record.value),
        *bounds,
        record.ci_method,
        str(record.n),
    ]
    return [*row, str(record.higher_is_better).lower(), *(record.group.get(key, "") for key in keys)]


def _fields(p: Provenance) -> list[str]:
    content = p.model_dump(mode="json")
    return [json.dumps(value) if isinstance(value, list | dict) else str(value) for value in content.values()]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
