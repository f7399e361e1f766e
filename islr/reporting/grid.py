"""The grid table: methods by data regimes, seeds averaged, each cell against its encoder's random initialisation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from islr.evaluation.metrics import Difference, Interval, bootstrap, hits, holm, paired_bootstrap
from islr.reporting import text
from islr.reporting.blocks import Block, Cell, Column, Notice, Section, Table
from islr.reporting.standings import ALPHA, BETTER, WORSE, Row, ScoredSet


@dataclass(frozen=True)
class GridCell:
    """One method in one regime, over its seeds.

    Attributes:
        rows: One for each seed.
        score: Top-1 of the mean over seeds, its interval over clips.
        versus: The same against the random initialisation of its encoder; None for that itself, or without one.
        adjusted: Holm-adjusted p-value of `versus`.
    """

    rows: tuple[Row, ...]
    score: Interval
    versus: Difference | None = None
    adjusted: float = 1.0

    @property
    def mark(self) -> str:
        """An arrow for a difference that stands, else nothing."""
        if self.versus is None or self.adjusted >= ALPHA:
            return ""
        return BETTER if self.versus.value > 0 else WORSE


def section(sets: Sequence[ScoredSet]) -> Section | None:
    """One table for each test set on which runs of a grid were scored."""
    blocks: list[Block] = []
    for found in sets:
        rows, odd = _on_the_same_clips([row for row in found.rows if _place(row) and row.predictions is not None])
        if odd:
            names = text.enumerate_words([row.label for row in odd])
            blocks.append(Notice(f"Left out of the grid, scored on other clips than most: {names}.", "warning"))
        if rows:
            blocks += _table(found, grid_cells(rows))
    if not blocks:
        return None
    lead = (
        "Top-1 accuracy of each way to pre-train (rows) in each data regime (columns). Seeds of a cell are averaged "
        "clip by clip; intervals are over clips, for the mean of exactly these seeds, beside the range of the seeds."
    )
    return Section("grid", "The grid", tuple(blocks), lead)


def _place(row: Row) -> tuple[str, str] | None:
    tags = row.run.config.get("tags") or {}
    return (tags["method"], tags["regime"]) if {"method", "regime"} <= set(tags) else None


def _on_the_same_clips(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows scored on the commonest set of clips, and the others: their mean would be of unlike things."""
    clips = {row.label: tuple(sorted(row.predictions.clip_ids)) for row in rows if row.predictions is not None}
    if not clips:
        return [], []
    commonest = Counter(clips.values()).most_common(1)[0][0]
    return (
        [row for row in rows if clips[row.label] == commonest],
        [row for row in rows if clips[row.label] != commonest],
    )


def grid_cells(rows: Sequence[Row]) -> dict[tuple[str, str], GridCell]:
    """(method, regime) -> cell, of rows that were scored on the same clips."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        place = _place(row)
        if place and row.predictions is not None:
            groups.setdefault(place, []).append(row)
    right = {place: _mean_hits(members) for place, members in groups.items()}
    cells = {place: GridCell(tuple(members), bootstrap(right[place])) for place, members in groups.items()}
    tested = {}
    for place, members in groups.items():
        encoder = members[0].provenance.encoder
        control = next((p for p, m in groups.items() if m[0].random and m[0].provenance.encoder == encoder), None)
        if not members[0].random and control is not None:
            tested[place] = paired_bootstrap(right[place], right[control])
    adjusted = holm([difference.p_value for difference in tested.values()])
    for (place, difference), p in zip(tested.items(), adjusted, strict=True):
        cells[place] = GridCell(cells[place].rows, cells[place].score, difference, p)
    return cells


def _mean_hits(rows: Sequence[Row]) -> np.ndarray:
    """Share of the seeds that name each clip's sign, clips in the order of their ids: `[N]`."""
    return np.mean([hits(row.predictions.sorted(), 1) for row in rows if row.predictions is not None], axis=0)


def _table(found: ScoredSet, cells: dict[tuple[str, str], GridCell]) -> list[Block]:
    methods = list(dict.fromkeys(method for method, _ in cells))
    regimes = list(dict.fromkeys(regime for _, regime in cells))
    methods.sort(key=lambda method: max(c.score.value for (m, _), c in cells.items() if m == method), reverse=True)
    columns = [Column("Method"), *(Column(f"{regime}, %", numeric=True, interval=True) for regime in regimes)]
    columns += [Column("Seeds", numeric=True)]
    rows = []
    for method in methods:
        mine = {regime: cells[method, regime] for regime in regimes if (method, regime) in cells}
        fewest, most = (of(len(cell.rows) for cell in mine.values()) for of in (min, max))
        rows.append(
            (
                Cell(method),
                *(_cell(mine[regime]) if regime in mine else Cell("–", raw="") for regime in regimes),
                Cell(str(most) if fewest == most else f"{fewest} to {most}"),
            )
        )
    n = len(_mean_hits(next(iter(cells.values())).rows))
    compared = sum(cell.versus is not None for cell in cells.values())
    note = (
        f"{text.count(n)} clips. {BETTER} better / {WORSE} worse than the mean of the random initialisations of the "
        f"same encoder (paired over clips, Holm-adjusted p < {ALPHA}, {compared} comparisons). Beside each "
        "number stand its interval and, where there are several seeds, the lowest and the highest."
    )
    name = f"grid-{text.slug(found.title)}"
    blocks: list[Block] = [Table(name, f"The grid on {found.title}", tuple(columns), tuple(rows), note)]
    alone = [f"{method} in {regime}" for (method, regime), cell in cells.items() if len(cell.rows) == 1]
    if alone and len(alone) < len(cells):
        blocks.append(Notice(f"One seed only: {text.enumerate_words(alone)}."))
    return blocks


def _cell(cell: GridCell) -> Cell:
    score, scores = cell.score, [row.top1.value for row in cell.rows]
    bounds = text.interval(score.low, score.high)
    if len(scores) > 1:
        bounds += f", seeds {text.percent(min(scores))} to {text.percent(max(scores))}"
    title = ""
    if cell.versus is not None:
        gain = text.percent(cell.versus.value, signed=True)
        title = (
            f"{gain} {text.interval(cell.versus.low, cell.versus.high, signed=True)} against random initialisation, "
            f"adjusted {text.p_value(cell.adjusted)}"
        )
    return Cell(text.percent(score.value), score.value, score.low, score.high, bounds, title, cell.mark)
