"""Whether pre-training worked: losses against trivial predictors, features before and after, speed."""

from collections.abc import Sequence

from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Cell, Column, Notice, Table
from islr.reporting.gather import Run

PERPLEXITIES = ("target_perplexity", "perplexity")
ONE_WORD = 1.5  # words in use, as if evenly, under which a codebook has collapsed
END = 0.1  # of a run, whose mean is shown


def signs(runs: Sequence[Run]) -> list[Block]:
    """The tables about pre-training runs, and a warning for each that failed without a message."""
    return [*_training(runs), *_features(runs)]


def _training(runs: Sequence[Run]) -> list[Block]:
    """What each recipe logs of itself at its end; runs no better than a trivial predictor are named."""
    blocks: list[Block] = []
    rows = []
    for run in runs:
        score, trivial, predictor = "", "", ""
        found = next((end for name in run.compared_values if (end := _end(run, name)) is not None), None)
        for key, words in run.trivial_predictors.items():
            known = _end(run, key)
            if known is None or found is None:
                continue
            score, trivial, predictor = f"{found:.4g}", f"{known:.4g}", words
            if found >= known:
                warning = f"{run.name}: at its end the loss, {found:.4g}, is not below that of predicting {words}, "
                blocks.append(Notice(f"{warning}{known:.4g}: it has learned nothing.", "warning"))
        perplexity = next((end for name in PERPLEXITIES if (end := _end(run, name)) is not None), None)
        if perplexity is not None and perplexity < ONE_WORD:
            blocks.append(Notice(f"{run.name}: nearly all is one word (perplexity {perplexity:.2f}).", "warning"))
        accuracy, chance = _end(run, "accuracy"), _end(run, "chance")
        cells = (
            score,
            trivial,
            predictor,
            "" if accuracy is None else f"{text.percent(accuracy)} %",
            "" if chance is None else f"{text.percent(chance)} %",
            "" if perplexity is None else f"{perplexity:.3g}",
            *(_number(_end(run, key)) for key in ("teacher_entropy", "guided", "grad_norm", "clips_per_s")),
        )
        if any(cells):
            rows.append((Cell(run.name), *(Cell(value) for value in cells)))
    if rows:
        names = ("loss", "trivial loss", "trivial predictor", "accuracy", "chance", "perplexity", "teacher entropy")
        columns = [Column(name, numeric=name != "trivial predictor") for name in names]
        columns += [Column(name, numeric=True) for name in ("guided masks", "gradient norm", "clips/s")]
        note = (
            "Means over the last tenth of each run. Loss: the part that a predictor which knows no clip can be held "
            "against, and what that predictor scores. Perplexity: words of the tokenizer in use, as if evenly. Teacher "
            "entropy, in nats: 0 is one prototype for all. Guided masks: share of clips in which a mask had movement "
            "or hands to follow. Empty where a recipe has no such thing."
        )
        shown = [place for place in range(len(columns)) if any(row[place + 1].text for row in rows)]
        table = Table(
            "pretraining_end",
            "What pre-training ends with",
            (Column("run"), *(columns[place] for place in shown)),
            tuple((row[0], *(row[place + 1] for place in shown)) for row in rows),
            note,
        )
        blocks.append(table)
    return blocks


def _end(run: Run, key: str) -> float | None:
    """The mean of a training metric over the last part of a run; None where it was not logged."""
    values = run.rows("train", key)[1]
    last = values[-max(1, round(len(values) * END)) :]
    return sum(last) / len(last) if last else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _features(runs: Sequence[Run]) -> list[Block]:
    """What looks at the frozen features found, before training and after it; collapsed runs are named."""
    blocks: list[Block] = []
    rows = []
    for run in runs:
        looks = [row for row in run.metrics if row.get("kind") == "val" and "feature_rank" in row]
        if len(looks) < 2:
            continue
        first, last = looks[0], looks[-1]
        if any(look.get("collapsed") for look in looks):
            epoch = next(look["epoch"] for look in looks if look.get("collapsed"))
            blocks.append(Notice(f"{run.name}: the features had collapsed at epoch {epoch:g}.", "warning"))
        waits = run.rows("train", "data_wait")[1]
        votes = [f"{text.percent(look['knn_top1'])} %" if "knn_top1" in look else "" for look in (first, last)]
        chance = f"{text.percent(last['knn_chance'])} %" if "knn_chance" in last else ""
        cells = (
            *votes,
            chance,
            *(f"{look['feature_rank']:.1f}" for look in (first, last)),
            *(f"{look['feature_spread']:.2g}" for look in (first, last)),
            f"{text.percent(sum(waits) / len(waits))} %" if waits else "",
        )
        rows.append((Cell(run.name), *(Cell(value) for value in cells)))
    if rows:
        names = ("k-NN before", "k-NN after", "k-NN chance", "rank before", "rank after", "spread before")
        columns = tuple(Column(name, numeric=True) for name in (*names, "spread after", "data wait"))
        note = (
            "Frozen features of clips that training does not use, before the first step and after the last: how often "
            "the nearest labelled clips name the right sign, how many directions the features fill (RankMe), how far "
            "they differ at length 1 (0 = collapsed). Data wait is the share of time spent waiting for clips."
        )
        table = Table("pretraining_health", "Health of pre-training", (Column("run"), *columns), tuple(rows), note)
        blocks.append(table)
    return blocks
