"""Training curves: the loss of each pre-training recipe, and the loss and accuracy of fine-tuning."""

from collections.abc import Sequence

from islr.reporting.document import figures, text
from islr.reporting.document.blocks import Block, Chart, Notice, Prose, Section, Series
from islr.reporting.findings.grid import SCRATCH, regime_order, regime_series
from islr.reporting.findings.standings import Palette, is_random, is_random_name, series_of
from islr.reporting.gather import Gathered
from islr.reporting.run_files import ReportedRun
from islr.reporting.sections import pretraining

_LINES = 8  # lines in one panel; more are unreadable, so a further panel follows
_FINETUNING = (
    ("Training loss", "train", "loss"),
    ("Selection-set loss", "val", "loss"),
    ("Selection-set top-1, %", "val", "top1"),
)


def section(gathered: Gathered, colours: Palette) -> Section:
    """Return the section on training curves."""
    blocks: list[Block] = []
    trained = [run for run in gathered.of("pretrain") if run.rows("train", "loss")[0]]
    if trained:
        caption = (
            "Pre-training loss of each recipe. Each recipe minimises its own objective on its own scale, so heights "
            "are not comparable between recipes; a curve that has flattened shows that training has converged."
        )
        if any(run.place for run in trained):
            caption += " A regime of two stages shows the second; seeds share a colour."
        blocks += [
            Prose(heading="Pre-training"),
            _pretraining(trained, caption, colours),
            *pretraining.blocks_of(trained),
        ]
    finetuning = [run for run in gathered.of("finetune") if run.metrics]
    drawn = [*_gridded(finetuning), *_plain([run for run in finetuning if not run.place], colours)]
    if drawn:
        blocks += [Prose(heading="Fine-tuning"), *drawn]
    if not blocks:
        blocks.append(Notice("No training curve was found (runs write metrics.jsonl while they train)."))
    lead = "Long curves are averaged over equal numbers of steps to at most 120 points."
    return Section("curves", "Training curves", tuple(blocks), lead if len(blocks) > 1 else "")


def _pretraining(runs: Sequence[ReportedRun], caption: str, colours: Palette) -> Chart:
    """Draw one panel for each recipe: for each method of a grid with its regimes, else for each run."""
    panels: dict[str, list[ReportedRun]] = {}
    for run in runs:
        panels.setdefault(run.place[0] if run.place else run.label, []).append(run)
    regimes = [run.place[1] for run in runs if run.place]
    series = regime_series(regimes)
    drawn = []
    for members in panels.values():
        name = members[0].place[0] if members[0].place else members[0].name
        lines = [
            (run.name, run, series[run.place[1]] if run.place else _series(run, colours)) for run in _by_regime(members)
        ]
        drawn.append(_panel(f"{name}: training loss", lines, "train", "loss"))
    return Chart(caption, tuple(drawn), legend=_regime_legend(regimes))


def _by_regime(runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    order = regime_order([run.place[1] for run in runs if run.place])
    return sorted(runs, key=lambda run: order.index(run.place[1]) if run.place else -1)


def _regime_legend(regimes: Sequence[str]) -> tuple[tuple[str, Series], ...]:
    series = regime_series(regimes)
    return tuple((text.regime_name(regime), series[regime]) for regime in regime_order(regimes))


def _gridded(runs: Sequence[ReportedRun]) -> list[Block]:
    """Draw a panel for each method: its regimes and the random initialisation of its encoder."""
    placed = [run for run in runs if run.place]
    methods = {run.place[0]: run.encoder for run in placed if run.place and run.place[1] != SCRATCH}
    if not methods:
        methods = {run.place[0]: run.encoder for run in placed if run.place}
    regimes = [run.place[1] for run in placed if run.place]
    series = regime_series(regimes)
    charts: dict[str, Chart] = {}
    for title, kind, key in _FINETUNING:
        panels = []
        for method, encoder in methods.items():
            mine = [
                run
                for run in placed
                if run.place
                and (run.place[0] == method or (run.place[1] == SCRATCH and run.encoder == encoder))
                and run.rows(kind, key)[0]
            ]
            lines = [(run.name, run, series[run.place[1]]) for run in _by_regime(mine) if run.place]
            if lines:
                panels.append(_panel(f"{method}: {title[:1].lower()}{title[1:]}", lines, kind, key))
        if panels:
            charts[key if kind == "val" else title] = Chart("", tuple(panels), legend=_regime_legend(regimes))
    caption = (
        "Fine-tuning. The selection set chooses the epoch that is scored on the test set, once; the test set itself "
        "never appears here. Grey is the random initialisation of the same encoder; seeds share a colour. Useful "
        "pre-training shows as a top-1 that rises earlier and higher than grey."
    )
    blocks: list[Block] = []
    for name, chart in sorted(charts.items(), key=lambda item: item[0] != "top1"):
        if not blocks:
            blocks.append(Chart(caption, chart.wide, legend=chart.legend))
        else:
            what = "Selection-set loss of fine-tuning" if name == "loss" else "Training loss of fine-tuning"
            blocks.append(Chart("", chart.wide, legend=chart.legend, folded=what))
    return blocks


def _plain(runs: Sequence[ReportedRun], colours: Palette) -> list[Block]:
    """Draw all runs in one panel for each measure."""
    panels = []
    for title, kind, key in _FINETUNING:
        logged = [run for run in runs if run.rows(kind, key)[0]]
        for start in range(0, len(logged), _LINES):
            lines = [(_label(run, runs), run, _series(run, colours)) for run in logged[start : start + _LINES]]
            panels.append(_panel(title, lines, kind, key))
    if not panels:
        return []
    legend = tuple((_label(run, runs), _series(run, colours)) for run in runs)
    caption = (
        "Fine-tuning. The selection set chooses the epoch that is scored on the test set, once; the test set "
        "itself never appears here. Useful pre-training shows as a top-1 that rises earlier and higher."
    )
    return [Chart(caption, tuple(panels), legend=tuple(dict.fromkeys(legend)))]


def _series(run: ReportedRun, colours: Palette) -> Series:
    random = is_random(run.results[0]) if run.results else is_random_name(run.name)
    return series_of(colours, run.name, run.encoder, random)


def _label(run: ReportedRun, runs: Sequence[ReportedRun]) -> str:
    """Return the row name, with the encoder where the name alone is not unique."""
    twins = {other.encoder for other in runs if other.name == run.name}
    return f"{run.name} · {run.encoder}" if len(twins) > 1 else run.name


def _panel(title: str, lines: Sequence[tuple[str, ReportedRun, Series]], kind: str, key: str) -> str:
    """Draw one panel of (label, run, colour)."""
    drawn = []
    for label, run, series in lines:
        xs, ys = figures.thin(*run.rows(kind, key))
        drawn.append(figures.Line(label, xs, ys, series, points=kind == "val" and len(xs) <= 24))
    percent = key.startswith("top")
    by_epoch = all("epoch" in row for _, run, _ in lines for row in run.metrics)
    return figures.lines(title, drawn, "epoch" if by_epoch else "step", percent, (0.0, 1.0) if percent else None)
