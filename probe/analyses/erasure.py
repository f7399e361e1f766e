"""Linear concept erasure: how much do the other features lose when one feature is erased from the representation?

Least-squares erasure in closed form (LEACE, Belrose et al. 2023, 2306.03819, theorem 4.2), fitted on a fold's
training clips: afterwards no linear probe trained on them does better than the class frequencies. Whatever other
features lose was encoded in the same directions, or is tied to the erased feature by the lexicon itself.
"""

from typing import Any

import numpy as np
import torch

from probe.analyses.context import AnalysisContext, AnalysisFold
from probe.findings import Finding
from probe.fitting import choose_penalties, standardise
from probe.solver.linear import LinearProbes, eigenbasis
from probe.statistics.bootstrap import HEADLINE

ANALYSIS = "erasure"
NOTHING = ""  # erased: the baseline of every change
_TINY = 1e-6  # canonical correlations below this are rounding


def erasure(context: AnalysisContext) -> list[Finding]:
    """Compute the balanced accuracy of every feature after each one was erased, and its paired change.

    Each fold uses one layer, the one that the linear probe chose most often inside its training signs, with C chosen
    there on held-out sign groups before anything was erased.
    """
    features = list(context.targets.features)
    predicted = {name: context.unscored() for name in (NOTHING, *features)}
    for fold in context.folds():
        x = compact(standardise(context.layers[fold.common_layer], fold.train), fold.train, context.max_rank)
        options: dict[str, Any] = {"max_rank": context.max_rank, "device": context.device}
        index, _ = choose_penalties(x, fold.labels, fold.fit, fold.select, context.fit, **options)
        c = np.array(context.fit.inverse_penalties)[index]
        for f, name in enumerate([NOTHING, *features]):
            context.check_stop()
            erased = x if name == NOTHING else erase(x, fold.labels[f - 1], fold)
            probes = LinearProbes(erased[fold.train], fold.labels[:, fold.train], **options)
            predicted[name][:, fold.test] = probes.predict(probes.fit(c), probes.project(erased[fold.test]))
    truth = context.linear.truth
    scores = {
        name: {f: metrics[HEADLINE] for f, metrics in context.bootstrap.series(truth, labels).items()}
        for name, labels in predicted.items()
    }
    rows = context.rows_of(truth)
    return [
        context.finding(ANALYSIS, metric, feature, draws, rows[feature], setting=f"erased {name}")
        for name in features
        for feature, values in scores[name].items()
        for metric, draws in ((HEADLINE, values), ("erasure_change", values - scores[NOTHING][feature]))
    ]


def compact(x: np.ndarray, rows: np.ndarray, max_rank: int | None) -> np.ndarray:
    """Project wide features onto the principal directions of the training rows: all that a linear probe can use."""
    if max_rank is None and x.shape[1] <= len(rows):
        return x
    train = torch.from_numpy(x[rows])
    center = train.mean(0)
    _, basis = eigenbasis(train - center, max_rank)
    return ((torch.from_numpy(x) - center) @ basis).numpy()


def erase(x: np.ndarray, labels: np.ndarray, fold: AnalysisFold) -> np.ndarray:
    """Erase one feature, as far as a fold's training clips encode it linearly, from all clips, `[N, D]`."""
    rows = fold.train[labels[fold.train] >= 0]
    if len(np.unique(labels[rows])) < 2:
        return x
    return Eraser(x[rows], labels[rows])(x)


class Eraser:
    """The smallest change of features, in the metric of their covariance, that removes all correlation with labels.

    Args:
        x: Features `[n, D]`.
        labels: Class of each row.
    """

    def __init__(self, x: np.ndarray, labels: np.ndarray) -> None:
        self.mean = x.mean(0, dtype=np.float64)
        centred = x - self.mean
        variance, basis = (values.numpy() for values in eigenbasis(torch.from_numpy(centred), None))
        self.whiten = basis / np.sqrt(variance)  # [D, r]
        onehot = (labels[:, None] == np.unique(labels)).astype(np.float64)
        cross = (centred @ self.whiten).T @ (onehot - onehot.mean(0)) / len(x)  # [r, K]
        left, size, _ = np.linalg.svd(cross, full_matrices=False)
        self.subspace = left[:, size > _TINY]  # of whitened features
        self.colour = (basis * np.sqrt(variance)).T  # [r, D]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        inside = ((x - self.mean) @ self.whiten) @ self.subspace
        return (x - inside @ self.subspace.T @ self.colour).astype(np.float32)
