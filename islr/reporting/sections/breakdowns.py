"""Recognition beyond one number: signers a model was trained on against others, and what its confidence is worth."""

from collections.abc import Sequence

from islr.evaluation.calibration import is_probabilistic, reliability
from islr.evaluation.intervals import FEW_CLUSTERS
from islr.evaluation.metrics import SEEN_KEY, TOP_KS
from islr.evaluation.results import Result
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import Block, Cell, Chart, Column, Notice, Prose, Section, Table
from islr.reporting.document.cells import plain_cell, result_cell
from islr.reporting.standings import MOST_ROWS, Row, ScoredSet

_SEEN, _UNSEEN = "yes", "no"
_PANEL_MODELS = 8  # reliability diagrams drawn; the table has all models


def sections(sets: Sequence[ScoredSet]) -> list[Section]:
    """The sections on signers seen in training and on calibration; absent where nothing was recorded."""
    return [section for section in (_signers(sets), _calibration(sets)) if section is not None]


def per_class(found: ScoredSet) -> list[Block]:
    """Means over classes, where more than top-1 is known: behind a fold, as the main table has the first of them."""
    metrics = [f"top{k}_per_class" for k in TOP_KS if any(f"top{k}_per_class" in row.overall for row in found.rows)]
    if len(metrics) < 2:
        return []
    columns = [Column("Model"), *(Column(f"{text.metric_name(m)}, %", numeric=True, interval=True) for m in metrics)]
    columns += [Column("Classes", numeric=True), Column("Without a clip", numeric=True)]
    body = []
    for row in found.ranked:
        cells = [Cell(row.label, series=row.series, chip=True, link=row.run.anchor)]
        cells += [result_cell(row.overall.get(metric)) for metric in metrics]
        chance, absent = row.overall.get("chance_top1"), row.overall.get("classes_absent")
        count = None if chance is None else round(1 / chance.value)
        cells.append(Cell("–", raw="") if count is None else Cell(text.count(count), count))
        cells.append(Cell("–", raw="") if absent is None else Cell(text.count(absent.value), absent.value))
        body.append(tuple(cells))
    note = "Means over the classes that have a clip in this split of the accuracy inside each class."
    title = f"Per class on {found.title}"
    return [Table(f"classes-{slug(found.title)}", title, tuple(columns), tuple(body), note, folded=True)]


def _signers(sets: Sequence[ScoredSet]) -> Section | None:
    blocks: list[Block] = []
    for found in sets:
        rows = [row for row in found.ranked if _seen(row) or "top1_per_signer" in row.overall]
        if not rows:
            continue
        blocks += [Prose(heading=f"On {found.title}")] if len(sets) > 1 else []
        signers = {s for row in found.rows if row.predictions is not None for s in row.predictions.signers} - {""}
        if any(row.provenance.cluster == "signer" for row in found.rows) and 0 < len(signers) < FEW_CLUSTERS:
            blocks.append(
                Notice(
                    f"Intervals draw whole signers, and there are {len(signers)}. How much signers differ is hardly "
                    "known from so few, so the intervals are uncertain themselves.",
                    "warning",
                )
            )
        blocks += _seen_chart(found, [row for row in rows if row in found.drawn])
        blocks.append(_signer_table(found, rows))
    if not blocks:
        return None
    lead = (
        "A model may know its signers rather than signs. Clips of people it was trained on are kept apart from clips "
        "of others, and the mean over signers gives every person the same weight, however many clips they have."
    )
    return Section("seen-signers", "Signers seen in training and not", tuple(blocks), lead)


def _seen(row: Row) -> dict[str, Result]:
    """Top-1 by whether the signer was in training."""
    return {r.group[SEEN_KEY]: r for r in row.records if set(r.group) == {SEEN_KEY} and r.metric == "top1"}


def _seen_chart(found: ScoredSet, rows: Sequence[Row]) -> list[Block]:
    known = [(row, _seen(row)) for row in rows if _seen(row)]
    sides = {side for _, members in known for side in members}
    if not sides:
        return [Notice(f"No model scored on {found.title} says on which signers it was trained.")]
    if sides == {_UNSEEN}:
        n = max(members[_UNSEEN].n for _, members in known)
        return [
            Notice(f"None of the signers of the {text.count(n)} clips was in training: all numbers are on new ones.")
        ]
    points = []
    for side, words in ((_SEEN, "Seen in training"), (_UNSEEN, "Not seen")):
        counts = sorted({members[side].n for _, members in known if side in members})
        if counts:
            shown = "–".join(text.count(n) for n in dict.fromkeys((counts[0], counts[-1])))
            dots = [
                figures.Dot(
                    members[side].value,
                    members[side].ci_low,
                    members[side].ci_high,
                    row.series,
                    f"{row.label}: {text.explain(members[side])}",
                )
                for row, members in known
                if side in members
            ]
            points.append((f"{words} (n = {shown})", dots))
    label = f"Top-1 on signers seen in training and not, {found.title}"
    legend = tuple((row.label, row.series) for row, _ in known)
    caption = f"{label}, in percent with 95 % intervals."
    return [Chart(caption, (figures.dots(points, label),), (figures.dots(points, label, narrow=True),), legend)]


def _signer_table(found: ScoredSet, rows: Sequence[Row]) -> Table:
    columns = [Column("Model"), Column("Seen, top-1 %", numeric=True, interval=True), Column("Clips", numeric=True)]
    columns += [Column("Not seen, top-1 %", numeric=True, interval=True), Column("Clips, not seen", numeric=True)]
    columns += [Column("Mean over signers, %", numeric=True, interval=True)]
    columns += [Column("Lowest signer, %", numeric=True), Column("Highest signer, %", numeric=True)]
    body = []
    for row in rows:
        cells = [Cell(row.label, series=row.series, chip=True, link=row.run.anchor)]
        for side in (_SEEN, _UNSEEN):
            record = _seen(row).get(side)
            cells += [result_cell(record), Cell(text.count(record.n), record.n) if record else Cell("–", raw="")]
        cells.append(result_cell(row.overall.get("top1_per_signer")))
        members = [r for r in row.records if set(r.group) == {"signer"} and r.metric == "top1"]
        by_value = sorted(members, key=lambda r: (r.value, r.group["signer"]))
        for record in (by_value[0], by_value[-1]) if by_value else (None, None):
            if record is None:
                cells.append(Cell("–", raw=""))
            else:
                who = f"{record.group['signer']}: {text.explain(record)}"
                cells.append(Cell(text.percent(record.value), record.value, title=who))
        body.append(tuple(cells))
    note = "Lowest and highest are extremes over signers, so they part further the fewer clips a signer has."
    name = f"seen-signers-{slug(found.title)}"
    return Table(name, f"Signers of {found.title}", tuple(columns), tuple(body), note, folded=len(body) > MOST_ROWS)


def _calibration(sets: Sequence[ScoredSet]) -> Section | None:
    blocks: list[Block] = []
    for found in sets:
        rows = [row for row in found.ranked if "ece" in row.overall]
        if not rows:
            continue
        drawn = [row for row in rows if row in found.drawn]
        drawn = [row for row in drawn if row.predictions is not None and is_probabilistic(row.predictions)]
        blocks += [Prose(heading=f"On {found.title}")] if len(sets) > 1 else []
        if drawn:
            more = f" The first {_PANEL_MODELS} of {len(drawn)} models." if len(drawn) > _PANEL_MODELS else ""
            caption = (
                f"Reliability on {found.title}: in bins of about equal numbers of clips, how sure the model is "
                f"(across) and how often it is right (up), both in percent. On the grey diagonal confidence is worth "
                f"what it says; below it the model is over-confident.{more}"
            )
            blocks.append(Chart(caption, tuple(_diagram(row) for row in drawn[:_PANEL_MODELS])))
        blocks.append(_calibration_table(found, rows))
    if not blocks:
        return None
    lead = (
        "A model that says 80 % should be right in 80 % of such cases. Accuracy says nothing about that, and whoever "
        "uses the answers has to know it."
    )
    return Section("calibration", "What confidence is worth", tuple(blocks), lead)


def _diagram(row: Row) -> str:
    assert row.predictions is not None
    bins = reliability(row.predictions, "mass", bins=10)
    diagonal = figures.Line("calibrated", [0.0, 100.0], [0.0, 1.0], None)
    xs, ys = [100 * b.confidence for b in bins], [b.accuracy for b in bins]
    own = figures.Line(row.label, xs, ys, row.series, points=True)
    return figures.lines(row.label, [diagonal, own], "confidence, %", percent=True, y_range=(0.0, 1.0))


def _calibration_table(found: ScoredSet, rows: Sequence[Row]) -> Table:
    columns = (
        Column("Model"),
        Column("Mean confidence, %", numeric=True),
        Column("Top-1, %", numeric=True),
        Column("ECE", numeric=True, title="expected calibration error, 15 bins of equal width"),
        Column("ECE, equal bins", numeric=True, title="15 bins of about equal numbers of clips"),
        Column("ECE if calibrated", numeric=True, interval=True, title="what a calibrated model would show"),
        Column("NLL", numeric=True, interval=True, title="mean negative log-likelihood, natural logarithm"),
        Column("Reading"),
    )
    body = []
    for row in rows:
        confidence = None
        if row.predictions is not None and is_probabilistic(row.predictions):
            confidence = float(row.predictions.scores[:, 0].mean())
        cells = [Cell(row.label, series=row.series, chip=True)]
        cells += [Cell(text.percent(confidence), "" if confidence is None else confidence)]
        cells += [Cell(text.percent(row.top1.value), row.top1.value)]
        cells += [plain_cell(row.overall.get(metric)) for metric in ("ece", "ece_adaptive", "ece_if_calibrated", "nll")]
        cells.append(Cell(_reading(row, confidence)))
        body.append(tuple(cells))
    note = (
        "The error of a finite set is never zero: bins of few clips miss by chance. Beside it stands what a perfectly "
        "calibrated model of the same confidences would show, with the range of 95 % of such models; an error inside "
        "it is no evidence."
    )
    name = f"calibration-{slug(found.title)}"
    folded = len(body) > MOST_ROWS
    return Table(name, f"Calibration on {found.title}", columns, tuple(body), note, folded=folded)


def _reading(row: Row, confidence: float | None) -> str:
    ideal = row.overall.get("ece_if_calibrated")
    if ideal is None or ideal.ci_high is None or row.overall["ece"].value <= ideal.ci_high:
        return "no miscalibration shown"
    if confidence is None:
        return "miscalibrated"
    return "over-confident" if confidence > row.top1.value else "under-confident"
