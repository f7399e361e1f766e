"""Benchmark of the probe solver against scikit-learn's LogisticRegression: same objective and tolerance, one thread."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probe.solver.linear import GRADIENT_TOLERANCE, LinearProbes

# Classes of the sixteen ASL-LEX 2.0 features, and the share of signs without a label.
CLASSES = (57, 12, 7, 2, 2, 2, 2, 2, 6, 7, 2, 6, 37, 34, 2, 55)
MISSING = (0, 0, 0.06, 0.07, 0.49, 0.42, 0, 0.06, 0, 0.15, 0, 0, 0, 0.3, 0, 0.39)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
CLIPS_PER_SIGN = 5
SKLEARN_ITERATIONS = 5000
PUBLISHED = (9987, 768, 16)  # clips, width and targets of a probing study of WLASL2000 with ASL-LEX 2.0
# Stop rule of the reference optimum, in float64.
EXACT_GRADIENT, EXACT_DECREMENT = 1e-7, 1e-10


@dataclass(frozen=True)
class TargetComparison:
    """One target's fits: number of classes, and over its penalties the fields of `Comparison`."""

    classes: int
    theirs: float
    objective_gap: float
    objective_excess: float
    accuracy_gap: float
    ours_to_optimum: float
    theirs_to_optimum: float


@dataclass(frozen=True)
class Comparison:
    """CPU time and numerical differences of the two solvers.

    Attributes:
        samples, width, fits: Size of the problem; fits = targets x penalties.
        ours, theirs: CPU seconds for all fits.
        ratio: theirs / ours.
        objective_gap: Largest |relative difference| of the final objectives.
        objective_excess: Largest relative excess of our objective over theirs (negative: always below).
        accuracy_gap: Largest |difference| of the accuracies on fresh signs.
        ours_to_optimum, theirs_to_optimum: Largest difference of each solver's accuracy to that of a float64 fit far
            below the tolerance.
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
    ours_to_optimum: float
    theirs_to_optimum: float
    converged: bool
    targets: tuple[TargetComparison, ...] = ()

    @property
    def ratio(self) -> float:
        """Speed-up over scikit-learn, in CPU time."""
        return self.theirs / self.ours

    def __str__(self) -> str:
        return (
            f"{self.samples} x {self.width}, {self.fits} fits: {self.ours:.2f} s CPU, scikit-learn"
            f" {self.theirs:.1f} s, ratio {self.ratio:.1f}; objective within {self.objective_gap:.1e}"
            f" (above theirs by at most {self.objective_excess:.1e}),"
            f" accuracy within {100 * self.accuracy_gap:.2f} points (ours within {100 * self.ours_to_optimum:.2f} and"
            f" theirs within {100 * self.theirs_to_optimum:.2f} of a float64 optimum)"
        )

    def table(self) -> str:
        """Format a line for each target: classes, scikit-learn's time, and the differences."""
        lines = ["classes  scikit-learn CPU s  objective gap  accuracy gap  ours-optimum  theirs-optimum (points)"]
        lines += [
            f"{t.classes:7} {t.theirs:19.1f} {t.objective_gap:14.1e} {100 * t.accuracy_gap:13.2f}"
            f" {100 * t.ours_to_optimum:13.2f} {100 * t.theirs_to_optimum:15.2f}"
            for t in self.targets
        ]
        return "\n".join(lines)


def sample(samples: int, width: int, targets: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Generate standardised features with a power-law spectrum, and labels, of training and fresh signs.

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
    """Fit every target at every penalty with both solvers, on one thread.

    scikit-learn runs with its default float64 and a cold start for each fit. The published probing setup is
    `compare(*PUBLISHED)`.
    """
    data = sample(samples, width, targets, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return _compare(data, penalties)
    finally:
        torch.set_num_threads(threads)


def _compare(data: tuple[np.ndarray, ...], penalties: tuple[float, ...]) -> Comparison:
    x, labels, fresh, fresh_labels = data
    start = time.process_time()
    probes = LinearProbes(x, labels)
    fits = probes.path(penalties)
    ours = time.process_time() - start
    rotated = probes.project(fresh)
    predicted = [probes.predict(fit, rotated) for fit in fits]
    wide, wide_fresh = x.astype(np.float64), fresh.astype(np.float64)
    exact = LinearProbes(wide, labels, gradient_tolerance=EXACT_GRADIENT, decrement_tolerance=EXACT_DECREMENT)
    best = [exact.predict(fit, exact.project(wide_fresh)) for fit in exact.path(penalties)]
    rows = []
    for target, y in enumerate(labels):
        known, scored = y >= 0, fresh_labels[target] >= 0
        rows.append(
            _compare_target(
                (wide[known], y[known]),
                (wide_fresh[scored], fresh_labels[target, scored]),
                penalties,
                [float(fit.objective[target]) for fit in fits],
                [(ours[target, scored], exact[target, scored]) for ours, exact in zip(predicted, best, strict=True)],
            )
        )
    return Comparison(
        samples=len(x),
        width=x.shape[1],
        fits=len(rows) * len(penalties),
        ours=ours,
        theirs=sum(row.theirs for row in rows),
        objective_gap=max(row.objective_gap for row in rows),
        objective_excess=max(row.objective_excess for row in rows),
        accuracy_gap=max(row.accuracy_gap for row in rows),
        ours_to_optimum=max(row.ours_to_optimum for row in rows),
        theirs_to_optimum=max(row.theirs_to_optimum for row in rows),
        converged=all(bool(fit.converged.all()) for fit in fits),
        targets=tuple(rows),
    )


def _compare_target(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    penalties: tuple[float, ...],
    objectives: list[float],
    predictions: list[tuple[np.ndarray, np.ndarray]],
) -> TargetComparison:
    """Fit one target with scikit-learn at each penalty.

    Args:
        train: Features and labels of the labelled training clips.
        test: Features and labels of the labelled fresh clips.
        penalties: Values of C.
        objectives: Our final objective at each.
        predictions: Our predictions for the fresh clips at each, and those of the float64 optimum.
    """
    (inputs, truth), (fresh, fresh_truth) = train, test
    seconds, excess, accuracies = 0.0, [], []
    for c, objective, (own, exact) in zip(penalties, objectives, predictions, strict=True):
        start = time.process_time()
        model = LogisticRegression(C=c, tol=GRADIENT_TOLERANCE, max_iter=SKLEARN_ITERATIONS)
        model.fit(inputs, truth)
        seconds += time.process_time() - start
        log = model.predict_log_proba(inputs)
        loss = -log[np.arange(len(truth)), np.searchsorted(model.classes_, truth)].mean()
        excess.append(objective / (loss + (model.coef_**2).sum() / (2 * c * len(truth))) - 1)
        accuracies.append([float((guess == fresh_truth).mean()) for guess in (own, model.predict(fresh), exact)])
    mine, theirs, optimum = np.array(accuracies).T
    gaps = [float(np.abs(a - b).max()) for a, b in ((mine, theirs), (mine, optimum), (theirs, optimum))]
    return TargetComparison(len(model.classes_), seconds, max(map(abs, excess)), max(excess), *gaps)
