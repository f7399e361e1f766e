"""The pre-trained models that gained most over the random initialisation of their own encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

from islr.evaluation.intervals import Difference, Interval
from islr.evaluation.results import Result
from islr.reporting.findings.grid import GridCells, cell_label
from islr.reporting.findings.probe_standings import HEADLINE, MAYBE_BETTER, MAYBE_WORSE, ProbeRow, ProbeSet
from islr.reporting.findings.standings import ALPHA, BETTER, WORSE, ScoredRow, ScoredSet, paired


@dataclass(frozen=True)
class Lead:
    """The pre-trained model, in a grid the cell, furthest above the random initialisation of its encoder.

    Attributes:
        label: Its name.
        encoder: Its architecture.
        score: Its top-1.
        versus: Paired difference to that random initialisation; None without one, for the reason `why`.
        adjusted: Holm-adjusted p-value of it.
        control: Top-1 of the random initialisation.
        models: Pre-trained models on this test set.
        compared: Those of them that could be compared with the random initialisation of their encoder.
        row: One of its rows.
        highest: The row of highest top-1, where it beats the lead and belongs to another encoder.
        ahead: Whether `highest` is ahead of the lead by more than chance explains; None where that is not known.
    """

    label: str
    encoder: str
    score: Interval
    versus: Difference | None
    adjusted: float
    control: float | None
    why: str
    models: int
    compared: int
    row: ScoredRow
    highest: ScoredRow | None
    ahead: bool | None

    @property
    def significant(self) -> bool:
        """Whether its difference to the random initialisation stands after Holm's correction."""
        return self.versus is not None and self.adjusted < ALPHA

    @property
    def gained(self) -> bool:
        """Whether it is above the random initialisation by more than chance explains."""
        return self.significant and self.versus is not None and self.versus.value > 0


def lead_of(found: ScoredSet, grid: GridCells) -> Lead | None:
    """Return the lead of a test set, of whole cells where it has a grid; None where no pre-trained model was scored."""
    cells = {place: cell for place, cell in grid.items() if not cell.random}
    return _cell_lead(found, cells) if len(cells) > 1 else _row_lead(found)


def _row_lead(scored: ScoredSet) -> Lead | None:
    row = scored.leader
    if row is None:
        return None
    versus = scored.of(row)
    highest, ahead = _highest(scored, row, row.top1.value)
    return Lead(
        label=row.label,
        encoder=row.provenance.encoder,
        score=interval_of(row.top1),
        versus=versus.difference if versus else None,
        adjusted=versus.adjusted if versus else 1.0,
        control=versus.control.top1.value if versus and versus.control else None,
        why=versus.why if versus else "no control",
        models=sum(not other.random and bool(other.provenance.encoder) for other in scored.rows),
        compared=sum(other.difference is not None for other in scored.versus),
        row=row,
        highest=highest,
        ahead=ahead,
    )


def _cell_lead(scored: ScoredSet, cells: GridCells) -> Lead:
    compared = {place: cell.versus.value for place, cell in cells.items() if cell.versus is not None}
    gains = compared or {place: cell.score.value for place, cell in cells.items()}
    place = max(gains, key=lambda p: gains[p])
    cell = cells[place]
    highest, ahead = _highest(scored, cell.rows[0], cell.score.value)
    why = f"no random-initialisation run of {cell.encoder}"
    return Lead(
        label=cell_label(place),
        encoder=cell.encoder,
        score=cell.score,
        versus=cell.versus,
        adjusted=cell.adjusted,
        control=cell.control,
        why=why,
        models=len(cells),
        compared=len(compared),
        row=cell.rows[0],
        highest=highest,
        ahead=ahead,
    )


def interval_of(record: Result) -> Interval:
    """Return the value of a record with its bounds."""
    return Interval(record.value, record.ci_low, record.ci_high, record.ci_method)


def _highest(scored: ScoredSet, lead: ScoredRow, score: float) -> tuple[ScoredRow | None, bool | None]:
    """Find the row of highest top-1, where it beats `score` with another encoder than the lead's."""
    highest = max(scored.ranked, key=lambda row: row.top1.value)
    encoder = highest.provenance.encoder
    if (encoder and encoder == lead.provenance.encoder) or highest.top1.value <= score:
        return None, None
    difference, _ = paired(highest, lead)
    return highest, None if difference is None else difference.p_value < ALPHA


@dataclass(frozen=True)
class ProbeLead:
    """The encoder whose frozen features gained most over its own random initialisation.

    Attributes:
        row: Its row.
        score: Its balanced accuracy on unseen signs, mean over features where one was recorded.
        control: The same of the random initialisation of its architecture; None without one.
        encoders: Pre-trained encoders.
        compared: Those of them whose random initialisation was probed too.
        better: Single features on which it is better, by the interval of the paired difference.
        stands: Those of them that stand after Holm's correction.
        worse: Single features on which it is worse.
    """

    row: ProbeRow
    score: Result | None
    control: Result | None
    encoders: int
    compared: int
    better: int
    stands: int
    worse: int


def probe_lead(found: ProbeSet) -> ProbeLead | None:
    """Return the lead of a probe set; None where no pre-trained encoder was scored on unseen signs.

    Encoders of different inputs (video, exact poses) start from different random features, so their scores alone would
    compare the inputs instead of the pre-training. They rank the encoders only where no random initialisation was
    probed.
    """
    if HEADLINE not in found.splits or not found.models:
        return None
    feature = found.mean or found.features[0]
    scores = [(row, found.get(row, feature, HEADLINE), _control(found, row, feature)) for row in found.models]
    compared = [(row, score, control) for row, score, control in scores if score and control]
    row, score, control = max(compared or scores, key=_gain)
    marks = [found.mark(row, single, HEADLINE) for single in found.singles]
    return ProbeLead(
        row=row,
        score=score,
        control=control,
        encoders=len(found.models),
        compared=len(compared),
        better=_count(marks, (BETTER, MAYBE_BETTER)),
        stands=_count(marks, (BETTER,)),
        worse=_count(marks, (WORSE, MAYBE_WORSE)),
    )


def _gain(scored: tuple[ProbeRow, Result | None, Result | None]) -> float:
    _, score, control = scored
    return (score.value if score else -1.0) - (control.value if control else 0.0)


def _control(probed: ProbeSet, row: ProbeRow, feature: str) -> Result | None:
    """Find the score of the random initialisation of a row's encoder."""
    own = next((other for other in probed.rows if other.random and other.key[1] == row.key[1]), None)
    return probed.get(own, feature, HEADLINE) if own else None


def _count(marks: Sequence[str], counted: Sequence[str]) -> int:
    return sum(mark in counted for mark in marks)
