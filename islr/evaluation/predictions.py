"""`predictions.csv`: the ranked classes of each clip, written by runs and read from any model.

Ties count against the model: the rank of the true class is one more than the number of other classes whose
score is at least as high, so a model that gives every class the same score has no hit. Other
tied classes are listed in the order of the label space. Both rules are deterministic.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import refuse_special

LISTED = 5
_FIXED = ("clip_id", "signer", "source", "label", "class")


@dataclass(frozen=True)
class Predictions:
    """Ranked predictions for N clips.

    Attributes:
        clip_ids: Clip names, unique.
        signers: Signer of each clip, "" when unknown.
        sources: Source of each clip, "" when unknown.
        labels: True label indices, int64 [N].
        classes: True class names.
        ranked: Names of the classes ranked first, best first; up to `LISTED` in our own files.
        scores: Their scores, float64 [N, R], nan where not given.
        true_probabilities: Probability of the true class, float64 [N], nan when not given.
        true_ranks: Rank of the true class from 1, int64 [N].
        known_ranks: Ranks are exact up to this one; a class that is not listed by a foreign file gets
            known_ranks + 1.
    """

    clip_ids: tuple[str, ...]
    signers: tuple[str, ...]
    sources: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ranked: tuple[tuple[str, ...], ...]
    scores: NDArray[np.float64]
    true_probabilities: NDArray[np.float64]
    true_ranks: NDArray[np.int64]
    known_ranks: int

    @property
    def exact(self) -> bool:
        """Whether the rank of the true class of every clip is known."""
        return bool((self.true_ranks <= self.known_ranks).all())

    def __len__(self) -> int:
        return len(self.clip_ids)

    def sorted(self) -> "Predictions":
        """Return the predictions in the order of clip names, by which two runs are matched."""
        order = sorted(range(len(self)), key=self.clip_ids.__getitem__)
        return Predictions(
            tuple(self.clip_ids[i] for i in order),
            tuple(self.signers[i] for i in order),
            tuple(self.sources[i] for i in order),
            self.labels[order],
            tuple(self.classes[i] for i in order),
            tuple(self.ranked[i] for i in order),
            self.scores[order],
            self.true_probabilities[order],
            self.true_ranks[order],
            self.known_ranks,
        )


def rank_scores(
    scores: NDArray[np.floating],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    clip_ids: Sequence[str],
    signers: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> Predictions:
    """Return the predictions of a full table of scores.

    Args:
        scores: One score for each clip and class, higher is better, [N, K]; probabilities in our runs.
        labels: True label indices, [N].
        classes: Class names by label index, unique.
        clip_ids: Clip names, unique.
        signers: Signer of each clip.
        sources: Source of each clip.

    Raises:
        ValueError: Shapes disagree, a label is outside the classes, a name is repeated, or a score is not
            finite.
    """
    n, k = scores.shape
    if not (n == len(labels) == len(clip_ids)) or k != len(classes):
        raise ValueError(f"scores [{n}, {k}] for {len(clip_ids)} clips, {len(labels)} labels, {len(classes)} classes")
    if len(set(clip_ids)) != n or len(set(classes)) != k:
        raise ValueError("clip names and class names must be unique")
    if n and (labels.min() < 0 or labels.max() >= k):
        raise ValueError(f"labels must be in 0..{k - 1}; clips without a label cannot be scored")
    if not np.isfinite(scores).all():
        bad = clip_ids[int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])]
        raise ValueError(f"scores of clip {bad} are not finite")
    rows = np.arange(n)
    table = scores.astype(np.float64)
    true = table[rows, labels]
    true_ranks = (table >= true[:, None]).sum(axis=1)  # the true class counts itself once
    is_true = np.zeros((n, k), dtype=bool)
    is_true[rows, labels] = True
    index = np.broadcast_to(np.arange(k), (n, k))
    order = np.lexsort((index, is_true, -table), axis=1)[:, :LISTED]  # by score, then not-true first, then index
    return Predictions(
        tuple(clip_ids),
        tuple(signers or [""] * n),
        tuple(sources or [""] * n),
        labels.astype(np.int64),
        tuple(classes[int(label)] for label in labels),
        tuple(tuple(classes[int(j)] for j in row) for row in order),
        np.take_along_axis(table, order, axis=1),
        true,
        true_ranks.astype(np.int64),
        k,
    )


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write `predictions.csv`, atomically; with fewer than five classes the last rank columns stay empty."""
    header = [*_FIXED, *(f"rank{i + 1}" for i in range(LISTED)), *(f"score{i + 1}" for i in range(LISTED))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "true_probability", "true_rank"])
    for i in range(len(predictions)):
        names = list(predictions.ranked[i][:LISTED])
        scores = [_number(score) for score in predictions.scores[i, :LISTED]]
        writer.writerow(
            [
                *(predictions.clip_ids[i], predictions.signers[i], predictions.sources[i]),
                *(int(predictions.labels[i]), predictions.classes[i]),
                *(*names, *[""] * (LISTED - len(names)), *scores, *[""] * (LISTED - len(scores))),
                *(_number(predictions.true_probabilities[i]), int(predictions.true_ranks[i])),
            ]
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())


def _number(value: np.floating) -> str:
    """Return the shortest text that reads back as the same float64; empty for nan."""
    return "" if np.isnan(value) else repr(float(value))


def read_predictions(path: str | Path, manifest: Manifest | None = None) -> Predictions:
    """Read `predictions.csv` of a run or of another program.

    A foreign file needs `clip_id`, `rank1` and either `class` or a `manifest` to take the truth from;
    `score1`..., `signer`, `source`, `label`, `true_probability` and `true_rank` are used when present.
    Without `true_rank` the rank is the position of the true class among the listed ones, after all classes
    that have the same score, and unknown beyond them; a `true_rank` that contradicts the listed classes is an error.

    Args:
        path: The file.
        manifest: When given, class, signer and source come from it, and clips or classes that it does not list are
            an error.

    Raises:
        UserError: The file cannot be read, lacks a column, repeats a clip, disagrees with the manifest, or
            a cell is bad.
    """
    try:
        refuse_special(Path(path))
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    for needed in ("clip_id", "rank1", *(() if manifest else ("class",))):
        if needed not in columns:
            raise UserError(f"{path}: no column '{needed}'")
    if not rows:
        raise UserError(f"{path}: no predictions in it")
    listed = next(i for i in range(1, len(columns) + 2) if f"rank{i + 1}" not in columns)
    truth = {clip.clip_id: clip for clip in manifest.clips} if manifest else {}
    known = frozenset(manifest.classes) if manifest else frozenset()
    names: dict[str, int] = {}
    parsed = []
    for number, row in enumerate(rows, start=2):
        try:
            parsed.append(_parse(row, listed, truth, manifest, known, names))
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}") from error
    ids = tuple(p[0] for p in parsed)
    if len(set(ids)) != len(ids):
        repeated = next(clip for clip in ids if ids.count(clip) > 1)
        raise UserError(f"{path}: clip {repeated} occurs more than once")
    ranks = np.array([p[8] for p in parsed], np.int64)
    stated = all((row.get("true_rank") or "").strip() for row in rows)
    if any(abs(number) > _MOST for p in parsed for number in (p[3], p[8])):
        raise UserError(f"{path}: a label or a true_rank is beyond {_MOST:,}")
    return Predictions(
        ids,
        tuple(p[1] for p in parsed),
        tuple(p[2] for p in parsed),
        np.array([p[3] for p in parsed], np.int64),
        tuple(p[4] for p in parsed),
        tuple(p[5] for p in parsed),
        np.array([p[6] for p in parsed], np.float64),
        np.array([p[7] for p in parsed], np.float64),
        ranks,
        max(listed, len(known), int(ranks.max())) if stated else listed,
    )


_MOST = 10**9  # classes that any corpus has
_ParsedRow = tuple[str, str, str, int, str, tuple[str, ...], list[float], float, int]


def _parse(
    row: dict[str, str | None],
    listed: int,
    truth: dict[str, Clip],
    manifest: Manifest | None,
    known: frozenset[str],
    names: dict[str, int],
) -> _ParsedRow:
    """Parse a row: clip, signer, source, label, class, ranked, scores, probability and rank of the true class."""

    def cell(key: str) -> str:
        return (row.get(key) or "").strip()

    def number(key: str) -> float:
        return float(cell(key)) if cell(key) else float("nan")

    clip_id, true, signer, source = cell("clip_id"), cell("class"), cell("signer"), cell("source")
    if manifest is not None:
        clip = truth.get(clip_id)
        if clip is None or clip.label is None:
            raise ValueError(f"clip '{clip_id}' is not a labelled clip of this split of {manifest.name}")
        named = manifest.classes[clip.label]
        if true and true != named:
            raise ValueError(f"clip '{clip_id}' is '{true}' here and '{named}' in the manifest")
        true, signer, source = named, clip.signer, clip.source
        label = clip.label
    else:
        label = int(cell("label")) if cell("label") else names.setdefault(true, len(names))
    ranked = tuple(name for name in (cell(f"rank{i + 1}") for i in range(listed)) if name)
    if not clip_id or not true or not ranked:
        raise ValueError("clip_id, class and rank1 must not be empty")
    if len(set(ranked)) != len(ranked):
        raise ValueError("a class is ranked twice")
    if manifest is not None and (unknown := [name for name in ranked if name not in known]):
        raise ValueError(f"'{unknown[0]}' is not one of the {len(known)} classes of {manifest.name}")
    scores = [number(f"score{i + 1}") for i in range(listed)]
    if any(later > earlier for earlier, later in itertools.pairwise(scores)):
        raise ValueError("scores must fall from rank1 on")
    if cell("true_rank"):
        rank = int(cell("true_rank"))
        if rank < (ranked.index(true) if true in ranked else len(ranked)) + 1:
            raise ValueError(f"true_rank {rank} contradicts the ranked classes")
        if manifest is not None and rank > len(known):
            raise ValueError(f"true_rank {rank} is beyond the {len(known)} classes of {manifest.name}")
    elif true in ranked:
        own = scores[ranked.index(true)]
        tied = [i for i in range(len(ranked)) if scores[i] == own]
        rank = max([ranked.index(true), *tied]) + 1
    else:
        rank = listed + 1
    return clip_id, signer, source, label, true, ranked, scores, number("true_probability"), rank
