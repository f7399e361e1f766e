"""Reports on run folders, rendered as one page; neither videos nor weights nor a GPU are needed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from islr.errors import UserError
from islr.files import write_atomic
from islr.reporting.document.blocks import Gallery, Picture, Report, ReportTable, Section
from islr.reporting.document.render import RENDERERS
from islr.reporting.findings.collected import Findings
from islr.reporting.gather import Gathered, scan
from islr.reporting.records_csv import compact_csv, records_csv
from islr.reporting.sections import corpora, curves, environment, grid, lineage, pictures, provenance, summary
from islr.reporting.sections.guide import GLOSSARY
from islr.reporting.sections.probing import analyses, heat_map
from islr.reporting.sections.recognition import accuracy, calibration, confusions, signers, trained_signers

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
        frames: Show frames of clips. Without them no signer can be recognised on the page.

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
        content = records_csv(gathered)
    else:
        report = compose(gathered, title) if frames else without_frames(compose(gathered, title))
        if not out.suffix:
            return _tables(report, out)
        content = RENDERERS[out.suffix.lower()](report)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, content)
    return out


def _tables(report: Report, out: Path) -> Path:
    """Write every table, and the records, as CSV files in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {b.name: b.csv() for section in report.sections for b in section.blocks if isinstance(b, ReportTable)}
    for name, content in (tables | report.downloads).items():
        write_atomic(out / f"{name}.csv", content)
    return out


def without_frames(report: Report) -> Report:
    """Return a report without pictures of clips, and without sections that this leaves empty."""
    sections = []
    for section in report.sections:
        blocks = tuple(block for block in section.blocks if not isinstance(block, Picture | Gallery))
        if blocks or not section.blocks:
            sections.append(replace(section, blocks=blocks))
    return replace(report, sections=tuple(sections))


def compose(gathered: Gathered, title: str) -> Report:
    """Return everything a report says, before any format."""
    findings = Findings.of(gathered)
    made: list[Section | None] = [
        grid.section(findings.recognition, findings.probed),
        lineage.section(gathered, findings.sets, findings.colours),
        accuracy.section(findings.sets, findings.notices),
        signers.section(findings.sets),
        trained_signers.section(findings.sets),
        calibration.section(findings.sets),
        confusions.section(gathered, findings.sets),
        *heat_map.sections(findings.probed),
        *analyses.sections(gathered, findings.colours),
        curves.section(gathered, findings.colours),
        corpora.samples(gathered),
        pictures.section(gathered),
        corpora.audit(gathered),
        provenance.section(gathered),
        environment.section(gathered),
        environment.unfinished(gathered),
        Section("words", "Glossary", (GLOSSARY,)),
    ]
    finished = sum(not run.problem for run in gathered.runs)
    names = ", ".join(dict.fromkeys(corpus.name for corpus in gathered.corpora))
    subtitle = f"{finished} finished run{'s' if finished != 1 else ''}{f' on {names}' if names else ''}"
    return Report(
        title,
        subtitle,
        summary.headlines(findings),
        summary.facts(findings),
        tuple(section for section in made if section is not None),
        compact_csv(gathered),
    )
