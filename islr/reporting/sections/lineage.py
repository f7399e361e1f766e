"""Lineage of each model: corpus, pre-training, fine-tuning, score."""

import json
import re
from collections.abc import Sequence

import numpy as np

from islr.evaluation.results import Provenance
from islr.reporting.document import text
from islr.reporting.document.blocks import Lineage, Notice, Section, Series
from islr.reporting.findings.grid import cell_label
from islr.reporting.findings.standings import Palette, ScoredRow, ScoredSet, series_of
from islr.reporting.gather import Gathered
from islr.reporting.run_files import ReportedRun

_MOST_LINES = 16  # models shown at once; more are folded


def section(gathered: Gathered, sets: Sequence[ScoredSet], colours: Palette) -> Section:
    """Return the section on lineage, one line for each model."""
    rows: list[tuple[str, Series, tuple[tuple[str, str, str], ...]]] = []
    shown: set[str] = set()
    for found in sets:
        for members in _alike(found):
            row = members[0]
            if row.run.label in shown:
                continue
            shown |= {member.run.label for member in members}
            p = row.provenance
            steps = _steps(p)
            score = f"top-1 {text.percent(float(np.mean([member.top1.value for member in members])))} %"
            seeds = f", mean of {len(members)} seeds" if len(members) > 1 else ""
            steps.append(("scored", score, f"{text.count(p.clips_present)} {p.split} clips{seeds}"))
            name = cell_label(row.run.place) if row.run.place else row.label
            rows.append((name, row.series, tuple(steps)))
    trained = {
        row.provenance.pretraining[-1].get("recipe") for s in sets for row in s.rows if row.provenance.pretraining
    }
    for run in gathered.of("pretrain"):
        if run.recipe in trained or (run.problem and not run.metrics):
            continue
        stages = _stages(run)
        steps = [("start", run.encoder or "encoder", "random weights")]
        for stage in stages:
            steps.append(("pre-training", stage.get("recipe", "?"), _clips_of_stage(stage)))
        stopped = "failed" if run.problem.startswith("failed") else "not finished"
        steps.append(("pre-training", stopped, "") if run.problem else ("end", "not fine-tuned", ""))
        rows.append((run.name, series_of(colours, run.name, run.encoder, False), tuple(steps)))
    if not rows:
        return Section("lineage", "Lineage of the models", (Notice("No finished run was found."),))
    lead = (
        "Each line is one model, from random weights to its score. Random initialisation has no pre-training: "
        "it is the control."
    )
    folded = f"All {len(rows)} models" if len(rows) > _MOST_LINES else ""
    return Section("lineage", "Lineage of the models", (Lineage(tuple(rows), folded),), lead)


def _alike(scored: ScoredSet) -> list[list[ScoredRow]]:
    """Rows of a test set, best first; seeds of one cell of a grid together."""
    groups: dict[object, list[ScoredRow]] = {}
    for row in scored.ranked:
        groups.setdefault(row.run.place or row.label, []).append(row)
    return list(groups.values())


def _steps(p: Provenance) -> list[tuple[str, str, str]]:
    """Return the steps of a row before it was scored."""
    if p.parents:
        fused = [("fused", parent.get("name", "?"), f"weight {parent.get('weight', '?')}") for parent in p.parents]
        return [*fused, ("pooling", f"averaged {p.parents[0].get('pool', '')}", f"chosen on {p.selection_set}")]
    if not p.encoder:
        return [("start", "another model", "its training is not stated"), ("scored from", "its predictions", "")]
    steps = [("start", p.encoder, "random weights")]
    steps += [("pre-training", stage.get("recipe", "?"), _clips_of_stage(stage)) for stage in p.pretraining]
    return [*steps, ("fine-tuning", f"on {p.manifest}", f"chosen on {p.selection_set}")]


def _clips_of_stage(stage: dict[str, str]) -> str:
    words = f"on {stage.get('manifest', '?')}, {clips_words(stage.get('clips', '?'))} clips"
    if stage.get("left_out", "0") != "0":
        words += f", {stage['left_out']} left out because they choose or score models"
    return f"{words}, transductive: includes clips that score it" if stage.get("transductive") else words


def clips_words(n: str) -> str:
    return text.count(int(n)) if re.fullmatch(r"[0-9]{1,15}", n) else n


def _stages(run: ReportedRun) -> list[dict[str, str]]:
    stages: list[dict[str, str]] = json.loads(run.weights.get("pretraining", "[]"))
    return stages
