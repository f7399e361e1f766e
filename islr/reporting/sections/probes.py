"""What frozen features know: the probe heat map, layer curves, and the gap between seen and unseen signs."""

from collections.abc import Sequence
from dataclasses import replace

from islr.evaluation.results import Result
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import Block, Cell, Chart, Column, Notice, Section, Series, Table
from islr.reporting.document.cells import result_cell
from islr.reporting.probe_standings import (
    COMPANION,
    DIFFERENCE,
    HEADLINE,
    MAYBE_BETTER,
    MAYBE_WORSE,
    METRIC,
    ProbeRow,
    ProbeSet,
)
from islr.reporting.sections.corpora import facts_of
from islr.reporting.sections.grid import SCRATCH, regime_order, regime_series
from islr.reporting.sections.guide import GUIDE
from islr.reporting.standings import BETTER, WORSE

_MARKS = (
    f" {BETTER} / {WORSE}: the paired difference to random initialisation stands after Holm's correction; "
    f"{MAYBE_BETTER} / {MAYBE_WORSE}: only its own 95 % interval excludes zero."
)
_NO_MARKS = " No 95 % interval of the paired difference to random initialisation excludes zero."
_PERMUTED = (
    " The labels were permuted over signs before the probe was trained: on unseen signs it should score "
    "like the majority class, and anything more would be a leak; on seen signs anything more shows that "
    "the features identify the sign."
)
_PANELS = 6  # layer curves shown at once; the others are folded
SPLITS = {
    HEADLINE: "unseen signs",
    COMPANION: "seen signs",
    "unseen_sign_signer": "unseen signs and signers",
}


def sections(sets: Sequence[ProbeSet]) -> list[Section]:
    """The probe sections."""
    if not sets:
        return [Section("probes", "What the features know", (Notice("No probe result was found."),))]
    blocks: list[Block] = []
    for found in sets:
        if HEADLINE in found.splits:
            title = f"Balanced accuracy on {SPLITS[HEADLINE]}, {found.title}"
            blocks.append(_heat(found, HEADLINE, found.rows, title))
        else:
            warning = "There is no score on unseen signs; scores on seen signs alone may be sign identity."
            blocks.append(Notice(f"{found.title}: {warning}", "warning"))
    blocks.append(GUIDE)
    for found in sets:
        for split in found.splits:
            words = SPLITS.get(split, split or "all signs")
            if split != HEADLINE:
                title = f"Balanced accuracy on {words}, {found.title}"
                blocks.append(_heat(found, split, found.rows, title, folded=True))
            if any(found.get(row, feature, split) for row in found.permuted for feature in found.shown):
                title = f"Control with permuted labels on {words}, {found.title}"
                blocks.append(_heat(found, split, found.permuted, title, folded=True))
        by_seed = found.seeds or found
        blocks += [*_pairs(by_seed), _everything(by_seed)]
        if found.coverage:
            rows = tuple((Cell(name), Cell(value)) for name, value in facts_of(found.coverage))
            title, columns = f"Coverage and splits of {found.title}", (Column("Fact"), Column("Value"))
            name = f"probe-coverage-{slug(found.title)}"
            blocks.append(Table(name, title, columns, rows, folded=True))
    lead = (
        "A linear probe on frozen features predicts each phonological feature of a sign it has never "
        "seen. The colour runs from what always naming the commonest class gives (pale) to perfect "
        "reading (dark)."
    )
    made = [Section("probes", "What the features know", tuple(blocks), lead)]
    for anchor, title, draw in (
        ("layers", "Layer by layer", _layers),
        ("gap", "Seen and unseen signs", _gap),
    ):
        parts = [block for found in sets for block in draw(found)]
        if parts:
            made.append(Section(anchor, title, tuple(parts)))
    return made


def _heat(found: ProbeSet, split: str, rows: Sequence[ProbeRow], title: str, folded: bool = False) -> Table:
    """Encoder x feature, coloured by the way from the majority class to perfect."""
    body = []
    for row in rows:
        cells = [Cell(row.label, series=row.series, chip=True, muted=row.control)]
        for feature in found.shown:
            record = found.get(row, feature, split)
            if record is None:
                cells.append(Cell("–", raw=""))
                continue
            floor = found.floor(feature, split)
            shade = max(0.0, min(1.0, (record.value - floor) / ((1 - floor) or 1.0)))
            words = f"{row.label}, {text.feature_name(feature)}: {text.explain(record)}"
            d = found.difference(row, feature, split)
            if d is not None:
                bounds = text.interval(d.ci_low, d.ci_high, signed=True)
                words += f"; minus random initialisation {text.percent(d.value, True)} points ({bounds})"
            cell = result_cell(record, found.mark(row, feature, split))
            cells.append(replace(cell, bounds="", title=words, shade=shade))
        body.append(tuple(cells))
    columns = [Column("Encoder")]
    columns += [Column(text.feature_name(f), numeric=True, interval=True, title=f) for f in found.shown]
    note = (
        "Balanced accuracy in percent at the layer chosen inside the training signs; intervals are in "
        "the tooltips, in the CSV and in the table of all probe numbers."
    )
    if any(row.seeds > 1 for row in rows):
        note += " Rows of several seeds show their mean, a mark where it stands for every seed."
    if any(found.difference(row, feature, split) for row in rows for feature in found.shown):
        note += _MARKS if any(cell.mark for row in body for cell in row) else _NO_MARKS
    if rows == found.permuted:
        note += _PERMUTED
    name = f"probe-{slug(title)}"
    return Table(name, title, tuple(columns), tuple(body), note, "heat", folded, ("majority class", "perfect"))


def _pairs(found: ProbeSet) -> list[Block]:
    """Every two encoders on unseen signs."""
    body = []
    for i, row in enumerate(found.models):
        for other in found.models[:i] + found.models[i + 1 :]:
            cells = [Cell(f"{row.label} minus {other.label}", series=row.series, chip=True)]
            for feature in found.shown:
                d = found.difference(row, feature, HEADLINE, other.key[0])
                if d is None:
                    cells.append(Cell("–", raw=""))
                    continue
                bounds = text.interval(d.ci_low, d.ci_high, signed=True)
                mark = found.mark(row, feature, HEADLINE, other.key[0])
                shown = text.percent(d.value, True)
                cells.append(Cell(shown, d.value, d.ci_low, d.ci_high, "", f"{bounds} points, n = {d.n}", mark))
            if any(cell.raw != "" for cell in cells[1:]):
                body.append(tuple(cells))
    if not body:
        return []
    columns = [Column("Encoders")]
    columns += [Column(text.feature_name(f), numeric=True, interval=True, title=f) for f in found.shown]
    title = f"Encoder against encoder on unseen signs, {found.title}"
    note = "Paired difference in balanced accuracy, points." + _MARKS.replace(
        "random initialisation", "the other encoder"
    )
    name = f"probe-pairs-{slug(found.title)}"
    return [Table(name, title, tuple(columns), tuple(body), note, "heat", folded=True)]


def _everything(found: ProbeSet) -> Table:
    """Every probe number at the chosen layer, with intervals."""
    first = (METRIC, DIFFERENCE, "p_holm", "selectivity")
    metrics = sorted({key[0] for key in found.records if ":" not in key[0] and key[0] != "seen_unseen_gap"})
    metrics.sort(key=lambda m: first.index(m) if m in first else len(first))
    rows = []
    for row in (*found.rows, *found.permuted):
        for feature in found.features:
            for split in found.splits:
                records = {m: found.get(row, feature, split, metric=m) for m in metrics}
                some = next((r for r in records.values() if r is not None), None)
                if some is None:
                    continue
                label = row.label + (" (permuted labels)" if row in found.permuted else "")
                cells = [
                    Cell(label, series=row.series, chip=True, muted=row.control),
                    Cell(text.feature_name(feature), feature),
                    Cell(SPLITS.get(split, split), split),
                ]
                cells += [_cell(metric, record) for metric, record in records.items()]
                rows.append((*cells, Cell(text.count(some.n), some.n)))
    columns = [Column("Encoder"), Column("Feature"), Column("Signs")]
    columns += [Column(_heading(m), numeric=True, interval=True) for m in metrics]
    methods = sorted({r.ci_method for r in found.records.values() if r.ci_method})
    note = f"Intervals: {'; '.join(methods)}." if methods else ""
    title = f"All probe numbers on {found.title}, with intervals"
    name = f"probe-all-{slug(found.title)}"
    return Table(name, title, (*columns, Column("n", numeric=True)), tuple(rows), note, folded=True)


def _heading(metric: str) -> str:
    if metric == DIFFERENCE:
        return "Minus random init, points"
    return text.metric_name(metric) + (", %" if text.is_fraction(metric) else "")


def _cell(metric: str, record: Result | None) -> Cell:
    if record is None:
        return Cell("–", raw="")
    if metric == DIFFERENCE:
        bounds = text.interval(record.ci_low, record.ci_high, signed=True)
        return Cell(text.percent(record.value, True), record.value, record.ci_low, record.ci_high, bounds)
    if text.is_fraction(metric):
        return result_cell(record)
    bounds = ""
    if record.ci_low is not None and record.ci_high is not None:
        bounds = f"{record.ci_low:.2f} to {record.ci_high:.2f}".replace("-", text.MINUS)
    return Cell(f"{record.value:.3f}".replace("-", text.MINUS), record.value, record.ci_low, record.ci_high, bounds)


_Points = dict[tuple[str, tuple[str, str, str]], list[tuple[int, float]]]  # feature, row key -> (layer, value)


def _layers(found: ProbeSet) -> list[Block]:
    """Balanced accuracy on unseen signs by layer: in a grid by method and regime, else by feature."""
    points: _Points = {}
    for (metric, name, encoder, control, feature, split, layer), record in found.records.items():
        if metric == METRIC and split == HEADLINE and layer.isdigit():
            points.setdefault((feature, (name, encoder, control)), []).append((int(layer), record.value))
    if not points:
        return []
    if any(row.place for row in found.rows):
        return _layers_of_a_grid(found, points)
    panels: dict[str, str] = {}
    spread: dict[str, float] = {}
    for feature in found.features:
        panel = _layer_panel(found, points, feature, text.feature_name(feature), [(r, r.series) for r in found.rows])
        if panel:
            panels[feature] = panel
            tops = [max(v for _, v in points[feature, row.key]) for row in found.rows if (feature, row.key) in points]
            spread[feature] = max(tops) - min(tops)
    legend = tuple((row.label, row.series) for row in found.rows if any(key == row.key for _, key in points))
    means = [feature for feature in panels if feature == found.mean]
    singles = sorted((f for f in panels if f in found.singles), key=lambda f: -spread[f])
    first = (means + singles)[:_PANELS]
    rest = [feature for feature in panels if feature not in first]
    caption = f"{_layer_words(found)} For the features on which encoders differ most."
    blocks: list[Block] = [Chart(caption, tuple(panels[f] for f in first), legend=legend)]
    if rest:
        others = tuple(panels[f] for f in rest)
        title = f"Layer by layer: {len(rest)} more"
        blocks.append(Chart("", others, legend=legend, folded=title))
    return blocks


def _layer_words(found: ProbeSet) -> str:
    return (
        f"Balanced accuracy on unseen signs of {found.title} from the features of each layer (0 is the first block). "
        "Scales differ from panel to panel; the dashed line is the majority class."
    )


def _layers_of_a_grid(found: ProbeSet, points: _Points) -> list[Block]:
    """The mean of each method by regime; folded, every feature by method, one chart for each regime."""
    placed = [row for row in found.rows if row.place]
    regimes = regime_order([SCRATCH, *(row.place[1] for row in placed if row.place)])
    series = regime_series(regimes)
    starts = {row.key[1]: row for row in found.rows if row.random}
    mean = found.mean or found.features[0]
    panels = []
    for method in dict.fromkeys(row.place[0] for row in placed if row.place):
        mine = [(row, series[row.place[1]]) for row in placed if row.place and row.place[0] == method]
        start = starts.get(mine[0][0].key[1])
        panels.append(
            _layer_panel(found, points, mean, method, [*([(start, None)] if start else []), *mine], markers=True)
        )
    legend = tuple((text.regime_name(regime), series[regime]) for regime in regimes)
    caption = f"{text.feature_name(mean)}, by method. {_layer_words(found)}"
    blocks: list[Block] = [Chart(caption, tuple(filter(None, panels)), legend=legend)]
    for regime in regimes[1:]:
        shown = [(row, row.series) for row in placed if row.place and row.place[1] == regime]
        used = {row.key[1] for row, _ in shown}
        shown += [(row, row.series) for encoder, row in starts.items() if encoder in used]
        drawn = [
            _layer_panel(found, points, feature, text.feature_name(feature), shown, markers=False)
            for feature in found.shown
        ]
        names = tuple((row.place[0] if row.place else row.label, colour) for row, colour in shown)
        title = f"Feature by feature: {text.regime_name(regime)}"
        blocks.append(Chart("", tuple(filter(None, drawn)), legend=names, folded=title))
    return blocks


def _layer_panel(
    found: ProbeSet,
    points: _Points,
    feature: str,
    title: str,
    rows: Sequence[tuple[ProbeRow, Series]],
    markers: bool = True,
) -> str:
    """One panel; empty where no row was read layer by layer."""
    drawn = []
    for row, series in rows:
        line = sorted(points.get((feature, row.key), []))
        if line:
            drawn.append(figures.Line(row.label, [x for x, _ in line], [y for _, y in line], series, points=markers))
    if not drawn:
        return ""
    floor = found.floor(feature, HEADLINE)
    values = [y for line in drawn for y in line.ys] + ([floor] if floor else [])
    room = 0.08 * ((max(values) - min(values)) or 0.1)
    span = (max(0.0, min(values) - room), min(1.0, max(values) + room))
    reference = (floor, "majority") if floor else None
    return figures.lines(f"{title}, %", drawn, "layer", True, span, reference, whole_x=True)


def _gap(found: ProbeSet) -> list[Block]:
    """How much better signs are read that the probe was trained on."""
    if not {HEADLINE, COMPANION} <= set(found.splits):
        return []
    rows, dumbbells = [], []
    for row in found.rows:
        for feature in found.shown:
            unseen, seen = (found.get(row, feature, split) for split in (HEADLINE, COMPANION))
            if unseen is None or seen is None:
                continue
            gap = seen.value - unseen.value
            rows.append(
                (
                    Cell(row.label, series=row.series, chip=True, muted=row.control),
                    Cell(text.feature_name(feature), feature),
                    result_cell(unseen),
                    result_cell(seen),
                    Cell(text.percent(gap, True), gap),
                )
            )
            if feature == found.shown[0]:
                points = [
                    figures.Dot(unseen.value, None, None, row.series, f"unseen signs: {text.explain(unseen)}"),
                    figures.Dot(seen.value, None, None, row.series, f"seen signs: {text.explain(seen)}", hollow=True),
                ]
                dumbbells.append((row.label, points))
    if not rows:
        return []
    what = text.feature_name(found.shown[0])
    label = f"{what}: balanced accuracy on unseen and seen signs of {found.title}"
    caption = (
        f"{label}, in percent. Filled: signs the probe never saw. Hollow: other clips of signs it was "
        "trained on. The distance shows how much knowing the sign itself helps, which is not phonology."
    )
    columns = (
        Column("Encoder"),
        Column("Feature"),
        Column("Unseen signs, %", numeric=True, interval=True),
        Column("Seen signs, %", numeric=True, interval=True),
        Column("Gap, points", numeric=True),
    )
    drawn = (figures.dots(dumbbells, label, connect=True),)
    narrow = (figures.dots(dumbbells, label, connect=True, narrow=True),)
    name = f"gap-{slug(found.title)}"
    table = Table(name, "Seen minus unseen, feature by feature", columns, tuple(rows), folded=True)
    return [Chart(caption, drawn, narrow), table]
