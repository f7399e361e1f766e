"""Health of pre-training: losses against trivial predictors, features before and after, speed."""

from collections.abc import Sequence

from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Column, Notice, ReportTable, TableCell, number_column
from islr.reporting.findings.pretraining import PretrainingEnd
from islr.reporting.run_files import ReportedRun

_COLUMNS = ("loss", "accuracy", "perplexity", "teacher entropy", "guided masks", "gradient norm", "clips/s")
_PERCENT = {"accuracy"}
_VALUES = {  # where a column is not called as its logged value is
    "perplexity": ("target_perplexity", "perplexity"),
    "teacher entropy": ("teacher_entropy",),
    "guided masks": ("guided",),
    "gradient norm": ("grad_norm",),
    "clips/s": ("clips_per_s",),
}


def blocks_of(runs: Sequence[ReportedRun]) -> list[Block]:
    """Return the tables about pre-training runs, and a warning for each that learned nothing or collapsed."""
    ends = [PretrainingEnd.of(run) for run in runs]
    warnings = [Notice(f"{end.run.name}: {end.verdict}.", "warning") for end in ends if end.verdict.reasons]
    return [*warnings, *_pretexts(ends), *_training(ends), *_features(runs)]


def _pretexts(ends: Sequence[PretrainingEnd]) -> list[Block]:
    """Return the table of pretext tasks against trivial predictors."""
    rows = []
    for end in ends:
        for one in end.verdict.hardest:
            own, trivial = f"{one.own:.4g}", f"{one.trivial:.4g}"
            learned = "learned" if one.beaten and not end.verdict.collapse else "not learned"
            rows.append(tuple(map(TableCell, (end.run.name, one.value, own, trivial, one.predictor.predicts, learned))))
    if not rows:
        return []
    note = (
        "Each value of a recipe at its end beside the best score of the predictors that do not "
        "know what is hidden, or know no clip. Losses must be below it, accuracies above. A task that is not "
        "learned, or whose targets collapsed, says nothing about its recipe."
    )
    numbers = number_column("at its end"), number_column("trivial")
    columns = (Column("run"), Column("value"), *numbers, Column("trivial predictor"), Column("task"))
    return [ReportTable("pretext_tasks", "Pretext tasks against trivial predictors", columns, tuple(rows), note)]


def _training(ends: Sequence[PretrainingEnd]) -> list[Block]:
    rows = [(TableCell(end.run.name), *map(TableCell, cells)) for end in ends if any(cells := _cells(end))]
    if not rows:
        return []
    note = (
        "Means over the last tenth of each run. Perplexity: effective number of visual tokens in use. Teacher entropy, "
        "in nats. Guided masks: share of clips in which movement or hands guided the mask. Empty where a recipe has no "
        "such value."
    )
    shown = [place for place in range(len(_COLUMNS)) if any(row[place + 1].text for row in rows)]
    table = ReportTable(
        "pretraining_end",
        "Pre-training at its end",
        (Column("run"), *(number_column(_COLUMNS[place]) for place in shown)),
        tuple((row[0], *(row[place + 1] for place in shown)) for row in rows),
        note,
    )
    return [table]


def _cells(end: PretrainingEnd) -> list[str]:
    cells = []
    for column in _COLUMNS:
        names = _VALUES.get(column, (column,))
        value = next((end.values[name] for name in names if name in end.values), None)
        percent = f"{text.percent(value)} %" if value is not None and column in _PERCENT else ""
        cells.append("" if value is None else percent or f"{value:.{4 if column == 'loss' else 3}g}")
    return cells


def _features(runs: Sequence[ReportedRun]) -> list[Block]:
    """Return the table of the frozen features before training and after it, and a warning for each collapsed run."""
    blocks: list[Block] = []
    rows = []
    for run in runs:
        needed = {"feature_rank", "feature_spread"}
        evaluations = [row for row in run.metrics if row["kind"] == "val" and needed <= row.keys()]
        if len(evaluations) < 2:
            continue
        first, last = evaluations[0], evaluations[-1]
        if any(one.get("collapsed") for one in evaluations):
            epoch = next(one.get("epoch", 0.0) for one in evaluations if one.get("collapsed"))
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
