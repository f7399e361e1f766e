"""What frozen features know: the probe heat map, layer curves, and the gap between seen and unseen signs.

Probe records: `name` is the encoder's row; `group` holds `feature` (one of the table's features, or
`mean:...` for an average), `split` ("unseen_sign", "seen_sign", ...), `layer` (a number, or "chosen") and
`control` (empty for an encoder's own score).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from islr.data.phonology import FEATURES
from islr.evaluation.results import Provenance, Result
from islr.reporting import figures, text
from islr.reporting.accuracy import result_cell
from islr.reporting.blocks import Block, Cell, Chart, Column, Notice, Prose, Section, Series, Table
from islr.reporting.guide import GUIDE
from islr.reporting.scan import Gathered
from islr.reporting.standings import BETTER, WORSE, is_random_name

HEADLINE, COMPANION = "unseen_sign", "seen_sign"
METRIC, DIFFERENCE = "balanced_accuracy", "balanced_accuracy_difference"
CHOSEN = "chosen"
SPLITS = {
    HEADLINE: "unseen signs",
    COMPANION: "seen signs",
    "unseen_sign_signer": "unseen signs and signers",
}


@dataclass(frozen=True)
class ProbeRow:
    """One encoder, or one control; `key` tells rows of equal names apart."""

    key: tuple[str, str, str]
    label: str
    series: Series
    control: bool


@dataclass(frozen=True)
class ProbeSet:
    """All probe records on one corpus and one table of features."""

    title: str
    records: dict[tuple[str, ...], Result]
    rows: tuple[ProbeRow, ...]
    features: tuple[str, ...]
    splits: tuple[str, ...]
    provenance: Provenance

    def get(
        self, row: ProbeRow, feature: str, split: str, layer: str = CHOSEN, metric: str = METRIC
    ) -> Result | None:
        """A record, or None."""
        found = self.records.get((metric, *row.key, feature, split, layer))
        return found or self.records.get((metric, *row.key, feature, split, ""))

    @property
    def models(self) -> tuple[ProbeRow, ...]:
        """Rows of encoders that were trained."""
        return tuple(row for row in self.rows if not row.control)

    @property
    def singles(self) -> tuple[str, ...]:
        """Features without the averages."""
        return tuple(feature for feature in self.features if not feature.startswith("mean:"))

    @property
    def mean(self) -> str | None:
        """The average that stands for all features."""
        means = [feature for feature in self.features if feature.startswith("mean:")]
        return next((m for m in means if "bundle" in m), means[0] if means else None)

    @property
    def majority(self) -> ProbeRow | None:
        """The majority-class control."""
        return next((row for row in self.rows if "majority" in (row.key[2] + row.key[0]).lower()), None)

    @property
    def compared(self) -> bool:
        """Whether paired differences to random initialisation were recorded."""
        return any(key[0] == DIFFERENCE for key in self.records)

    def floor(self, feature: str, split: str) -> float:
        """What the majority class scores on a feature, 0 when it was not recorded."""
        row = self.majority
        record = self.get(row, feature, split) if row else None
        return record.value if record else 0.0

    def mark(self, row: ProbeRow, feature: str, split: str) -> str:
        """An arrow where the interval of the paired difference to random initialisation excludes zero."""
        d = self.get(row, feature, split, metric=DIFFERENCE)
        if d is None or d.ci_low is None or d.ci_high is None:
            return ""
        return BETTER if d.ci_low > 0 else WORSE if d.ci_high < 0 else ""


def probe_sets(gathered: Gathered, colours: dict[str, Series]) -> tuple[ProbeSet, ...]:
    """Group the probe records of all runs by corpus and feature table."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for run in gathered.runs:
        for record in run.results:
            p = record.provenance
            if "feature" in record.group:
                key = (p.protocol, p.manifest, p.split_fingerprint, p.label_fingerprint)
                groups.setdefault(key, []).append(record)
    return tuple(_set(records, colours) for records in groups.values())


def _set(records: Sequence[Result], colours: dict[str, Series]) -> ProbeSet:
    table: dict[tuple[str, ...], Result] = {}
    keys: dict[tuple[str, str, str], None] = {}
    features: dict[str, None] = {}
    splits: dict[str, None] = {}
    for record in records:
        g = record.group
        key = (record.name, record.provenance.encoder, g.get("control", ""))
        feature, split = g["feature"], g.get("split", "")
        table[record.metric, *key, feature, split, g.get("layer", "")] = record
        if record.metric == METRIC:
            keys[key] = None
            features[feature] = None
            splits[split] = None
    names = [(name, control) for name, _, control in keys]
    rows = []
    for name, encoder, control in keys:
        label = name if not control or control == name or is_random_name(name) else f"{name} · {control}"
        label += f" · {encoder}" if names.count((name, control)) > 1 and encoder else ""
        grey = bool(control) or is_random_name(name) or name not in colours
        rows.append(ProbeRow((name, encoder, control), label, None if grey else colours[name], grey))
    order = {row.key: i for i, row in enumerate(rows)}
    rows.sort(key=lambda row: (row.control, "majority" in row.label.lower(), order[row.key]))
    known_features = {name: i for i, name in enumerate(FEATURES)}
    sorted_features = sorted(
        features, key=lambda f: (not f.startswith("mean:"), known_features.get(f, len(known_features)))
    )
    known = [split for split in SPLITS if split in splits]
    provenance = records[0].provenance
    return ProbeSet(
        provenance.manifest,
        table,
        tuple(rows),
        tuple(sorted_features),
        tuple(known + [s for s in splits if s not in SPLITS]),
        provenance,
    )


def sections(sets: Sequence[ProbeSet]) -> list[Section]:
    """The probe sections."""
    if not sets:
        return [Section("probes", "What the features know", (Notice("No probe result was found."),))]
    blocks: list[Block] = []
    for found in sets:
        if len(sets) > 1:
            blocks.append(Prose(heading=f"On {found.title}"))
        blocks += [_heat(found, split) for split in found.splits if split == HEADLINE]
        if HEADLINE not in found.splits:
            warning = "There is no score on unseen signs; scores on seen signs alone may be sign identity."
            blocks.append(Notice(warning, "warning"))
    blocks.append(GUIDE)
    for found in sets:
        blocks += [_heat(found, split, folded=True) for split in found.splits if split != HEADLINE]
        blocks.append(_everything(found))
    lead = (
        "A linear probe on frozen features predicts each phonological feature of a sign it has never "
        "seen. The colour runs from what always naming the commonest class gives (pale) to perfect "
        "reading (dark)."
    )
    made = [Section("probes", "What the features know", tuple(blocks), lead)]
    for anchor, title, draw in (
        ("layers", "Layer by layer", _layers),
        ("gap", "Seen and unseen signs", _gap),
    ):
        parts = [block for found in sets for block in draw(found)]
        if parts:
            made.append(Section(anchor, title, tuple(parts)))
    return made


def _heat(found: ProbeSet, split: str, folded: bool = False) -> Table:
    rows = []
    for row in found.rows:
        cells = [Cell(row.label, series=row.series, chip=True, muted=row.control)]
        for feature in found.features:
            record = found.get(row, feature, split)
            if record is None:
                cells.append(Cell("–", raw=""))
                continue
            floor = found.floor(feature, split)
            shade = max(0.0, min(1.0, (record.value - floor) / ((1 - floor) or 1.0)))
            title = f"{row.label}, {text.feature_name(feature)}: {text.explain(record)}"
            d = found.get(row, feature, split, metric=DIFFERENCE)
            if d is not None:
                bounds = text.interval(d.ci_low, d.ci_high, signed=True)
                title += f"; against random initialisation {text.percent(d.value, True)} points ({bounds})"
            cells.append(
                Cell(
                    text.percent(record.value),
                    record.value,
                    record.ci_low,
                    record.ci_high,
                    "",
                    title,
                    found.mark(row, feature, split),
                    shade=shade,
                )
            )
        rows.append(tuple(cells))
    columns = (
        Column("Encoder"),
        *(Column(text.feature_name(f), numeric=True, interval=True, title=f) for f in found.features),
    )
    marked = any(cell.mark for row in rows for cell in row)
    note = (
        "Balanced accuracy in percent at the layer chosen inside the training signs; intervals in the "
        "tooltips and CSV."
    )
    if found.compared:
        note += (
            f" {BETTER} / {WORSE}: the 95 % interval of the paired difference to random initialisation "
            "excludes zero."
        )
        note += "" if marked else " No cell does."
    name = SPLITS.get(split, split or "all signs")
    return Table(
        f"probe-{text.slug(split)}-{text.slug(found.title)}",
        f"Balanced accuracy on {name}, {found.title}",
        columns,
        tuple(rows),
        note,
        "heat",
        folded,
    )


def _everything(found: ProbeSet) -> Table:
    """Every probe number at the chosen layer, with intervals."""
    metrics = list(dict.fromkeys(key[0] for key in found.records))
    metrics.sort(key=lambda m: (m != METRIC, m != DIFFERENCE))
    rows = []
    for row in found.rows:
        for feature in found.features:
            for split in found.splits:
                records = {m: found.get(row, feature, split, metric=m) for m in metrics}
                if all(record is None for record in records.values()):
                    continue
                some = next(r for r in records.values() if r is not None)
                cells = [
                    Cell(row.label, series=row.series, chip=True, muted=row.control),
                    Cell(text.feature_name(feature), feature),
                    Cell(SPLITS.get(split, split), split),
                ]
                for metric, record in records.items():
                    cells.append(_cell(metric, record))
                rows.append((*cells, Cell(text.count(some.n), some.n)))
    columns = [Column("Encoder"), Column("Feature"), Column("Signs")]
    columns += [Column(_heading(m), numeric=True, interval=True) for m in metrics]
    name = f"probe-all-{text.slug(found.title)}"
    methods = sorted({r.ci_method for r in found.records.values() if r.ci_method})
    note = f"Intervals: {'; '.join(methods)}." if methods else ""
    title = f"All probe numbers on {found.title}, with intervals"
    return Table(name, title, (*columns, Column("n", numeric=True)), tuple(rows), note, folded=True)


def _heading(metric: str) -> str:
    if metric == DIFFERENCE:
        return "Minus random init, points"
    return text.metric_name(metric) + (", %" if text.is_fraction(metric) else "")


def _cell(metric: str, record: Result | None) -> Cell:
    if record is None:
        return Cell("–", raw="")
    if metric == DIFFERENCE:
        bounds = text.interval(record.ci_low, record.ci_high, signed=True)
        return Cell(text.percent(record.value, True), record.value, record.ci_low, record.ci_high, bounds)
    if text.is_fraction(metric):
        return result_cell(record)
    return Cell(
        text.number(record.value), record.value, record.ci_low, record.ci_high, "", text.explain(record)
    )


def _layers(found: ProbeSet) -> list[Block]:
    """One panel for each feature: balanced accuracy on unseen signs by layer."""
    by_line: dict[tuple[str, tuple[str, str, str]], list[tuple[int, Result]]] = {}
    for (metric, name, encoder, control, feature, split, layer), record in found.records.items():
        if metric == METRIC and split == HEADLINE and layer.isdigit():
            by_line.setdefault((feature, (name, encoder, control)), []).append((int(layer), record))
    panels = []
    for feature in found.features:
        drawn = []
        for row in found.rows:
            points = sorted(by_line.get((feature, row.key), []), key=lambda point: point[0])
            if not points:
                continue
            ys = [record.value for _, record in points]
            drawn.append(figures.Line(row.label, [x for x, _ in points], ys, row.series, points=True))
        if not drawn:
            continue
        floor = found.floor(feature, HEADLINE)
        values = [y for line in drawn for y in line.ys] + ([floor] if floor else [])
        room = 0.08 * ((max(values) - min(values)) or 0.1)
        span = (max(0.0, min(values) - room), min(1.0, max(values) + room))
        reference = (floor, "majority") if floor else None
        panels.append(
            figures.lines(
                f"{text.feature_name(feature)}, %", drawn, "layer", True, span, reference, whole_x=True
            )
        )
    if not panels:
        return []
    with_curve = [row for row in found.rows if any(key == row.key for _, key in by_line)]
    legend = tuple((row.label, row.series) for row in with_curve)
    caption = (
        f"Balanced accuracy on unseen signs of {found.title} from the features of each layer (0 is the "
        "input side). The scales differ from panel to panel; the dashed line is the majority class."
    )
    return [Chart(caption, tuple(panels), legend=legend)]


def _gap(found: ProbeSet) -> list[Block]:
    """How much better signs are read that the probe was trained on."""
    if not {HEADLINE, COMPANION} <= set(found.splits):
        return []
    rows, dumbbells = [], []
    for row in found.rows:
        for feature in found.features:
            unseen, seen = (found.get(row, feature, split) for split in (HEADLINE, COMPANION))
            if unseen is None or seen is None:
                continue
            gap = seen.value - unseen.value
            rows.append(
                (
                    Cell(row.label, series=row.series, chip=True, muted=row.control),
                    Cell(text.feature_name(feature), feature),
                    result_cell(unseen),
                    result_cell(seen),
                    Cell(text.percent(gap, True), gap),
                )
            )
            if feature == (found.mean or found.features[0]):
                points = [
                    figures.Dot(
                        unseen.value, None, None, row.series, f"unseen signs: {text.explain(unseen)}"
                    ),
                    figures.Dot(
                        seen.value, None, None, row.series, f"seen signs: {text.explain(seen)}", hollow=True
                    ),
                ]
                dumbbells.append((row.label, points))
    if not rows:
        return []
    what = text.feature_name(found.mean or found.features[0])
    label = f"{what}: balanced accuracy on unseen and seen signs of {found.title}"
    caption = (
        f"{label}, in percent. Filled: signs the probe never saw. Hollow: other clips of signs it was "
        "trained on. The distance is what recognising the sign itself contributes, not phonology."
    )
    columns = (
        Column("Encoder"),
        Column("Feature"),
        Column("Unseen signs, %", numeric=True, interval=True),
        Column("Seen signs, %", numeric=True, interval=True),
        Column("Gap, points", numeric=True),
    )
    drawn = (figures.dots(dumbbells, label, connect=True),)
    narrow = (figures.dots(dumbbells, label, connect=True, narrow=True),)
    name = f"gap-{text.slug(found.title)}"
    table = Table(name, "Seen minus unseen, feature by feature", columns, tuple(rows), folded=True)
    return [Chart(caption, drawn, narrow), table]
