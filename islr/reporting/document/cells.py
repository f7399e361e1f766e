"""Cells made of result records: what is read, what the CSV holds, and the tooltip."""

from islr.evaluation.results import Result
from islr.reporting.document import text
from islr.reporting.document.blocks import ABSENT, TableCell


def result_cell(record: Result | None, mark: str = "", link: str = "") -> TableCell:
    """A number in percent with its interval, tooltip and, in the CSV, its bounds."""
    if record is None:
        return ABSENT
    bounds = text.interval(record.ci_low, record.ci_high)
    return TableCell(
        text.percent(record.value),
        record.value,
        record.ci_low,
        record.ci_high,
        bounds,
        text.explain(record),
        mark,
        link,
    )


def plain_cell(record: Result | None) -> TableCell:
    """A number that is no share, with its bounds."""
    if record is None:
        return ABSENT
    bounds = ""
    if record.ci_low is not None and record.ci_high is not None:
        bounds = f"{record.ci_low:.3f}–{record.ci_high:.3f}"
    title = record.ci_method
    return TableCell(f"{record.value:.3f}", record.value, record.ci_low, record.ci_high, bounds, title)


def hash_cell(words: str) -> TableCell:
    """Return words with their hashes shortened; the tooltip and the CSV hold them whole."""
    short = text.short_hash(words)
    return TableCell(short or "–", words, title=words if short != words else "")


def bounded_cell(record: Result, shown: str, mark: str = "") -> TableCell:
    """Return a number that may be negative, as `shown`, with its bounds to two decimals."""
    bounds = ""
    if record.ci_low is not None and record.ci_high is not None:
        bounds = f"{record.ci_low:.2f} to {record.ci_high:.2f}".replace("-", text.MINUS)
    value = shown.replace("-", text.MINUS)
    return TableCell(value, record.value, record.ci_low, record.ci_high, bounds, record.ci_method, mark)


def difference_cell(record: Result) -> TableCell:
    """Return a difference in percentage points with its sign and bounds."""
    bounds = text.interval(record.ci_low, record.ci_high, signed=True)
    shown = text.percent(record.value, True)
    return TableCell(shown, record.value, record.ci_low, record.ci_high, bounds, record.ci_method)


def p_cell(p: float) -> TableCell:
    """Return a p-value to three decimals."""
    return TableCell("< 0.001" if p < 0.001 else f"{p:.3f}", p)
