"""Charts as SVG without scripts, coloured by the page's CSS variables.

Coordinates are CSS pixels. A drawing is made for the width at which it is shown, so that its text keeps its size:
a bar chart is drawn once wide and once for a phone; line charts are panels that flow into columns.
Classes: `s0`..`s7` are the series colours, `sx` with `x0`..`x2` the greys of controls; see
templates/style.css.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from islr.evaluation.results import Result
from islr.reporting.document import text
from islr.reporting.document.blocks import Series

WIDE, NARROW = 1056, 368
PANEL_WIDTH, PANEL_HEIGHT = 336, 222
COLOURS = 8
GREYS = 3
_CHARACTER = 7.0  # mean advance of a 13 px system-font character
_MARKERS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Bar:
    """A bar: a fraction in 0..1 with its interval; `mark` follows the value."""

    label: str
    value: float
    low: float | None
    high: float | None
    series: Series
    title: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a panel; `band` holds the lower and upper bounds, `points` draws a marker at each value."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    series: Series
    band: tuple[Sequence[float], Sequence[float]] | None = None
    points: bool = False


@dataclass(frozen=True)
class Dot:
    """A point of a dot plot."""

    value: float
    low: float | None
    high: float | None
    series: Series
    title: str = ""
    hollow: bool = False


def record_dot(record: Result, label: str, series: Series, hollow: bool = False) -> Dot:
    """Return the point of a record, with its interval and a tooltip."""
    return Dot(record.value, record.ci_low, record.ci_high, series, f"{label}: {text.explain(record)}", hollow)


def ticks(low: float, high: float, about: int = 5, steps: Sequence[float] = (1, 2, 2.5, 5, 10)) -> list[float]:
    """Return about `about` round numbers inside low..high."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(about - 1, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = min((m * power for m in steps), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, percent: bool = False) -> str:
    """Format a tick: `80` (percent), `0.25`, `12k`, `1e-05`."""
    if percent:
        return f"{value * 100:g}".replace("-", "\N{MINUS SIGN}")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def colour(series: Series) -> str:
    """Return the CSS classes of a series: its colour, or a grey; greys differ in dashes and shade."""
    if series is None or series < 0:
        return f"sx x{(-1 - (series or -1)) % GREYS}"
    return f"s{series % COLOURS}"


class _Drawing:
    """An SVG drawing that collects its elements."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self.parts: list[str] = []

    def add(self, tag: str, css: str = "", title: str = "", **attributes: float | str) -> None:
        """Add an element; underscores in attribute names become hyphens; numbers are rounded to 0.1 px."""
        shown = "".join(
            f' {key.replace("_", "-")}="{escape(value) if isinstance(value, str) else format(value, ".1f")}"'
            for key, value in attributes.items()
        )
        inner = f"<title>{escape(title)}</title>" if title else ""
        css = f' class="{css}"' if css else ""
        self.parts.append(f"<{tag}{css}{shown}>{inner}</{tag}>")

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(self, x: float, y: float, words: str, css: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>')

    def marker(self, x: float, y: float, series: Series, title: str = "", hollow: bool = False, r: float = 4) -> None:
        """A point whose shape, not only its colour, tells the series."""
        css = f"mark {colour(series)}{' hollow' if hollow else ''}"
        index = -1 - (series or -1) if series is None or series < 0 else series
        shape = _MARKERS[index % len(_MARKERS)]
        if shape == "circle":
            self.add("circle", css, title, cx=x, cy=y, r=r)
            return
        shapes: dict[str, list[tuple[float, float]]] = {
            "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
            "diamond": [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
            "triangle": [(0, -1.25), (1.2, 0.95), (-1.2, 0.95)],
        }
        size = r * 0.92
        self.add(
            "polygon",
            css,
            title,
            points=" ".join(f"{x + a * size:.1f},{y + b * size:.1f}" for a, b in shapes[shape]),
        )

    def svg(self) -> str:
        """Return the drawing, which shrinks with its container and never grows beyond its own width."""
        return (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.label)}" style="max-width:{self.width:.0f}px">'
            f"{''.join(self.parts)}</svg>"
        )


def fit(label: str, pixels: float) -> str:
    """Shorten a text with an ellipsis to a width in pixels."""
    room = max(4, int(pixels / _CHARACTER))
    return label if len(label) <= room else label[: room - 1] + "…"


def _scale(low: float, high: float, start: float, end: float) -> tuple[float, float]:
    """Return slope and offset of the map from values to pixels."""
    slope = (end - start) / ((high - low) or 1.0)
    return slope, start - slope * low


def bars(rows: Sequence[Bar], label: str, reference: tuple[float, str] | None = None, narrow: bool = False) -> str:
    """Draw horizontal bars of fractions from 0 to 100 % with 95 % intervals and a dashed reference line."""
    width = NARROW if narrow else WIDE
    gutter = 0.0 if narrow else min(290.0, 14 + _CHARACTER * max((len(row.label) for row in rows), default=1))
    left, right = (2.0, width - 60.0) if narrow else (gutter + 8, width - 74.0)
    pitch, thick, top = (44, 16, 26) if narrow else (34, 18, 26)
    bottom = top + pitch * len(rows)
    drawing = _Drawing(width, bottom + 34, label)
    slope, offset = _scale(0, 1, left, right)
    for tick in ticks(0, 1, 6):
        x = slope * tick + offset
        drawing.line(x, top - 4, x, bottom, "grid")
        drawing.text(x, bottom + 17, tick_label(tick, percent=True) + (" %" if tick > 0.99 else ""), "tick", "middle")
    for i, row in enumerate(rows):
        y = top + pitch * i + (pitch - thick) / 2 + (8 if narrow else 0)
        css = f"bar {colour(row.series)}"
        drawing.add("rect", css, row.title, x=left, y=y, width=max(1.0, slope * row.value), height=thick, rx=2)
        if row.low is not None and row.high is not None:
            _whisker(drawing, slope * row.low + offset, slope * row.high + offset, y + thick / 2, 4.5)
        if narrow:
            drawing.text(left, y - 5, fit(row.label, width - 8), "label")
        else:
            drawing.text(left - 10, y + thick / 2 + 4, fit(row.label, gutter), "label", "end")
        drawing.text(right + 12, y + thick / 2 + 4.5, f"{row.value * 100:.1f}{row.mark}", "value")
    if reference is not None:
        x = slope * reference[0] + offset
        drawing.line(x, top - 8, x, bottom + 2, "reference")
        anchor = "start" if x < width / 2 else "end"
        drawing.text(x + (5 if anchor == "start" else -5), top - 10, reference[1], "tick", anchor)
    return drawing.svg()


def _whisker(drawing: _Drawing, x1: float, x2: float, y: float, cap: float, css: str = "whisker") -> None:
    drawing.line(x1, y, x2, y, css)
    drawing.line(x1, y - cap, x1, y + cap, css)
    drawing.line(x2, y - cap, x2, y + cap, css)


def dots(
    rows: Sequence[tuple[str, Sequence[Dot]]],
    label: str,
    reference: tuple[float, str] | None = None,
    narrow: bool = False,
    connect: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Draw a dot plot of fractions, a row for each label; `connect` joins its points; `span` is the axis range."""
    width = NARROW if narrow else WIDE
    gutter = 0.0 if narrow else min(290.0, 14 + _CHARACTER * max((len(name) for name, _ in rows), default=1))
    left, right = (8.0, width - 10.0) if narrow else (gutter + 12, width - 16.0)
    most = max((len(points) for _, points in rows), default=1)
    spread = 0 if connect else 9
    pitch = max(26.0, spread * (most - 1) + 20) + (16 if narrow else 0)
    top = 26.0
    bottom = top + pitch * len(rows)
    drawing = _Drawing(width, bottom + 34, label)
    slope, offset = _scale(*span, left, right)
    for tick in ticks(*span, 6):
        x = slope * tick + offset
        drawing.line(x, top - 4, x, bottom, "grid")
        anchor = "start" if x < left + 8 else "end" if x > right - 8 else "middle"
        drawing.text(x, bottom + 17, tick_label(tick, percent=True) + (" %" if tick > 0.99 else ""), "tick", anchor)
    if reference is not None and span[0] <= reference[0] <= span[1]:
        x = slope * reference[0] + offset
        drawing.line(x, top - 8, x, bottom + 2, "reference")
        drawing.text(x + 5, top - 10, reference[1], "tick")
    for i, (name, points) in enumerate(rows):
        centre = top + pitch * (i + 0.5) + (8 if narrow else 0)
        if i:
            drawing.line(0, top + pitch * i, width, top + pitch * i, "rule")
        if narrow:
            drawing.text(left - 6, top + pitch * i + 15, fit(name, width - 8), "label")
        else:
            drawing.text(left - 14, centre + 4, fit(name, gutter), "label", "end")
        if connect and len(points) > 1:
            xs = [slope * point.value + offset for point in points]
            drawing.line(min(xs), centre, max(xs), centre, "joint")
        for j, point in enumerate(points):
            y = centre + spread * (j - (len(points) - 1) / 2)
            if point.low is not None and point.high is not None and not connect:
                css = f"spread {colour(point.series)}"
                drawing.line(slope * point.low + offset, y, slope * point.high + offset, y, css)
            drawing.marker(slope * point.value + offset, y, point.series, point.title, point.hollow)
    return drawing.svg()


def key(series: Series) -> str:
    """Draw the marker of a series, for a legend."""
    drawing = _Drawing(12, 12, "")
    drawing.marker(6, 6, series)
    return f'<svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">{"".join(drawing.parts)}</svg>'


def zoom(values: Sequence[float]) -> tuple[float, float]:
    """Return the axis range of fractions: 0 to 1, or a narrower one around values that span at most half of it."""
    low, high = min(values), max(values)
    if high - low > 0.5:
        return 0.0, 1.0
    room = max(0.02, 0.1 * (high - low))
    return max(0.0, math.floor((low - room) * 20) / 20), min(1.0, math.ceil((high + room) * 20) / 20)


def lines(
    title: str,
    series: Sequence[Line],
    x_label: str,
    percent: bool = False,
    y_range: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    whole_x: bool = False,
) -> str:
    """Draw one panel of lines with its title, `PANEL_WIDTH` x `PANEL_HEIGHT` pixels."""
    drawing = _Drawing(PANEL_WIDTH, PANEL_HEIGHT, f"{title}: {', '.join(line.label for line in series)}")
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys]
    if y_range is None:
        spread = max(ys) - min(ys) or abs(max(ys)) or 1.0
        y_range = (min(ys) - 0.05 * spread, max(ys) + 0.05 * spread)
    left, right, top, bottom = 44.0, PANEL_WIDTH - 12.0, 34.0, PANEL_HEIGHT - 40.0
    if min(xs) < max(xs):
        slope_x, offset_x = _scale(min(xs), max(xs), left + 4, right - 4)
    else:
        slope_x, offset_x = 0.0, (left + right) / 2
    slope_y, offset_y = _scale(*y_range, bottom, top)
    drawing.text(0, 16, fit(title, PANEL_WIDTH * 0.98), "panel")
    for tick in ticks(*y_range, 5):
        y = slope_y * tick + offset_y
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 7, y + 4, tick_label(tick, percent), "tick", "end")
    ticks_x = ticks(min(xs), max(xs), 6, (1, 2, 5, 10))
    for tick in [t for t in ticks_x if not whole_x or t == round(t)]:
        drawing.text(slope_x * tick + offset_x, bottom + 17, tick_label(tick), "tick", "middle")
    drawing.text((left + right) / 2, bottom + 34, x_label, "tick", "middle")
    if reference is not None and y_range[0] <= reference[0] <= y_range[1]:
        y = slope_y * reference[0] + offset_y
        drawing.line(left, y, right, y, "reference")
        drawing.text(right, y - 4, reference[1], "tick", "end")
    for line in series:
        points = [(slope_x * x + offset_x, slope_y * y + offset_y) for x, y in zip(line.xs, line.ys, strict=True)]
        if line.band is not None:
            low = [(x, slope_y * y + offset_y) for (x, _), y in zip(points, line.band[0], strict=True)]
            high = [(x, slope_y * y + offset_y) for (x, _), y in zip(points, line.band[1], strict=True)]
            around = " ".join(f"{x:.1f},{y:.1f}" for x, y in low + high[::-1])
            drawing.add("polygon", f"band {colour(line.series)}", points=around)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawing.add("polyline", f"curve {colour(line.series)}", line.label, points=path)
        if line.points or len(points) == 1:
            for (x, y), value in zip(points, line.ys, strict=True):
                shown = f"{value * 100:.1f} %" if percent else f"{value:.4g}"
                drawing.marker(x, y, line.series, f"{line.label}: {shown}", r=3)
    return drawing.svg()


def thin(xs: Sequence[float], ys: Sequence[float], most: int = 120) -> tuple[list[float], list[float]]:
    """Return at most `most` points: means of equal runs of neighbours."""
    if len(xs) <= most:
        return list(xs), list(ys)
    size = math.ceil(len(xs) / most)
    cuts = range(0, len(xs), size)
    return [_mean(xs[i : i + size]) for i in cuts], [_mean(ys[i : i + size]) for i in cuts]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
