"""The grid: methods by data regimes, seeds averaged, each cell against its encoder's random initialisation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from islr.evaluation.intervals import Difference, Interval, bootstrap, holm, paired_bootstrap
from islr.evaluation.metrics import hits
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import Block, Cell, Chart, Column, Notice, Section, Series, Table
from islr.reporting.gather import Place
from islr.reporting.probe_standings import HEADLINE, MAYBE_BETTER, MAYBE_WORSE, ProbeRow, ProbeSet
from islr.reporting.standings import ALPHA, BETTER, WORSE, Row, ScoredSet

SCRATCH = "scratch"
_ORDER = (SCRATCH, "generic", "sign", "generic_then_sign", "mixed")  # of columns; further regimes follow


@dataclass(frozen=True)
class GridCell:
    """One method in one regime, over its seeds.

    Attributes:
        rows: One for each seed.
        score: Top-1 of the mean over seeds, its interval over clips.
        versus: The same against the random initialisation of its encoder; None for that itself, or without one.
        adjusted: Holm-adjusted p-value of `versus`.
        control: Mean top-1 of that random initialisation.
    """

    rows: tuple[Row, ...]
    score: Interval
    versus: Difference | None = None
    adjusted: float = 1.0
    control: float | None = None

    @property
    def mark(self) -> str:
        """An arrow for a difference that stands, else nothing."""
        if self.versus is None or self.adjusted >= ALPHA:
            return ""
        return BETTER if self.versus.value > 0 else WORSE

    @property
    def random(self) -> bool:
        """Whether it had no pre-training."""
        return self.rows[0].random

    @property
    def encoder(self) -> str:
        """Architecture of its encoder."""
        return self.rows[0].provenance.encoder


Cells = dict[Place, GridCell]


def section(sets: Sequence[ScoredSet], probed: Sequence[ProbeSet]) -> Section | None:
    """For each test set on which runs of a grid were scored: one figure, what was reached, what was gained, and
    what the frozen features know."""
    blocks: list[Block] = []
    for found in sets:
        rows, odd = _rows(found)
        if odd:
            names = text.enumerate_words([row.label for row in odd])
            blocks.append(Notice(f"Left out of the grid, scored on other clips than most: {names}.", "warning"))
        if rows:
            blocks += _accuracy(found, grid_cells(rows))
    for probe in probed:
        blocks += _phonology(probe)
    if not blocks:
        return None
    lead = (
        "Each way to pre-train (rows) in each data regime (columns). Scratch is the random initialisation of the same "
        "encoder, the bar to beat."
    )
    return Section("grid", "The grid", tuple(blocks), lead)


def cells_of(found: ScoredSet) -> Cells:
    """The grid on a test set; empty where its rows are not of a grid."""
    return grid_cells(_rows(found)[0])


def _rows(found: ScoredSet) -> tuple[list[Row], list[Row]]:
    """The rows of a grid scored on the commonest set of clips, and the others: their mean would be of unlike things."""
    placed = [row for row in found.rows if row.run.place and row.predictions is not None]
    clips = {row.label: tuple(sorted(row.predictions.clip_ids)) for row in placed if row.predictions is not None}
    if not clips:
        return [], []
    commonest = Counter(clips.values()).most_common(1)[0][0]
    return (
        [row for row in placed if clips[row.label] == commonest],
        [row for row in placed if clips[row.label] != commonest],
    )


def grid_cells(rows: Sequence[Row]) -> Cells:
    """(method, regime) -> cell, of rows that were scored on the same clips."""
    groups: dict[Place, list[Row]] = {}
    for row in rows:
        if row.run.place and row.predictions is not None:
            groups.setdefault(row.run.place, []).append(row)
    right = {place: mean_hits(members) for place, members in groups.items()}
    cells = {place: GridCell(tuple(members), bootstrap(right[place])) for place, members in groups.items()}
    tested: dict[Place, tuple[Difference, float]] = {}
    for place, cell in cells.items():
        control = next((p for p, other in cells.items() if other.random and other.encoder == cell.encoder), None)
        if not cell.random and control is not None:
            tested[place] = _difference(right[place], right[control]), cells[control].score.value
    adjusted = holm([difference.p_value for difference, _ in tested.values()])
    for (place, (difference, control_score)), p in zip(tested.items(), adjusted, strict=True):
        cells[place] = GridCell(cells[place].rows, cells[place].score, difference, p, control_score)
    return cells


def mean_hits(rows: Sequence[Row]) -> np.ndarray:
    """Share of the seeds that name each clip's sign, clips in the order of their ids: `[N]`."""
    return np.mean([hits(row.predictions.sorted(), 1) for row in rows if row.predictions is not None], axis=0)


def _difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Paired difference of two means over seeds; rounded, so that equal thirds are equal and few levels are drawn."""
    return paired_bootstrap(np.round(a - b, 12), np.zeros_like(a))


def regime_order(regimes: Sequence[str]) -> list[str]:
    """Regimes in the order of their columns."""
    known = [regime for regime in _ORDER if regime in regimes]
    return known + [regime for regime in dict.fromkeys(regimes) if regime not in known]


def regime_series(regimes: Sequence[str]) -> dict[str, Series]:
    """A colour for each regime; scratch is grey."""
    trained = [regime for regime in regime_order(regimes) if regime != SCRATCH]
    return {regime: None if regime == SCRATCH else trained.index(regime) for regime in regimes}


def cell_label(place: Place) -> str:
    """`maskfeat · generic → sign`."""
    method, regime = place
    return f"{method} · {text.regime_name(regime)}"


@dataclass(frozen=True)
class _Line:
    """One line of a grid: a method, or an encoder that no method was pre-trained on; regime -> cell."""

    name: str
    encoder: str
    series: Series
    cells: dict[str, GridCell]


def _lines(cells: Cells) -> list[_Line]:
    """Methods, best first, each with its encoder's random initialisation under scratch."""
    starts = {cell.encoder: cell for cell in cells.values() if cell.random}
    methods = list(dict.fromkeys(method for (method, _), cell in cells.items() if not cell.random))
    lines = []
    for method in methods:
        mine = {regime: cell for (m, regime), cell in cells.items() if m == method}
        first = next(iter(mine.values()))
        start = {SCRATCH: starts[first.encoder]} if first.encoder in starts else {}
        lines.append(_Line(method, first.encoder, first.rows[0].series, start | mine))
    lines.sort(key=lambda line: max(c.score.value for c in line.cells.values() if not c.random), reverse=True)
    used = {line.encoder for line in lines}
    for (method, _), cell in cells.items():
        if cell.random and cell.encoder not in used:
            lines.append(_Line(method, cell.encoder, cell.rows[0].series, {SCRATCH: cell}))
    return lines


def _accuracy(found: ScoredSet, cells: Cells) -> list[Block]:
    lines = _lines(cells)
    regimes = regime_order([regime for line in lines for regime in line.cells])
    blocks: list[Block] = [_figure(found, lines, regimes)] if len(cells) > 1 else []
    columns = (
        Column("Method"),
        *(Column(f"{text.regime_name(regime)}, %", numeric=True, interval=True) for regime in regimes),
        Column("Seeds", numeric=True),
        Column("Encoder"),
    )
    n, compared = len(mean_hits(next(iter(cells.values())).rows)), sum(c.versus is not None for c in cells.values())
    method = next(iter(cells.values())).score.method
    note = (
        f"Top-1 on {text.count(n)} clips, seeds averaged clip by clip, with the interval of the mean of exactly "
        f"these seeds{f' ({method})' if method else ''}. {_legend(compared)}"
    )
    body = tuple(
        (
            Cell(line.name, series=line.series, chip=True),
            *(_cell(line.cells.get(regime)) for regime in regimes),
            Cell(_seeds(list(line.cells.values()))),
            Cell(line.encoder, muted=True),
        )
        for line in lines
    )
    blocks.append(Table(f"grid-{slug(found.title)}", f"Top-1 on {found.title}", columns, body, note, "grid"))
    blocks += _gains(found, lines, [regime for regime in regimes if regime != SCRATCH], compared)
    alone = [cell_label(place) for place, cell in cells.items() if len(cell.rows) == 1]
    if alone and len(alone) < len(cells):
        blocks.append(Notice(f"One seed only: {text.enumerate_words(alone)}."))
    blocks.append(_seed_by_seed(found, cells))
    return [*blocks, *_pairs(found, cells)]


def _legend(compared: int) -> str:
    return (
        f"{BETTER} better / {WORSE} worse than the mean of the random initialisations of the same encoder (paired over "
        f"clips, Holm-adjusted p < {ALPHA}, {compared} comparison{'' if compared == 1 else 's'}); no mark: no "
        "difference shown."
    )


def _seeds(cells: Sequence[GridCell]) -> str:
    fewest, most = (of(len(cell.rows) for cell in cells) for of in (min, max))
    return str(most) if fewest == most else f"{fewest} to {most}"


def _cell(cell: GridCell | None) -> Cell:
    if cell is None:
        return Cell("–", raw="")
    score, scores = cell.score, [row.top1.value for row in cell.rows]
    title = f"{len(scores)} seed{'s' if len(scores) > 1 else ''}"
    if len(scores) > 1:
        title += f", {text.percent(min(scores))} to {text.percent(max(scores))} %"
    bounds = text.interval(score.low, score.high)
    return Cell(
        text.percent(score.value), score.value, score.low, score.high, bounds, title, cell.mark, muted=cell.random
    )


def _figure(found: ScoredSet, lines: Sequence[_Line], regimes: Sequence[str]) -> Chart:
    """Every cell as a point with its interval, grouped by method."""
    colours = regime_series(regimes)
    drawn = []
    for line in lines:
        points = [
            figures.Dot(
                cell.score.value,
                cell.score.low,
                cell.score.high,
                colours[regime],
                f"{line.name} · {text.regime_name(regime)}: {text.percent(cell.score.value)} % "
                f"({text.interval(cell.score.low, cell.score.high)})",
            )
            for regime in regimes
            if (cell := line.cells.get(regime)) is not None
        ]
        drawn.append((line.name, points))
    bounds = [b for _, points in drawn for dot in points for b in (dot.low, dot.high, dot.value) if b is not None]
    label = f"Top-1 of every cell of the grid on {found.title}"
    chance = found.chance
    reference = None if chance is None else (chance, f"chance {text.percent(chance)} %")
    span = figures.zoom(bounds)
    wide, narrow = (figures.dots(drawn, label, reference, narrow=n, span=span) for n in (False, True))
    caption = f"{label}, in percent: the mean over seeds with its 95 % interval over clips."
    if span != (0.0, 1.0):
        caption += " The axis is cut to where the numbers lie."
    legend = tuple((text.regime_name(regime), colours[regime]) for regime in regimes)
    return Chart(caption, (wide,), (narrow,), legend, marks=True)


def _gains(found: ScoredSet, lines: Sequence[_Line], regimes: Sequence[str], compared: int) -> list[Block]:
    """The same cells minus scratch."""
    if not compared:
        return []
    rows = []
    for line in lines:
        if not any(cell.versus for cell in line.cells.values()):
            continue
        cells = [Cell(line.name, series=line.series, chip=True)]
        for regime in regimes:
            cell = line.cells.get(regime)
            if cell is None or cell.versus is None:
                cells.append(Cell("–", raw=""))
                continue
            d = cell.versus
            title = f"Holm-adjusted {text.p_value(cell.adjusted)}"
            bounds = text.interval(d.low, d.high, signed=True)
            cells.append(Cell(text.percent(d.value, True), d.value, d.low, d.high, bounds, title, cell.mark))
        rows.append(tuple(cells))
    columns = [Column("Method")]
    columns += [Column(f"{text.regime_name(regime)}, points", numeric=True, interval=True) for regime in regimes]
    note = (
        "Top-1 minus scratch in percentage points, with the 95 % interval of the paired difference. Marks as above. "
        "They cover the choice of test clips; the luck of a training run shows in the seeds."
    )
    name, title = f"gains-{slug(found.title)}", f"What pre-training adds to scratch on {found.title}"
    return [Table(name, title, tuple(columns), tuple(rows), note, "grid")]


def _seed_by_seed(found: ScoredSet, cells: Cells) -> Table:
    """Every run behind the grid."""
    order = regime_order([regime for _, regime in cells])
    rows = []
    for place in sorted(cells, key=lambda p: (cells[p].random, p[0], order.index(p[1]))):
        for row in sorted(cells[place].rows, key=lambda row: row.provenance.seed):
            p, top1 = row.provenance, row.top1
            bounds = text.interval(top1.ci_low, top1.ci_high)
            rows.append(
                (
                    Cell(place[0], series=row.series, chip=True, link=row.run.anchor),
                    Cell(text.regime_name(place[1]), place[1]),
                    Cell(str(p.seed), p.seed),
                    Cell(text.percent(top1.value), top1.value, top1.ci_low, top1.ci_high, bounds),
                )
            )
    score = Column("Top-1, %", numeric=True, interval=True)
    columns = (Column("Method"), Column("Regime"), Column("Seed", numeric=True), score)
    name, title = f"grid-seeds-{slug(found.title)}", f"Seed by seed on {found.title}"
    return Table(name, title, columns, tuple(rows), folded=True)


def _pairs(found: ScoredSet, cells: Cells) -> list[Block]:
    """Cells that differ in the method or in the regime only, against each other."""
    places = sorted((p for p in cells if not cells[p].random), key=lambda p: -cells[p].score.value)
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :] if (a[0] == b[0]) != (a[1] == b[1])]
    if not pairs:
        return []
    right = {place: mean_hits(cells[place].rows) for place in places}
    differences = [_difference(right[a], right[b]) for a, b in pairs]
    rows = []
    for (a, b), d, p in zip(pairs, differences, holm([d.p_value for d in differences]), strict=True):
        mark = "" if p >= ALPHA else BETTER if d.value > 0 else WORSE
        bounds = text.interval(d.low, d.high, signed=True)
        rows.append(
            (
                Cell(cell_label(a), series=cells[a].rows[0].series, chip=True),
                Cell(cell_label(b)),
                Cell(text.percent(d.value, True), d.value, d.low, d.high, bounds, "", mark),
                Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p),
            )
        )
    columns = (Column("Cell"), Column("Minus"), Column("Difference, points", numeric=True, interval=True))
    note = (
        f"Cells that share the method or the regime, seeds averaged, paired over clips; p adjusted by Holm for all "
        f"{len(pairs)} pairs."
    )
    title = f"Cell against cell on {found.title}"
    name = f"grid-pairs-{slug(found.title)}"
    return [Table(name, title, (*columns, Column("p, Holm", numeric=True)), tuple(rows), note, folded=True)]


def _phonology(found: ProbeSet) -> list[Block]:
    """The mean probe score of each cell, the random features of its encoder under scratch."""
    cells = {row.place: row for row in found.rows if row.place}
    if not cells or found.mean is None or HEADLINE not in found.splits:
        return []
    mean = found.mean
    starts = {row.key[1]: row for row in found.rows if row.random}
    regimes = regime_order([regime for _, regime in cells])
    body: list[tuple[float, tuple[Cell, ...]]] = []
    marked = False
    for method in dict.fromkeys(method for method, _ in cells):
        mine = {regime: row for (m, regime), row in cells.items() if m == method}
        first = next(iter(mine.values()))
        shown = [_probe_cell(found, starts.get(first.key[1]), mean)]
        shown += [_probe_cell(found, mine.get(regime), mean) for regime in regimes]
        marked = marked or any(cell.mark for cell in shown)
        best = max(float(cell.raw) for cell in shown[1:] if isinstance(cell.raw, float))
        body.append((best, (Cell(method, series=first.series, chip=True), *shown)))
    body.sort(key=lambda line: -line[0])
    columns = [Column("Method"), *(Column(f"{text.regime_name(r)}, %", numeric=True, interval=True) for r in regimes)]
    columns.insert(1, Column(f"{SCRATCH}, %", numeric=True, interval=True))
    several = any(row.seeds > 1 for row in cells.values())
    note = (
        "Linear probes on frozen features, balanced accuracy on signs the probe never saw, mean over bundles of "
        "phonological features; scratch: the features of the same encoder before any training. Intervals resample "
        "signs"
    )
    note += "; with several seeds, the mean and the outermost bounds of the seeds' intervals. " if several else ". "
    note += (
        f"{BETTER} / {WORSE}: the paired difference to scratch stands after Holm's correction"
        f"{', for every seed' if several else ''}; {MAYBE_BETTER} / {MAYBE_WORSE}: only its own interval excludes zero."
        if marked
        else "No paired difference to scratch has an interval that excludes zero."
    )
    name = f"grid-probe-{slug(found.title)}"
    title = f"Phonology in the frozen features, {found.title}"
    return [Table(name, title, tuple(columns), tuple(cells for _, cells in body), note, "grid")]


def _probe_cell(found: ProbeSet, row: ProbeRow | None, feature: str) -> Cell:
    record = found.get(row, feature, HEADLINE) if row else None
    if row is None or record is None:
        return Cell("–", raw="")
    d = found.difference(row, feature, HEADLINE)
    title = ""
    if d is not None:
        bounds = text.interval(d.ci_low, d.ci_high, signed=True)
        title = f"minus scratch {text.percent(d.value, True)} points ({bounds})"
    bounds = text.interval(record.ci_low, record.ci_high)
    mark = found.mark(row, feature, HEADLINE)
    low, high = record.ci_low, record.ci_high
    return Cell(text.percent(record.value), record.value, low, high, bounds, title, mark, muted=row.random)
