"""Splits into training and test clips, made before any feature is computed.

`unseen_sign` is the headline: every sign group is tested once, by a probe that was trained on none of its clips.
`seen_sign` is the companion: the official split, where a probe can also recognise the sign and thereby infer its
phonology. `unseen_sign_signer` tests unseen groups on unseen signers. Every fold also holds out a part of its
training clips, by the same kind of boundary as its test clips, on which penalty and layer are chosen.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import Facts, read_json
from probe.targets import Targets

VERSION = 1
MOST_NAMED = 10  # pairs of clips listed in one message


@dataclass(frozen=True)
class Fold:
    """Rows of `Targets`: disjoint `fit` and `select` are the training clips; `test` is scored."""

    fit: np.ndarray
    select: np.ndarray
    test: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """All training rows, ascending."""
        return np.sort(np.concatenate([self.fit, self.select]))

    def at(self, present: np.ndarray) -> "Fold":
        """Return the fold without the clips that are not `present` `[N]`."""
        return Fold(*(rows[present[rows]] for rows in (self.fit, self.select, self.test)))


@dataclass(frozen=True)
class Split:
    """Folds of one kind of split.

    Attributes:
        name: "unseen_sign", "seen_sign" or "unseen_sign_signer".
        folds: The folds; their test rows are disjoint.
        notes: Facts for the record, such as the clips left out.
    """

    name: str
    folds: tuple[Fold, ...]
    notes: dict[str, Any] = field(default_factory=dict)

    def content(self, targets: Targets) -> dict[str, Any]:
        """Return the split as plain data with clip ids."""
        return {
            "version": VERSION,
            "name": self.name,
            "notes": self.notes,
            "folds": [
                {part: targets.clip_ids[getattr(fold, part)].tolist() for part in ("fit", "select", "test")}
                for fold in self.folds
            ],
        }

    def fingerprint(self, targets: Targets) -> str:
        """Return the sha256 of the clip ids of every part of every fold."""
        text = json.dumps(self.content(targets)["folds"], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def stratified_groups(labels: np.ndarray, groups: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Distribute groups over parts so that every class of every feature is spread evenly (Sechidis et al. 2011).

    The class with the fewest groups left goes first, each of its groups to the part that needs most of that class.
    The result does not depend on the order of rows.

    Args:
        labels: `[F, N]`, -1 = missing.
        groups: Group of each row.
        parts: Number of parts.
        rng: Breaks ties.

    Returns:
        Part of each row, `[N]`.
    """
    names, of_row = np.unique(groups, return_inverse=True)
    columns = []
    for row in labels:
        for label in np.unique(row[row >= 0]):
            has = np.zeros(len(names), dtype=bool)
            has[of_row[row == label]] = True
            columns.append(has)
    member = np.array(columns, dtype=bool).reshape(len(columns), len(names)).T  # [groups, classes]
    part = np.full(len(names), -1)
    demand = np.tile(member.sum(0) / parts, (parts, 1))  # groups of each class still needed [parts, classes]
    room = np.full(parts, len(names) / parts)
    order = rng.permutation(len(names))
    while (part < 0).any():
        left = member[part < 0].sum(0)
        rarest = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin()) if left.any() else None
        for group in order[(part[order] < 0) & (True if rarest is None else member[order, rarest])]:
            first = np.zeros(parts) if rarest is None else demand[:, rarest]
            best = np.lexsort((rng.random(parts), -room, -first))[0]
            part[group] = best
            demand[best, member[group]] -= 1
            room[best] -= 1
    return part[of_row]


def _hold_out(targets: Targets, rows: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Split training rows into (fit, select) between sign groups."""
    parts = max(2, round(1 / share))
    part = stratified_groups(targets.labels[:, rows], targets.groups[rows], parts, rng)
    names, sizes = np.unique(part, return_counts=True)  # few groups leave parts empty
    held = part == names[sizes.argmin()]
    return rows[~held], rows[held]


def unseen_sign(targets: Targets, folds: int, share: float, seed: int) -> Split:
    """Test every sign group once, by probes trained on no clip of it.

    Raises:
        UserError: Fewer sign groups than two folds could share.
    """
    count = len(np.unique(targets.groups))
    if count < 2 * folds:
        raise UserError(f"{count} sign groups are too few for {folds} folds; set folds to {max(2, count // 2)} or less")
    part = stratified_groups(targets.labels, targets.groups, folds, np.random.default_rng([seed, 1]))
    parts = []
    for number in range(folds):
        train, test = np.flatnonzero(part != number), np.flatnonzero(part == number)
        fit, select = _hold_out(targets, train, share, np.random.default_rng([seed, 2, number]))
        parts.append(Fold(fit, select, test))
    split = Split("unseen_sign", tuple(parts), {"groups": count, "folds": folds})
    check(split, targets)
    return split


def unseen_sign_signer(targets: Targets, folds: int, share: float, seed: int) -> Split:
    """Split as `unseen_sign`, and leave the tested signers out of training; each group is tested on some signers.

    Raises:
        UserError: Too few groups, or fewer known signers than folds.
    """
    signers = np.unique(targets.signers[targets.signers != ""])
    if len(signers) < folds:
        raise UserError(
            f"{len(signers)} known signers are too few for {folds} folds of unseen signers;"
            " leave unseen_sign_signer out of splits, or lower folds"
        )
    base = unseen_sign(targets, folds, share, seed)
    part = np.random.default_rng([seed, 3]).permutation(len(signers)) % folds
    of_row = np.where(targets.signers == "", -1, part[np.searchsorted(signers, targets.signers) % len(signers)])
    parts = []
    for number, fold in enumerate(base.folds):
        other = (of_row != number) & (of_row >= 0)
        fit, select = (rows[other[rows]] for rows in (fold.fit, fold.select))
        parts.append(Fold(fit, select, fold.test[of_row[fold.test] == number]))
    notes = {**base.notes, "signers": len(signers), "clips_without_signer": int((of_row < 0).sum())}
    split = Split("unseen_sign_signer", tuple(parts), notes)
    check(split, targets)
    return split


def seen_sign(targets: Targets, folds: int, share: float, seed: int) -> Split:
    """Use the official split: train on train and val, score the test clips of the same signs.

    Where the official test signers are unseen, the held-out part has unseen signers too; else it is drawn within
    signs.

    Raises:
        UserError: The manifest has no official train or test clips, or a recording is on both sides.
    """
    train = np.flatnonzero(np.isin(targets.official, ("train", "val")))
    test = np.flatnonzero(targets.official == "test")
    if not len(train) or not len(test):
        raise UserError("the manifest has no official train and test clips; set splits: [unseen_sign]")
    seen = np.isin(targets.groups[test], targets.groups[train])
    notes: dict[str, Any] = {"test_clips_of_unseen_signs_left_out": int((~seen).sum())}
    test = test[seen]
    if not len(test):
        raise UserError("no official test clip shows a sign of the training clips; set splits: [unseen_sign]")
    rng = np.random.default_rng([seed, 4])
    known = bool((targets.signers[train] != "").all() and (targets.signers[test] != "").all())
    unseen = known and not np.isin(targets.signers[test], targets.signers[train]).any()
    notes["test_signers"] = "unseen" if unseen else "seen" if known else "unknown"
    signers = np.unique(targets.signers[train])
    if unseen and len(signers) > 1:
        count = min(max(1, round(share * len(signers))), len(signers) - 1)
        held = np.isin(targets.signers[train], rng.permutation(signers)[:count])
    else:
        held = np.zeros(len(train), dtype=bool)
        for group in np.unique(targets.groups[train]):
            here = rng.permutation(np.flatnonzero(targets.groups[train] == group))
            held[here[: round(share * len(here) + rng.random() - 0.5)]] = True
        held = np.isin(targets.contents[train], targets.contents[train][held])  # keep recordings whole
    split = Split("seen_sign", (Fold(train[~held], train[held], test),), notes)
    check(split, targets)
    return split


def without_shared(targets: Targets) -> tuple[Targets, list[str]]:
    """Take recordings of the official test part out of the official training part.

    A clip taken out keeps its labels: splits by sign still use it.

    Returns:
        The targets, and the clips taken out.
    """
    shared = np.isin(targets.official, ("train", "val"))
    shared &= np.isin(targets.contents, targets.contents[targets.official == "test"])
    official = np.where(shared, "none", targets.official)
    return replace(targets, official=official), targets.clip_ids[shared].tolist()


SPLITS: dict[str, Callable[[Targets, int, float, int], Split]] = {
    "unseen_sign": unseen_sign,
    "seen_sign": seen_sign,
    "unseen_sign_signer": unseen_sign_signer,
}


def check(split: Split, targets: Targets) -> None:
    """Refuse a split that leaks.

    Raises:
        UserError: A part is empty, a clip or recording is on two sides, or a sign group (signer) that should be unseen
            is not.
    """
    tested = np.concatenate([fold.test for fold in split.folds])
    if len(np.unique(tested)) != len(tested):
        raise UserError(f"split {split.name}: a clip is tested in two folds")
    for number, fold in enumerate(split.folds):
        _check_fold(fold, split.name, f"split {split.name}, fold {number}", targets)


def _check_fold(fold: Fold, name: str, where: str, targets: Targets) -> None:
    parts = {"fit": fold.fit, "select": fold.select, "test": fold.test}
    for part, rows in parts.items():
        if not len(rows):
            raise UserError(f"{where}: no clip to {part}; use fewer folds or more clips")
    columns = {"clip": targets.clip_ids, "recording": targets.contents}
    if name != "seen_sign":
        columns["sign group"] = targets.groups
    for a, b in combinations(parts, 2):
        for what, values in columns.items():
            shared = np.intersect1d(values[parts[a]], values[parts[b]])
            if len(shared):
                choice = ", or set shared_with_test=drop" if name == "seen_sign" and b == "test" else ""
                raise UserError(
                    f"{where}: {what} '{shared[0]}' is in {a} and in {b}"
                    f" ({_pairs(shared, values, parts[a], parts[b], targets)}); remove the duplicate or correct"
                    f" its split{choice}"
                )
    if name == "unseen_sign_signer":
        shared = np.intersect1d(targets.signers[fold.train], targets.signers[fold.test])
        if len(shared):
            raise UserError(f"{where}: signer '{shared[0]}' is in training and test")


def _pairs(shared: np.ndarray, values: np.ndarray, first: np.ndarray, second: np.ndarray, targets: Targets) -> str:
    """List pairs of clip ids, one for each shared value."""
    pairs = [
        " = ".join(str(targets.clip_ids[rows[values[rows] == value][0]]) for rows in (first, second))
        for value in shared[:MOST_NAMED]
    ]
    more = f" and {len(shared) - MOST_NAMED} more" if len(shared) > MOST_NAMED else ""
    return ", ".join(pairs) + more


def save(split: Split, targets: Targets, path: Path) -> str:
    """Write a split with its hash; an existing file has to hold the same split.

    Returns:
        The split's fingerprint.

    Raises:
        UserError: The file holds another split.
    """
    fingerprint = split.fingerprint(targets)
    if path.is_file():
        if load(path, targets)[1] != fingerprint:
            raise UserError(f"{path} holds another split; the clips or labels have changed: choose another run.out")
        return fingerprint
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"fingerprint": fingerprint, **split.content(targets)}, indent=1) + "\n")
    return fingerprint


def load(path: Path, targets: Targets) -> tuple[Split, str]:
    """Read a split and check it against the targets.

    Returns:
        The split and its fingerprint.

    Raises:
        UserError: Not a split file, its hash is wrong, it names unknown clips, or it leaks.
    """
    try:
        content = read_json(Facts, path)
        position = {clip_id: row for row, clip_id in enumerate(targets.clip_ids.tolist())}
        folds = tuple(
            Fold(*(np.array([position[c] for c in fold[part]], dtype=np.int64) for part in ("fit", "select", "test")))
            for fold in content["folds"]
        )
        split, fingerprint = Split(content["name"], folds, content["notes"]), str(content["fingerprint"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except KeyError as error:
        raise UserError(f"{path}: not a split of these clips (nothing called {error})") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a split file ({error})") from error
    if split.fingerprint(targets) != fingerprint:
        raise UserError(f"{path}: its clips do not agree with its hash; delete it and run again")
    check(split, targets)
    return split, fingerprint
