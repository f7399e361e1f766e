"""The sentences and the few numbers at the top of the report, made from the records by rule."""

from collections.abc import Sequence

from islr.reporting import text
from islr.reporting.blocks import Fact
from islr.reporting.probe_standings import HEADLINE, MAYBE_BETTER, MAYBE_WORSE, METRIC, ProbeRow, ProbeSet
from islr.reporting.scan import Gathered
from islr.reporting.standings import ALPHA, BETTER, WORSE, Row, ScoredSet, is_random_name, paired


def headlines(gathered: Gathered, sets: Sequence[ScoredSet], probes: Sequence[ProbeSet]) -> tuple[str, ...]:
    """What was found, in plain sentences."""
    found = [_recognition(s) for s in sets if s.provenance.split == "test"] or [_recognition(s) for s in sets]
    found += [sentence for probe in probes if (sentence := _probing(probe))]
    problems = sum(bool(run.problem) for run in gathered.runs)
    if problems:
        found.append(f"{problems} of {len(gathered.runs)} runs failed or did not finish; they are listed at the end.")
    return tuple(found) or ("These folders hold no finished result yet.",)


def _recognition(found: ScoredSet) -> str:
    leader = found.leader
    row = leader or found.ranked[0]
    p = row.provenance
    clips = f"{text.count(p.clips_present)} {p.split} clips of {p.manifest}"
    if not p.complete:
        clips = (
            f"{text.count(p.clips_present)} of {text.count(p.clips_expected)} {p.split} clips of "
            f"{p.manifest} (an incomplete set)"
        )
    top1 = row.top1
    bounds = [f"95 % CI {text.interval(top1.ci_low, top1.ci_high)}"] if top1.ci_low is not None else []
    bounds += [f"chance {text.percent(found.chance)} %"] if found.chance is not None else []
    rivals = sum(not other.random and bool(other.provenance.encoder) for other in found.rows)
    compared = leader is not None and (versus := found.of(leader)) is not None and versus.difference is not None
    who = f"The model {row.label} names"
    if leader and rivals > 1:
        who = (
            f"Of {rivals} pre-trained models, {row.label} {'gained most: it' if compared else 'scored best: it'} names"
        )
    sentence = f"{who} the sign in {text.percent(top1.value)} % of {clips}"
    sentence += f" ({'; '.join(bounds)})" if bounds else ""
    if found.chance is not None and top1.ci_low is not None and top1.ci_low <= found.chance:
        sentence += ", which is not shown to be above chance"
    sentence += "."
    if leader is None:
        return sentence + " No pre-trained model was scored on them."
    return sentence + _against_random(found, leader) + _highest(found, leader)


def _against_random(found: ScoredSet, leader: Row) -> str:
    versus = found.of(leader)
    if versus is None or versus.control is None or versus.difference is None:
        return (
            " How much of that is due to pre-training is not known: " + (versus.why if versus else "no control") + "."
        )
    d, control = versus.difference, versus.control
    start = f" From random initialisation the same encoder reaches {text.percent(control.top1.value)} %"
    bounds = f"points (95 % CI {text.interval(d.low, d.high, True)})"
    if not versus.significant:
        return (
            f"{start}; the paired difference of {text.percent(d.value, True)} {bounds} may be chance "
            f"(Holm-adjusted {text.p_value(versus.adjusted)})."
        )
    verb = "adds" if d.value > 0 else "costs"
    return (
        f"{start}: pre-training {verb} {text.percent(abs(d.value))} {bounds}, Holm-adjusted "
        f"{text.p_value(versus.adjusted)}."
    )


def _highest(found: ScoredSet, leader: Row) -> str:
    """The best score of the table, where it is another row's."""
    highest = max(found.ranked, key=lambda row: row.top1.value)
    if highest.top1.value <= leader.top1.value:
        return ""
    p, bounds = highest.provenance, text.interval(highest.top1.ci_low, highest.top1.ci_high)
    sentence = (
        f" The highest top-1 of all is that of {highest.label} ({p.encoder or 'not trained here'}): "
        f"{text.percent(highest.top1.value)} %"
    )
    sentence += f" ({bounds})" if bounds else ""
    d, _ = paired(highest, leader)
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
    ahead = f", which gained most of {count} encoders by pre-training," if count > 1 and control else ""
    sentence = ""
    if found.mean is not None and (own := found.get(best, found.mean, HEADLINE)) is not None:
        sentence = (
            f"On signs the probe never saw, the features of {best.label}{ahead} read phonology with "
            f"{text.percent(own.value)} % "
            f"balanced accuracy ({text.feature_name(found.mean).lower()})"
        )
        other = found.get(control, found.mean, HEADLINE) if control else None
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
    randoms = [other for other in found.rows if is_random_name(other.key[0]) or is_random_name(other.key[2])]
    same = [other for other in randoms if other.key[1] == row.key[1]]
    return next(iter(same or randoms), None)


def facts(gathered: Gathered, sets: Sequence[ScoredSet], probes: Sequence[ProbeSet]) -> tuple[Fact, ...]:
    """At most four numbers for the top."""
    made: list[Fact] = []
    if sets and (best := sets[0].leader) is not None:
        made.append(Fact(text.percent(best.top1.value), "%", f"top-1, {best.label}"))
        versus = sets[0].of(best)
        if versus and versus.difference is not None:
            made.append(Fact(text.percent(versus.difference.value, True), "points", "over random initialisation"))
        p = best.provenance
        clips = text.count(p.clips_present) if p.complete else f"{p.clips_present}/{p.clips_expected}"
        made.append(Fact(clips, "", f"{p.split} clips scored"))
    for found in probes[:1]:
        if found.models and found.compared and HEADLINE in found.splits:
            best_row = _most_gained(found)
            better = _better([found.mark(best_row, f, HEADLINE) for f in found.singles])
            made.append(Fact(f"{better}/{len(found.singles)}", "", f"features read above random, {best_row.label}"))
    return tuple(made)
