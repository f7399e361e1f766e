"""Linear concept erasure: one feature is taken out of the representation, as little else as possible; what else
can no longer be read?

Least-squares erasure in closed form (LEACE, Belrose et al. 2023, 2306.03819, theorem 4.2), fitted on a fold's
training clips: afterwards no linear probe trained on them does better than the class frequencies. What other
features lose was carried by the same directions, or is tied to the erased feature by the lexicon itself.
"""

from typing import Any

import numpy as np
import torch

from probe.analyses.material import Material, Part
from probe.findings import Finding
from probe.fitting import UNSCORED, choose_penalties, standardise
from probe.solver.linear import LinearProbes, eigenbasis
from probe.statistics.draws import HEADLINE

ANALYSIS = "erasure"
NOTHING = ""
_TINY = 1e-6  # canonical correlations below this are rounding


def erasure(material: Material) -> list[Finding]:
    """Balanced accuracy of every feature after each was erased, and its paired change.

    All are read at one layer for each fold, the one that the linear probe chose most often inside its training
    signs, with C chosen there on held-out sign groups before anything was erased.
    """
    features = list(material.targets.features)
    shape = material.linear.truth.shape
    predicted = {name: np.full(shape, UNSCORED) for name in (NOTHING, *features)}
    for part in material.parts():
        x = compact(standardise(material.layers[part.common_layer], part.train), part.train, material.max_rank)
        options: dict[str, Any] = {"max_rank": material.max_rank, "device": material.device}
        index, _ = choose_penalties(x, part.labels, part.fit, part.select, material.fit, **options)
        c = np.array(material.fit.inverse_penalties)[index]
        for f, name in enumerate([NOTHING, *features]):
            material.alive()
            erased = x if name == NOTHING else erase(x, part.labels[f - 1], part)
            probes = LinearProbes(erased[part.train], part.labels[:, part.train], **options)
            predicted[name][:, part.test] = probes.predict(probes.fit(c), probes.project(erased[part.test]))
    truth = material.linear.truth
    scores = {
        name: {f: metrics[HEADLINE] for f, metrics in material.board.series(truth, labels).items()}
        for name, labels in predicted.items()
    }
    rows = material.rows_of(truth)
    found = []
    for name in features:
        for feature, values in scores[name].items():
            for metric, draws in ((HEADLINE, values), ("erasure_change", values - scores[NOTHING][feature])):
                setting = f"erased {name}"
                found.append(material.finding(ANALYSIS, metric, feature, draws, rows[feature], setting=setting))
    return found


def compact(x: np.ndarray, rows: np.ndarray, max_rank: int | None) -> np.ndarray:
    """Wide features in the principal directions of the rows learnt from: all that a linear probe can use of them."""
    if max_rank is None and x.shape[1] <= len(rows):
        return x
    part = torch.from_numpy(x[rows])
    center = part.mean(0)
    _, basis = eigenbasis(part - center, max_rank)
    return ((torch.from_numpy(x) - center) @ basis).numpy()


def erase(x: np.ndarray, labels: np.ndarray, part: Part) -> np.ndarray:
    """Features of all clips without what a fold's training clips know linearly of one feature, `[N, D]`."""
    rows = part.train[labels[part.train] >= 0]
    if len(np.unique(labels[rows])) < 2:
        return x
    return Eraser(x[rows], labels[rows])(x)


class Eraser:
    """The least change of features (in their own covariance) after which labels are uncorrelated with them.

    Args:
        x: Features `[n, D]`.
        labels: Class of each row.
    """

    def __init__(self, x: np.ndarray, labels: np.ndarray) -> None:
        self.mean = x.mean(0, dtype=np.float64)
        centred = x - self.mean
        variance, basis = (part.numpy() for part in eigenbasis(torch.from_numpy(centred), None))
        self.whiten = basis / np.sqrt(variance)  # [D, r]
        onehot = (labels[:, None] == np.unique(labels)).astype(np.float64)
        cross = (centred @ self.whiten).T @ (onehot - onehot.mean(0)) / len(x)  # [r, K]
        left, size, _ = np.linalg.svd(cross, full_matrices=False)
        self.subspace = left[:, size > _TINY]  # of whitened features
        self.colour = (basis * np.sqrt(variance)).T  # [r, D]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        inside = ((x - self.mean) @ self.whiten) @ self.subspace
        return (x - inside @ self.subspace.T @ self.colour).astype(np.float32)
