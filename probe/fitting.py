"""Probes of one feature set on one split: penalty and layer chosen inside the training clips, every test clip
once.

Shapes: N clips of `Targets`, F features, L layers, R permutations.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from islr.config import Config
from probe.npz_cache import keep, kept
from probe.solver.linear import LinearProbes
from probe.splits import Fold, Split
from probe.targets import Targets

UNSCORED = -1
DINOV2_PENALTIES = tuple(float(c) for c in np.logspace(-6, 5, 45))  # facebookresearch/dinov2, eval/log_regression


class FitConfig(Config):
    """How probes are fitted and chosen (protocol probe/1)."""

    inverse_penalties: tuple[float, ...] = Field(
        tuple(float(c) for c in np.logspace(-5, 2, 15)),
        min_length=1,
        description="grid of C, scikit-learn's convention, fitted from strong to weak penalty; or dinov2: its 45",
    )
    patience: int = Field(4, ge=1, description="grid points without a better score after which a feature's path ends")
    min_train_signs: int = Field(10, ge=1, description="classes with fewer sign groups in a fold's training part drop")
    min_test_signs: int = Field(3, ge=1, description="classes with fewer sign groups in a fold's test part drop")
    permutations: int = Field(5, ge=0, description="label permutations of the control, at the chosen layer and C")

    @field_validator("inverse_penalties", mode="before")
    @classmethod
    def _named_grid(cls, value: Any) -> Any:
        return DINOV2_PENALTIES if value == "dinov2" else value

    @field_validator("inverse_penalties")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(c <= 0 for c in value):
            raise ValueError("every C must be positive")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class Outcome:
    """Predictions of the test clips of all folds, pooled; -1 = not scored.

    Attributes:
        truth: Labels `[F, N]` of the clips and classes that are scored.
        predicted: Predicted labels at the chosen layer, `[F, N]`.
        log_loss: Negative log-probability of the truth, nats, `[F, N]`.
        confidence: Probability of the prediction, `[F, N]`.
        by_layer: Predicted labels of every layer, `[L, F, N]`.
        control_truth, control_predicted: The same for labels permuted between signs, `[R, F, N]`.
        details: One record per fold and feature: classes, dropped classes, layer, C, convergence.
    """

    truth: np.ndarray
    predicted: np.ndarray
    log_loss: np.ndarray
    confidence: np.ndarray
    by_layer: np.ndarray
    control_truth: np.ndarray
    control_predicted: np.ndarray
    details: list[dict[str, Any]]

    @classmethod
    def joined(cls, parts: Sequence["Outcome"], order: Sequence[int]) -> "Outcome":
        """Outcomes of disjoint features as one, features in `order` of the concatenation."""
        arrays = {}
        for f in fields(cls):
            if f.name != "details":
                values = [getattr(part, f.name) for part in parts]
                axis = values[0].ndim - 2
                arrays[f.name] = np.concatenate(values, axis).take(order, axis)
        return cls(**arrays, details=[record for part in parts for record in part.details])

    def save(self, path: Path, key: str) -> None:
        """Write as one file, whole or not at all."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "details"}
        keep(path, key, arrays, self.details)

    @classmethod
    def load(cls, path: Path, key: str) -> "Outcome | None":
        """What was saved under the same key, or None."""
        stored = kept(path, key)
        return None if stored is None else cls(**stored[0], details=stored[1])


def scored_labels(targets: Targets, fold: Fold, config: FitConfig) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Labels of a fold without the classes that are too rare to be learnt or scored in it.

    Returns:
        Labels `[F, N]` with -1 for missing and for dropped classes, and for each feature what was dropped. A
        feature that keeps fewer than two classes is not scored in the fold at all.
    """
    labels = targets.labels.copy()
    notes = []
    for row, (feature, names) in zip(labels, targets.classes.items(), strict=True):
        dropped = []
        for label in np.unique(row[row >= 0]).tolist():
            train, test = (len(np.unique(targets.groups[rows[row[rows] == label]])) for rows in (fold.train, fold.test))
            if train < config.min_train_signs or test < config.min_test_signs:
                dropped.append({"class": names[label], "train_signs": train, "test_signs": test})
                row[row == label] = UNSCORED
        kept = np.unique(row[row >= 0])
        if len(kept) < 2:
            row[:] = UNSCORED
        notes.append({"feature": feature, "classes": len(kept), "dropped": dropped, "scored": len(kept) > 1})
    return labels, notes


def permuted_labels(targets: Targets, permutations: int, seed: int) -> np.ndarray:
    """Labels dealt anew between signs, `[R, F, N]`: all clips of a sign keep one label, class sizes stay."""
    made = np.repeat(targets.labels[None], permutations, 0)
    for number in range(permutations):
        for row in range(made.shape[1]):
            rng = np.random.default_rng([seed, 6, number, row])
            known = made[number, row] >= 0
            label = targets.labels[row, known]
            sign = np.unique(targets.signs[known], return_inverse=True)[1]
            _, first, unit = np.unique(
                sign * (label.max(initial=0) + 1) + label, return_index=True, return_inverse=True
            )
            made[number, row, known] = rng.permutation(label[first])[unit]
    return made


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Macro-F1 over the classes present or predicted; nan without labelled rows."""
    known = truth >= 0
    y, p = truth[known], predicted[known]
    if not len(y):
        return float("nan")
    size = int(max(y.max(), p.max())) + 1
    hits = np.bincount(y[y == p], minlength=size)
    both = np.bincount(y, minlength=size) + np.bincount(p, minlength=size)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def standardise(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1 over `rows` (float64 statistics); constant columns become 0."""
    part = x[rows].astype(np.float64)
    mean, deviation = part.mean(0), part.std(0)
    # A constant column's deviation is rounding error of its mean, not spread.
    flat = deviation <= 1e-7 * np.abs(mean)
    scale = np.where(flat, 0.0, 1 / np.where(flat, 1.0, deviation))
    return ((x - mean) * scale).astype(np.float32)


def choose_penalties(
    x: np.ndarray, labels: np.ndarray, fit: np.ndarray, select: np.ndarray, config: FitConfig, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """For each feature the C with the best macro-F1 on the held-out rows; of equal ones the smallest.

    Returns:
        Index of C `[F]` and its score `[F]` (-1 where nothing could be scored: then C is the middle of the
        grid).
    """
    probes = LinearProbes(x[fit], labels[:, fit], **options)
    held = probes.project(x[select])
    count = len(labels)
    best = np.full(count, len(config.inverse_penalties) // 2)
    score = np.full(count, -1.0)
    since = np.zeros(count, dtype=int)
    known = (labels[:, select] >= 0).any(1)
    found = None
    for number, c in enumerate(config.inverse_penalties):
        active = np.flatnonzero((since < config.patience) & known)
        if not len(active):
            break
        found = probes.fit(c, found, only=active.tolist())
        predicted = probes.predict(found, held)
        for f in active:
            value = macro_f1(labels[f, select], predicted[f])
            since[f] += 1
            if value > score[f] + 1e-12:
                best[f], score[f], since[f] = number, value, 0
    return best, score


def run_split(
    layers: Sequence[np.ndarray],
    present: np.ndarray,
    targets: Targets,
    split: Split,
    config: FitConfig,
    *,
    seed: int = 0,
    max_rank: int | None = None,
    device: str = "cpu",
    progress: Callable[[], None] = lambda: None,
) -> Outcome:
    """Fit and score all folds of a split.

    Args:
        layers: `[N, D_l]` of each layer, in the order of `targets`; rows that are not `present` are never
            read.
        present: Which clips have features, `[N]`.
        targets: What to predict.
        split: Who learns from what.
        config: Grid and thresholds.
        seed: Of the label permutations.
        max_rank: Keep this many principal directions of the training clips at most.
        device: Where the solver computes.
        progress: Called after each layer of each fold.
    """
    count, clips = len(targets.features), len(targets)
    outcome = Outcome(
        truth=np.full((count, clips), UNSCORED, np.int16),
        predicted=np.full((count, clips), UNSCORED, np.int16),
        log_loss=np.zeros((count, clips), np.float32),
        confidence=np.zeros((count, clips), np.float32),
        by_layer=np.full((len(layers), count, clips), UNSCORED, np.int16),
        control_truth=np.full((config.permutations, count, clips), UNSCORED, np.int16),
        control_predicted=np.full((config.permutations, count, clips), UNSCORED, np.int16),
        details=[],
    )
    shuffled = permuted_labels(targets, config.permutations, seed)
    options: dict[str, Any] = {"max_rank": max_rank, "device": device}
    for number, fold in enumerate(split.folds):
        labels, notes = scored_labels(targets, fold, config)
        fit, select, train, test = (rows[present[rows]] for rows in (fold.fit, fold.select, fold.train, fold.test))
        outcome.truth[:, test] = labels[:, test]
        best_score = np.full(count, -np.inf)
        chosen = np.zeros(count, dtype=int)
        chosen_c = np.zeros(count)
        converged = np.zeros(count, dtype=bool)
        for layer, features in enumerate(layers):
            x = standardise(features, train)
            index, score = choose_penalties(x, labels, fit, select, config, **options)
            c = np.array(config.inverse_penalties)[index]
            probes = LinearProbes(x[train], labels[:, train], **options)
            found = probes.fit(c)
            seen = probes.project(x[test])
            outcome.by_layer[layer][:, test] = probes.predict(found, seen)
            for f in np.flatnonzero(score > best_score).tolist():
                best_score[f], chosen[f], chosen_c[f], converged[f] = (
                    score[f],
                    layer,
                    c[f],
                    found.converged[f],
                )
                _score_probabilities(outcome, probes, found, seen, labels[f, test], f, test)
            progress()
        for f in range(count):
            outcome.predicted[f, test] = outcome.by_layer[chosen[f], f, test]
            notes[f] |= {"fold": number, "layer": int(chosen[f]), "C": float(chosen_c[f])}
            notes[f] |= {"converged": bool(converged[f]), "selection_macro_f1": float(best_score[f])}
        kept = [np.unique(row[row >= 0]) for row in labels]
        for used in np.unique(chosen).tolist() if config.permutations else ():
            here = np.flatnonzero(chosen == used).tolist()
            x = standardise(layers[used], train)
            control = shuffled[:, here].copy()
            for position, f in enumerate(here):
                control[:, position][~np.isin(control[:, position], kept[f])] = UNSCORED
            flat = control.reshape(-1, clips)
            probes = LinearProbes(x[train], flat[:, train], **options)
            found = probes.fit(np.tile(chosen_c[here], config.permutations))
            predicted = probes.predict(found, probes.project(x[test])).reshape(*control.shape[:2], -1)
            for position, f in enumerate(here):
                outcome.control_truth[:, f, test] = control[:, position][:, test]
                outcome.control_predicted[:, f, test] = predicted[:, position]
        outcome.details.extend(notes)
    outcome.predicted[outcome.truth == UNSCORED] = UNSCORED
    return outcome


def _score_probabilities(
    outcome: Outcome,
    probes: LinearProbes,
    found: Any,
    seen: Any,
    truth: np.ndarray,
    feature: int,
    test: np.ndarray,
) -> None:
    log = probes.log_probabilities(found, seen, feature)  # [n, K]
    if not log.shape[1]:
        return
    column = np.searchsorted(probes.classes[feature], truth).clip(0, log.shape[1] - 1)
    known = (truth >= 0) & (probes.classes[feature][column] == truth)
    outcome.log_loss[feature, test] = np.where(known, -log[np.arange(len(log)), column], 0.0)
    outcome.confidence[feature, test] = np.exp(log.max(1))


def work_key(*parts: str) -> str:
    """sha256 of what a piece of work depends on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
