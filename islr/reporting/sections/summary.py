"""The sentences and the few numbers at the top of the report, made from the records by rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from islr.evaluation.intervals import Difference, Interval
from islr.reporting.document import text
from islr.reporting.document.blocks import Fact
from islr.reporting.gather import Gathered
from islr.reporting.probe_standings import HEADLINE, MAYBE_BETTER, MAYBE_WORSE, METRIC, ProbeRow, ProbeSet
from islr.reporting.sections import grid
from islr.reporting.standings import ALPHA, BETTER, WORSE, Row, ScoredSet, paired


def headlines(gathered: Gathered, sets: Sequence[ScoredSet], probes: Sequence[ProbeSet]) -> tuple[str, ...]:
    """What was found, in plain sentences."""
    found = [_recognition(s) for s in sets if s.provenance.split == "test"] or [_recognition(s) for s in sets]
    found += [sentence for probe in probes if (sentence := _probing(probe))]
    problems = sum(bool(run.problem) for run in gathered.runs)
    if problems:
        found.append(f"{problems} of {len(gathered.runs)} runs failed or did not finish; they are listed at the end.")
    return tuple(found) or ("These folders hold no finished result yet.",)


@dataclass(frozen=True)
class _Lead:
    """The pre-trained model (in a grid the cell) that stands furthest above the random start of its encoder.

    Attributes:
        label: Its name.
        encoder: Its architecture.
        score: Its top-1.
        versus: Paired difference to that random start; None without one, for the reason `why`.
        adjusted: Holm-adjusted p-value of it.
        control: Top-1 of the random start.
        rivals: How many pre-trained models there are, itself among them.
        row: One of its rows.
    """

    label: str
    encoder: str
    score: Interval
    versus: Difference | None
    adjusted: float
    control: float | None
    why: str
    rivals: int
    row: Row

    @property
    def gained(self) -> bool:
        """Whether it is above its random start by more than chance explains."""
        return self.versus is not None and self.versus.value > 0 and self.adjusted < ALPHA


def _lead(found: ScoredSet) -> _Lead | None:
    cells = {place: cell for place, cell in grid.cells_of(found).items() if not cell.random}
    if len(cells) > 1:
        place = max(cells, key=lambda p: d.value if (d := cells[p].versus) is not None else cells[p].score.value - 2)
        cell = cells[place]
        why = f"no random-initialisation run of {cell.encoder}"
        label = grid.cell_label(place)
        return _Lead(
            label,
            cell.encoder,
            cell.score,
            cell.versus,
            cell.adjusted,
            cell.control,
            why,
            len(cells),
            cell.rows[0],
        )
    row = found.leader
    if row is None:
        return None
    versus = found.of(row)
    top1 = row.top1
    return _Lead(
        row.label,
        row.provenance.encoder,
        Interval(top1.value, top1.ci_low, top1.ci_high, top1.ci_method),
        versus.difference if versus else None,
        versus.adjusted if versus else 1.0,
        versus.control.top1.value if versus and versus.control else None,
        versus.why if versus else "no control",
        sum(not other.random and bool(other.provenance.encoder) for other in found.rows),
        row,
    )


def _recognition(found: ScoredSet) -> str:
    lead = _lead(found)
    p = (lead.row if lead else found.ranked[0]).provenance
    clips = f"{text.count(p.clips_present)} {p.split} clips of {p.manifest}"
    if not p.complete:
        clips = (
            f"{text.count(p.clips_present)} of {text.count(p.clips_expected)} {p.split} clips of "
            f"{p.manifest} (an incomplete set)"
        )
    if lead is None:
        row = found.ranked[0]
        score = Interval(row.top1.value, row.top1.ci_low, row.top1.ci_high, row.top1.ci_method)
        names = f"The model {row.label} names {_share(found, score, clips)}"
        return names + " No pre-trained model was scored on them."
    names = f"names {_share(found, lead.score, clips)}"
    if lead.versus is None or lead.control is None:
        who = f"Of {lead.rivals} pre-trained models, {lead.label} scored best: it" if lead.rivals > 1 else lead.label
        sentence = f"{who} {names} How much of that is due to pre-training is not known: {lead.why}."
    elif lead.gained or lead.rivals == 1:
        who = f"Of {lead.rivals} pre-trained models, {lead.label} gained most: it" if lead.rivals > 1 else lead.label
        sentence = f"{who} {names}{_against_random(lead)}"
    elif lead.versus.value > 0:
        sentence = (
            f"None of {lead.rivals} pre-trained models is shown to beat the random start of its own encoder. The "
            f"largest gain is that of {lead.label}, which {names}{_against_random(lead)}"
        )
    else:
        sentence = (
            f"None of {lead.rivals} pre-trained models beat the random start of its own encoder. The nearest, "
            f"{lead.label}, {names}{_against_random(lead)}"
        )
    return sentence + _highest(found, lead)


def _share(found: ScoredSet, score: Interval, clips: str) -> str:
    bounds = [f"95 % CI {text.interval(score.low, score.high)}"] if score.low is not None else []
    bounds += [f"chance {text.percent(found.chance)} %"] if found.chance is not None else []
    sentence = f"the sign in {text.percent(score.value)} % of {clips}"
    sentence += f" ({'; '.join(bounds)})" if bounds else ""
    if found.chance is not None and score.low is not None and score.low <= found.chance:
        sentence += ", which is not shown to be above chance"
    return sentence + "."


def _against_random(lead: _Lead) -> str:
    d = lead.versus
    assert d is not None
    start = f" From random initialisation the same encoder reaches {text.percent(lead.control)} %"
    bounds = f"points (95 % CI {text.interval(d.low, d.high, True)})"
    if lead.adjusted >= ALPHA:
        return (
            f"{start}; the paired difference of {text.percent(d.value, True)} {bounds} may be chance "
            f"(Holm-adjusted {text.p_value(lead.adjusted)})."
        )
    verb = "adds" if d.value > 0 else "costs"
    return (
        f"{start}: pre-training {verb} {text.percent(abs(d.value))} {bounds}, Holm-adjusted "
        f"{text.p_value(lead.adjusted)}."
    )


def _highest(found: ScoredSet, lead: _Lead) -> str:
    """The best score of the table, where it is another encoder's."""
    highest = max(found.ranked, key=lambda row: row.top1.value)
    if (highest.provenance.encoder and highest.provenance.encoder == lead.encoder) or (
        highest.top1.value <= lead.score.value
    ):
        return ""
    p, bounds = highest.provenance, text.interval(highest.top1.ci_low, highest.top1.ci_high)
    sentence = (
        f" The highest top-1 of all is that of {highest.label} ({p.encoder or 'not trained here'}): "
        f"{text.percent(highest.top1.value)} %"
    )
    sentence += f" ({bounds})" if bounds else ""
    d, _ = paired(highest, lead.row)
    if d is not None and d.p_value >= ALPHA:
        sentence += ", a lead that may be chance"
    return sentence + "."


def _probing(found: ProbeSet) -> str:
    if HEADLINE not in found.splits or not found.models:
        return ""
    best = _most_gained(found)
    control = _random_row(found, best)
    marks = [found.mark(best, feature, HEADLINE) for feature in found.singles]
    better, worse, n = _better(marks), sum(m in (WORSE, MAYBE_WORSE) for m in marks), len(found.singles)
    count = len(found.models)
    sentence = ""
    if found.mean is not None and (own := found.get(best, found.mean, HEADLINE)) is not None:
        other = found.get(control, found.mean, HEADLINE) if control else None
        ahead = ""
        if count > 1 and other:
            gained = own.value > other.value
            ahead = f", which gained most of {count} encoders by pre-training," if gained else ", the nearest,"
            if not gained:
                sentence = f"No encoder of {count} reads phonology better than its own random initialisation. "
        sentence += (
            f"On signs the probe never saw, the features of {best.label}{ahead} read phonology with "
            f"{text.percent(own.value)} % "
            f"balanced accuracy ({text.feature_name(found.mean).lower()})"
        )
        sentence += f", random initialisation with {text.percent(other.value)} %" if other else ""
        sentence += ". "
    if found.compared:
        sentence += f"They are better than random initialisation on {better} of {n} features"
        sentence += f" and worse on {worse}" if worse else ""
        sentence += " (95 % CI of the paired difference excludes zero"
        stand = marks.count(BETTER) or "none"
        sentence += (
            f"; {stand} stand{'s' if stand in (1, 'none') else ''} after Holm's correction)." if better else ")."
        )
    return sentence.strip()


def _better(marks: Sequence[str]) -> int:
    return sum(mark in (BETTER, MAYBE_BETTER) for mark in marks)


def _most_gained(found: ProbeSet) -> ProbeRow:
    """The encoder furthest above the random initialisation of its own architecture; by value where there is none.

    Encoders of different inputs (video, exact poses) start from different random features, so their plain values
    would compare the inputs instead of the pre-training.
    """
    feature = found.mean or found.features[0]

    def gain(row: ProbeRow) -> float:
        record = found.get(row, feature, HEADLINE, metric=METRIC)
        control = _random_row(found, row)
        floor = found.get(control, feature, HEADLINE, metric=METRIC) if control else None
        return (record.value if record else -1.0) - (floor.value if floor else 0.0)

    return max(found.models, key=gain)


def _random_row(found: ProbeSet, row: ProbeRow) -> ProbeRow | None:
    """The random initialisation of a row's encoder, else any."""
    randoms = [other for other in found.rows if other.random]
    same = [other for other in randoms if other.key[1] == row.key[1]]
    return next(iter(same or randoms), None)


def facts(gathered: Gathered, sets: Sequence[ScoredSet], probes: Sequence[ProbeSet]) -> tuple[Fact, ...]:
    """At most four numbers for the top."""
    made: list[Fact] = []
    if sets and (lead := _lead(sets[0])) is not None:
        made.append(Fact(text.percent(lead.score.value), "%", f"top-1, {lead.label}"))
        if lead.versus is not None:
            chance = "" if lead.adjusted < ALPHA else ": no difference shown"
            gain = text.percent(lead.versus.value, True)
            made.append(Fact(gain, "points", f"over random initialisation{chance}"))
        p = lead.row.provenance
        clips = text.count(p.clips_present) if p.complete else f"{p.clips_present}/{p.clips_expected}"
        made.append(Fact(clips, "", f"{p.split} clips scored"))
    for found in probes[:1]:
        if found.models and found.compared and HEADLINE in found.splits:
            best_row = _most_gained(found)
            better = _better([found.mark(best_row, f, HEADLINE) for f in found.singles])
            made.append(Fact(f"{better}/{len(found.singles)}", "", f"features read above random, {best_row.label}"))
    return tuple(made)
