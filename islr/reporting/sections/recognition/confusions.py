"""The most frequently confused pairs of signs, as a table and as frames of their clips."""

import math
from collections.abc import Mapping, Sequence

from islr.files import slug
from islr.reporting.document import text
from islr.reporting.document.blocks import (
    Block,
    Column,
    Gallery,
    Notice,
    ReportTable,
    Section,
    TableCell,
    Tile,
    number_column,
)
from islr.reporting.document.thumbnails import ClipPictures
from islr.reporting.findings.confusions import ModelConfusions, Pair, confusions_by_model, most_misread
from islr.reporting.findings.standings import ScoredSet
from islr.reporting.gather import Gathered

_PAIRS_SHOWN = 12
_PAIRS_LISTED = 100  # behind a fold; all of them are in predictions.csv
_PAIRS_PICTURED = 6


def section(gathered: Gathered, sets: Sequence[ScoredSet]) -> Section | None:
    """Return one table and one gallery for each test set; None where nothing was confused."""
    clips = ClipPictures(gathered)
    blocks: list[Block] = []
    for scored in sets:
        models = confusions_by_model(scored)
        total: dict[Pair, int] = {}
        for model in models:
            for pair, times in model.counts.items():
                total[pair] = total.get(pair, 0) + times
        if total:
            worst = sorted(total, key=lambda pair: (-total[pair], pair))
            blocks += [
                *_tables(scored, models, worst),
                *_gallery(scored, models, worst[:_PAIRS_PICTURED], total, clips),
            ]
    return Section("confusions", "Confused signs", tuple(blocks)) if blocks else None


def _tables(scored: ScoredSet, models: Sequence[ModelConfusions], worst: Sequence[Pair]) -> list[Block]:
    several = any(len(model.runs) > 1 for model in models)
    columns = (
        Column("True sign"),
        Column("Taken for"),
        number_column("Clips", title="clips of the true sign in the test set"),
        *(
            Column(
                f"{model.label}, {len(model.runs)} runs" if len(model.runs) > 1 else model.label,
                numeric=True,
                title=text.enumerate_words([row.label for row in model.runs]),
            )
            for model in models
        ),
    )
    rows = []
    for true, other in worst[: _PAIRS_SHOWN + _PAIRS_LISTED]:
        clips = max(model.of.get(true, 0) // len(model.runs) for model in models)
        cells = [TableCell(true), TableCell(other), TableCell(str(clips), clips)]
        for model in models:
            times, of = model.counts.get((true, other), 0), model.of.get(true, 0)
            title = f"{times} of {of} clips of {true} taken for {other}"
            shade = math.sqrt(times / of) if of else 0.0
            cells.append(TableCell(str(times) if times else "·", times, title=title, shade=shade))
        rows.append(tuple(cells))
    note = (
        "Number of clips of the true sign that each model classified as the other one"
        f"{', summed over the regimes and seeds of a method' if several else ''}. Pairs that all models confuse are "
        "hard; pairs that a single model confuses are its weakness."
    )
    name = f"confusions-{slug(scored.title)}"
    title = f"Signs most often confused on {scored.title}"
    blocks: list[Block] = [ReportTable(name, title, columns, tuple(rows[:_PAIRS_SHOWN]), note, style="heat")]
    hidden = len(worst) - _PAIRS_SHOWN
    if hidden > 0:
        listed = tuple(rows[_PAIRS_SHOWN:])
        which = "The other" if hidden <= _PAIRS_LISTED else "The next"
        rest = f"{which} {text.count(len(listed))} confused pairs"
        blocks.append(ReportTable(f"{name}-rest", rest, columns, listed, style="heat", folded=True))
    return blocks


def _gallery(
    scored: ScoredSet,
    models: Sequence[ModelConfusions],
    pairs: Sequence[Pair],
    total: Mapping[Pair, int],
    clips: ClipPictures,
) -> list[Block]:
    """Return a card for each pair: its most often misclassified clip above a clip of the sign it was taken for."""
    corpus, split = scored.provenance.manifest, scored.provenance.split
    problem = clips.problem(corpus, scored.provenance.split_fingerprint, split)
    if problem:
        return [Notice(f"No pictures of the confused signs: {problem}")]
    rows: list[tuple[str, str, tuple[Tile, ...]]] = []
    for true, other in pairs:
        misread = most_misread(models, (true, other))
        shown = (
            clips.tile(corpus, misread, f"{true}, misclassified"),
            clips.tile(corpus, clips.example(corpus, other, misread), f"{other}, what it was taken for"),
        )
        by = [f"{m.label} {m.counts[true, other]} of {m.of[true]}" for m in models if (true, other) in m.counts]
        rows.append((f"{true} → {other}", f"{total[true, other]} times: {'; '.join(by)}", shown))
    missing = sum(not tile.picture for *_, tiles in rows for tile in tiles)
    caption = (
        f"The {len(rows)} most frequent confusions on {scored.title}, as frames of clips: above, the {split} clip "
        "that was "
        "misclassified most often; below, a clip of the sign it was taken for, by the same signer where there is one."
    )
    if missing:
        caption += f" {missing} clip{'s' if missing > 1 else ''} could not be shown; the reason is given in its place."
    return [Gallery(caption, tuple(rows))]
