"""Recognition: who is best on which test set, by how much, and for which signers."""

from collections.abc import Sequence

from islr.evaluation.intervals import holm
from islr.evaluation.results import Result
from islr.files import slug
from islr.reporting.document import figures, text
from islr.reporting.document.blocks import Block, Cell, Chart, Column, Notice, Prose, Section, Table
from islr.reporting.document.cells import result_cell
from islr.reporting.sections import breakdowns
from islr.reporting.standings import ALPHA, BETTER, MOST_ROWS, WORSE, Row, ScoredSet, paired

_SIGNERS_DRAWN = 16  # rows of the signer plot; the table has all of them
_MOST_SQUARED = 8  # models in the table of every pair; a grid compares cell with cell instead


def sections(sets: Sequence[ScoredSet], notices: Sequence[Notice]) -> list[Section]:
    """The accuracy, signer and calibration sections."""
    if not sets:
        nothing = Notice("No recognition result was found (a fine-tuning run leaves result.json when it is scored).")
        return [Section("accuracy", "Recognition accuracy", (nothing, *notices))]
    blocks: list[Block] = list(notices)
    for found in sets:
        blocks += _accuracy(found, headed=len(sets) > 1)
    lead = (
        "Each model names one sign for each test clip it has never seen. Top-1 is the share of clips "
        "whose first choice is right, top-5 the share whose true sign is among the first five."
    )
    made = [Section("accuracy", "Recognition accuracy", tuple(blocks), lead)]
    made += [section for section in (_signers(sets), *breakdowns.sections(sets)) if section is not None]
    return made


def _accuracy(found: ScoredSet, headed: bool) -> list[Block]:
    blocks: list[Block] = [Prose(heading=f"On {found.title}")] if headed else []
    p = found.provenance
    for present, expected in sorted({(r.provenance.clips_present, r.provenance.clips_expected) for r in found.rows}):
        if present < expected:
            blocks.append(
                Notice(
                    f"Incomplete test set: {text.count(present)} of {text.count(expected)} clips of "
                    f"{found.title} could be scored ({present / expected:.1%}). These numbers compare "
                    "only with numbers on exactly the same clips.",
                    "warning",
                )
            )
    if not any(row.random for row in found.rows):
        blocks.append(
            Notice(
                "No random-initialisation run was found for this test set. Without that control nobody "
                "can tell what pre-training contributed.",
                "warning",
            )
        )
    gridded = all(row.run.place for row in found.rows)
    if not gridded or len(found.rows) == 1:
        blocks.append(_bars(found))
    blocks.append(_table(found, folded=len(found.rows) > MOST_ROWS))
    blocks += breakdowns.per_class(found)
    blocks += _by_form(found)
    blocks += _differences(found, gridded)
    absent = found.rows[0].overall.get("classes_absent")
    if absent is not None and absent.value > 0:
        blocks.append(
            Notice(
                f"{text.count(absent.value)} of the classes have no clip in the {p.split} split; the "
                "per-class numbers average over the classes that have one."
            )
        )
    return blocks


def _bars(found: ScoredSet) -> Chart:
    chance = found.chance
    reference = None if chance is None else (chance, f"chance {text.percent(chance)} %")
    drawn = [
        figures.Bar(
            row.label,
            row.top1.value,
            row.top1.ci_low,
            row.top1.ci_high,
            row.series,
            f"{row.label}: {text.explain(row.top1)}",
            f" {versus.mark}" if (versus := found.of(row)) and versus.mark else "",
        )
        for row in found.ranked
    ]
    label = f"Top-1 accuracy on {found.title}"
    marks = (
        f" {BETTER} better / {WORSE} worse than the random initialisation of the same encoder "
        f"(Holm-adjusted p < {ALPHA})."
    )
    caption = (
        f"Top-1 accuracy on {found.title} in percent, n = {text.count(found.rows[0].top1.n)} clips; "
        "whiskers are 95 % confidence intervals; random initialisation is "
        f"grey.{marks if any(v.mark for v in found.versus) else ''}"
    )
    return Chart(
        caption,
        (figures.bars(drawn, label, reference),),
        (figures.bars(drawn, label, reference, narrow=True),),
    )


def _table(found: ScoredSet, folded: bool) -> Table:
    metrics = [m for m in ("top1", "top5", "top10") if any(m in row.overall for row in found.rows)]
    metrics += ["top1_per_class"] if any("top1_per_class" in row.overall for row in found.rows) else []
    columns = [Column("Model")]
    columns += [Column(f"{text.metric_name(m)}, %", numeric=True, interval=True) for m in metrics]
    columns += [Column("Clips", numeric=True), Column("Seed", numeric=True), Column("Encoder")]
    rows = []
    for row in found.ranked:
        p, versus = row.provenance, found.of(row)
        clips = text.count(p.clips_present)
        clips += f" / {text.count(p.clips_expected)}" if not p.complete else ""
        cells = [Cell(row.label, series=row.series, chip=True, link=row.run.anchor)]
        for metric in metrics:
            mark = versus.mark if versus and metric == "top1" else ""
            cells.append(result_cell(row.overall.get(metric), mark))
        cells.append(Cell(clips, raw=f"{p.clips_present}/{p.clips_expected}"))
        cells.append(Cell(str(p.seed), raw=p.seed) if p.encoder else Cell("–", raw=""))
        cells.append(Cell(p.encoder or "not stated"))
        rows.append(tuple(cells))
    methods = sorted({row.top1.ci_method for row in found.ranked if row.top1.ci_method})
    note = f"Intervals: {'; '.join(methods)}." if methods else "No intervals."
    if "top5" not in metrics and found.chance is not None and round(1 / found.chance) <= 5:
        note += " With five classes or fewer there is no top-5: it would be 100 % for any model."
    note += " Ties count against the model."
    name, title = f"accuracy-{slug(found.title)}", f"Accuracy on {found.title}"
    return Table(name, title, tuple(columns), tuple(rows), note, folded=folded)


def _by_form(found: ScoredSet) -> list[Block]:
    """What the same answers are worth when a word for the right sign form counts; only where the corpus has forms."""
    rows = [row for row in found.ranked if "revised_top1" in row.overall]
    if not rows:
        return []
    metrics = [f"{what}_top{k}" for k in (1, 5) for what in ("original", "same_form", "revised", "label_ceiling")]
    columns = [Column("Model"), *(Column(f"{text.metric_name(m)}, %", numeric=True, interval=True) for m in metrics)]
    cells = [
        (
            Cell(row.label, series=row.series, chip=True, link=row.run.anchor),
            *(result_cell(row.overall.get(metric)) for metric in metrics),
        )
        for row in rows
    ]
    note = (
        f"On the {text.count(rows[0].overall['revised_top1'].n)} test clips whose sign form is known. By label: the "
        "label itself is named. Same form: a word is named that was signed in this form in training. By form: each "
        "named word stands for its most frequent form. Ceiling: what a recogniser that knows every form, and no more, "
        "reaches by label."
    )
    return [Table(f"forms-{slug(found.title)}", f"By sign form on {found.title}", tuple(columns), tuple(cells), note)]


def _differences(found: ScoredSet, gridded: bool) -> list[Block]:
    if not found.versus:
        return []
    columns = (
        Column("Model"),
        Column("Against"),
        Column("Difference, points", numeric=True, interval=True),
        Column("p, Holm", numeric=True),
        Column("Reading"),
    )
    rows = []
    for versus in found.versus:
        model = Cell(versus.row.label, series=versus.row.series, chip=True)
        control = Cell(versus.control.label if versus.control else "–")
        d = versus.difference
        if d is None:
            rows.append((model, control, Cell("–", raw=""), Cell("–", raw=""), Cell(f"not compared: {versus.why}")))
            continue
        reading = ("better" if d.value > 0 else "worse") if versus.significant else "no difference shown"
        bounds = text.interval(d.low, d.high, signed=True)
        rows.append(
            (
                model,
                control,
                Cell(text.percent(d.value, True), d.value, d.low, d.high, bounds, d.method, versus.mark),
                Cell("< 0.001" if versus.adjusted < 0.001 else f"{versus.adjusted:.3f}", versus.adjusted),
                Cell(reading),
            )
        )
    tested = sum(versus.difference is not None for versus in found.versus)
    methods = {"signers" if "signers" in v.difference.method else "clips" for v in found.versus if v.difference}
    drawn = "" if methods == {"clips"} else ", drawing whole signers"
    note = (
        f"Paired bootstrap over the same clips{drawn}, in percentage points of top-1. The p-values are adjusted "
        f"by Holm for the {tested} comparison{'' if tested == 1 else 's'} of this table. They cover the "
        "choice of test clips, not the luck of one training run: only several seeds show that."
    )
    name = f"differences-{slug(found.title)}"
    title = "Each run against random initialisation" if gridded else "What pre-training adds to random initialisation"
    blocks: list[Block] = [Table(name, title, columns, tuple(rows), note, folded=gridded)]
    if 2 < len(found.rows) <= _MOST_SQUARED:
        blocks += _all_pairs(found)
    return blocks


def _all_pairs(found: ScoredSet) -> list[Block]:
    """Every row minus every column, for readers who ask about two recipes."""
    ranked = found.ranked
    pairs = [(i, j) for i in range(len(ranked)) for j in range(i + 1, len(ranked))]
    differences = {pair: paired(ranked[pair[0]], ranked[pair[1]])[0] for pair in pairs}
    known = [pair for pair in pairs if differences[pair] is not None]
    if not known:
        return []
    adjusted = dict(zip(known, holm([d.p_value for p in known if (d := differences[p]) is not None]), strict=True))
    rows = []
    for i, row in enumerate(ranked[:-1]):
        cells = [Cell(row.label, series=row.series, chip=True)]
        for j in range(1, len(ranked)):
            d = differences.get((i, j))
            if d is None:
                cells.append(Cell("" if j <= i else "–", raw=""))
                continue
            p = adjusted[i, j]
            mark = "" if p >= ALPHA else BETTER if d.value > 0 else WORSE
            title = f"{text.interval(d.low, d.high, True)} points, Holm-adjusted {text.p_value(p)}, n = {d.n}"
            cells.append(Cell(text.percent(d.value, True), d.value, title=title, mark=mark))
        rows.append(tuple(cells))
    columns = (Column("Row minus column"), *(Column(row.label, numeric=True) for row in ranked[1:]))
    note = f"Top-1 difference in points; marks: Holm over all {len(known)} pairs."
    return [Table(f"pairs-{slug(found.title)}", "Every pair of models", columns, tuple(rows), note, folded=True)]


def _members(row: Row, key: str) -> dict[str, Result]:
    return {r.group[key]: r for r in row.records if set(r.group) == {key} and r.metric == "top1"}


def _signers(sets: Sequence[ScoredSet]) -> Section | None:
    blocks: list[Block] = []
    for found in sets:
        for key in ("signer", "source"):
            by_row = [(row, _members(row, key)) for row in found.ranked]
            clips = {name: r.n for _, members in by_row for name, r in members.items()}
            if not clips:
                continue
            names = sorted(clips, key=lambda name: (-clips[name], name))
            drawn = names[:_SIGNERS_DRAWN]
            labels = {row.label for row in found.drawn}
            plotted = [(row, members) for row, members in by_row if row.label in labels]
            points = [
                (
                    f"{f'{key} {name}' if name.isdigit() else name} (n = {text.count(clips[name])})",
                    [
                        figures.Dot(
                            m[name].value,
                            m[name].ci_low,
                            m[name].ci_high,
                            row.series,
                            f"{row.label}: {text.explain(m[name])}",
                        )
                        for row, m in plotted
                        if name in m
                    ],
                )
                for name in drawn
            ]
            label = f"Top-1 for each {key} of {found.title}"
            more = (
                f" The {len(drawn)} with the most clips of {len(names)} are drawn." if len(drawn) < len(names) else ""
            )
            caption = (
                f"{label}, in percent with 95 % intervals over clips: a model that works for one {key} "
                f"only shows as a spread of its points.{more}"
            )
            if len(plotted) < len(by_row):
                caption += " Of each method the first seed of its best regime is drawn; the table has every run."
            legend = tuple((row.label, row.series) for row, m in plotted if m)
            wide, narrow = figures.dots(points, label), figures.dots(points, label, narrow=True)
            blocks.append(Chart(caption, (wide,), (narrow,), legend, marks=True))
            columns = (Column("Model"), *(Column(f"{n}, %", numeric=True, interval=True) for n in names))
            rows = tuple(
                (Cell(row.label, series=row.series, chip=True), *(result_cell(m.get(n)) for n in names))
                for row, m in by_row
                if m
            )
            table = Table(f"{key}s-{slug(found.title)}", f"Top-1 for each {key}", columns, rows, folded=True)
            blocks.append(table)
    return Section("signers", "Signer by signer", tuple(blocks)) if blocks else None
