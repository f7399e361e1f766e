"""Accuracy on signers that were in training against signers that were not."""

from collections.abc import Sequence

from islr.evaluation.intervals import FEW_CLUSTERS
from islr.evaluation.metrics import SEEN_KEY
from islr.evaluation.results import Result
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
from islr.reporting.document.cells import result_cell
from islr.reporting.findings.standings import MOST_ROWS, ScoredRow, ScoredSet

_SEEN = "yes"


_UNSEEN = "no"


def section(sets: Sequence[ScoredSet]) -> Section | None:
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
                    f"Intervals draw whole signers, and there are {len(signers)}. So few signers say little about "
                    "how much signers differ, so the intervals themselves are uncertain.",
                    "warning",
                )
            )
        blocks += _seen_chart(found, [row for row in rows if row in found.drawn])
        blocks.append(_signer_table(found, rows))
    if not blocks:
        return None
    lead = (
        "A model may fit its training signers instead of the signs. Clips of signers in its training set are scored "
        "apart "
        "from clips of other signers, and the mean over signers gives every signer the same weight, whatever their "
        "number of clips."
    )
    return Section("seen-signers", "Signers in the training set and others", tuple(blocks), lead)


def _seen(row: ScoredRow) -> dict[str, Result]:
    """Return top-1 by whether the signer was in training."""
    return {r.group[SEEN_KEY]: r for r in row.records if set(r.group) == {SEEN_KEY} and r.metric == "top1"}


def _seen_chart(found: ScoredSet, rows: Sequence[ScoredRow]) -> list[Block]:
    known = [(row, _seen(row)) for row in rows if _seen(row)]
    sides = {side for _, members in known for side in members}
    if not sides:
        return [Notice(f"No model scored on {found.title} records the signers it was trained on.")]
    if sides == {_UNSEEN}:
        n = max(members[_UNSEEN].n for _, members in known)
        return [
            Notice(f"None of the signers of the {text.count(n)} clips was in training: all scores are on new signers.")
        ]
    points = []
    for side, words in ((_SEEN, "Seen in training"), (_UNSEEN, "Not seen")):
        counts = sorted({members[side].n for _, members in known if side in members})
        if counts:
            shown = "–".join(text.count(n) for n in dict.fromkeys((counts[0], counts[-1])))
            dots = [
                figures.record_dot(members[side], row.label, row.series) for row, members in known if side in members
            ]
            points.append((f"{words} (n = {shown})", dots))
    label = f"Top-1 on signers seen in training and on others, {found.title}"
    legend = tuple((row.label, row.series) for row, _ in known)
    caption = f"{label}, in percent with 95 % intervals."
    return [
        Chart(caption, (figures.dots(points, label),), (figures.dots(points, label, narrow=True),), legend, marks=True)
    ]


def _signer_table(scored: ScoredSet, rows: Sequence[ScoredRow]) -> ReportTable:
    columns = [
        Column("Model"),
        interval_column("Seen, top-1 %"),
        number_column("Clips"),
    ]
    columns += [
        interval_column("Not seen, top-1 %"),
        number_column("Clips, not seen"),
    ]
    columns += [interval_column("Mean over signers, %")]
    columns += [number_column("Lowest signer, %"), number_column("Highest signer, %")]
    body = []
    for row in rows:
        cells = [TableCell(row.label, series=row.series, chip=True, link=row.run.anchor)]
        for side in (_SEEN, _UNSEEN):
            record = _seen(row).get(side)
            cells += [
                result_cell(record),
                TableCell(text.count(record.n), record.n) if record else ABSENT,
            ]
        cells.append(result_cell(row.overall.get("top1_per_signer")))
        members = [r for r in row.records if set(r.group) == {"signer"} and r.metric == "top1"]
        by_value = sorted(members, key=lambda r: (r.value, r.group["signer"]))
        for record in (by_value[0], by_value[-1]) if by_value else (None, None):
            if record is None:
                cells.append(ABSENT)
            else:
                who = f"{record.group['signer']}: {text.explain(record)}"
                cells.append(TableCell(text.percent(record.value), record.value, title=who))
        body.append(tuple(cells))
    note = "Lowest and highest are extremes over signers: they lie further apart the fewer clips a signer has."
    name = f"seen-signers-{slug(scored.title)}"
    return ReportTable(
        name, f"Signers of {scored.title}", tuple(columns), tuple(body), note, folded=len(body) > MOST_ROWS
    )
