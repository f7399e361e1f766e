"""Cost of a grid: the training time that is left, from the measured rates of its runs or from declared rates."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from islr.progress import duration
from islr.study.expand import Grid
from islr.study.stages import Stage
from islr.training.tracking import METRICS, read_metrics

Rates = dict[tuple[str, str], float]  # kind of stage -> clips a second


def rates_of(grid: Grid) -> Rates:
    """Return clips per second in training by kind of stage: measured by the grid's runs, else declared by its file.

    Args:
        grid: The stages; the metrics of those that have begun are read.
    """
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    for stage, kind in grid.kinds.items():
        measured[kind] += _measured(grid.runs[stage])
    return grid.declared | {kind: median(values) for kind, values in measured.items() if values}


def _measured(run: Path) -> list[float]:
    return [row["clips_per_s"] for row in read_metrics(run / METRICS) if row.get("clips_per_s", 0) > 0]


def seconds(stage: Stage, grid: Grid, rates: Rates) -> float | None:
    """Return the training time of a whole stage; 0 if it trains nothing, None if no rate is known."""
    kind = grid.kinds.get(stage.name)
    if kind is None:
        return 0.0
    return grid.clips[stage.name] / rates[kind] if kind in rates else None


def summary(todo: Iterable[Stage], grid: Grid, rates: Rates, at_once: int) -> str:
    """Return one line: clips that are left to train on, the time for them, and stages without a rate."""
    stages = [stage for stage in todo if stage.name in grid.kinds]
    times = [seconds(stage, grid, rates) for stage in stages]
    known = [value for value in times if value is not None]
    line = f"clips to see in training: {sum(grid.clips[stage.name] for stage in stages):,.0f}"
    if known:
        line += f", about {duration(sum(known) / at_once)}" + (f" with {at_once} stages at once" if at_once > 1 else "")
    if len(known) < len(times):
        line += (
            f"; no rate is known yet for {len(times) - len(known)} of {len(times)} stages (`islr check` measures one)"
        )
    return line
