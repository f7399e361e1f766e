"""A composed report as a page, as markdown, or as LaTeX tables."""

import base64
import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import resources
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from islr.reporting.document import figures
from islr.reporting.document.blocks import (
    Column,
    Gallery,
    Lineage,
    Notice,
    Prose,
    Report,
    ReportTable,
    TableCell,
    number_column,
)

HEAT_STEPS = 10  # shades of the heat scale in style.css, h0 .. h10
_LONG = 400_000  # characters of a CSV; beyond, a page holds it compressed
MOST_ROWS = 300  # of a table on the page; its CSV has all


def html(report: Report) -> str:
    """One self-contained page: styles, drawings, pictures and downloads are inside the file."""
    return _template().render(report=report, most_rows=MOST_ROWS)


@cache
def _template() -> jinja2.Template:
    folder = resources.files("islr.reporting") / "templates"
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "style.css")}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__.lower(),
        "svg": Markup,
        "key": lambda series: Markup(figures.key(series)),
        "webp": lambda data: "data:image/webp;base64," + base64.b64encode(data).decode(),
        "download": download,
        "colour": figures.colour,
        "breakable": lambda words: Markup(str(escape(words)).replace("_", "_<wbr>")),
        "unbroken": lambda words: words.replace(" %", "\N{NO-BREAK SPACE}%").replace("% CI", "%\N{NO-BREAK SPACE}CI"),
        "heat": lambda shade: f"h{round(shade * HEAT_STEPS)}",
    }
    return environment.get_template("page.html")


def download(name: str, content: str) -> Markup:
    """The attributes of a link that saves CSV text as a file; a long one is compressed, and named so."""
    if len(content) > _LONG:
        packed = base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode()
        return Markup(f'download="{escape(name)}.csv.gz" href="data:application/gzip;base64,{packed}"')
    return Markup(f'download="{escape(name)}.csv" href="data:text/csv;charset=utf-8,{quote(content)}"')


def markdown(report: Report) -> str:
    """The prose and the open tables; charts, pictures and what is folded on the page are left to the page."""
    lines = [f"# {report.title}", "", report.subtitle, ""]
    for sentence in report.headlines:
        lines += [f"**{_md(sentence)}**", ""]
    for section in report.sections:
        body: list[str] = []
        for block in section.blocks:
            body += _markdown_block(block)
        folded = [b.caption for b in section.blocks if isinstance(b, ReportTable) and b.folded]
        if folded:
            body += [f"*In the HTML report and as CSV: {_md('; '.join(folded))}.*", ""]
        if any(line and not line.startswith("#") for line in body):  # a section of charts alone is the page's
            lines += [f"## {section.title}", "", *([_md(section.lead), ""] if section.lead else []), *body]
    page = re.sub(r"^### .*\n+(?=#|\Z)", "", "\n".join(lines), flags=re.MULTILINE)  # headings of charts alone
    return re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n"


def _markdown_block(block: object) -> list[str]:
    if isinstance(block, ReportTable):
        return [] if block.folded else _markdown_table(block)
    if isinstance(block, Notice):
        return [f"> {'**Warning.** ' if block.level == 'warning' else ''}{_md(block.text)}", ""]
    if isinstance(block, Prose):
        lines = [f"### {_md(block.heading)}", ""] if block.heading else []
        for paragraph in block.paragraphs:
            lines += [_md(paragraph), ""]
        lines += [f"- **{_md(term)}** {_md(words)}" for term, words in block.items]
        return [*lines, ""]
    if isinstance(block, Gallery):
        return [*(f"- **{_md(title)}**: {_md(words)}" for title, words, _ in block.cards), ""]
    if isinstance(block, Lineage):
        if block.folded:
            return [f"*In the HTML report: {_md(block.folded[:1].lower() + block.folded[1:])}.*", ""]
        lines = []
        for row, _, steps in block.rows:
            path = " → ".join(f"{kind}: {what}{f' ({detail})' if detail else ''}" for kind, what, detail in steps)
            lines.append(f"- **{_md(row)}**: {_md(path)}")
        return [*lines, ""]
    return []


def _md(words: str) -> str:
    return re.sub(r"([|*_`<>\[\]\\])", r"\\\1", words)


def _turned(table: ReportTable) -> ReportTable:
    """A heat map with more columns than rows, its rows as columns: what is narrow fits a page of text."""
    if table.style != "heat" or len(table.columns) <= len(table.rows) + 1:
        return table
    columns = (Column(""), *(number_column(row[0].text) for row in table.rows))
    rows = tuple(
        (TableCell(column.name), *(row[i] for row in table.rows)) for i, column in enumerate(table.columns) if i > 0
    )
    return replace(table, columns=columns, rows=rows)


def _markdown_table(table: ReportTable) -> list[str]:
    table = _turned(table)
    heads = "| " + " | ".join(_md(column.name) for column in table.columns) + " |"
    rule = "|" + "|".join(" ---: " if column.numeric else " --- " for column in table.columns) + "|"
    rows = ["| " + " | ".join(_md_cell(cell) for cell in row) + " |" for row in table.rows]
    return [f"**{_md(table.caption)}**", "", heads, rule, *rows, "", _md(table.note), ""]


def _md_cell(cell: TableCell) -> str:
    words = cell.text + (f" {cell.mark}" if cell.mark else "") + (f" ({cell.bounds})" if cell.bounds else "")
    return _md(words)


def latex(report: Report) -> str:
    """The tables of results as booktabs tables, for \\input in a paper; provenance stays in the other
    forms."""
    tables = [section for section in report.sections if section.anchor in ("grid", "accuracy", "probes")]
    parts = [f"% {_tex_comment(report.title)}", "% needs \\usepackage{booktabs,graphicx,amssymb}"]
    parts += [f"% {_tex_comment(sentence)}" for sentence in report.headlines]
    for section in tables:
        parts += [_latex_table(b) for b in section.blocks if isinstance(b, ReportTable) and not b.folded]
    return "\n".join(parts) + "\n"


def _tex_comment(words: str) -> str:
    return words.replace("\n", " ")


_TEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "\N{MINUS SIGN}": "$-$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "△": r"$\vartriangle$",
    "▽": r"$\triangledown$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "<": r"$<$",
    ">": r"$>$",
}


def _tex(words: str) -> str:
    return "".join(_TEX.get(character, character) for character in words)


def _latex_table(table: ReportTable) -> str:
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    rows = [" & ".join(_tex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.caption)}. {_tex(table.note)}}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            " & ".join(_tex_heading(column, table) for column in table.columns) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _tex_heading(column: Column, table: ReportTable) -> str:
    upright = table.style == "heat" and column.numeric
    return rf"\rotatebox{{90}}{{{_tex(column.name)}}}" if upright else _tex(column.name)


def _tex_cell(cell: TableCell) -> str:
    words = _tex(cell.text) + (rf"\,{_tex(cell.mark)}" if cell.mark else "")
    return words + (rf" {{\scriptsize [{_tex(cell.bounds)}]}}" if cell.bounds else "")


RENDERERS: dict[str, Callable[[Report], str]] = {".html": html, ".md": markdown, ".tex": latex}
