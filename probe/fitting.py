"""Probes of one feature set on one split: penalty and layer chosen inside the training clips, every test clip scored
once.

Shapes: N clips of `Targets`, F features, L layers, R permutations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from probe.config import FitConfig
from probe.features.npz_cache import read_npz, write_npz
from probe.solver.linear import Fit, LinearProbes
from probe.splits import Fold, Split
from probe.targets import Targets

UNSCORED = -1


@dataclass(frozen=True)
class ProbePredictions:
    """Predictions for the test clips of all folds, pooled; -1 = not scored.

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
    def unscored(cls, layers: int, features: int, clips: int, permutations: int) -> "ProbePredictions":
        """Return arrays of these sizes in which nothing is scored yet."""

        def labels(*leading: int) -> np.ndarray:
            return np.full((*leading, features, clips), UNSCORED, np.int16)

        losses, confidences = np.zeros((2, features, clips), np.float32)
        return cls(
            labels(), labels(), losses, confidences, labels(layers), labels(permutations), labels(permutations), []
        )

    @classmethod
    def joined(cls, parts: Sequence["ProbePredictions"], order: Sequence[int]) -> "ProbePredictions":
        """Concatenate predictions of disjoint features, then put the features in `order`."""
        arrays = {}
        for f in fields(cls):
            if f.name != "details":
                values = [getattr(part, f.name) for part in parts]
                axis = values[0].ndim - 2
                arrays[f.name] = np.concatenate(values, axis).take(order, axis)
        return cls(**arrays, details=[record for part in parts for record in part.details])

    def save(self, path: Path, key: str) -> None:
        """Write to one file, atomically."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "details"}
        write_npz(path, key, arrays, self.details)

    @classmethod
    def load(cls, path: Path, key: str) -> "ProbePredictions | None":
        """Read predictions saved under the same key, or return None."""
        stored = read_npz(path, key)
        return None if stored is None else cls(**stored[0], details=stored[1])


def scored_labels(targets: Targets, fold: Fold, config: FitConfig) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return a fold's labels without the classes that are too rare in it to be trained or tested.

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
        classes = len(np.unique(row[row >= 0]))
        if classes < 2:
            row[:] = UNSCORED
        notes.append({"feature": feature, "classes": classes, "dropped": dropped, "scored": classes > 1})
    return labels, notes


def permuted_labels(targets: Targets, permutations: int, seed: int) -> np.ndarray:
    """Permute labels between signs, `[R, F, N]`; the clips of a sign share a label and class sizes stay.

    The control task of Hewitt and Liang (2019, 1909.03368), with signs as the units.
    """
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
    """Return macro-F1 over the classes present or predicted; nan without labelled rows."""
    known = truth >= 0
    y, p = truth[known], predicted[known]
    if not len(y):
        return float("nan")
    size = int(max(y.max(), p.max())) + 1
    hits = np.bincount(y[y == p], minlength=size)
    both = np.bincount(y, minlength=size) + np.bincount(p, minlength=size)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def standardise(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Scale columns to mean 0 and deviation 1 over `rows` (float64 statistics); constant columns become 0."""
    part = x[rows].astype(np.float64)
    mean, deviation = part.mean(0), part.std(0)
    # A constant column's deviation is rounding error of its mean, not spread.
    flat = deviation <= 1e-7 * np.abs(mean)
    scale = np.where(flat, 0.0, 1 / np.where(flat, 1.0, deviation))
    return ((x - mean) * scale).astype(np.float32)


def choose_penalties(
    x: np.ndarray, labels: np.ndarray, fit: np.ndarray, select: np.ndarray, config: FitConfig, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Choose for each feature the C with the best macro-F1 on the held-out rows; of equal ones the smallest.

    Returns:
        Index of C `[F]` and its score `[F]`; where nothing could be scored, the middle of the grid and -1.
    """
    probes = LinearProbes(x[fit], labels[:, fit], **options)
    held = probes.project(x[select])
    count = len(labels)
    best = np.full(count, len(config.inverse_penalties) // 2)
    score = np.full(count, -1.0)
    since = np.zeros(count, dtype=int)
    known = (labels[:, select] >= 0).any(1)
    fitted: Fit | None = None
    for number, c in enumerate(config.inverse_penalties):
        active = np.flatnonzero((since < config.patience) & known)
        if not len(active):
            break
        fitted = probes.fit(c, fitted, only=active.tolist())
        predicted = probes.predict(fitted, held)
        for f in active:
            value = macro_f1(labels[f, select], predicted[f])
            since[f] += 1
            if value > score[f] + 1e-12:
                best[f], score[f], since[f] = number, value, 0
    return best, score


@dataclass(frozen=True)
class _Choice:
    """Layer, C and convergence of each feature's probe in one fold; of layers with equal scores the first."""

    score: np.ndarray
    layer: np.ndarray
    c: np.ndarray
    converged: np.ndarray

    @classmethod
    def of(cls, features: int) -> "_Choice":
        """Start with no layer chosen."""
        layer, converged = np.zeros(features, dtype=int), np.zeros(features, dtype=bool)
        return cls(np.full(features, -np.inf), layer, np.zeros(features), converged)

    def improve(self, layer: int, score: np.ndarray, c: np.ndarray, converged: np.ndarray) -> list[int]:
        """Choose a layer for the features that it scores higher on; return them."""
        better = score > self.score
        self.score[better], self.layer[better] = score[better], layer
        self.c[better], self.converged[better] = c[better], converged[better]
        return np.flatnonzero(better).tolist()

    def note(self, f: int) -> dict[str, Any]:
        """Return the choice of one feature for the record."""
        return {
            "layer": int(self.layer[f]),
            "C": float(self.c[f]),
            "converged": bool(self.converged[f]),
            "selection_macro_f1": float(self.score[f]),
        }


def run_split(
    layers: Sequence[np.ndarray],
    present: np.ndarray,
    targets: Targets,
    split: Split,
    config: FitConfig,
    *,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
    **options: Any,
) -> ProbePredictions:
    """Fit and score the probes of all folds of a split.

    Args:
        layers: `[N, D_l]` of each layer, in the order of `targets`; rows that are not `present` are never read.
        present: Which clips have features, `[N]`.
        targets: What to predict.
        split: Who trains and who is tested.
        config: Grid and thresholds.
        seed: Of the label permutations.
        progress: Called after each layer of each fold.
        options: `max_rank` (principal directions of the training clips kept at most) and `device` of the solver.
    """
    result = ProbePredictions.unscored(len(layers), len(targets.features), len(targets), config.permutations)
    permuted = permuted_labels(targets, config.permutations, seed)
    for number, fold in enumerate(split.folds):
        labels, notes = scored_labels(targets, fold, config)
        here = fold.at(present)
        result.truth[:, here.test] = labels[:, here.test]
        choice = _fit_layers(result, layers, labels, here, config, progress, options)
        for f, note in enumerate(notes):
            result.predicted[f, here.test] = result.by_layer[choice.layer[f], f, here.test]
            note |= {"fold": number} | choice.note(f)
        if config.permutations:
            _fit_control(result, layers, labels, permuted, here, choice, options)
        result.details.extend(notes)
    result.predicted[result.truth == UNSCORED] = UNSCORED
    return result


def _fit_layers(
    result: ProbePredictions,
    layers: Sequence[np.ndarray],
    labels: np.ndarray,
    fold: Fold,
    config: FitConfig,
    progress: Callable[[], None],
    options: dict[str, Any],
) -> _Choice:
    """Probe every layer in one fold, write the predictions of each, and choose a layer for each feature."""
    choice = _Choice.of(len(labels))
    for layer, features in enumerate(layers):
        x = standardise(features, fold.train)
        index, score = choose_penalties(x, labels, fold.fit, fold.select, config, **options)
        c = np.array(config.inverse_penalties)[index]
        probes = LinearProbes(x[fold.train], labels[:, fold.train], **options)
        fit = probes.fit(c)
        rotated = probes.project(x[fold.test])
        result.by_layer[layer][:, fold.test] = probes.predict(fit, rotated)
        for f in choice.improve(layer, score, c, fit.converged):
            log = probes.log_probabilities(fit, rotated, f)  # [n, K]
            _write_probabilities(result, log, probes.classes[f], labels[f, fold.test], f, fold.test)
        progress()
    return choice


def _fit_control(
    result: ProbePredictions,
    layers: Sequence[np.ndarray],
    labels: np.ndarray,
    permuted: np.ndarray,
    fold: Fold,
    choice: _Choice,
    options: dict[str, Any],
) -> None:
    """Fit the permuted labels `[R, F, N]` in one fold, at the layer and C chosen for the true ones."""
    classes = [np.unique(row[row >= 0]) for row in labels]
    repeats, _, clips = permuted.shape
    for layer in np.unique(choice.layer).tolist():
        here = np.flatnonzero(choice.layer == layer).tolist()
        x = standardise(layers[layer], fold.train)
        control = permuted[:, here].copy()
        for position, f in enumerate(here):
            control[:, position][~np.isin(control[:, position], classes[f])] = UNSCORED
        probes = LinearProbes(x[fold.train], control.reshape(-1, clips)[:, fold.train], **options)
        fit = probes.fit(np.tile(choice.c[here], repeats))
        predicted = probes.predict(fit, probes.project(x[fold.test])).reshape(*control.shape[:2], -1)
        for position, f in enumerate(here):
            result.control_truth[:, f, fold.test] = control[:, position][:, fold.test]
            result.control_predicted[:, f, fold.test] = predicted[:, position]


def _write_probabilities(
    result: ProbePredictions, log: np.ndarray, classes: np.ndarray, truth: np.ndarray, f: int, test: np.ndarray
) -> None:
    """Write log-loss and confidence of one feature's test clips from log-probabilities `[n, K]`."""
    if not len(classes):
        return
    column = np.searchsorted(classes, truth).clip(0, len(classes) - 1)
    known = (truth >= 0) & (classes[column] == truth)
    result.log_loss[f, test] = np.where(known, -log[np.arange(len(log)), column], 0.0)
    result.confidence[f, test] = np.exp(log.max(1))
