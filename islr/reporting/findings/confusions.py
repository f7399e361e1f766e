"""Confused pairs of signs, counted for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from islr.evaluation.metrics import confusions
from islr.reporting.document.blocks import Series
from islr.reporting.findings.standings import ScoredRow, ScoredSet

Pair = tuple[str, str]  # true sign, the sign it was taken for


@dataclass(frozen=True)
class ModelConfusions:
    """One column: the runs of one model; in a grid all regimes and seeds of one method.

    Attributes:
        label: Name of the column.
        series: Its colour.
        runs: Rows whose predictions it adds up.
        counts: How often each pair was confused.
        of: True sign -> clips of it, summed over the runs.
    """

    label: str
    series: Series
    runs: tuple[ScoredRow, ...]
    counts: Mapping[Pair, int]
    of: Mapping[str, int]


def confusions_by_model(scored: ScoredSet) -> list[ModelConfusions]:
    """Count the confused pairs of each model; in a grid of each method."""
    members: dict[str, list[ScoredRow]] = {}
    for row in scored.ranked:
        if row.predictions is not None:
            members.setdefault(row.run.place[0] if row.run.place else row.label, []).append(row)
    models = []
    for label, rows in members.items():
        counts: dict[Pair, int] = {}
        of: dict[str, int] = {}
        for row in rows:
            assert row.predictions is not None
            for c in confusions(row.predictions):
                if c.true == c.predicted:  # a tie, which counts against the model but confuses nothing
                    continue
                counts[c.true, c.predicted] = counts.get((c.true, c.predicted), 0) + c.count
            for name in row.predictions.classes:
                of[name] = of.get(name, 0) + 1
        models.append(ModelConfusions(label, rows[0].series, tuple(rows), counts, of))
    return models


def most_misread(models: Sequence[ModelConfusions], pair: Pair) -> str:
    """Return the clip of a pair that most runs misclassified in this way."""
    times: dict[str, int] = {}
    for model in models:
        for row in model.runs:
            assert row.predictions is not None
            p = row.predictions
            for clip, true, ranked in zip(p.clip_ids, p.classes, p.ranked, strict=True):
                if (true, ranked[0]) == pair:
                    times[clip] = times.get(clip, 0) + 1
    return max(times, key=lambda clip: (times[clip], clip))
