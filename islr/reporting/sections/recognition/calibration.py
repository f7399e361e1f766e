"""Calibration: whether a model's confidence agrees with its accuracy."""

from collections.abc import Sequence

from islr.evaluation.calibration import is_probabilistic, reliability
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import (
    Block,
    Chart,
    Column,
    Prose,
    ReportTable,
    Section,
    TableCell,
    interval_column,
    number_column,
)
from islr.reporting.document.cells import plain_cell
from islr.reporting.findings.standings import MOST_ROWS, ScoredRow, ScoredSet

_PANEL_MODELS = 8  # reliability diagrams drawn; the table has all models


def section(sets: Sequence[ScoredSet]) -> Section | None:
    blocks: list[Block] = []
    for scored in sets:
        rows = [row for row in scored.ranked if "ece" in row.overall]
        if not rows:
            continue
        drawn = [row for row in rows if row in scored.drawn]
        drawn = [row for row in drawn if row.predictions is not None and is_probabilistic(row.predictions)]
        blocks += [Prose(heading=f"On {scored.title}")] if len(sets) > 1 else []
        if drawn:
            more = f" The first {_PANEL_MODELS} of {len(drawn)} models." if len(drawn) > _PANEL_MODELS else ""
            caption = (
                f"Reliability on {scored.title}: mean confidence (horizontal) against accuracy (vertical), in percent, "
                "in bins of about equal numbers of clips. On the grey diagonal confidence equals accuracy; below it "
                f"the model is over-confident.{more}"
            )
            blocks.append(Chart(caption, tuple(_diagram(row) for row in drawn[:_PANEL_MODELS])))
        blocks.append(_calibration_table(scored, rows))
    if not blocks:
        return None
    lead = (
        "Of the predictions made with 80 % confidence, a calibrated model gets 80 % right. Accuracy alone does not "
        "show whether confidences can be relied on."
    )
    return Section("calibration", "Calibration", tuple(blocks), lead)


def _diagram(row: ScoredRow) -> str:
    assert row.predictions is not None
    bins = reliability(row.predictions, "mass", bins=10)
    diagonal = figures.Line("calibrated", [0.0, 100.0], [0.0, 1.0], None)
    xs, ys = [100 * b.confidence for b in bins], [b.accuracy for b in bins]
    own = figures.Line(row.label, xs, ys, row.series, points=True)
    return figures.lines(row.label, [diagonal, own], "confidence, %", percent=True, y_range=(0.0, 1.0))


def _calibration_table(scored: ScoredSet, rows: Sequence[ScoredRow]) -> ReportTable:
    columns = (
        Column("Model"),
        number_column("Mean confidence, %"),
        number_column("Top-1, %"),
        number_column("ECE", title="expected calibration error, 15 bins of equal width"),
        number_column("ECE, equal bins", title="15 bins of about equal numbers of clips"),
        interval_column("ECE if calibrated", title="what a calibrated model would show"),
        interval_column("NLL", title="mean negative log-likelihood, natural logarithm"),
        Column("Reading"),
    )
    body = []
    for row in rows:
        confidence = None
        if row.predictions is not None and is_probabilistic(row.predictions):
            confidence = float(row.predictions.scores[:, 0].mean())
        cells = [TableCell(row.label, series=row.series, chip=True)]
        cells += [TableCell(text.percent(confidence), "" if confidence is None else confidence)]
        cells += [TableCell(text.percent(row.top1.value), row.top1.value)]
        cells += [plain_cell(row.overall.get(metric)) for metric in ("ece", "ece_adaptive", "ece_if_calibrated", "nll")]
        cells.append(TableCell(_reading(row, confidence)))
        body.append(tuple(cells))
    note = (
        "On a finite test set the error is never zero, because bins of few clips deviate by chance. Beside it is the "
        "error "
        "that a perfectly calibrated model with the same confidences would show, with its 95 % range; an error inside "
        "that range is no evidence of miscalibration."
    )
    name = f"calibration-{slug(scored.title)}"
    folded = len(body) > MOST_ROWS
    return ReportTable(name, f"Calibration on {scored.title}", columns, tuple(body), note, folded=folded)


def _reading(row: ScoredRow, confidence: float | None) -> str:
    ideal = row.overall.get("ece_if_calibrated")
    if ideal is None or ideal.ci_high is None or row.overall["ece"].value <= ideal.ci_high:
        return "no miscalibration shown"
    if confidence is None:
        return "miscalibrated"
    return "over-confident" if confidence > row.top1.value else "under-confident"
