"""Where the models come from, and pictures of what their recipes see."""

import json
import zipfile
from collections.abc import Sequence

import cv2
import numpy as np

from islr.evaluation.results import Provenance
from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Lineage, Notice, Picture, Section, Series
from islr.reporting.gather import Gathered, Run
from islr.reporting.sections.grid import cell_label, regime_order
from islr.reporting.standings import Palette, Row, ScoredSet, series_of

_TILE = 112  # height in pixels of one picture of a recipe; smaller ones are enlarged by whole factors
_MOST_LINES = 16  # models shown at once; more are folded
_MOST_PICTURES = 8  # pictures of one panel
LOSSLESS, PHOTO = 101, 85  # qualities of WebP; above 100 means lossless


def lineage(gathered: Gathered, sets: Sequence[ScoredSet], colours: Palette) -> Section:
    """Corpus -> pre-training -> fine-tuning -> score, one line for each model."""
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
            steps.append(("pre-training", stage.get("recipe", "?"), _what_was_seen(stage)))
        steps.append(("pre-training", "not finished", "") if run.problem else ("end", "not fine-tuned", ""))
        rows.append((run.name, series_of(colours, run.name, run.encoder, False), tuple(steps)))
    if not rows:
        return Section("lineage", "What was run", (Notice("No finished run was found."),))
    lead = (
        "Each line is one model, from random weights to its score. Random initialisation skips "
        "pre-training: it is the control."
    )
    folded = f"All {len(rows)} models" if len(rows) > _MOST_LINES else ""
    return Section("lineage", "What was run", (Lineage(tuple(rows), folded),), lead)


def _alike(found: ScoredSet) -> list[list[Row]]:
    """Rows of a test set, best first; seeds of one cell of a grid together."""
    groups: dict[object, list[Row]] = {}
    for row in found.ranked:
        groups.setdefault(row.run.place or row.label, []).append(row)
    return list(groups.values())


def _steps(p: Provenance) -> list[tuple[str, str, str]]:
    """What a row went through before it was scored."""
    if p.parents:
        fused = [("fused", parent.get("name", "?"), f"weight {parent.get('weight', '?')}") for parent in p.parents]
        return [*fused, ("answers", f"averaged {p.parents[0].get('pool', '')}", f"chosen on {p.selection_set}")]
    if not p.encoder:
        return [("start", "another model", "its training is not stated"), ("answers", "predictions of others", "")]
    steps = [("start", p.encoder, "random weights")]
    steps += [("pre-training", stage.get("recipe", "?"), _what_was_seen(stage)) for stage in p.pretraining]
    return [*steps, ("fine-tuning", f"on {p.manifest}", f"chosen on {p.selection_set}")]


def _what_was_seen(stage: dict[str, str]) -> str:
    words = f"on {stage.get('manifest', '?')}, {clips_words(stage.get('clips', '?'))} clips"
    if int(stage.get("left_out", "0")):
        words += f", {stage['left_out']} left out that choose or score models"
    return f"{words}, transductive: with clips that score it" if stage.get("transductive") else words


def clips_words(n: str) -> str:
    return text.count(int(n)) if n.isdigit() else n


def _stages(run: Run) -> list[dict[str, str]]:
    try:
        stages = json.loads(run.weights.get("pretraining", "[]"))
    except ValueError:
        return []
    return [stage for stage in stages if isinstance(stage, dict)]


def pictures(gathered: Gathered) -> Section | None:
    """What the recipes see and predict: of a grid one seed of each cell, its other regimes folded."""
    runs: dict[object, Run] = {}
    for run in gathered.runs:
        if run.pictures is not None:
            runs.setdefault(run.place or run.label, run)
    regimes = regime_order([run.place[1] for run in runs.values() if run.place])
    last = {run.place[0]: regimes.index(run.place[1]) for run in runs.values() if run.place}
    for run in runs.values():
        if run.place:
            last[run.place[0]] = max(last[run.place[0]], regimes.index(run.place[1]))
    blocks: list[Block] = []
    for run in sorted(
        runs.values(), key=lambda run: (run.place[0], -regimes.index(run.place[1])) if run.place else ("", 0)
    ):
        assert run.pictures is not None
        try:
            with np.load(run.pictures, allow_pickle=False) as panels:
                rows = tuple((name, _strip(panels[name])) for name in panels.files)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            blocks.append(Notice(f"The pictures of {run.label} cannot be read ({error}).", "warning"))
            continue
        title = cell_label(run.place) if run.place else run.name
        folded = run.place is not None and regimes.index(run.place[1]) < last[run.place[0]]
        names = text.enumerate_words([name for name, _ in rows])
        caption = f"{title}: {names}. Each column is one clip the recipe was trained on"
        if any("HOG" in name for name, _ in rows):
            caption += (
                ", at the moment when most of it is hidden. Strokes run along edges and fade where the frame has "
                "no contrast; in the prediction, cells that were visible are dim"
            )
        caption += "."
        blocks.append(Picture(caption, rows, pixelated=True, about=title, folded=title if folded else ""))
    if not blocks:
        return None
    lead = "What a recipe is shown, what is hidden from it, and what it makes of the hidden part."
    return Section("pictures", "What the recipes see", tuple(blocks), lead)


def _strip(panel: np.ndarray) -> bytes:
    """Pictures uint8 [N, H, W, 3] side by side as one WebP, enlarged by a whole factor when small."""
    if panel.ndim == 3:
        panel = panel[None]
    if panel.ndim != 4 or panel.shape[-1] != 3 or panel.dtype != np.uint8:
        raise ValueError(f"a panel is uint8 [N, H, W, 3], this one is {panel.dtype} {list(panel.shape)}")
    panel = panel[:_MOST_PICTURES]
    factor = max(1, round(_TILE / panel.shape[1]))
    panel = panel.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = np.full((panel.shape[1], max(2, factor), 3), 255, np.uint8)
    alpha = np.zeros((*gap.shape[:2], 1), np.uint8)
    opaque = np.full((*panel.shape[1:3], 1), 255, np.uint8)
    tiles: list[np.ndarray] = []
    for i, picture in enumerate(panel):
        tiles += [np.concatenate([gap, alpha], 2)] if i else []
        tiles.append(np.concatenate([picture, opaque], 2))
    quality = LOSSLESS if factor > 1 else PHOTO
    return webp(cv2.cvtColor(np.concatenate(tiles, 1), cv2.COLOR_RGBA2BGRA), quality)


def webp(picture: np.ndarray, quality: int) -> bytes:
    """A BGR or BGRA picture as WebP, which keeps pages small and every current browser shows."""
    ok, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert ok
    return encoded.tobytes()
