"""Reports: run folders in, one page out, with no videos, no weights and no GPU."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from islr.errors import UserError
from islr.files import write_atomic
from islr.reporting import probe_standings, standings
from islr.reporting.document.blocks import Gallery, Picture, Report, Section, Table
from islr.reporting.document.render import RENDERERS
from islr.reporting.gather import Gathered, scan
from islr.reporting.sections import (
    accuracy,
    confusions,
    corpora,
    curves,
    grid,
    lineage,
    probe_analyses,
    probes,
    provenance,
    summary,
)
from islr.reporting.sections.guide import GLOSSARY

__all__ = ["build_report"]

TITLE = "Isolated sign recognition: which pre-training helps?"


def build_report(runs: Sequence[Path], out: Path, title: str = TITLE, frames: bool = True) -> Path:
    """Render run folders as one report.

    Args:
        runs: Run folders, corpus folders, or folders that hold them at any depth.
        out: File to write; its suffix chooses the form: `.html` (one self-contained page), `.md`, `.tex`
            (tables for a paper), or `.csv` (every record with its whole provenance); a name without a suffix is
            a folder, with every table of the report as a CSV file.
        title: Heading of the report.
        frames: Show frames of clips; without, nobody can be recognised on the page.

    Returns:
        The path written.

    Raises:
        UserError: A folder does not exist, nothing was found in the folders, or the suffix is not known.
    """
    runs, out = [Path(run) for run in runs], Path(out)
    if out.suffix.lower() not in (*RENDERERS, ".csv", ""):
        raise UserError(f"{out}: a report ends in {', '.join(RENDERERS)} or .csv, or is a folder for all tables")
    if not out.suffix and out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; without a suffix --out names a folder for all tables")
    gathered = scan(runs)
    if out.suffix.lower() == ".csv":
        content = provenance.records_csv(gathered)
    else:
        report = compose(gathered, title) if frames else without_frames(compose(gathered, title))
        if not out.suffix:
            return _tables(report, out)
        content = RENDERERS[out.suffix.lower()](report)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, content)
    return out


def _tables(report: Report, out: Path) -> Path:
    """Every table, and the records, as CSV files in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {b.name: b.csv() for section in report.sections for b in section.blocks if isinstance(b, Table)}
    for name, content in (tables | report.downloads).items():
        write_atomic(out / f"{name}.csv", content)
    return out


def without_frames(report: Report) -> Report:
    """A report without pictures of clips; sections that are left empty go."""
    kept = []
    for section in report.sections:
        blocks = tuple(block for block in section.blocks if not isinstance(block, Picture | Gallery))
        if blocks or not section.blocks:
            kept.append(replace(section, blocks=blocks))
    return replace(report, sections=tuple(kept))


def compose(gathered: Gathered, title: str) -> Report:
    """Everything a report says, before any format."""
    colours = standings.palette(gathered)
    sets, notices = standings.scored_sets(gathered, colours)
    probed = probe_standings.probe_sets(gathered, colours)
    made: list[Section | None] = [
        grid.section(sets, probed),
        lineage.lineage(gathered, sets, colours),
        *accuracy.sections(sets, notices),
        confusions.section(gathered, sets),
        *probes.sections(probed),
        *probe_analyses.sections(gathered, colours),
        curves.section(gathered, colours),
        corpora.samples(gathered),
        lineage.pictures(gathered),
        corpora.audit(gathered),
        provenance.provenance(gathered),
        provenance.environment(gathered),
        provenance.unfinished(gathered),
        Section("words", "Words used", (GLOSSARY,)),
    ]
    finished = sum(not run.problem for run in gathered.runs)
    names = ", ".join(dict.fromkeys(corpus.name for corpus in gathered.corpora))
    subtitle = f"{finished} finished run{'s' if finished != 1 else ''}{f' on {names}' if names else ''}"
    return Report(
        title,
        subtitle,
        summary.headlines(gathered, sets, probed),
        summary.facts(gathered, sets, probed),
        tuple(section for section in made if section is not None),
        provenance.compact_csv(gathered),
    )
