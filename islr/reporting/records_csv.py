"""All records of a report as CSV, each with its whole provenance."""

import json
from collections.abc import Sequence

from islr.evaluation.results import Provenance, Result
from islr.reporting.document.csv_text import csv_text
from islr.reporting.gather import Gathered
from islr.reporting.run_files import ReportedRun

_MOST_EMBEDDED = 20_000  # records inside a page; comparisons of two encoders go first


_HEAD = ("run", "name", "metric", "value", "ci_low", "ci_high", "ci_method", "n", "higher_is_better")


def records_csv(gathered: Gathered) -> str:
    """Return every record of every run, one line each, with its whole provenance; numbers unrounded."""
    keys = _group_keys(gathered)
    rows = [[*_HEAD, *keys, *Provenance.model_fields]]
    for run in gathered.runs:
        rows += [[*_values(run, record, keys), *_fields(record.provenance)] for record in run.results]
    return csv_text(rows)


def compact_csv(gathered: Gathered) -> dict[str, str]:
    """Return the same as two files for a page: records that refer to a provenance, and the provenances.

    Where there are very many records, those that compare two encoders are left out, because their number grows with
    the square of the number of encoders; `records_csv` has them.
    """
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
    return {"records": csv_text(records), "provenance": csv_text(sources)}


def _group_keys(gathered: Gathered) -> list[str]:
    return sorted({key for run in gathered.runs for record in run.results for key in record.group})


def _values(run: ReportedRun, record: Result, keys: Sequence[str]) -> list[str]:
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
