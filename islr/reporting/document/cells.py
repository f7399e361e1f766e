"""Cells made of result records: what is read, what the CSV holds, and the tooltip."""

from islr.evaluation.results import Result
from islr.reporting.document import text
from islr.reporting.document.blocks import Cell


def result_cell(record: Result | None, mark: str = "", link: str = "") -> Cell:
    """A number in percent with its interval, tooltip and, in the CSV, its bounds."""
    if record is None:
        return Cell("–", raw="")
    bounds = text.interval(record.ci_low, record.ci_high)
    return Cell(
        text.percent(record.value),
        record.value,
        record.ci_low,
        record.ci_high,
        bounds,
        text.explain(record),
        mark,
        link,
    )


def plain_cell(record: Result | None) -> Cell:
    """A number that is no share, with its bounds."""
    if record is None:
        return Cell("–", raw="")
    bounds = ""
    if record.ci_low is not None and record.ci_high is not None:
        bounds = f"{record.ci_low:.3f}–{record.ci_high:.3f}"
    title = record.ci_method
    return Cell(f"{record.value:.3f}", record.value, record.ci_low, record.ci_high, bounds, title)
