"""What gets confused: the commonest pairs of signs as a table, and as pictures of the clips themselves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from islr.evaluation.metrics import confusions
from islr.files import slug
from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Cell, Column, Gallery, Notice, Section, Series, Table, Tile
from islr.reporting.document.thumbnails import Clips
from islr.reporting.gather import Gathered
from islr.reporting.standings import Row, ScoredSet

_PAIRS_SHOWN = 12
_PAIRS_LISTED = 100  # behind a fold; all of them are in predictions.csv
_PAIRS_PICTURED = 6

Pair = tuple[str, str]  # true sign, the sign it was taken for


@dataclass(frozen=True)
class _Model:
    """One column: the runs of one model; in a grid all regimes and seeds of one method.

    Attributes:
        label: Name of the column.
        series: Its colour.
        runs: Rows whose predictions it adds up.
        counts: How often each pair was confused.
        of: True sign -> clips of it, summed over the runs.
    """

    label: str
    series: Series
    runs: tuple[Row, ...]
    counts: Mapping[Pair, int]
    of: Mapping[str, int]


def section(gathered: Gathered, sets: Sequence[ScoredSet]) -> Section | None:
    """One table and one gallery for each test set; None where nothing was confused."""
    clips = Clips(gathered)
    blocks: list[Block] = []
    for found in sets:
        models = _models(found)
        total: dict[Pair, int] = {}
        for model in models:
            for pair, times in model.counts.items():
                total[pair] = total.get(pair, 0) + times
        if total:
            worst = sorted(total, key=lambda pair: (-total[pair], pair))
            blocks += [*_tables(found, models, worst), *_gallery(found, models, worst[:_PAIRS_PICTURED], total, clips)]
    return Section("confusions", "What gets confused", tuple(blocks)) if blocks else None


def _models(found: ScoredSet) -> list[_Model]:
    members: dict[str, list[Row]] = {}
    for row in found.ranked:
        if row.predictions is not None:
            members.setdefault(row.run.place[0] if row.run.place else row.label, []).append(row)
    models = []
    for label, rows in members.items():
        counts: dict[Pair, int] = {}
        of: dict[str, int] = {}
        for row in rows:
            assert row.predictions is not None
            for c in confusions(row.predictions):
                if c.true == c.predicted:  # a tie, which counts against the model but confuses nothing
                    continue
                counts[c.true, c.predicted] = counts.get((c.true, c.predicted), 0) + c.count
            for name in row.predictions.classes:
                of[name] = of.get(name, 0) + 1
        models.append(_Model(label, rows[0].series, tuple(rows), counts, of))
    return models


def _tables(found: ScoredSet, models: Sequence[_Model], worst: Sequence[Pair]) -> list[Block]:
    several = any(len(model.runs) > 1 for model in models)
    columns = (
        Column("True sign"),
        Column("Taken for"),
        Column("Clips", numeric=True, title="clips of the true sign in the test set"),
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
        cells = [Cell(true), Cell(other), Cell(str(clips), clips)]
        for model in models:
            times, of = model.counts.get((true, other), 0), model.of.get(true, 0)
            title = f"{times} of {of} clips of {true} taken for {other}"
            shade = math.sqrt(times / of) if of else 0.0
            cells.append(Cell(str(times) if times else "·", times, title=title, shade=shade))
        rows.append(tuple(cells))
    note = (
        "How many clips of the true sign each model took for the other one"
        f"{', summed over the regimes and seeds of a method' if several else ''}. Pairs that every model confuses are "
        "hard signs; pairs that one model confuses are its weakness."
    )
    name = f"confusions-{slug(found.title)}"
    title = f"Signs most often confused on {found.title}"
    blocks: list[Block] = [Table(name, title, columns, tuple(rows[:_PAIRS_SHOWN]), note, style="heat")]
    hidden = len(worst) - _PAIRS_SHOWN
    if hidden > 0:
        listed = tuple(rows[_PAIRS_SHOWN:])
        which = "The other" if hidden <= _PAIRS_LISTED else "The next"
        rest = f"{which} {text.count(len(listed))} confused pairs"
        blocks.append(Table(f"{name}-rest", rest, columns, listed, style="heat", folded=True))
    return blocks


def _gallery(
    found: ScoredSet, models: Sequence[_Model], pairs: Sequence[Pair], total: Mapping[Pair, int], clips: Clips
) -> list[Block]:
    """For each pair the clip that was misread most often, above a clip of the sign it was taken for."""
    corpus, split = found.provenance.manifest, found.provenance.split
    problem = clips.problem(corpus, found.provenance.split_fingerprint, split)
    if problem:
        return [Notice(f"No pictures of the confused signs: {problem}")]
    rows: list[tuple[str, str, tuple[Tile, ...]]] = []
    for true, other in pairs:
        misread = _misread(models, (true, other))
        shown = (
            clips.tile(corpus, misread, f"{true}, misread"),
            clips.tile(corpus, clips.example(corpus, other, misread), f"{other}, what it was taken for"),
        )
        by = [f"{m.label} {m.counts[true, other]} of {m.of[true]}" for m in models if (true, other) in m.counts]
        rows.append((f"{true} → {other}", f"{total[true, other]} times: {'; '.join(by)}", shown))
    missing = sum(not tile.picture for *_, tiles in rows for tile in tiles)
    caption = (
        f"The {len(rows)} commonest confusions on {found.title}, as frames of clips: above, the {split} clip that was "
        "misread most often; below, a clip of the sign it was taken for, by the same signer where there is one."
    )
    if missing:
        caption += f" {missing} clip{'s' if missing > 1 else ''} could not be shown; the reason stands in place."
    return [Gallery(caption, tuple(rows))]


def _misread(models: Sequence[_Model], pair: Pair) -> str:
    """The clip of a pair that most runs got wrong in this way."""
    times: dict[str, int] = {}
    for model in models:
        for row in model.runs:
            assert row.predictions is not None
            p = row.predictions
            for clip, true, ranked in zip(p.clip_ids, p.classes, p.ranked, strict=True):
                if (true, ranked[0]) == pair:
                    times[clip] = times.get(clip, 0) + 1
    return max(times, key=lambda clip: (times[clip], clip))
