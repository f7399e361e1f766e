"""Tables of published lists, csv and tsv as people save them: every line is a row or has a reason why it is none."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from islr.errors import UserError

Cells = list[str]
_DELIMITERS = ("\t", ",", ";", "|")


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file, whichever way they end; empty ones stay, so that an index is a line's number.

    Bytes that are not UTF-8 become lone surrogates, and a carriage return inside a line becomes a vertical tab: a row
    that holds one in a column that matters is refused, and the other rows stay what they are.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    try:
        text = data.decode("utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    text = (text or data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")).replace("\r\n", "\n")
    text = text.replace("\r", "\v" if "\n" in text else "\n")
    return text.removesuffix("\n").split("\n")


def read_table(path: str | Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield each row of a csv or tsv as (its line, its stripped cells by column, or why it is no row).

    Rows without any content are left out. How quotes are meant is decided by what gives most rows the header's number
    of cells: published tsv files have plain quotes in their texts, spreadsheets quote cells.

    Raises:
        UserError: A required column is missing or occurs twice, or there is no row.
    """
    lines = read_lines(path)
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    header, delimiter = _header(lines[first], required, path)
    body = lines[first + 1 :]
    readings = [_quoted(body, delimiter), _each_line(body, delimiter), _plain(body, delimiter)]
    if delimiter == "\t":
        readings.reverse()
    rows = max(readings, key=lambda rows: sum(len(cells) == len(header) for _, cells in rows))
    empty = True
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        empty = False
        line = first + 1 + number
        known = dict(zip(header, cells, strict=False))
        if any(cell.strip() for cell in cells[len(header) :]):
            yield line, f"has {len(cells)} cells, the header {len(header)}"
        elif any(column not in known for column in required):
            yield line, "has too few cells"
        else:
            yield line, {column: cell.strip(" \t") for column, cell in known.items()}
    if empty:
        raise UserError(f"{path}: lists no clips")


def _header(line: str, required: Sequence[str], path: str | Path) -> tuple[Cells, str]:
    """Return the columns and the delimiter, which is the one that gives most of the required columns."""
    headers = {delimiter: [cell.strip() for cell in _cells(line, delimiter)] for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda d: (sum(column in headers[d] for column in required), len(headers[d])))
    header = headers[delimiter]
    for column in required:
        if column not in header:
            raise UserError(f"{path}: no column '{column}'; needed are {', '.join(required)}")
        if header.count(column) > 1:
            raise UserError(f"{path}: column '{column}' occurs twice")
    return header, delimiter


def _cells(line: str, delimiter: str) -> Cells:
    return next(_parse([line], delimiter), (0, [""]))[1]


def _parse(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, Cells]]:
    """Yield (number of its last line, cells) of each row up to the first that csv cannot hold."""
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error:  # a cell beyond csv's limit
        return


def _quoted(lines: Sequence[str], delimiter: str) -> list[tuple[int, Cells]]:
    return list(_parse(lines, delimiter))


def _each_line(lines: Sequence[str], delimiter: str) -> list[tuple[int, Cells]]:
    """Read each line alone, so that a quote without an end spoils no other line."""
    rows = [(n, next(_parse([line], delimiter), (0, [""]))[1]) for n, line in enumerate(lines, start=1)]
    return [(n, [cell.removesuffix("\n") for cell in cells]) for n, cells in rows]


def _plain(lines: Sequence[str], delimiter: str) -> list[tuple[int, Cells]]:
    """Split at every delimiter; only a cell that is quoted as a whole loses its quotes."""
    return [(n, [_unquoted(cell) for cell in line.split(delimiter)]) for n, line in enumerate(lines, start=1)]


def _unquoted(cell: str) -> str:
    whole = cell.strip()
    return whole[1:-1].replace('""', '"') if len(whole) > 1 and whole[0] == whole[-1] == '"' else cell
