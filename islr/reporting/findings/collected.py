"""Everything that a report shows in numbers, computed once from the run folders."""

from dataclasses import dataclass

from islr.reporting.document.blocks import Notice
from islr.reporting.findings.grid import GridCells, comparable_rows, grid_cells
from islr.reporting.findings.leads import Lead, ProbeLead, lead_of, probe_lead
from islr.reporting.findings.probe_standings import ProbeSet, probe_sets
from islr.reporting.findings.standings import Palette, ScoredRow, ScoredSet, palette, scored_sets
from islr.reporting.gather import Gathered


@dataclass(frozen=True)
class RecognitionFinding:
    """One test set: its scored rows, the cells of a grid among them, and the lead.

    Attributes:
        scored: The rows.
        cells: The grid; empty where no row is part of one.
        left_out: Rows of a grid that were scored on other clips than most of them.
        lead: The pre-trained model that gained most; None where none was scored.
    """

    scored: ScoredSet
    cells: GridCells
    left_out: tuple[ScoredRow, ...]
    lead: Lead | None


@dataclass(frozen=True)
class ProbeFinding:
    """Probe scores on one corpus, and the encoder that gained most; None where none was scored on unseen signs."""

    probed: ProbeSet
    lead: ProbeLead | None


@dataclass(frozen=True)
class Findings:
    """All findings of a report; `notices` name predictions that could not be read."""

    gathered: Gathered
    colours: Palette
    recognition: tuple[RecognitionFinding, ...]
    probing: tuple[ProbeFinding, ...]
    notices: tuple[Notice, ...]

    @classmethod
    def of(cls, gathered: Gathered) -> "Findings":
        """Compute the findings of all gathered runs."""
        colours = palette(gathered)
        sets, notices = scored_sets(gathered, colours)
        probing = tuple(ProbeFinding(one, probe_lead(one)) for one in probe_sets(gathered, colours))
        return cls(gathered, colours, tuple(map(_recognition, sets)), probing, notices)

    @property
    def sets(self) -> tuple[ScoredSet, ...]:
        """The scored rows of each test set."""
        return tuple(found.scored for found in self.recognition)

    @property
    def probed(self) -> tuple[ProbeSet, ...]:
        """The probe scores on each corpus."""
        return tuple(found.probed for found in self.probing)


def _recognition(scored: ScoredSet) -> RecognitionFinding:
    rows, left_out = comparable_rows(scored)
    cells = grid_cells(rows)
    return RecognitionFinding(scored, cells, tuple(left_out), lead_of(scored, cells))
