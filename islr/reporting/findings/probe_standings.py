"""Probe records arranged for tables: encoders and controls by feature and split.

Records have `name` = the row; `group` holds `feature` (one of the lexicon's, or `mean:...` for an average),
`split` ("unseen_sign", "seen_sign", ...), `layer` (a number, or "chosen") and `control`: empty for an
encoder's own score, "permuted" for its probe on permuted labels, else the control that the row is. Metrics
beside the scores: `balanced_accuracy_difference` and `p_holm` against random initialisation,
`difference_to:ROW` and `p_holm:ROW` against another row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from islr.data.phonology import FEATURES
from islr.evaluation.results import Provenance, Result
from islr.reporting.document import text
from islr.reporting.document.blocks import Series
from islr.reporting.findings.standings import ALPHA, BETTER, WORSE, Palette, is_random_name, places, series_of
from islr.reporting.gather import Gathered
from islr.reporting.run_files import Place

HEADLINE, COMPANION = "unseen_sign", "seen_sign"
METRIC, DIFFERENCE = "balanced_accuracy", "balanced_accuracy_difference"
CHOSEN, PERMUTED = "chosen", "permuted"
MAYBE_BETTER, MAYBE_WORSE = "△", "▽"


@dataclass(frozen=True)
class ProbeRow:
    """One encoder, or one control; `key` (name, encoder, control) tells rows of equal names apart.

    A row of a grid has its `place` and the number of `seeds` that it averages; `random` is random initialisation.
    """

    key: tuple[str, str, str]
    label: str
    series: Series
    control: bool
    place: Place | None = None
    seeds: int = 1

    @property
    def random(self) -> bool:
        """Whether it is the random initialisation of an encoder."""
        return is_random_name(self.key[0]) or is_random_name(self.key[2])


@dataclass(frozen=True)
class ProbeSet:
    """All probe records on one corpus and one table of features.

    `seeds` has a row for each seed, where `rows` are means over seeds; None where no row has several.
    """

    title: str
    coverage: dict[str, Any]
    records: dict[tuple[str, ...], Result]
    rows: tuple[ProbeRow, ...]
    permuted: tuple[ProbeRow, ...]
    features: tuple[str, ...]
    splits: tuple[str, ...]
    provenance: Provenance
    seeds: "ProbeSet | None" = None

    def get(self, row: ProbeRow, feature: str, split: str, layer: str = CHOSEN, metric: str = METRIC) -> Result | None:
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
    def shown(self) -> tuple[str, ...]:
        """What the heat map has room for: the average over bundles, then the single features."""
        return ((self.mean,) if self.mean else ()) + self.singles

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

    def difference(self, row: ProbeRow, feature: str, split: str, other: str = "") -> Result | None:
        """Paired difference to the random initialisation of the same encoder, or to the encoder named
        `other`."""
        metric = f"difference_to:{other}" if other else DIFFERENCE
        return self.get(row, feature, split, metric=metric)

    def mark(self, row: ProbeRow, feature: str, split: str, other: str = "") -> str:
        """A filled arrow for a difference that stands after Holm's correction, a hollow one where only its
        own 95 % interval excludes zero, else nothing."""
        d = self.difference(row, feature, split, other)
        if d is None or d.ci_low is None or d.ci_high is None or d.ci_low <= 0 <= d.ci_high:
            return ""
        p = self.get(row, feature, split, metric=f"p_holm:{other}" if other else "p_holm")
        stands = p is None or p.value < ALPHA
        if d.value > 0:
            return BETTER if stands else MAYBE_BETTER
        return WORSE if stands else MAYBE_WORSE


def probe_sets(gathered: Gathered, colours: Palette) -> tuple[ProbeSet, ...]:
    """Group the probe records of all runs by corpus, splits and feature table; seeds of a grid become one row."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    details: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in gathered.runs:
        for record in run.results:
            p = record.provenance
            if "feature" in record.group and "analysis" not in record.group:
                key = (p.protocol, p.manifest, p.split_fingerprint, p.label_fingerprint)
                groups.setdefault(key, []).append(record)
                details.setdefault(key, run.details)
    found = (_set(records, details[key], colours) for key, records in groups.items())
    return tuple(mean_over_seeds(one, places(gathered)) for one in found)


def mean_over_seeds(probed: ProbeSet, placed: dict[str, Place]) -> ProbeSet:
    """One row for each cell of the grid: means over its seeds.

    Bounds are the outermost of the seeds', p-values the largest, so that a mark stands only where it stands for every
    seed in the same direction. Comparisons between two encoders stay in the set of single seeds.
    """
    members: dict[tuple[str, str, str], list[ProbeRow]] = {}
    merged: dict[tuple[str, str, str], ProbeRow] = {}
    for row in (*probed.rows, *probed.permuted):
        place = None if row.random else placed.get(row.key[0])
        key = (" · ".join(place), *row.key[1:]) if place else row.key
        members.setdefault(key, []).append(row)
        label = f"{place[0]} · {text.regime_name(place[1])}" if place else row.label
        merged[key] = replace(row, key=key, label=label, place=place, seeds=len(members[key]))
    into: dict[tuple[str, ...], Any] = {row.key: key for key, rows in members.items() for row in rows}
    gathered: dict[tuple[str, ...], list[Result]] = {}
    for (metric, name, encoder, control, *rest), record in probed.records.items():
        key = into.get((name, encoder, control), ())  # without a score there is no row
        if key and (len(members[key]) == 1 or ":" not in metric):
            gathered.setdefault((metric, *key, *rest), []).append(record)
    records = {where: _mean(seeds) for where, seeds in gathered.items()}
    several = any(row.seeds > 1 for row in merged.values())
    return replace(
        probed,
        records=records,
        rows=tuple(row for row in merged.values() if row.key[2] != PERMUTED),
        permuted=tuple(row for row in merged.values() if row.key[2] == PERMUTED),
        seeds=probed if several else None,
    )


def _mean(records: Sequence[Result]) -> Result:
    if len(records) == 1:
        return records[0]
    bounded = all(record.ci_low is not None and record.ci_high is not None for record in records)
    values = [record.value for record in records]
    changed = {
        "value": max(values) if records[0].metric.startswith("p_") else sum(values) / len(values),
        "ci_low": min(record.ci_low or 0.0 for record in records) if bounded else None,
        "ci_high": max(record.ci_high or 0.0 for record in records) if bounded else None,
        "ci_method": f"outermost of {len(records)} seeds; {records[0].ci_method}" if bounded else "",
    }
    return records[0].model_copy(update=changed)


def _rows_of(keys: Sequence[tuple[str, str, str]], colours: Palette) -> list[ProbeRow]:
    """Name and colour the rows (name, encoder, control); the encoder or control is added where names repeat."""
    names = [(name, control) for name, _, control in keys]
    rows = []
    for name, encoder, control in keys:
        random = is_random_name(name)
        alike = {other for named, other in names if named == name and other != PERMUTED}
        label = f"{name} ({control})" if control != PERMUTED and len(alike) > 1 and control else name
        label += f" · {encoder}" if names.count((name, control)) > 1 and encoder else ""
        grey = bool(control) or random or not encoder
        series = series_of(colours, name, encoder, random) if random or not grey else None
        rows.append(ProbeRow((name, encoder, control), label, series, grey))
    return rows


def _set(records: Sequence[Result], details: dict[str, Any], colours: Palette) -> ProbeSet:
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
    rows = _rows_of(list(keys), colours)
    order = {row.key: i for i, row in enumerate(rows)}
    rows.sort(key=lambda row: (row.control, "majority" in row.label.lower(), order[row.key]))
    known_features = {name: i for i, name in enumerate(FEATURES)}
    sorted_features = sorted(
        features, key=lambda f: (not f.startswith("mean:"), known_features.get(f, len(known_features)))
    )
    known = [split for split in (HEADLINE, COMPANION) if split in splits]
    provenance = records[0].provenance
    return ProbeSet(
        provenance.manifest,
        {key: details[key] for key in ("coverage", "splits") if key in details},
        table,
        tuple(row for row in rows if row.key[2] != PERMUTED),
        tuple(row for row in rows if row.key[2] == PERMUTED),
        tuple(sorted_features),
        tuple(known + [s for s in splits if s not in known]),
        provenance,
    )
