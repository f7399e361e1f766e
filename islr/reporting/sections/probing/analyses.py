"""Further analyses of frozen features: one table for each, and a heat map of erased features.

`group["analysis"]` of a record names its analysis, `setting` the condition, `layer` the block. Columns of a table are
the measures in the order below, rows are encoders and controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from islr.evaluation.results import Result
from islr.files import slug
from islr.reporting.document import text
from islr.reporting.document.blocks import (
    ABSENT,
    Block,
    Column,
    Prose,
    ReportTable,
    Section,
    Series,
    TableCell,
    interval_column,
    number_column,
)
from islr.reporting.document.cells import bounded_cell, difference_cell, result_cell
from islr.reporting.findings.standings import Palette, is_random_name, series_of
from islr.reporting.gather import Gathered

DIFFERENCE = "_difference"
BETTER, WORSE = "△", "▽"  # no correction for many comparisons, hence hollow
ERASURE = "erasure"


@dataclass(frozen=True)
class AnalysisTable:
    """How an analysis is shown: its title, what it says, and (metric, heading, share of one) of each column."""

    title: str
    words: str
    columns: tuple[tuple[str, str, bool], ...]


_READ = (("balanced_accuracy", "Balanced accuracy, %", True), ("over_linear", "Minus linear probe, points", True))
ANALYSES = {
    "mdl": AnalysisTable(
        "Code length of the labels",
        "Bits needed to transmit the labels to a receiver who has the features, sign by sign; compression is the "
        "length "
        "of the uniform code divided by it. Where it exceeds the compression without features, the features help.",
        (
            ("compression", "Compression", False),
            ("compression_without_features", "Without features", False),
            ("codelength", "Bits", False),
        ),
    ),
    "knn": AnalysisTable(
        "Nearest neighbours", "Nothing is trained: the label of the most similar training clips.", _READ
    ),
    "few_shot": AnalysisTable(
        "Few labelled signs", "Nearest class mean from a few training signs of each class.", _READ
    ),
    "weighted_sum": AnalysisTable("Weighted sum of layers", "The probe learns a weight for each layer.", _READ),
    "attentive": AnalysisTable("Attentive probe", "A learned query attends to the tokens of one block.", _READ),
    "minimal_pairs": AnalysisTable(
        "Minimal pairs",
        "Signs that differ in one bundle of features only. AUC: how often two clips of one sign by different signers "
        "are closer than clips of the two signs (0.5 = not distinguished). The identity of the sign suffices here, so "
        "compare bundles with each other and with random initialisation.",
        (("auc", "AUC", False), ("d_prime", "d′", False), ("abx_error", "ABX error, %", True)),
    ),
    "rsa": AnalysisTable(
        "Similarity of signs",
        "Rank correlation of distances between signs with the share of phonological features in which they differ; "
        "the second column at equal sign type. The ceiling is what a perfect model of these distances would reach.",
        (
            ("rho", "ρ", False),
            ("rho_partial", "ρ at equal sign type", False),
            ("noise_ceiling", "Ceiling", False),
            ("p_mantel", "p (Mantel)", False),
            ("p_mantel_partial", "p at equal sign type", False),
        ),
    ),
    "retrieval": AnalysisTable(
        "Retrieval without training",
        "The most similar clip of another signer shows the same sign, or (clips of the same sign left out) the same "
        "feature value.",
        (
            ("recall_at_1", "R@1, %", True),
            ("recall_at_1_chance", "Chance, %", True),
            ("mrr", "MRR", False),
            ("dcg", "DCG", False),
            ("ndcg", "nDCG", False),
        ),
    ),
}
_LEAD = (
    "Further analyses of the same frozen features on the same unseen signs. Each is shown beside random "
    "initialisation: what an untrained network achieves too was not learned."
)
_GUIDE = Prose(
    heading="How to read these",
    items=(
        (
            "Marks.",
            f"{BETTER} / {WORSE}: the 95 % interval of the paired difference to random initialisation excludes zero "
            "(for errors and bits, less is better). There are many cells and no correction for multiple comparisons: "
            "about one cell in twenty without any effect gets a mark.",
        ),
        (
            "Sign identity and phonology.",
            "Retrieval of signs and minimal pairs reward features that identify the sign. The other analyses compare "
            "different signs, where identity does not help.",
        ),
        (
            "Small numbers.",
            "Intervals resample signs, and for pairs both signs of a pair. With a handful of pairs they are rough.",
        ),
    ),
)


def sections(gathered: Gathered, colours: Palette) -> list[Section]:
    """Return the section on further analyses; none where no run has any."""
    by_set: dict[tuple[str, ...], list[Result]] = {}
    for run in gathered.runs:
        for record in run.results:
            p = record.provenance
            if "analysis" in record.group:
                key = (p.manifest, p.protocol, p.split_fingerprint, p.label_fingerprint)
                by_set.setdefault(key, []).append(record)
    blocks: list[Block] = []
    for (title, *_), records in by_set.items():
        rows = _rows(records, colours)
        for name, analysis in ANALYSES.items():
            blocks += _tables(name, analysis, title, [r for r in records if r.group["analysis"] == name], rows)
        blocks += _erasure(title, [r for r in records if r.group["analysis"] == ERASURE], rows)
    if not blocks:
        return []
    return [Section("analyses", "Beyond the linear probe", (*blocks[:1], _GUIDE, *blocks[1:]), _LEAD)]


_RowKey = tuple[str, str, str]  # name, encoder, control


def _key(record: Result) -> _RowKey:
    return record.name, record.provenance.encoder, record.group["control"]


def _rows(records: Sequence[Result], colours: Palette) -> dict[_RowKey, tuple[str, Series, bool]]:
    """Return label, colour and whether it is a control for each row, encoders first."""
    keys = sorted(dict.fromkeys(map(_key, records)), key=lambda key: bool(key[2]))
    made = {}
    for name, encoder, control in keys:
        random = is_random_name(name)
        twins = [key for key in keys if key[0] == name]
        label = f"{name} · {encoder}" if len(twins) > 1 and encoder else name
        series = series_of(colours, name, encoder, random) if random or not control else None
        made[name, encoder, control] = (label, series, bool(control) or random)
    return made


def _tables(
    name: str,
    analysis: AnalysisTable,
    title: str,
    records: Sequence[Result],
    rows: dict[_RowKey, tuple[str, Series, bool]],
) -> list[Block]:
    """Return the table of summary rows, and folded the table of every number."""
    measures = {metric for metric, _, _ in analysis.columns}
    table = {(_key(r), r.group["feature"], r.group["setting"], r.group["layer"], r.metric): r for r in records}
    lines = list(dict.fromkeys(key[:4] for key, r in table.items() if r.metric in measures))
    if not lines:
        return []
    lines.sort(key=lambda line: list(rows).index(line[0]))
    summary = [line for line in lines if line[1] in ("mean:bundles", "all features", "sign")]
    shown = summary or lines
    made: list[Block] = []
    for which, folded in ((shown, False), (lines, True)):
        if folded and len(which) == len(shown):
            continue
        body = [_line(line, analysis, table, rows) for line in which]
        columns = [Column("Encoder"), Column("About"), Column("Setting"), Column("Block")]
        columns += [interval_column(heading) for _, heading, _ in analysis.columns]
        columns += [number_column("Clips"), number_column("Signs")]
        caption = f"{analysis.title}, {title}" + (": all numbers" if folded else "")
        methods = sorted({r.ci_method for r in records if r.ci_method})
        note = analysis.words if not folded else f"Intervals: {'; '.join(methods)}."
        table_name = f"analysis-{slug(name)}-{slug(title)}{'-all' if folded else ''}"
        made.append(ReportTable(table_name, caption, tuple(columns), tuple(body), note, folded=folded))
    return made


def _line(
    line: tuple[_RowKey, str, str, str],
    analysis: AnalysisTable,
    table: dict[tuple[_RowKey, str, str, str, str], Result],
    rows: dict[_RowKey, tuple[str, Series, bool]],
) -> tuple[TableCell, ...]:
    key, feature, setting, layer = line
    label, series, muted = rows[key]
    cells = [TableCell(label, series=series, chip=True, muted=muted), TableCell(text.feature_name(feature), feature)]
    cells += [TableCell(setting or "–", setting), TableCell(layer)]
    some = None
    for metric, _, share in analysis.columns:
        record = table.get((*line, metric))
        some = some or record
        cells.append(_cell(record, share, metric, table.get((*line, metric + DIFFERENCE))))
    assert some is not None, "a line has at least one measure"
    return (*cells, TableCell(text.count(some.n), some.n), TableCell(some.group["signs"]))


def _cell(record: Result | None, share: bool, metric: str, difference: Result | None) -> TableCell:
    if record is None:
        return ABSENT
    if share and metric == "over_linear":
        return difference_cell(record)
    mark = _mark(difference)
    if share:
        return result_cell(record, mark)
    return bounded_cell(record, f"{record.value:.{0 if metric == 'codelength' else 3}f}", mark)


def _mark(difference: Result | None) -> str:
    if difference is None or difference.ci_low is None or difference.ci_high is None:
        return ""
    if difference.ci_low <= 0 <= difference.ci_high:
        return ""
    return BETTER if (difference.value > 0) == difference.higher_is_better else WORSE


def _erasure(title: str, records: Sequence[Result], rows: dict[_RowKey, tuple[str, Series, bool]]) -> list[Block]:
    """For each encoder, erased feature x read feature: change in balanced accuracy."""
    changes = {
        (_key(r), r.group["setting"].removeprefix("erased "), r.group["feature"]): r
        for r in records
        if r.metric == "erasure_change"
    }
    made: list[Block] = []
    for key, (label, _, muted) in rows.items():
        erased = list(dict.fromkeys(name for row, name, _ in changes if row == key))
        read = list(dict.fromkeys(name for row, _, name in changes if row == key))
        if not erased:
            continue
        body = []
        for name in erased:
            cells = [TableCell(f"without {text.feature_name(name).lower()}", name)]
            for feature in read:
                r = changes.get((key, name, feature))
                if r is None:
                    cells.append(ABSENT)
                    continue
                words = f"{text.interval(r.ci_low, r.ci_high, signed=True)} points, n = {text.count(r.n)}"
                shade = max(0.0, min(1.0, -2 * r.value))
                shown = text.percent(r.value, True)
                cells.append(TableCell(shown, r.value, r.ci_low, r.ci_high, title=words, shade=shade))
            body.append(tuple(cells))
        columns = [Column("Erased")]
        columns += [interval_column(text.feature_name(f), title=f) for f in read]
        note = (
            "Change in balanced accuracy, points, after one feature was erased linearly (least squares) from the "
            "training clips; intervals in the tooltips. On the diagonal only class frequencies remain. A loss "
            "of another feature means that the same directions encode it, or that the two are correlated in the "
            "lexicon."
        )
        where = f"erasure-{slug('-'.join(filter(None, key)))}-{slug(title)}"
        caption = f"Erasing one feature, reading the others: {label}, {title}"
        scale = ("no change", "−50 points")
        made.append(ReportTable(where, caption, tuple(columns), tuple(body), note, "heat", muted, scale))
    return made
