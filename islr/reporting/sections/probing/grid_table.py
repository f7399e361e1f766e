"""The grid's table of probe scores: what the frozen features encode, method by regime."""

from islr.files import slug
from islr.reporting.document import text
from islr.reporting.document.blocks import ABSENT, Block, Column, ReportTable, TableCell, interval_column
from islr.reporting.findings.grid import SCRATCH, regime_order
from islr.reporting.findings.probe_standings import HEADLINE, MAYBE_BETTER, MAYBE_WORSE, ProbeRow, ProbeSet
from islr.reporting.findings.standings import BETTER, WORSE


def phonology_blocks(probed: ProbeSet) -> list[Block]:
    """Return the table of the mean probe score of each cell; scratch has the untrained features of its encoder."""
    cells = {row.place: row for row in probed.rows if row.place}
    if not cells or probed.mean is None or HEADLINE not in probed.splits:
        return []
    mean = probed.mean
    starts = {row.key[1]: row for row in probed.rows if row.random}
    regimes = regime_order([regime for _, regime in cells])
    body: list[tuple[float, tuple[TableCell, ...]]] = []
    marked = False
    for method in dict.fromkeys(method for method, _ in cells):
        mine = {regime: row for (m, regime), row in cells.items() if m == method}
        first = next(iter(mine.values()))
        shown = [_probe_cell(probed, starts.get(first.key[1]), mean)]
        shown += [_probe_cell(probed, mine.get(regime), mean) for regime in regimes]
        marked = marked or any(cell.mark for cell in shown)
        best = max(float(cell.raw) for cell in shown[1:] if isinstance(cell.raw, float))
        body.append((best, (TableCell(method, series=first.series, chip=True), *shown)))
    body.sort(key=lambda line: -line[0])
    columns = [
        Column("Method"),
        *(interval_column(f"{text.regime_name(r)}, %") for r in regimes),
    ]
    columns.insert(1, interval_column(f"{SCRATCH}, %"))
    several = any(row.seeds > 1 for row in cells.values())
    note = (
        "Linear probes on frozen features: balanced accuracy on signs that the probe was not trained on, mean over "
        "bundles of "
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
    name = f"grid-probe-{slug(probed.title)}"
    title = f"Phonology in the frozen features, {probed.title}"
    return [ReportTable(name, title, tuple(columns), tuple(cells for _, cells in body), note, "grid")]


def _probe_cell(probed: ProbeSet, row: ProbeRow | None, feature: str) -> TableCell:
    record = probed.get(row, feature, HEADLINE) if row else None
    if row is None or record is None:
        return ABSENT
    d = probed.difference(row, feature, HEADLINE)
    title = ""
    if d is not None:
        bounds = text.interval(d.ci_low, d.ci_high, signed=True)
        title = f"minus scratch {text.percent(d.value, True)} points ({bounds})"
    bounds = text.interval(record.ci_low, record.ci_high)
    mark = probed.mark(row, feature, HEADLINE)
    low, high = record.ci_low, record.ci_high
    return TableCell(text.percent(record.value), record.value, low, high, bounds, title, mark, muted=row.random)
