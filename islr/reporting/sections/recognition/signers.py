"""Accuracy signer by signer, and source by source."""

from collections.abc import Mapping, Sequence

from islr.evaluation.results import Result
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import (
    Block,
    Chart,
    Column,
    ReportTable,
    Section,
    TableCell,
    interval_column,
)
from islr.reporting.document.cells import result_cell
from islr.reporting.findings.standings import ScoredRow, ScoredSet

_SIGNERS_DRAWN = 16  # rows of the signer plot; the table has all of them


def _members(row: ScoredRow, key: str) -> dict[str, Result]:
    return {r.group[key]: r for r in row.records if set(r.group) == {key} and r.metric == "top1"}


def section(sets: Sequence[ScoredSet]) -> Section | None:
    """Return the section on accuracy signer by signer and source by source; None where neither was recorded."""
    blocks: list[Block] = []
    for scored in sets:
        for key in ("signer", "source"):
            by_row = [(row, _members(row, key)) for row in scored.ranked]
            clips = {name: r.n for _, members in by_row for name, r in members.items()}
            if clips:
                blocks += [_chart(scored, key, by_row, clips), _table(scored, key, by_row, clips)]
    return Section("signers", "Signer by signer", tuple(blocks)) if blocks else None


_ByRow = Sequence[tuple[ScoredRow, dict[str, Result]]]  # rows, best first, with their records by signer or source


def _names(clips: Mapping[str, int]) -> list[str]:
    """Return the signers or sources, those with the most clips first."""
    return sorted(clips, key=lambda name: (-clips[name], name))


def _chart(scored: ScoredSet, key: str, by_row: _ByRow, clips: Mapping[str, int]) -> Chart:
    names = _names(clips)
    drawn = names[:_SIGNERS_DRAWN]
    labels = {row.label for row in scored.drawn}
    plotted = [(row, members) for row, members in by_row if row.label in labels]
    points = [
        (
            f"{f'{key} {name}' if name.isdigit() else name} (n = {text.count(clips[name])})",
            [figures.record_dot(m[name], row.label, row.series) for row, m in plotted if name in m],
        )
        for name in drawn
    ]
    label = f"Top-1 for each {key} of {scored.title}"
    more = f" The {len(drawn)} with the most clips of {len(names)} are drawn." if len(drawn) < len(names) else ""
    caption = (
        f"{label}, in percent with 95 % intervals over clips: a model that works for one {key} "
        f"only shows as a spread of its points.{more}"
    )
    if len(plotted) < len(by_row):
        caption += " Of each method the first seed of its best regime is drawn; the table has every run."
    legend = tuple((row.label, row.series) for row, m in plotted if m)
    wide, narrow = figures.dots(points, label), figures.dots(points, label, narrow=True)
    return Chart(caption, (wide,), (narrow,), legend, marks=True)


def _table(scored: ScoredSet, key: str, by_row: _ByRow, clips: Mapping[str, int]) -> ReportTable:
    names = _names(clips)
    columns = (Column("Model"), *(interval_column(f"{name}, %") for name in names))
    rows = tuple(
        (TableCell(row.label, series=row.series, chip=True), *(result_cell(m.get(name)) for name in names))
        for row, m in by_row
        if m
    )
    return ReportTable(f"{key}s-{slug(scored.title)}", f"Top-1 for each {key}", columns, rows, folded=True)
