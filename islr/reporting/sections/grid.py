"""The grid in tables: scores of methods by data regimes, gains over scratch, seeds, and cells against each other."""

from collections.abc import Sequence

from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import (
    ABSENT,
    Block,
    Chart,
    Column,
    Notice,
    ReportTable,
    Section,
    TableCell,
    interval_column,
    number_column,
)
from islr.reporting.document.cells import p_cell
from islr.reporting.findings.collected import RecognitionFinding
from islr.reporting.findings.grid import (
    SCRATCH,
    GridCell,
    GridCells,
    GridLine,
    cell_differences,
    cell_label,
    grid_lines,
    mean_hits,
    regime_order,
    regime_series,
)
from islr.reporting.findings.probe_standings import ProbeSet
from islr.reporting.findings.standings import ALPHA, BETTER, WORSE, ScoredSet
from islr.reporting.sections.probing.grid_table import phonology_blocks

UNKNOWN = "‡"  # beside a score that starts from public weights
UNLEARNED = "†"  # beside a score whose pre-training did not learn its task


def section(recognition: Sequence[RecognitionFinding], probed: Sequence[ProbeSet]) -> Section | None:
    """Return the section on the grid: for each test set one figure, the scores, the gains; and the probes."""
    blocks: list[Block] = []
    for found in recognition:
        if found.left_out:
            names = text.enumerate_words([row.label for row in found.left_out])
            blocks.append(Notice(f"Left out of the grid, scored on other clips than most: {names}.", "warning"))
        if found.cells:
            blocks += _accuracy(found.scored, found.cells)
    for probe in probed:
        blocks += phonology_blocks(probe)
    if not blocks:
        return None
    lead = (
        "Each pre-training method (rows) in each data regime (columns). Scratch is the random initialisation of the "
        "same encoder: the control that pre-training has to beat."
    )
    return Section("grid", "The grid", tuple(blocks), lead)


def _accuracy(scored: ScoredSet, cells: GridCells) -> list[Block]:
    lines = grid_lines(cells)
    regimes = regime_order([regime for line in lines for regime in line.cells])
    blocks: list[Block] = [_figure(scored, lines, regimes)] if len(cells) > 1 else []
    columns = (
        Column("Method"),
        *(interval_column(f"{text.regime_name(regime)}, %") for regime in regimes),
        number_column("Seeds"),
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
            TableCell(line.name, series=line.series, chip=True),
            *(_cell(line.cells.get(regime)) for regime in regimes),
            TableCell(_seeds(list(line.cells.values()))),
            TableCell(line.encoder, muted=True),
        )
        for line in lines
    )
    blocks.append(ReportTable(f"grid-{slug(scored.title)}", f"Top-1 on {scored.title}", columns, body, note, "grid"))
    blocks += _gains(scored, lines, [regime for regime in regimes if regime != SCRATCH], compared)
    blocks += _updates(scored, lines, regimes)
    alone = [cell_label(place) for place, cell in cells.items() if len(cell.rows) == 1]
    if alone and len(alone) < len(cells):
        blocks.append(Notice(f"One seed only: {text.enumerate_words(alone)}."))
    if unlearned := [f"{cell_label(place)} ({cell.unlearned})" for place, cell in cells.items() if cell.unlearned]:
        blocks.append(Notice(f"{UNLEARNED} Pretext task not learned: {text.enumerate_words(unlearned)}.", "warning"))
    if public := [cell_label(place) for place, cell in cells.items() if cell.public]:
        blocks.append(
            Notice(
                f"{UNKNOWN} Pretraining: unknown. {text.enumerate_words(public)} start from weights that others "
                "published; which clips those were trained on cannot be checked."
            )
        )
    blocks.append(_seed_by_seed(scored, cells))
    return [*blocks, *_pairs(scored, cells)]


def _legend(compared: int) -> str:
    return (
        f"{BETTER} better / {WORSE} worse than the mean of the random initialisations of the same encoder (paired over "
        f"clips, Holm-adjusted p < {ALPHA}, {compared} comparison{'' if compared == 1 else 's'}); no mark: no "
        "difference shown."
    )


def _seeds(cells: Sequence[GridCell]) -> str:
    fewest, most = (of(len(cell.rows) for cell in cells) for of in (min, max))
    return str(most) if fewest == most else f"{fewest} to {most}"


def _cell(cell: GridCell | None) -> TableCell:
    if cell is None:
        return ABSENT
    score, scores = cell.score, [row.top1.value for row in cell.rows]
    title = f"{len(scores)} seed{'s' if len(scores) > 1 else ''}"
    if len(scores) > 1:
        title += f", {text.percent(min(scores))} to {text.percent(max(scores))} %"
    bounds = text.interval(score.low, score.high)
    mark = cell.mark + (UNLEARNED if cell.unlearned else "") + (UNKNOWN if cell.public else "")
    return TableCell(
        text.percent(score.value), score.value, score.low, score.high, bounds, title, mark, muted=cell.random
    )


def _figure(scored: ScoredSet, lines: Sequence[GridLine], regimes: Sequence[str]) -> Chart:
    """Draw every cell as a point with its interval, grouped by method."""
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
    label = f"Top-1 of every cell of the grid on {scored.title}"
    chance = scored.chance
    reference = None if chance is None else (chance, f"chance {text.percent(chance)} %")
    span = figures.zoom(bounds)
    wide, narrow = (figures.dots(drawn, label, reference, narrow=n, span=span) for n in (False, True))
    caption = f"{label}, in percent: the mean over seeds with its 95 % interval over clips."
    if span != (0.0, 1.0):
        caption += " The axis is cut to the range of the scores."
    legend = tuple((text.regime_name(regime), colours[regime]) for regime in regimes)
    return Chart(caption, (wide,), (narrow,), legend, marks=True)


def _gains(scored: ScoredSet, lines: Sequence[GridLine], regimes: Sequence[str], compared: int) -> list[Block]:
    """Return the table of the same cells minus scratch."""
    if not compared:
        return []
    rows = []
    for line in lines:
        if not any(cell.versus for cell in line.cells.values()):
            continue
        cells = [TableCell(line.name, series=line.series, chip=True)]
        for regime in regimes:
            cell = line.cells.get(regime)
            if cell is None or cell.versus is None:
                cells.append(ABSENT)
                continue
            d = cell.versus
            title = f"Holm-adjusted {text.p_value(cell.adjusted)}"
            bounds = text.interval(d.low, d.high, signed=True)
            cells.append(TableCell(text.percent(d.value, True), d.value, d.low, d.high, bounds, title, cell.mark))
        rows.append(tuple(cells))
    columns = [Column("Method")]
    columns += [interval_column(f"{text.regime_name(regime)}, points") for regime in regimes]
    note = (
        "Top-1 minus scratch in percentage points, with the 95 % interval of the paired difference. Marks as above. "
        "They cover the sampling of test clips; the variation between training runs shows in the seeds."
    )
    name, title = f"gains-{slug(scored.title)}", f"What pre-training adds to scratch on {scored.title}"
    return [ReportTable(name, title, tuple(columns), tuple(rows), note, "grid")]


def _updates(scored: ScoredSet, lines: Sequence[GridLine], regimes: Sequence[str]) -> list[Block]:
    """Return the table of what each cell's training cost: updates of pre-training, epochs of fine-tuning, trials."""
    rows = []
    for line in lines:
        cells = [TableCell(line.name, series=line.series, chip=True)]
        for regime in regimes:
            cell = line.cells.get(regime)
            cells.append(ABSENT if cell is None else _effort(cell))
        rows.append(tuple(cells))
    columns = (Column("Method"), *(Column(text.regime_name(regime)) for regime in regimes))
    note = (
        "Optimiser updates of pre-training over all stages, then epochs of fine-tuning and the trials among which the "
        "selection clips chose. Cells of unlike updates differ in more than their data."
    )
    name, title = f"grid-updates-{slug(scored.title)}", f"Training behind each cell on {scored.title}"
    return [ReportTable(name, title, columns, tuple(rows), note)]


def _effort(cell: GridCell) -> TableCell:
    record = cell.rows[0].provenance
    known = all("updates" in stage for stage in record.pretraining)
    updates = sum(int(stage["updates"]) for stage in record.pretraining) if known else None
    epochs = "?" if record.epochs_trained is None else f"{record.epochs_trained:g}"
    shown = f"{'?' if updates is None else text.count(updates)} updates, {epochs} epochs x {record.trained}"
    return TableCell(shown, updates, muted=cell.random)


def _seed_by_seed(scored: ScoredSet, cells: GridCells) -> ReportTable:
    """Return the table of every run behind the grid."""
    order = regime_order([regime for _, regime in cells])
    rows = []
    for place in sorted(cells, key=lambda p: (cells[p].random, p[0], order.index(p[1]))):
        for row in sorted(cells[place].rows, key=lambda row: row.provenance.seed):
            p, top1 = row.provenance, row.top1
            bounds = text.interval(top1.ci_low, top1.ci_high)
            rows.append(
                (
                    TableCell(place[0], series=row.series, chip=True, link=row.run.anchor),
                    TableCell(text.regime_name(place[1]), place[1]),
                    TableCell(str(p.seed), p.seed),
                    TableCell(text.percent(top1.value), top1.value, top1.ci_low, top1.ci_high, bounds),
                )
            )
    score = interval_column("Top-1, %")
    columns = (Column("Method"), Column("Regime"), number_column("Seed"), score)
    name, title = f"grid-seeds-{slug(scored.title)}", f"Seed by seed on {scored.title}"
    return ReportTable(name, title, columns, tuple(rows), folded=True)


def _pairs(scored: ScoredSet, cells: GridCells) -> list[Block]:
    """Compare cells that differ in the method or in the regime only."""
    compared = cell_differences(cells)
    if not compared:
        return []
    rows = []
    for pair in compared:
        d = pair.difference
        bounds = text.interval(d.low, d.high, signed=True)
        rows.append(
            (
                TableCell(cell_label(pair.place), series=cells[pair.place].rows[0].series, chip=True),
                TableCell(cell_label(pair.other)),
                TableCell(text.percent(d.value, True), d.value, d.low, d.high, bounds, "", pair.mark),
                p_cell(pair.adjusted),
            )
        )
    columns = (
        Column("Cell"),
        Column("Minus"),
        interval_column("Difference, points"),
    )
    note = (
        f"Cells that share the method or the regime, seeds averaged, paired over clips; p adjusted by Holm for all "
        f"{len(compared)} pairs."
    )
    title = f"Cell against cell on {scored.title}"
    name = f"grid-pairs-{slug(scored.title)}"
    return [ReportTable(name, title, (*columns, number_column("p, Holm")), tuple(rows), note, folded=True)]
