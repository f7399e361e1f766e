"""Scored runs grouped by the test set they share, each against the random initialisation of its encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

from islr.errors import UserError
from islr.evaluation.intervals import Difference, holm
from islr.evaluation.metrics import compare
from islr.evaluation.predictions import Predictions
from islr.evaluation.results import Provenance, Result
from islr.reporting.document import text
from islr.reporting.document.blocks import Notice, Series
from islr.reporting.gather import Gathered
from islr.reporting.run_files import Place, ReportedRun

ALPHA = 0.05
BETTER, WORSE = "▲", "▼"
MOST_ROWS = 16  # models of an open table
_MOST_DRAWN = 12  # rows of one plot


@dataclass(frozen=True)
class ScoredRow:
    """One model on one test set.

    Attributes:
        label: Its name in tables, unique within the test set.
        run: Where it comes from.
        overall: Metric -> record over all clips.
        records: All its records, with those of signers and sources.
        predictions: Its predictions, None without a readable file.
        series: Its colour; None for random initialisation.
        random: Whether its encoder had no pre-training at all.
    """

    label: str
    run: ReportedRun
    overall: dict[str, Result]
    records: tuple[Result, ...]
    predictions: Predictions | None
    series: Series
    random: bool

    @property
    def top1(self) -> Result:
        """Its headline number."""
        return self.overall["top1"]

    @property
    def provenance(self) -> Provenance:
        """Where its numbers come from."""
        return self.top1.provenance


@dataclass(frozen=True)
class Versus:
    """A row against the random initialisation of the same encoder; `why` says why there is no comparison."""

    row: ScoredRow
    control: ScoredRow | None
    difference: Difference | None
    adjusted: float
    why: str = ""

    @property
    def significant(self) -> bool:
        """Whether the difference stands after Holm's correction."""
        return self.difference is not None and self.adjusted < ALPHA

    @property
    def mark(self) -> str:
        """An arrow for a difference that stands, else nothing."""
        if self.difference is None or not self.significant:
            return ""
        return BETTER if self.difference.value > 0 else WORSE


@dataclass(frozen=True)
class ScoredSet:
    """Rows that were scored on the same clips under the same labels, so that they may stand in one table."""

    title: str
    rows: tuple[ScoredRow, ...]
    versus: tuple[Versus, ...]

    @property
    def provenance(self) -> Provenance:
        """The provenance of the first row, for what all rows share."""
        return self.rows[0].provenance

    @property
    def chance(self) -> float | None:
        """1 / classes, when recorded."""
        found = self.rows[0].overall.get("chance_top1")
        return found.value if found else None

    @property
    def ranked(self) -> tuple[ScoredRow, ...]:
        """Best first; random initialisation after the others."""
        return tuple(sorted(self.rows, key=lambda row: (row.random, -row.top1.value, row.label)))

    @property
    def drawn(self) -> tuple[ScoredRow, ...]:
        """Rows for plots of single models, best first: all of them, or of many in a grid for each method the first seed
        of its best regime, and one random initialisation of each encoder."""
        if len(self.rows) <= _MOST_DRAWN or not all(row.run.place for row in self.rows):
            return self.ranked
        groups: dict[tuple[str, str], dict[str, list[ScoredRow]]] = {}
        for row in self.rows:
            method, regime = row.run.place or ("", "")
            line = ("", row.provenance.encoder) if row.random else (method, "")
            groups.setdefault(line, {}).setdefault("" if row.random else regime, []).append(row)
        best = [max(g.values(), key=lambda rows: sum(r.top1.value for r in rows) / len(rows)) for g in groups.values()]
        chosen = [min(rows, key=lambda row: row.provenance.seed) for rows in best]
        labels = {row.label for row in chosen}
        return tuple(row for row in self.ranked if row.label in labels)

    @property
    def leader(self) -> ScoredRow | None:
        """The pre-trained row furthest above the random initialisation of its own encoder; by score where no row can
        be compared.

        Encoders of different inputs (video, exact poses) start from different places, so their scores alone would
        compare the inputs instead of the pre-training.
        """
        gains = {id(v.row): v.difference.value for v in self.versus if v.difference is not None}
        trained = [row for row in self.ranked if not row.random and (not gains or id(row) in gains)]
        return max(trained, key=lambda row: gains.get(id(row), row.top1.value), default=None)

    def of(self, row: ScoredRow) -> Versus | None:
        """The comparison of a row."""
        return next((versus for versus in self.versus if versus.row is row), None)


Palette = dict[str, Series]


def palette(gathered: Gathered) -> Palette:
    """One colour for each row name in the whole report, and one grey for each encoder's random initialisation.

    In a grid the colour is the method's: its regimes and seeds share it.
    """
    methods = {name: method for name, (method, _) in places(gathered).items()}
    names: set[str] = set()
    random: set[str] = set()
    for run in gathered.runs:
        for record in run.results:
            if is_random(record):
                random.add(_key(record.name, record.provenance.encoder, True))
            elif (record.provenance.encoder or _is_foreign(record)) and not record.group.get("control"):
                names.add(record.name)
        if run.task in ("pretrain", "finetune"):
            if is_random_name(run.name):
                random.add(_key(run.name, run.encoder, True))
            elif not run.results:
                names.add(run.name)
    shared = sorted({methods.get(name, name) for name in names})
    colours: Palette = {name: shared.index(methods.get(name, name)) for name in names}
    colours |= {name: i for i, name in enumerate(shared)}
    return colours | {key: -1 - i for i, key in enumerate(sorted(random))}


def places(gathered: Gathered) -> dict[str, Place]:
    """Row name -> its place in the grid, of the runs that have one."""
    return {run.name: place for run in gathered.of("pretrain", "finetune") if (place := run.place)}


def series_of(colours: Palette, name: str, encoder: str, random: bool) -> Series:
    """The colour of a row; None, the first grey, for what has none."""
    return colours.get(_key(name, encoder, random))


def _key(name: str, encoder: str, random: bool) -> str:
    return f"random initialisation of {encoder}" if random else name


def is_random_name(name: str) -> bool:
    """Whether a row name says random initialisation."""
    return name.lower().replace("-", " ").replace("_", " ").startswith(("random init", "scratch"))


def is_random(record: Result) -> bool:
    """Whether a record is of an encoder that was never trained before."""
    return bool(record.provenance.encoder) and not record.provenance.pretraining


def _is_foreign(record: Result) -> bool:
    """Whether a recognition record was made from predictions of somebody else's model."""
    return not record.provenance.encoder and not record.provenance.protocol.startswith("probe")


def scored_sets(gathered: Gathered, colours: Palette) -> tuple[tuple[ScoredSet, ...], tuple[Notice, ...]]:
    """Group fine-tuned and evaluated runs by what they were scored on; broken predictions become notices."""
    groups: dict[tuple[str, ...], list[tuple[ReportedRun, tuple[Result, ...]]]] = {}
    for run in gathered.runs:
        by_set: dict[tuple[str, ...], list[Result]] = {}
        for record in run.results:
            p = record.provenance
            if run.task != "probe" and not p.protocol.startswith("probe"):
                same = (
                    p.protocol,
                    p.manifest,
                    p.split,
                    p.split_fingerprint,
                    p.label_space,
                    p.label_fingerprint,
                )
                by_set.setdefault((*same, record.name), []).append(record)
        for key, records in by_set.items():
            if any(record.metric == "top1" and not record.group for record in records):
                groups.setdefault(key[:-1], []).append((run, tuple(records)))
    notices: list[Notice] = []
    sets = []
    for key, members in groups.items():
        rows = _rows(members, colours, notices)
        _, manifest, split, *_ = key
        twins = sum(other[1:3] == key[1:3] for other in groups)
        title = f"{manifest}, {split} split" + (f" ({key[4]} labels, {key[3][:8]})" if twins > 1 else "")
        sets.append(ScoredSet(title, rows, _versus(rows)))
    sets.sort(key=lambda s: (s.provenance.split != "test", -len(s.rows), s.title))
    return tuple(sets), tuple(notices)


def _rows(
    members: Sequence[tuple[ReportedRun, tuple[Result, ...]]], colours: Palette, notices: list[Notice]
) -> tuple[ScoredRow, ...]:
    names = [records[0].name for _, records in members]
    labels = []
    for run, records in members:
        p, label = records[0].provenance, records[0].name
        same = [r[0].provenance for _, r in members if r[0].name == label]
        if len({q.encoder for q in same}) > 1:
            label += f" · {p.encoder or 'not stated'}"
        if len({q.seed for q in same}) > 1:
            label += f" · seed {p.seed}"
        if len({q.views for q in same}) > 1:
            label += f" · {p.views}"
        labels.append((label, run))
    unique = [
        label if sum(other == label for other, _ in labels) == 1 else f"{label} · {run.label}" for label, run in labels
    ]
    rows: list[ScoredRow] = []
    for label, (run, records), name in zip(unique, members, names, strict=True):
        predictions = None
        try:
            predictions = run.predictions
        except UserError as error:
            notices.append(Notice(f"The predictions of {run.label} were left out: {error}", "warning"))
        overall = {record.metric: record for record in records if not record.group}
        random = is_random(records[0])
        series = series_of(colours, name, records[0].provenance.encoder, random)
        rows.append(ScoredRow(label, run, overall, records, predictions, series, random))
    return tuple(rows)


def _versus(rows: Sequence[ScoredRow]) -> tuple[Versus, ...]:
    """Every row that is not random initialisation against the random initialisation of its encoder,
    Holm-adjusted."""
    found: list[Versus] = []
    for row in (row for row in rows if not row.random):
        controls = [other for other in rows if other.random and other.provenance.encoder == row.provenance.encoder]
        same_seed = [other for other in controls if other.provenance.seed == row.provenance.seed]
        same_views = [other for other in same_seed or controls if other.provenance.views == row.provenance.views]
        control = next(iter(same_views or same_seed or controls), None)
        if control is None:
            encoder = row.provenance.encoder
            why = f"no random-initialisation run of {encoder}" if encoder else "its encoder is not stated"
            found.append(Versus(row, None, None, 1.0, why))
        else:
            difference, why = paired(row, control)
            found.append(Versus(row, control, difference, 1.0, why))
    tested = [i for i, versus in enumerate(found) if versus.difference is not None]
    adjusted = holm([d.p_value for i in tested if (d := found[i].difference) is not None])
    for i, p in zip(tested, adjusted, strict=True):
        found[i] = Versus(found[i].row, found[i].control, found[i].difference, p)
    return tuple(found)


def paired(a: ScoredRow, b: ScoredRow) -> tuple[Difference | None, str]:
    """Paired difference in top-1 of two rows, or None and the reason; over signers where either's intervals are."""
    missing = [row.label for row in (a, b) if row.predictions is None]
    if missing:
        return None, f"no predictions.csv of {text.enumerate_words(missing)}"
    assert a.predictions is not None
    assert b.predictions is not None
    try:
        by_signer = "signer" in (a.provenance.cluster, b.provenance.cluster)
        return compare(a.predictions, b.predictions, cluster_by_signer=by_signer), ""
    except ValueError as error:
        return None, str(error)


def all_pairs(rows: Sequence[ScoredRow]) -> dict[tuple[int, int], tuple[Difference, float]]:
    """Compare every two rows that can be compared.

    Returns:
        (i, j) with i < j -> paired difference of row i minus row j, and its p-value after Holm over all pairs.
    """
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    known = {(i, j): d for i, j in pairs if (d := paired(rows[i], rows[j])[0]) is not None}
    adjusted = holm([d.p_value for d in known.values()])
    return {pair: (d, p) for (pair, d), p in zip(known.items(), adjusted, strict=True)}
