"""The probe solver beside scikit-learn's LogisticRegression: same objective, same tolerance, one thread,
one run.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probe.linear import GRADIENT_TOLERANCE, LinearProbes

# Classes of the sixteen ASL-LEX 2.0 features, and the share of signs without a label.
CLASSES = (57, 12, 7, 2, 2, 2, 2, 2, 6, 7, 2, 6, 37, 34, 2, 55)
MISSING = (0, 0, 0.06, 0.07, 0.49, 0.42, 0, 0.06, 0, 0.15, 0, 0, 0, 0.3, 0, 0.39)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
CLIPS_PER_SIGN = 5
SKLEARN_ITERATIONS = 5000


@dataclass(frozen=True)
class Comparison:
    """What one run measured.

    Attributes:
        samples, width, fits: Size of the problem; fits = targets x penalties.
        ours, theirs: CPU seconds for all fits.
        ratio: theirs / ours.
        objective_gap: Largest |relative difference| of the final objectives.
        objective_excess: Largest relative amount by which ours is above theirs (negative: always below).
        accuracy_gap: Largest |difference| of the accuracies on fresh signs.
        converged: Whether all our fits met the stop rule.
    """

    samples: int
    width: int
    fits: int
    ours: float
    theirs: float
    objective_gap: float
    objective_excess: float
    accuracy_gap: float
    converged: bool

    @property
    def ratio(self) -> float:
        """How many times less CPU time ours took."""
        return self.theirs / self.ours

    def __str__(self) -> str:
        return (
            f"{self.samples} x {self.width}, {self.fits} fits: {self.ours:.2f} s CPU, scikit-learn"
            f" {self.theirs:.1f} s, ratio {self.ratio:.1f}; objective within {self.objective_gap:.1e}"
            f" (above theirs by at most {self.objective_excess:.1e}),"
            f" accuracy within {100 * self.accuracy_gap:.2f} points"
        )


def sample(samples: int, width: int, targets: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Standardised features with a power-law spectrum, and labels of training and fresh signs.

    Returns:
        Features and labels `[T, N]` of the training signs, then of the fresh ones (a quarter as many).
    """
    rng = np.random.default_rng(seed)
    signs = -(-samples * 5 // 4 // CLIPS_PER_SIGN)
    sign = np.repeat(np.arange(signs), CLIPS_PER_SIGN)
    of_sign = 2 * rng.normal(size=(signs, width))
    labels = []
    for classes, missing in zip(CLASSES[:targets], MISSING[:targets], strict=True):
        share = np.arange(1, classes + 1) ** -0.9
        label = rng.choice(classes, signs, p=share / share.sum())
        label[:classes] = np.arange(classes)
        of_sign += 0.5 * rng.normal(size=(classes, width))[label]
        label[rng.random(signs) < missing] = -1
        labels.append(label[sign])
    x = of_sign[sign] + 2 * rng.normal(size=(len(sign), width))
    rotation, _ = np.linalg.qr(rng.normal(size=(width, width)))
    x = (x * np.arange(1, width + 1) ** -0.7) @ rotation
    train = np.isin(sign, rng.permutation(signs)[: signs * 4 // 5])
    x = ((x - x[train].mean(0)) / x[train].std(0)).astype(np.float32)
    table = np.array(labels)
    return x[train], table[:, train], x[~train], table[:, ~train]


def compare(
    samples: int = 2000,
    width: int = 256,
    targets: int = 6,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> Comparison:
    """Fit everything with both solvers on one thread; scikit-learn in its default float64, cold start for
    each fit.

    The published probing setup is `compare(9987, 768, 16)`.
    """
    x, labels, fresh, fresh_labels = sample(samples, width, targets, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            start = time.process_time()
            probes = LinearProbes(x, labels)
            fits = probes.path(penalties)
            ours = time.process_time() - start
            rotated = probes.project(fresh)
            predicted = [probes.predict(fit, rotated) for fit in fits]
            theirs, accuracy_gap = 0.0, 0.0
            excesses: list[float] = []
            wide, wide_fresh = x.astype(np.float64), fresh.astype(np.float64)
            for target, y in enumerate(labels):
                known, scored = y >= 0, fresh_labels[target] >= 0
                inputs, truth = wide[known], y[known]
                for number, c in enumerate(penalties):
                    start = time.process_time()
                    model = LogisticRegression(C=c, tol=GRADIENT_TOLERANCE, max_iter=SKLEARN_ITERATIONS)
                    model.fit(inputs, truth)
                    theirs += time.process_time() - start
                    log = model.predict_log_proba(inputs)
                    loss = -log[np.arange(len(truth)), np.searchsorted(model.classes_, truth)].mean()
                    objective = loss + (model.coef_**2).sum() / (2 * c * len(truth))
                    excesses.append(float(fits[number].objective[target]) / objective - 1)
                    right = fresh_labels[target, scored]
                    mine = (predicted[number][target, scored] == right).mean()
                    accuracy_gap = max(
                        accuracy_gap, abs(float(mine - (model.predict(wide_fresh[scored]) == right).mean()))
                    )
    finally:
        torch.set_num_threads(threads)
    converged = all(bool(fit.converged.all()) for fit in fits)
    return Comparison(
        samples=len(x),
        width=width,
        fits=len(excesses),
        ours=ours,
        theirs=theirs,
        objective_gap=max(map(abs, excesses)),
        objective_excess=max(excesses),
        accuracy_gap=accuracy_gap,
        converged=converged,
    )
