"""How training went: the loss of each pre-training recipe, and fine-tuning loss and accuracy."""

from collections.abc import Sequence

from islr.reporting import figures, pretraining
from islr.reporting.blocks import Block, Chart, Notice, Prose, Section, Series
from islr.reporting.scan import Gathered, Run
from islr.reporting.standings import Palette, is_random, is_random_name, series_of

_LINES = 8  # lines in one panel; more are unreadable, so a further panel follows


def section(gathered: Gathered, colours: Palette) -> Section:
    """The training-curve section."""
    blocks: list[Block] = []
    runs = [run for run in gathered.of("pretrain") if len(run.rows("train", "loss")[0]) > 1]
    if runs:
        panels = [_panel(f"{run.name}: training loss", [run], "train", "loss", colours) for run in runs]
        caption = (
            "Pre-training loss of each recipe. Each recipe minimises its own objective on its own scale, "
            "so the heights do not compare: a curve that has stopped falling is the thing to look for."
        )
        blocks += [Prose(heading="Pre-training"), Chart(caption, tuple(panels)), *pretraining.signs(runs)]
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
