"""The parts of a report, before any format: sections of prose, notices, tables, charts and pictures.

The sections are built once; `html`, `markdown`, `latex` and `csv` renderers each show what their format can.
"""

from dataclasses import dataclass
from typing import Literal

from islr.reporting.document.csv_text import csv_text

_BROAD = 9  # columns

Series = int | None  # index of a colour in the palette; None, -1, -2, ... are the greys of controls


@dataclass(frozen=True)
class TableCell:
    """One cell of a table.

    Attributes:
        text: What is read.
        raw: What the CSV holds; `text` when None.
        low: Lower bound of the interval in the unit of `raw`, for columns with intervals.
        high: Upper bound.
        bounds: The interval as read.
        title: Tooltip.
        mark: Sign after the value, such as an arrow.
        link: Anchor in the page that the text leads to.
        anchor: Anchor that this cell carries.
        series: Colour chip before the text.
        chip: Whether the chip is shown.
        shade: Position on the heat scale, 0..1, or None for no colour.
        muted: Quiet ink, for controls.
    """

    text: str
    raw: str | float | None = None
    low: float | None = None
    high: float | None = None
    bounds: str = ""
    title: str = ""
    mark: str = ""
    link: str = ""
    anchor: str = ""
    series: Series = None
    chip: bool = False
    shade: float | None = None
    muted: bool = False


ABSENT = TableCell("–", raw="")  # a number that was not measured


@dataclass(frozen=True)
class Column:
    """A column; `interval` columns become three in the CSV (value, low, high)."""

    name: str
    numeric: bool = False
    interval: bool = False
    title: str = ""


def number_column(name: str, title: str = "") -> Column:
    """Return a column of numbers."""
    return Column(name, numeric=True, title=title)


def interval_column(name: str, title: str = "") -> Column:
    """Return a column of numbers with their intervals."""
    return Column(name, numeric=True, interval=True, title=title)


@dataclass(frozen=True)
class ReportTable:
    """A table that every format shows and that can be downloaded as CSV.

    `style` "heat" turns the headings upright and shades the cells, "grid" puts intervals below their numbers;
    `folded` hides it behind its caption on the page and leaves it out of markdown; `scale` names the two ends of the
    heat scale.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    note: str = ""
    style: Literal["plain", "heat", "grid"] = "plain"
    folded: bool = False
    scale: tuple[str, str] | None = None

    @property
    def broad(self) -> bool:
        """Whether it may need more width than a page has."""
        return len(self.columns) > _BROAD

    def csv(self) -> str:
        """The table as CSV, numbers unrounded; what the page shows in % and points are fractions and called so."""
        lines: list[list[object]] = [[]]
        for column in self.columns:
            name = column.name.replace(", %", " %").replace(", points", " %").replace(" %", ", fraction")
            lines[0] += [name, f"{name} low", f"{name} high"] if column.interval else [name]
        for row in self.rows:
            values: list[object] = []
            for column, cell in zip(self.columns, row, strict=True):
                values.append(cell.text if cell.raw is None else cell.raw)
                if column.interval:
                    values += ["" if bound is None else bound for bound in (cell.low, cell.high)]
            lines.append(values)
        return csv_text(lines)


@dataclass(frozen=True)
class Chart:
    """SVG drawings under one caption; `narrow` ones replace `wide` ones on a phone (empty = the same).

    `legend` holds (label, series) pairs, shown as points where `marks` is set, else as lines; several drawings flow as
    a grid of panels; `folded` is the line behind which they are hidden on the page.
    """

    caption: str
    wide: tuple[str, ...]
    narrow: tuple[str, ...] = ()
    legend: tuple[tuple[str, Series], ...] = ()
    folded: str = ""
    marks: bool = False


@dataclass(frozen=True)
class Picture:
    """WebP images in rows, each row with its label (empty for none); `about` is whose pictures they are; `folded` as in
    `Chart`; `half` puts two beside each other where there is room."""

    caption: str
    rows: tuple[tuple[str, bytes], ...]
    pixelated: bool = False
    about: str = ""
    folded: str = ""
    half: bool = False


@dataclass(frozen=True)
class Tile:
    """Frames of one clip side by side as one WebP image, under its label; `why` it is empty where it is."""

    label: str
    picture: bytes
    why: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards of clips: (title, description, tiles)."""

    caption: str
    cards: tuple[tuple[str, str, tuple[Tile, ...]], ...]


@dataclass(frozen=True)
class Prose:
    """Paragraphs of plain text; `heading` makes a small heading before them; `items` are bullet points
    after."""

    paragraphs: tuple[str, ...] = ()
    heading: str = ""
    items: tuple[tuple[str, str], ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Notice:
    """One line that the reader must not miss."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Lineage:
    """Where each row comes from: (row, series, steps); a step is (kind, text, detail); `folded` as in `Chart`."""

    rows: tuple[tuple[str, Series, tuple[tuple[str, str, str], ...]], ...]
    folded: str = ""


Block = ReportTable | Chart | Picture | Gallery | Prose | Notice | Lineage


@dataclass(frozen=True)
class Section:
    """One headed part of the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True)
class Fact:
    """A number worth a place at the top."""

    value: str
    unit: str
    label: str


@dataclass(frozen=True)
class Report:
    """Everything that is rendered; `downloads` maps names of files, without .csv, to their content."""

    title: str
    subtitle: str
    headlines: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    downloads: dict[str, str]
