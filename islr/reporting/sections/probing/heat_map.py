"""What frozen features encode: the heat map of probes, pairs of encoders, and the gap between seen and unseen signs."""

from collections.abc import Sequence
from dataclasses import replace

from islr.evaluation.results import Result
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
from islr.reporting.document.cells import bounded_cell, difference_cell, result_cell
from islr.reporting.findings.probe_standings import (
    COMPANION,
    DIFFERENCE,
    HEADLINE,
    MAYBE_BETTER,
    MAYBE_WORSE,
    METRIC,
    ProbeRow,
    ProbeSet,
)
from islr.reporting.findings.standings import BETTER, WORSE
from islr.reporting.sections.corpora import facts_of
from islr.reporting.sections.guide import GUIDE
from islr.reporting.sections.probing import layers

_MARKS = (
    f" {BETTER} / {WORSE}: the paired difference to random initialisation stands after Holm's correction; "
    f"{MAYBE_BETTER} / {MAYBE_WORSE}: only its own 95 % interval excludes zero."
)
_NO_MARKS = " No 95 % interval of the paired difference to random initialisation excludes zero."
_PERMUTED = (
    " The labels were permuted over signs before the probe was trained. On unseen signs the probe should then score "
    "like the majority class: more would be a leak. On seen signs, more shows that the features identify the sign."
)
SPLITS = {
    HEADLINE: "unseen signs",
    COMPANION: "seen signs",
    "unseen_sign_signer": "unseen signs and signers",
}


def sections(sets: Sequence[ProbeSet]) -> list[Section]:
    """Return the sections on probes, their layers, and the gap between seen and unseen signs."""
    title = "What the frozen features encode"
    if not sets:
        return [Section("probes", title, (Notice("No probe result was found."),))]
    blocks = [_headline(probed) for probed in sets] + [GUIDE]
    blocks += [block for probed in sets for block in _companions(probed)]
    lead = (
        "A linear probe on frozen features predicts each phonological feature of signs that it was not trained on. "
        "The colour runs from the score of always predicting the most frequent class (pale) to a perfect score (dark)."
    )
    made = [Section("probes", title, tuple(blocks), lead)]
    for anchor, heading, draw in (
        ("layers", "Layer by layer", layers.blocks_of),
        ("gap", "Seen and unseen signs", _gap),
    ):
        parts = [block for probed in sets for block in draw(probed)]
        if parts:
            made.append(Section(anchor, heading, tuple(parts)))
    return made


def _headline(probed: ProbeSet) -> Block:
    """Return the heat map on unseen signs, or a warning where they were not scored."""
    if HEADLINE in probed.splits:
        return _heat(probed, HEADLINE, probed.rows, f"Balanced accuracy on {SPLITS[HEADLINE]}, {probed.title}")
    warning = "There is no score on unseen signs; scores on seen signs alone may reflect sign identity."
    return Notice(f"{probed.title}: {warning}", "warning")


def _companions(probed: ProbeSet) -> list[Block]:
    """Return what is folded below: further splits, permuted labels, pairs of encoders, all numbers, coverage."""
    blocks: list[Block] = []
    for split in probed.splits:
        words = SPLITS.get(split, split or "all signs")
        if split != HEADLINE:
            title = f"Balanced accuracy on {words}, {probed.title}"
            blocks.append(_heat(probed, split, probed.rows, title, folded=True))
        if any(probed.get(row, feature, split) for row in probed.permuted for feature in probed.shown):
            title = f"Control with permuted labels on {words}, {probed.title}"
            blocks.append(_heat(probed, split, probed.permuted, title, folded=True))
    by_seed = probed.seeds or probed
    blocks += [*_pairs(by_seed), _everything(by_seed)]
    if probed.coverage:
        rows = tuple((TableCell(name), TableCell(value)) for name, value in facts_of(probed.coverage))
        name, columns = f"probe-coverage-{slug(probed.title)}", (Column("Fact"), Column("Value"))
        blocks.append(ReportTable(name, f"Coverage and splits of {probed.title}", columns, rows, folded=True))
    return blocks


def _heat(probed: ProbeSet, split: str, rows: Sequence[ProbeRow], title: str, folded: bool = False) -> ReportTable:
    """Return the table of encoders by features, coloured from the majority class to a perfect score."""
    body = []
    for row in rows:
        cells = [TableCell(row.label, series=row.series, chip=True, muted=row.control)]
        for feature in probed.shown:
            record = probed.get(row, feature, split)
            if record is None:
                cells.append(ABSENT)
                continue
            floor = probed.floor(feature, split)
            shade = max(0.0, min(1.0, (record.value - floor) / ((1 - floor) or 1.0)))
            words = f"{row.label}, {text.feature_name(feature)}: {text.explain(record)}"
            d = probed.difference(row, feature, split)
            if d is not None:
                bounds = text.interval(d.ci_low, d.ci_high, signed=True)
                words += f"; minus random initialisation {text.percent(d.value, True)} points ({bounds})"
            cell = result_cell(record, probed.mark(row, feature, split))
            cells.append(replace(cell, bounds="", title=words, shade=shade))
        body.append(tuple(cells))
    columns = [Column("Encoder")]
    columns += [interval_column(text.feature_name(f), title=f) for f in probed.shown]
    note = (
        "Balanced accuracy in percent at the layer chosen on held-out training signs; intervals are in the tooltips, "
        "the CSV and the table of all probe numbers."
    )
    if any(row.seeds > 1 for row in rows):
        note += " Rows of several seeds show their mean, and a mark where the difference stands for every seed."
    if any(probed.difference(row, feature, split) for row in rows for feature in probed.shown):
        note += _MARKS if any(cell.mark for row in body for cell in row) else _NO_MARKS
    if rows == probed.permuted:
        note += _PERMUTED
    name = f"probe-{slug(title)}"
    return ReportTable(name, title, tuple(columns), tuple(body), note, "heat", folded, ("majority class", "perfect"))


def _pairs(probed: ProbeSet) -> list[Block]:
    """Return the table of every two encoders on unseen signs."""
    body = []
    for i, row in enumerate(probed.models):
        for other in probed.models[:i] + probed.models[i + 1 :]:
            cells = [TableCell(f"{row.label} minus {other.label}", series=row.series, chip=True)]
            for feature in probed.shown:
                d = probed.difference(row, feature, HEADLINE, other.key[0])
                if d is None:
                    cells.append(ABSENT)
                    continue
                bounds = text.interval(d.ci_low, d.ci_high, signed=True)
                mark = probed.mark(row, feature, HEADLINE, other.key[0])
                shown = text.percent(d.value, True)
                cells.append(TableCell(shown, d.value, d.ci_low, d.ci_high, "", f"{bounds} points, n = {d.n}", mark))
            if any(cell.raw != "" for cell in cells[1:]):
                body.append(tuple(cells))
    if not body:
        return []
    columns = [Column("Encoders")]
    columns += [interval_column(text.feature_name(f), title=f) for f in probed.shown]
    title = f"Encoder against encoder on unseen signs, {probed.title}"
    note = "Paired difference in balanced accuracy, points." + _MARKS.replace(
        "random initialisation", "the other encoder"
    )
    name = f"probe-pairs-{slug(probed.title)}"
    return [ReportTable(name, title, tuple(columns), tuple(body), note, "heat", folded=True)]


def _everything(probed: ProbeSet) -> ReportTable:
    """Return the table of every probe number at the chosen layer, with intervals."""
    first = (METRIC, DIFFERENCE, "p_holm", "selectivity")
    metrics = sorted({key[0] for key in probed.records if ":" not in key[0] and key[0] != "seen_unseen_gap"})
    metrics.sort(key=lambda m: first.index(m) if m in first else len(first))
    rows = []
    for row in (*probed.rows, *probed.permuted):
        for feature in probed.features:
            for split in probed.splits:
                records = {m: probed.get(row, feature, split, metric=m) for m in metrics}
                some = next((r for r in records.values() if r is not None), None)
                if some is None:
                    continue
                label = row.label + (" (permuted labels)" if row in probed.permuted else "")
                cells = [
                    TableCell(label, series=row.series, chip=True, muted=row.control),
                    TableCell(text.feature_name(feature), feature),
                    TableCell(SPLITS.get(split, split), split),
                ]
                cells += [_cell(metric, record) for metric, record in records.items()]
                rows.append((*cells, TableCell(text.count(some.n), some.n)))
    columns = [Column("Encoder"), Column("Feature"), Column("Signs")]
    columns += [interval_column(_heading(m)) for m in metrics]
    methods = sorted({r.ci_method for r in probed.records.values() if r.ci_method})
    note = f"Intervals: {'; '.join(methods)}." if methods else ""
    title = f"All probe numbers on {probed.title}, with intervals"
    name = f"probe-all-{slug(probed.title)}"
    return ReportTable(name, title, (*columns, number_column("n")), tuple(rows), note, folded=True)


def _heading(metric: str) -> str:
    if metric == DIFFERENCE:
        return "Minus random init, points"
    return text.metric_name(metric) + (", %" if text.is_fraction(metric) else "")


def _cell(metric: str, record: Result | None) -> TableCell:
    if record is None:
        return ABSENT
    if metric == DIFFERENCE:
        return difference_cell(record)
    return result_cell(record) if text.is_fraction(metric) else bounded_cell(record, f"{record.value:.3f}")


def _gap(probed: ProbeSet) -> list[Block]:
    """Return how much better signs are classified that the probe was trained on."""
    if not {HEADLINE, COMPANION} <= set(probed.splits):
        return []
    scores = [
        (row, feature, unseen, seen)
        for row in probed.rows
        for feature in probed.shown
        if (unseen := probed.get(row, feature, HEADLINE)) and (seen := probed.get(row, feature, COMPANION))
    ]
    if not scores:
        return []
    rows = tuple(
        (
            TableCell(row.label, series=row.series, chip=True, muted=row.control),
            TableCell(text.feature_name(feature), feature),
            result_cell(unseen),
            result_cell(seen),
            TableCell(text.percent(seen.value - unseen.value, True), seen.value - unseen.value),
        )
        for row, feature, unseen, seen in scores
    )
    columns = (
        *(Column("Encoder"), Column("Feature"), interval_column("Unseen signs, %"), interval_column("Seen signs, %")),
        number_column("Gap, points"),
    )
    title = "Seen minus unseen, feature by feature"
    table = ReportTable(f"gap-{slug(probed.title)}", title, columns, rows, folded=True)
    return [_gap_chart(probed, [(row, u, s) for row, feature, u, s in scores if feature == probed.shown[0]]), table]


def _gap_chart(probed: ProbeSet, scores: Sequence[tuple[ProbeRow, Result, Result]]) -> Chart:
    """Draw the scores of the first feature on unseen and on seen signs."""
    dumbbells = [
        (
            row.label,
            [
                figures.Dot(unseen.value, None, None, row.series, f"unseen signs: {text.explain(unseen)}"),
                figures.Dot(seen.value, None, None, row.series, f"seen signs: {text.explain(seen)}", hollow=True),
            ],
        )
        for row, unseen, seen in scores
    ]
    what = text.feature_name(probed.shown[0])
    label = f"{what}: balanced accuracy on unseen and seen signs of {probed.title}"
    caption = (
        f"{label}, in percent. Filled: signs that the probe was not trained on. Hollow: other clips of signs that it "
        "was trained on. The distance shows how much the identity of the sign helps, which is not phonology."
    )
    wide, narrow = (figures.dots(dumbbells, label, connect=True, narrow=small) for small in (False, True))
    return Chart(caption, (wide,), (narrow,))
