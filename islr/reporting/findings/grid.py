"""The grid: methods by data regimes, seeds averaged, each cell against the random initialisation of its encoder."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from islr.evaluation.intervals import Difference, Interval, bootstrap, holm, paired_bootstrap
from islr.evaluation.metrics import hits
from islr.evaluation.pretext import NOT_LEARNED
from islr.models.public.importing import PUBLIC
from islr.reporting.document import text
from islr.reporting.document.blocks import Series
from islr.reporting.findings.standings import ALPHA, BETTER, WORSE, ScoredRow, ScoredSet
from islr.reporting.run_files import Place

SCRATCH = "scratch"


_ORDER = (SCRATCH, "generic", "sign", "generic_then_sign", "mixed")  # of columns; further regimes follow


@dataclass(frozen=True)
class GridCell:
    """One method in one regime, over its seeds.

    Attributes:
        rows: One for each seed.
        score: Top-1 of the mean over seeds, its interval over clips.
        versus: The same against the random initialisation of its encoder; None for that itself, or without one.
        adjusted: Holm-adjusted p-value of `versus`.
        control: Mean top-1 of that random initialisation.
    """

    rows: tuple[ScoredRow, ...]
    score: Interval
    versus: Difference | None = None
    adjusted: float = 1.0
    control: float | None = None

    @property
    def mark(self) -> str:
        """An arrow for a difference that stands, else nothing."""
        if self.versus is None or self.adjusted >= ALPHA:
            return ""
        return BETTER if self.versus.value > 0 else WORSE

    @property
    def random(self) -> bool:
        """Whether it had no pre-training."""
        return self.rows[0].random

    @property
    def public(self) -> bool:
        """Whether it starts from weights that others published, whose training clips are unknown."""
        return any(stage["recipe"] == PUBLIC for stage in self.rows[0].provenance.pretraining)

    @property
    def encoder(self) -> str:
        """Architecture of its encoder."""
        return self.rows[0].provenance.encoder

    @property
    def unlearned(self) -> str:
        """Why the pretext task of one of its stages counts as not learned, in the first seed of which that holds."""
        stages = (stage for row in self.rows for stage in row.provenance.pretraining)
        return next((stage["pretext"] for stage in stages if stage.get("pretext", "").startswith(NOT_LEARNED)), "")


GridCells = dict[Place, GridCell]


def comparable_rows(found: ScoredSet) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """Return the rows of a grid scored on the most frequent set of clips, and the others, which cannot be averaged."""
    placed = [row for row in found.rows if row.run.place and row.predictions is not None]
    clips = {row.label: tuple(sorted(row.predictions.clip_ids)) for row in placed if row.predictions is not None}
    if not clips:
        return [], []
    commonest = Counter(clips.values()).most_common(1)[0][0]
    return (
        [row for row in placed if clips[row.label] == commonest],
        [row for row in placed if clips[row.label] != commonest],
    )


def grid_cells(rows: Sequence[ScoredRow]) -> GridCells:
    """(method, regime) -> cell, of rows that were scored on the same clips."""
    groups: dict[Place, list[ScoredRow]] = {}
    for row in rows:
        if row.run.place and row.predictions is not None:
            groups.setdefault(row.run.place, []).append(row)
    right = {place: mean_hits(members) for place, members in groups.items()}
    cells = {place: GridCell(tuple(members), bootstrap(right[place])) for place, members in groups.items()}
    tested: dict[Place, tuple[Difference, float]] = {}
    for place, cell in cells.items():
        control = next((p for p, other in cells.items() if other.random and other.encoder == cell.encoder), None)
        if not cell.random and control is not None:
            tested[place] = mean_difference(right[place], right[control]), cells[control].score.value
    adjusted = holm([difference.p_value for difference, _ in tested.values()])
    for (place, (difference, control_score)), p in zip(tested.items(), adjusted, strict=True):
        cells[place] = GridCell(cells[place].rows, cells[place].score, difference, p, control_score)
    return cells


def mean_hits(rows: Sequence[ScoredRow]) -> np.ndarray:
    """Return the share of seeds that classify each clip correctly, clips in the order of their ids: `[N]`."""
    return np.mean([hits(row.predictions.sorted(), 1) for row in rows if row.predictions is not None], axis=0)


def mean_difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Paired difference of two means over seeds; rounded, so that equal thirds are equal and few levels are drawn."""
    return paired_bootstrap(np.round(a - b, 12), np.zeros_like(a))


@dataclass(frozen=True)
class CellDifference:
    """One cell minus another, paired over clips; `adjusted` is its Holm-adjusted p-value."""

    place: Place
    other: Place
    difference: Difference
    adjusted: float

    @property
    def mark(self) -> str:
        """An arrow for a difference that stands, else nothing."""
        return "" if self.adjusted >= ALPHA else BETTER if self.difference.value > 0 else WORSE


def cell_differences(cells: GridCells) -> list[CellDifference]:
    """Compare pre-trained cells that share the method or the regime, best first; Holm over all of them."""
    places = sorted((p for p in cells if not cells[p].random), key=lambda p: -cells[p].score.value)
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :] if (a[0] == b[0]) != (a[1] == b[1])]
    right = {place: mean_hits(cells[place].rows) for place in places}
    differences = [mean_difference(right[a], right[b]) for a, b in pairs]
    adjusted = holm([d.p_value for d in differences])
    return [CellDifference(a, b, d, p) for (a, b), d, p in zip(pairs, differences, adjusted, strict=True)]


def regime_order(regimes: Sequence[str]) -> list[str]:
    """Regimes in the order of their columns."""
    known = [regime for regime in _ORDER if regime in regimes]
    return known + [regime for regime in dict.fromkeys(regimes) if regime not in known]


def regime_series(regimes: Sequence[str]) -> dict[str, Series]:
    """A colour for each regime; scratch is grey."""
    trained = [regime for regime in regime_order(regimes) if regime != SCRATCH]
    return {regime: None if regime == SCRATCH else trained.index(regime) for regime in regimes}


def cell_label(place: Place) -> str:
    """`maskfeat · generic → sign`."""
    method, regime = place
    return f"{method} · {text.regime_name(regime)}"


@dataclass(frozen=True)
class GridLine:
    """One line of a grid: a method, or an encoder that no method was pre-trained on; regime -> cell."""

    name: str
    encoder: str
    series: Series
    cells: dict[str, GridCell]


def grid_lines(cells: GridCells) -> list[GridLine]:
    """Methods, best first, each with its encoder's random initialisation under scratch."""
    starts = {cell.encoder: cell for cell in cells.values() if cell.random}
    methods = list(dict.fromkeys(method for (method, _), cell in cells.items() if not cell.random))
    lines = []
    for method in methods:
        mine = {regime: cell for (m, regime), cell in cells.items() if m == method}
        first = next(iter(mine.values()))
        start = {SCRATCH: starts[first.encoder]} if first.encoder in starts else {}
        lines.append(GridLine(method, first.encoder, first.rows[0].series, start | mine))
    lines.sort(key=lambda line: max(c.score.value for c in line.cells.values() if not c.random), reverse=True)
    used = {line.encoder for line in lines}
    for (method, _), cell in cells.items():
        if cell.random and cell.encoder not in used:
            lines.append(GridLine(method, cell.encoder, cell.rows[0].series, {SCRATCH: cell}))
    return lines
