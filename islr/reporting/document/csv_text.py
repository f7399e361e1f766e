"""Tables as CSV that people open in spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV.

    Text that a spreadsheet would run as a formula (names of classes, signers and runs come from files) gets an
    apostrophe in front, which makes it text there.
    """
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
