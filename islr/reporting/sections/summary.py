"""The sentences and the few numbers at the top of the report, made from the findings by rule."""

from islr.evaluation.intervals import Difference, Interval
from islr.reporting.document import text
from islr.reporting.document.blocks import Fact
from islr.reporting.findings.collected import Findings, RecognitionFinding
from islr.reporting.findings.leads import Lead, ProbeLead, interval_of
from islr.reporting.findings.probe_standings import ProbeSet
from islr.reporting.findings.standings import ScoredRow, ScoredSet


def headlines(findings: Findings) -> tuple[str, ...]:
    """Return what was found, in plain sentences."""
    tests = [one for one in findings.recognition if one.scored.provenance.split == "test"]
    sentences = [_recognition(one) for one in tests or findings.recognition]
    sentences += [_probing(one.probed, one.lead) for one in findings.probing if one.lead is not None]
    runs = findings.gathered.runs
    problems = sum(bool(run.problem) for run in runs)
    if problems:
        sentences.append(f"{problems} of {len(runs)} runs failed or did not finish; they are listed at the end.")
    return tuple(filter(None, sentences)) or ("These folders hold no finished result yet.",)


def _recognition(finding: RecognitionFinding) -> str:
    scored, lead = finding.scored, finding.lead
    clips = _clips(lead.row if lead else scored.ranked[0])
    if lead is None:
        row = scored.ranked[0]
        score = _accuracy(scored, interval_of(row.top1), clips)
        return f"The model {row.label} {score}. No pre-trained model was scored on them."
    score = _accuracy(scored, lead.score, clips)
    if lead.versus is None or lead.control is None:
        who = f"Of {lead.models} pre-trained models, {lead.label} scored best: it" if lead.models > 1 else lead.label
        return f"{who} {score}. How much of that is due to pre-training is not known: {lead.why}.{_highest(lead)}"
    return f"{_who(lead)} {score}.{_gain(lead, lead.versus)}{_not_compared(lead)}{_highest(lead)}"


def _clips(row: ScoredRow) -> str:
    """Return `240 test clips of wlasl`, with the number expected where clips are missing."""
    p = row.provenance
    present = text.count(p.clips_present)
    if p.complete:
        return f"{present} {p.split} clips of {p.manifest}"
    return f"{present} of {text.count(p.clips_expected)} {p.split} clips of {p.manifest} (an incomplete set)"


def _who(lead: Lead) -> str:
    """Return the subject of the sentence about the lead: it gained most, or nothing is shown to have gained."""
    if lead.compared == 1:
        return lead.label
    if lead.gained:
        return f"Of {lead.compared} pre-trained models, {lead.label} gained most: it"
    assert lead.versus is not None
    none = f"None of {lead.compared} pre-trained models"
    if lead.versus.value > 0:
        return (
            f"{none} is shown to beat the random initialisation of its own encoder. The largest gain is that of "
            f"{lead.label}, which"
        )
    return f"{none} beat the random initialisation of its own encoder. The closest, {lead.label},"


def _accuracy(scored: ScoredSet, score: Interval, clips: str) -> str:
    bounds = [f"95 % CI {text.interval(score.low, score.high)}"] if score.low is not None else []
    bounds += [f"chance {text.percent(scored.chance)} %"] if scored.chance is not None else []
    sentence = f"recognises the sign in {text.percent(score.value)} % of {clips}"
    sentence += f" ({'; '.join(bounds)})" if bounds else ""
    if scored.chance is not None and score.low is not None and score.low <= scored.chance:
        sentence += ", which is not shown to be above chance"
    return sentence


def _gain(lead: Lead, difference: Difference) -> str:
    """Return the sentence on the lead's paired difference to its random initialisation."""
    start = f" The same encoder reaches {text.percent(lead.control)} % from random initialisation"
    bounds = f"points (95 % CI {text.interval(difference.low, difference.high, True)})"
    p = f"Holm-adjusted {text.p_value(lead.adjusted)}"
    if not lead.significant:
        return f"{start}; the paired difference of {text.percent(difference.value, True)} {bounds} may be chance ({p})."
    verb = "adds" if difference.value > 0 else "costs"
    return f"{start}: pre-training {verb} {text.percent(abs(difference.value))} {bounds}, {p}."


def _not_compared(lead: Lead) -> str:
    n = lead.models - lead.compared
    if n <= 0:
        return ""
    models, their = ("model", "its") if n == 1 else ("models", "their")
    return f" {n} further pre-trained {models} could not be compared with {their} own random initialisation."


def _highest(lead: Lead) -> str:
    """Return the sentence on the best score of the table, where another encoder reached it."""
    row = lead.highest
    if row is None:
        return ""
    bounds = text.interval(row.top1.ci_low, row.top1.ci_high)
    sentence = (
        f" The highest top-1 overall is that of {row.label} ({row.provenance.encoder or 'not trained here'}): "
        f"{text.percent(row.top1.value)} %"
    )
    sentence += f" ({bounds})" if bounds else ""
    return sentence + (", a lead that may be chance." if lead.ahead is False else ".")


def _probing(probed: ProbeSet, lead: ProbeLead) -> str:
    sentences = []
    if probed.mean is not None and lead.score is not None:
        gained = lead.control is not None and lead.score.value > lead.control.value
        if lead.compared > 1 and not gained:
            sentences.append(
                f"None of {lead.compared} encoders encodes phonology better than its own random initialisation."
            )
        ahead = ""
        if lead.compared > 1:
            ahead = f", which gained most of {lead.compared} encoders by pre-training," if gained else ", the closest,"
        start = f", against {text.percent(lead.control.value)} % from random initialisation" if lead.control else ""
        sentences.append(
            f"On signs that the probe was not trained on, a linear probe on the features of {lead.row.label}{ahead} "
            f"reaches {text.percent(lead.score.value)} % balanced accuracy in phonology "
            f"({text.feature_name(probed.mean).lower()}){start}."
        )
    if probed.compared:
        sentence = f"It is better than random initialisation on {lead.better} of {len(probed.singles)} features"
        sentence += f" and worse on {lead.worse}" if lead.worse else ""
        stand = lead.stands or "none"
        holm = f"; {stand} stand{'s' if stand in (1, 'none') else ''} after Holm's correction" if lead.better else ""
        sentences.append(f"{sentence} (95 % CI of the paired difference excludes zero{holm}).")
    return " ".join(sentences)


def facts(findings: Findings) -> tuple[Fact, ...]:
    """Return at most four numbers for the top."""
    made: list[Fact] = []
    if findings.recognition and (lead := findings.recognition[0].lead) is not None:
        made.append(Fact(text.percent(lead.score.value), "%", f"top-1, {lead.label}"))
        if lead.versus is not None:
            side = "below" if lead.versus.value < 0 else "above"
            doubt = "" if lead.significant else ": no difference shown"
            made.append(Fact(text.percent(abs(lead.versus.value)), "points", f"{side} random initialisation{doubt}"))
        p = lead.row.provenance
        clips = text.count(p.clips_present) if p.complete else f"{p.clips_present}/{p.clips_expected}"
        made.append(Fact(clips, "", f"{p.split} clips scored"))
    for one in findings.probing[:1]:
        if one.probed.compared and one.lead is not None:
            label = f"features encoded better than by random initialisation, {one.lead.row.label}"
            made.append(Fact(f"{one.lead.better}/{len(one.probed.singles)}", "", label))
    return tuple(made)
