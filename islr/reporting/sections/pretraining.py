"""Health of pre-training: losses against trivial predictors, features before and after, speed."""

from collections.abc import Sequence

from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Column, Notice, ReportTable, TableCell, number_column
from islr.reporting.findings.pretraining import PretrainingEnd, end_value
from islr.reporting.run_files import ReportedRun

_COLUMNS = (
    *("loss", "trivial loss", "trivial predictor", "accuracy", "chance", "perplexity", "teacher entropy"),
    *("guided masks", "gradient norm", "clips/s"),
)


def blocks_of(runs: Sequence[ReportedRun]) -> list[Block]:
    """Return the tables about pre-training runs, and a warning for each that learned nothing or collapsed."""
    return [*_training([PretrainingEnd.of(run) for run in runs]), *_features(runs)]


def _training(ends: Sequence[PretrainingEnd]) -> list[Block]:
    blocks: list[Block] = [warning for end in ends for warning in _warnings(end)]
    rows = [(TableCell(end.run.name), *map(TableCell, cells)) for end in ends if any(cells := _cells(end))]
    if not rows:
        return blocks
    columns = [Column(name, numeric=name != "trivial predictor") for name in _COLUMNS]
    note = (
        "Means over the last tenth of each run. Loss: the part of the recipe's loss that a trivial predictor, which "
        "does not see the clip, can be compared on; beside it the loss of that predictor. Perplexity: effective number "
        "of visual tokens in use. Teacher entropy, in nats: 0 means that all clips fall on one prototype. Guided "
        "masks: share of clips in which movement or hands guided the mask. Empty where a recipe has no such value."
    )
    shown = [place for place in range(len(columns)) if any(row[place + 1].text for row in rows)]
    table = ReportTable(
        "pretraining_end",
        "Pre-training at its end",
        (Column("run"), *(columns[place] for place in shown)),
        tuple((row[0], *(row[place + 1] for place in shown)) for row in rows),
        note,
    )
    return [*blocks, table]


def _warnings(end: PretrainingEnd) -> list[Notice]:
    name = end.run.name
    made = [
        f"{name}: at its end the loss, {own:.4g}, is not below that of predicting {words}, {trivial:.4g}: it has "
        "learned nothing."
        for own, trivial, words in end.comparisons
        if own >= trivial
    ]
    if end.collapsed:
        made.append(f"{name}: nearly all visual tokens are the same (perplexity {end.perplexity:.2f}).")
    return [Notice(warning, "warning") for warning in made]


def _cells(end: PretrainingEnd) -> tuple[str, ...]:
    own, trivial, predictor = end.comparisons[-1] if end.comparisons else (None, None, "")
    return (
        "" if own is None else f"{own:.4g}",
        "" if trivial is None else f"{trivial:.4g}",
        predictor,
        "" if end.accuracy is None else f"{text.percent(end.accuracy)} %",
        "" if end.chance is None else f"{text.percent(end.chance)} %",
        _number(end.perplexity),
        *(_number(end_value(end.run, key)) for key in ("teacher_entropy", "guided", "grad_norm", "clips_per_s")),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _features(runs: Sequence[ReportedRun]) -> list[Block]:
    """Return the table of the frozen features before training and after it, and a warning for each collapsed run."""
    blocks: list[Block] = []
    rows = []
    for run in runs:
        evaluations = [row for row in run.metrics if row.get("kind") == "val" and "feature_rank" in row]
        if len(evaluations) < 2:
            continue
        first, last = evaluations[0], evaluations[-1]
        if any(one.get("collapsed") for one in evaluations):
            epoch = next(one["epoch"] for one in evaluations if one.get("collapsed"))
            blocks.append(Notice(f"{run.name}: the features had collapsed at epoch {epoch:g}.", "warning"))
        waits = run.rows("train", "data_wait")[1]
        votes = [f"{text.percent(one['knn_top1'])} %" if "knn_top1" in one else "" for one in (first, last)]
        chance = f"{text.percent(last['knn_chance'])} %" if "knn_chance" in last else ""
        cells = (
            *votes,
            chance,
            *(f"{one['feature_rank']:.1f}" for one in (first, last)),
            *(f"{one['feature_spread']:.2g}" for one in (first, last)),
            f"{text.percent(sum(waits) / len(waits))} %" if waits else "",
        )
        rows.append((TableCell(run.name), *(TableCell(value) for value in cells)))
    if rows:
        names = ("k-NN before", "k-NN after", "k-NN chance", "rank before", "rank after", "spread before")
        columns = tuple(number_column(name) for name in (*names, "spread after", "data wait"))
        note = (
            "Frozen features of held-out clips, before the first step and after the last: top-1 of a nearest-neighbour "
            "classifier, effective rank (RankMe), and spread of the normalised features (0 = collapsed). Data wait is "
            "the share of time spent waiting for clips."
        )
        table = ReportTable(
            "pretraining_health", "Health of pre-training", (Column("run"), *columns), tuple(rows), note
        )
        blocks.append(table)
    return blocks
