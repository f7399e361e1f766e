"""Scores of other people's models from a file of their predictions; neither weights nor videos are needed.

Three layouts are recognised by their content:

- csv, ranked: `clip_id, rank1, rank2, ...` with class names, best first; optional `score1, score2, ...` (falling) and
  `true_probability`. Top-k is known for as many ranks as are listed.
- csv, one column for each class: `clip_id` and the class names, probabilities in the cells.
- npz: `clip_ids [N]`, `classes [K]` (text), and `probabilities` or `logits` `[N, K]`.

True classes, signers and sources always come from the manifest. Classes are matched by name, never by index: a silently
different label order is the commonest cause of irreproducible scores.
"""

import csv
import logging
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from islr.config import Config
from islr.data.manifest import Manifest
from islr.errors import UserError, one_line
from islr.evaluation.predictions import Predictions, rank_scores, read_predictions
from islr.evaluation.provenance import provenance_now
from islr.evaluation.requests.rescore import EvalSplit
from islr.evaluation.results import Result
from islr.evaluation.scoring import NOT_COMPARABLE, labelled_rows, write_scores
from islr.files import file_sha256
from islr.training.distributed.world import World
from islr.training.run_folder import run_folder
from islr.untrusted.npz_files import read_arrays

logger = logging.getLogger(__name__)
NOT_STATED = "not stated"
_SUM_SLACK = 2e-3  # what a row of half-precision probabilities may miss of 1
_ARRAYS = ("clip_ids", "classes")


class ForeignConfig(Config):
    """The inputs of a foreign model's scores; saved as the `config.yaml` of their folder."""

    task: Literal["evaluate"] = "evaluate"
    kind: Literal["foreign"] = "foreign"
    name: str
    predictions: str
    sha256: str
    manifest: str
    split: EvalSplit
    allow_partial: bool
    cluster: Literal["signer"] | None


def evaluate_predictions(
    path: Path,
    manifest_path: Path,
    *,
    split: EvalSplit = "test",
    name: str | None = None,
    out: Path | None = None,
    allow_partial: bool = False,
    cluster: Literal["signer"] | None = None,
) -> list[Result]:
    """Score a file of predictions by the rules for runs of this suite.

    Args:
        path: The predictions, in one of the three layouts.
        manifest_path: The corpus; its clips need no files here.
        split: The split that was predicted.
        name: Name of the row in tables; default the file's name.
        out: Folder for the results; default `<file>_<split>` beside the file.
        allow_partial: Score n of the expected clips.
        cluster: "signer" draws whole signers in intervals.

    Raises:
        UserError: The file is broken, names a clip or a class that the split does not have, or lacks clips and
            `allow_partial` is not set.
    """
    started = time.monotonic()
    manifest = Manifest.load(manifest_path)
    rows = labelled_rows(manifest, split, cluster)
    predictions = read_foreign(path, rows)
    if not allow_partial:
        _refuse_missing(path, predictions, rows, split)
    if not predictions.exact:
        logger.warning("%s gives no rank beyond %d: mrr and dcg are unknown", path, predictions.known_ranks)
    world = World("cpu")
    config = ForeignConfig(
        name=name or path.stem,
        predictions=path.name,
        sha256=file_sha256(path),
        manifest=manifest_path.as_posix(),
        split=split,
        allow_partial=allow_partial,
        cluster=cluster,
    )
    record = provenance_now(
        manifest=manifest,
        split=split,
        present=len(predictions),
        config=config,
        world=world,
        started=started,
        cluster=cluster,
        selection_set=NOT_STATED,
        views=NOT_STATED,
        decoder="",
        encoder="",
        pretraining=[],
        seed=0,
        checkpoint_hash="",
    )
    folder = out or path.with_name(f"{path.stem}_{split}")
    with run_folder(config, str(folder), world):
        return write_scores(folder, predictions, config.name, manifest, split, record, signers=None)


def _refuse_missing(path: Path, predictions: Predictions, rows: Manifest, split: str) -> None:
    """Stop when clips of the split were not predicted.

    Raises:
        UserError: Names the first of them.
    """
    scored = set(predictions.clip_ids)
    missing = [clip.clip_id for clip in rows if clip.clip_id not in scored]
    if missing:
        raise UserError(
            f"{path}: predictions for {len(scored)} of the {len(rows)} clips of split {split} of {rows.name}; "
            f"{len(missing)} are missing, such as {missing[0]}. {NOT_COMPARABLE}: add them, or pass --allow-partial "
            "to report n/expected"
        )


def read_foreign(path: Path, rows: Manifest) -> Predictions:
    """Read predictions for clips of `rows`, the manifest that holds their true classes.

    Raises:
        UserError: The file is not one of the three layouts, or disagrees with the manifest.
    """
    if path.suffix.lower() == ".npz":
        return _from_table(path, *_read_npz(path), rows)
    header = _header(path)
    if "rank1" in header:
        return read_predictions(path, rows)
    if header[:1] == ["clip_id"]:
        return _from_table(path, *_read_wide(path), rows)
    raise UserError(
        f"{path}: predictions are a csv with columns clip_id, rank1, rank2, ... or clip_id and one for each class, or "
        "an npz with clip_ids, classes and probabilities or logits"
    )


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({one_line(error)})") from error


def _read_wide(path: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            classes = next(reader)[1:]
            ids, table = [], []
            for row in reader:
                if len(row) != len(classes) + 1:
                    raise ValueError(f"{len(row)} cells and {len(classes) + 1} columns")
                ids.append(row[0].strip())
                table.append(np.array(row[1:], dtype=np.float64))
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path} line {reader.line_num}: {one_line(error)}") from error
    return ids, classes, np.array(table).reshape(len(ids), len(classes))


def _read_npz(path: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    arrays = read_arrays(path)
    given = [key for key in ("probabilities", "logits") if key in arrays]
    absent = [key for key in _ARRAYS if key not in arrays]
    if absent or len(given) != 1:
        what = f"'{absent[0]}'" if absent else "exactly one of 'probabilities' and 'logits'"
        raise UserError(f"{path}: needs {what}; it holds {', '.join(arrays) or 'nothing'}")
    table = arrays[given[0]]
    ids, classes = (_texts(path, key, arrays[key]) for key in _ARRAYS)
    if table.shape != (len(ids), len(classes)) or table.dtype.kind != "f":
        raise UserError(
            f"{path}: '{given[0]}' is {table.dtype} {list(table.shape)}, not floating point "
            f"[{len(ids)} clips, {len(classes)} classes]"
        )
    table = table.astype(np.float64)
    if given[0] == "logits" and np.isfinite(table).all():
        powers = np.exp(table - table.max(axis=1, keepdims=True))
        table = powers / powers.sum(axis=1, keepdims=True)
    return ids, classes, table


def _texts(path: Path, key: str, values: NDArray[Any]) -> list[str]:
    if values.ndim != 1 or values.dtype.kind != "U":
        raise UserError(f"{path}: '{key}' must be a list of texts (numpy dtype U), it is {values.dtype}")
    return [str(value) for value in values]


def _probabilities(path: Path, table: NDArray[np.float64], ids: list[str]) -> NDArray[np.float64]:
    """Return the table with rows that sum to one exactly.

    Raises:
        UserError: A row is not a distribution.
    """
    if not len(ids):
        raise UserError(f"{path}: no predictions in it")
    sums = table.sum(axis=1)
    wrong = ~(np.isfinite(table).all(axis=1) & (table >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_SLACK))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}: clip {ids[row]} has no probabilities (they are finite, not negative, and sum to 1; these sum "
            f"to {sums[row]:.6g}); an npz may hold 'logits' instead"
        )
    return table / sums[:, None]


def _from_table(
    path: Path, ids: list[str], classes: list[str], table: NDArray[np.float64], rows: Manifest
) -> Predictions:
    """Rank a full table of scores, its columns reordered as the manifest orders its classes."""
    for what, names in (("clip", ids), ("class", classes)):
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: {what} {repeated} occurs more than once")
    odd = sorted(set(classes) ^ set(rows.classes))
    if odd:
        whose = "the manifest" if odd[0] not in rows.classes else "this file"
        raise UserError(f"{path}: its {len(classes)} classes are not those of {rows.name}: {whose} has no '{odd[0]}'")
    truth = {clip.clip_id: clip for clip in rows}
    unknown = [clip_id for clip_id in ids if clip_id not in truth]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} clips are not among the labelled clips of this split of {rows.name}, such as "
            f"'{unknown[0]}'"
        )
    place = {name: column for column, name in enumerate(classes)}
    clips = [truth[clip_id] for clip_id in ids]
    return rank_scores(
        _probabilities(path, table, ids)[:, [place[name] for name in rows.classes]],
        np.array([clip.label for clip in clips], np.int64),
        rows.classes,
        ids,
        [clip.signer for clip in clips],
        [clip.source for clip in clips],
    )
