"""Recognition accuracy on each test set: scores, comparisons with random initialisation, and all pairs of models."""

from collections.abc import Sequence

from islr.evaluation.metrics import GAINS, LAST_EPOCH, TOP_KS
from islr.evaluation.results import Provenance
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import (
    ABSENT,
    Block,
    Chart,
    Column,
    Notice,
    Prose,
    ReportTable,
    Section,
    TableCell,
    interval_column,
    number_column,
)
from islr.reporting.document.cells import p_cell, result_cell
from islr.reporting.findings.standings import ALPHA, BETTER, MOST_ROWS, WORSE, ScoredSet, Versus, all_pairs

_MOST_SQUARED = 8  # models in the table of every pair; a grid compares cell with cell instead


def section(sets: Sequence[ScoredSet], notices: Sequence[Notice]) -> Section:
    """Return the section on accuracy."""
    if not sets:
        nothing = Notice("No recognition result was found (a fine-tuning run leaves result.json when it is scored).")
        return Section("accuracy", "Recognition accuracy", (nothing, *notices))
    blocks: list[Block] = list(notices)
    for found in sets:
        blocks += _accuracy(found, headed=len(sets) > 1)
    lead = (
        "Each model ranks all signs for each test clip, none of which it was trained on. Top-1 is the share of clips "
        "whose true sign is ranked first, top-5 the share whose true sign is among the first five."
    )
    return Section("accuracy", "Recognition accuracy", tuple(blocks), lead)


def _accuracy(found: ScoredSet, headed: bool) -> list[Block]:
    blocks: list[Block] = [Prose(heading=f"On {found.title}")] if headed else []
    p = found.provenance
    for present, expected in sorted({(r.provenance.clips_present, r.provenance.clips_expected) for r in found.rows}):
        if present < expected:
            blocks.append(
                Notice(
                    f"Incomplete test set: {text.count(present)} of {text.count(expected)} clips of "
                    f"{found.title} could be scored ({present / expected:.1%}). These scores are "
                    "comparable only with scores on exactly the same clips.",
                    "warning",
                )
            )
    if not any(row.random for row in found.rows):
        blocks.append(
            Notice(
                "No random-initialisation run was found for this test set. Without that control the contribution "
                "of pre-training is unknown.",
                "warning",
            )
        )
    gridded = all(row.run.place for row in found.rows)
    if not gridded or len(found.rows) == 1:
        blocks.append(_bars(found))
    blocks.append(_table(found, folded=len(found.rows) > MOST_ROWS))
    blocks += _per_class(found)
    blocks += _by_form(found)
    blocks += _differences(found, gridded)
    absent = found.rows[0].overall.get("classes_absent")
    if absent is not None and absent.value > 0:
        blocks.append(
            Notice(
                f"{text.count(absent.value)} of the classes have no clip in the {p.split} split; the "
                "per-class numbers average over the classes that have one."
            )
        )
    return blocks


def _bars(scored: ScoredSet) -> Chart:
    chance = scored.chance
    reference = None if chance is None else (chance, f"chance {text.percent(chance)} %")
    drawn = [
        figures.Bar(
            row.label,
            row.top1.value,
            row.top1.ci_low,
            row.top1.ci_high,
            row.series,
            f"{row.label}: {text.explain(row.top1)}",
            f" {versus.mark}" if (versus := scored.of(row)) and versus.mark else "",
        )
        for row in scored.ranked
    ]
    label = f"Top-1 accuracy on {scored.title}"
    marks = (
        f" {BETTER} better / {WORSE} worse than the random initialisation of the same encoder "
        f"(Holm-adjusted p < {ALPHA})."
    )
    caption = (
        f"Top-1 accuracy on {scored.title} in percent, n = {text.count(scored.rows[0].top1.n)} clips; "
        "whiskers are 95 % confidence intervals; random initialisation is "
        f"grey.{marks if any(v.mark for v in scored.versus) else ''}"
    )
    return Chart(
        caption,
        (figures.bars(drawn, label, reference),),
        (figures.bars(drawn, label, reference, narrow=True),),
    )


def _table(scored: ScoredSet, folded: bool) -> ReportTable:
    metrics = [m for m in ("top1", "top5", "top10", *GAINS) if any(m in row.overall for row in scored.rows)]
    metrics += [LAST_EPOCH] if any(LAST_EPOCH in row.overall for row in scored.rows) else []
    metrics += ["top1_per_class"] if any("top1_per_class" in row.overall for row in scored.rows) else []
    columns = [Column("Model")]
    columns += [interval_column(f"{text.metric_name(m)}, %") for m in metrics]
    columns += [number_column("Clips"), number_column("Seed"), number_column("Trials"), Column("Encoder")]
    rows = []
    for row in scored.ranked:
        p, versus = row.provenance, scored.of(row)
        clips = text.count(p.clips_present)
        clips += f" / {text.count(p.clips_expected)}" if not p.complete else ""
        cells = [TableCell(row.label, series=row.series, chip=True, link=row.run.anchor)]
        for metric in metrics:
            mark = versus.mark if versus and metric == "top1" else ""
            cells.append(result_cell(row.overall.get(metric), mark))
        cells.append(TableCell(clips, raw=f"{p.clips_present}/{p.clips_expected}"))
        cells.append(TableCell(str(p.seed), raw=p.seed) if p.encoder else ABSENT)
        cells.append(TableCell(str(p.trained), p.trained, title=_tried(p)) if p.encoder else ABSENT)
        cells.append(TableCell(p.encoder or "not stated"))
        rows.append(tuple(cells))
    methods = sorted({row.top1.ci_method for row in scored.ranked if row.top1.ci_method})
    note = f"Intervals: {'; '.join(methods)}." if methods else "No intervals."
    if "top5" not in metrics and scored.chance is not None and round(1 / scored.chance) <= 5:
        note += " With five classes or fewer top-5 is not defined: it would be 100 % for any model."
    if LAST_EPOCH in metrics:
        note += (
            " Last epoch: the weights at the end of training, beside those of the epoch chosen on the selection clips."
        )
    note += " Ties count against the model. Top-k is what retrieval papers call Rec@k."
    if any(gain in metrics and gain not in row.overall for row in scored.rows for gain in GAINS):
        note += " MRR and DCG are unknown (–) for records without the rank of the true sign of every clip."
    name, title = f"accuracy-{slug(scored.title)}", f"Accuracy on {scored.title}"
    return ReportTable(name, title, tuple(columns), tuple(rows), note, folded=folded)


def _tried(record: Provenance) -> str:
    """Describe the trials of a row."""
    parts = []
    for trial in record.trials:
        values = ", ".join(f"{key} {value}" for key, value in trial.items() if key not in ("selection_score", "chosen"))
        parts.append(f"{values}: {trial['selection_score']}{' (chosen)' if trial['chosen'] == 'yes' else ''}")
    return "; ".join(parts)


def _per_class(scored: ScoredSet) -> list[Block]:
    """Return the folded table of means over classes, where more than top-1 is known."""
    metrics = [f"top{k}_per_class" for k in TOP_KS if any(f"top{k}_per_class" in row.overall for row in scored.rows)]
    if len(metrics) < 2:
        return []
    columns = [
        Column("Model"),
        *(interval_column(f"{text.metric_name(m)}, %") for m in metrics),
    ]
    columns += [number_column("Classes"), number_column("Without a clip")]
    body = []
    for row in scored.ranked:
        cells = [TableCell(row.label, series=row.series, chip=True, link=row.run.anchor)]
        cells += [result_cell(row.overall.get(metric)) for metric in metrics]
        chance, absent = row.overall.get("chance_top1"), row.overall.get("classes_absent")
        count = None if chance is None else round(1 / chance.value)
        cells.append(ABSENT if count is None else TableCell(text.count(count), count))
        cells.append(ABSENT if absent is None else TableCell(text.count(absent.value), absent.value))
        body.append(tuple(cells))
    note = "Means over the classes that have a clip in this split of the accuracy inside each class."
    title = f"Per class on {scored.title}"
    return [ReportTable(f"classes-{slug(scored.title)}", title, tuple(columns), tuple(body), note, folded=True)]


def _by_form(scored: ScoredSet) -> list[Block]:
    """Return the scores by sign form, where the corpus has forms: a word for the true form counts as correct."""
    rows = [row for row in scored.ranked if "revised_top1" in row.overall]
    if not rows:
        return []
    metrics = [f"{what}_top{k}" for k in (1, 5) for what in ("original", "same_form", "revised", "label_ceiling")]
    columns = [
        Column("Model"),
        *(interval_column(f"{text.metric_name(m)}, %") for m in metrics),
    ]
    cells = [
        (
            TableCell(row.label, series=row.series, chip=True, link=row.run.anchor),
            *(result_cell(row.overall.get(metric)) for metric in metrics),
        )
        for row in rows
    ]
    note = (
        f"On the {text.count(rows[0].overall['revised_top1'].n)} test clips whose sign form is known. By label: the "
        "predicted label is the true one. Same form: the predicted label was signed in this form in training. By form: "
        "each predicted label stands for its most frequent form. Ceiling: the score by label of a perfect recogniser "
        "of sign form."
    )
    return [
        ReportTable(
            f"forms-{slug(scored.title)}", f"By sign form on {scored.title}", tuple(columns), tuple(cells), note
        )
    ]


def _differences(scored: ScoredSet, gridded: bool) -> list[Block]:
    if not scored.versus:
        return []
    columns = (
        *(Column("Model"), Column("Against"), interval_column("Difference, points")),
        *(number_column("p, Holm"), Column("Reading")),
    )
    rows = [_difference(versus) for versus in scored.versus]
    tested = sum(versus.difference is not None for versus in scored.versus)
    methods = {"signers" if "signers" in v.difference.method else "clips" for v in scored.versus if v.difference}
    drawn = "" if methods == {"clips"} else ", drawing whole signers"
    note = (
        f"Paired bootstrap over the same clips{drawn}, in percentage points of top-1. The p-values are adjusted "
        f"by Holm for the {tested} comparison{'' if tested == 1 else 's'} of this table. They cover the "
        "sampling of test clips, not the variation between training runs, which only several seeds show."
    )
    name = f"differences-{slug(scored.title)}"
    title = "Each run against random initialisation" if gridded else "What pre-training adds to random initialisation"
    blocks: list[Block] = [ReportTable(name, title, columns, tuple(rows), note, folded=gridded)]
    if 2 < len(scored.rows) <= _MOST_SQUARED:
        blocks += _all_pairs(scored)
    return blocks


def _difference(versus: Versus) -> tuple[TableCell, ...]:
    """Return the row of one comparison with random initialisation."""
    model = TableCell(versus.row.label, series=versus.row.series, chip=True)
    control = TableCell(versus.control.label if versus.control else "–")
    d = versus.difference
    if d is None:
        return model, control, ABSENT, ABSENT, TableCell(f"not compared: {versus.why}")
    reading = ("better" if d.value > 0 else "worse") if versus.significant else "no difference shown"
    bounds = text.interval(d.low, d.high, signed=True)
    difference = TableCell(text.percent(d.value, True), d.value, d.low, d.high, bounds, d.method, versus.mark)
    return model, control, difference, p_cell(versus.adjusted), TableCell(reading)


def _all_pairs(scored: ScoredSet) -> list[Block]:
    """Return the table of every row minus every column, for readers who ask about two recipes."""
    ranked = scored.ranked
    known = all_pairs(ranked)
    if not known:
        return []
    rows = []
    for i, row in enumerate(ranked[:-1]):
        cells = [TableCell(row.label, series=row.series, chip=True)]
        for j in range(1, len(ranked)):
            if (i, j) not in known:
                cells.append(TableCell("", raw="") if j <= i else ABSENT)
                continue
            d, p = known[i, j]
            mark = "" if p >= ALPHA else BETTER if d.value > 0 else WORSE
            title = f"{text.interval(d.low, d.high, True)} points, Holm-adjusted {text.p_value(p)}, n = {d.n}"
            cells.append(TableCell(text.percent(d.value, True), d.value, title=title, mark=mark))
        rows.append(tuple(cells))
    columns = (Column("Row minus column"), *(number_column(row.label) for row in ranked[1:]))
    note = f"Top-1 difference in points; marks: Holm over all {len(known)} pairs."
    return [ReportTable(f"pairs-{slug(scored.title)}", "Every pair of models", columns, tuple(rows), note, folded=True)]
