"""How training went: the loss of each pre-training recipe, and fine-tuning loss and accuracy."""

from collections.abc import Sequence

from islr.reporting import figures, text
from islr.reporting.blocks import Block, Cell, Chart, Column, Notice, Prose, Section, Series, Table
from islr.reporting.scan import Gathered, Run
from islr.reporting.standings import Palette, is_random, is_random_name, series_of

_LINES = 8  # lines in one panel; more are unreadable, so a further panel follows


def section(gathered: Gathered, colours: Palette) -> Section:
    """The training-curve section."""
    blocks: list[Block] = []
    pretraining = [run for run in gathered.of("pretrain") if len(run.rows("train", "loss")[0]) > 1]
    if pretraining:
        panels = [_panel(f"{run.name}: training loss", [run], "train", "loss", colours) for run in pretraining]
        caption = (
            "Pre-training loss of each recipe. Each recipe minimises its own objective on its own scale, "
            "so the heights do not compare: a curve that has stopped falling is the thing to look for."
        )
        blocks += [Prose(heading="Pre-training"), Chart(caption, tuple(panels)), *_health(pretraining)]
    finetuning = [run for run in gathered.of("finetune") if run.metrics]
    if finetuning:
        panels = []
        for title, kind, key in (
            ("Training loss", "train", "loss"),
            ("Selection-set loss", "val", "loss"),
            ("Selection-set top-1, %", "val", "top1"),
        ):
            logged = [run for run in finetuning if run.rows(kind, key)[0]]
            for start in range(0, len(logged), _LINES):
                panels.append(_panel(title, logged[start : start + _LINES], kind, key, colours))
        legend = tuple((_label(run, finetuning), _series(run, colours)) for run in finetuning)
        caption = (
            "Fine-tuning. The selection set chooses the epoch that is scored on the test set, once; the "
            "test set itself never appears here. A higher and earlier top-1 is what useful pre-training "
            "looks like."
        )
        if panels:
            blocks += [
                Prose(heading="Fine-tuning"),
                Chart(caption, tuple(panels), legend=tuple(dict.fromkeys(legend))),
            ]
    if not blocks:
        blocks.append(Notice("No training curve was found (runs write metrics.jsonl while they train)."))
    lead = "Long curves are drawn as means over equal stretches of steps, at most 120 points a curve."
    return Section("curves", "Training curves", tuple(blocks), lead if len(blocks) > 1 else "")


def _health(runs: Sequence[Run]) -> list[Block]:
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


def _series(run: Run, colours: Palette) -> Series:
    random = is_random(run.results[0]) if run.results else is_random_name(run.name)
    return series_of(colours, run.name, run.encoder, random)


def _label(run: Run, runs: Sequence[Run]) -> str:
    """The row name, with the encoder where the name alone is not unique."""
    twins = {other.encoder for other in runs if other.name == run.name}
    return f"{run.name} · {run.encoder}" if len(twins) > 1 else run.name


def _panel(title: str, runs: Sequence[Run], kind: str, key: str, colours: Palette) -> str:
    drawn = []
    for run in runs:
        xs, ys = figures.thin(*run.rows(kind, key))
        drawn.append(
            figures.Line(_label(run, runs), xs, ys, _series(run, colours), points=kind == "val" and len(xs) <= 24)
        )
    percent = key.startswith("top")
    by_epoch = all("epoch" in row for run in runs for row in run.metrics)
    return figures.lines(title, drawn, "epoch" if by_epoch else "step", percent, (0.0, 1.0) if percent else None)
