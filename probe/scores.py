"""Scores of predictions and their intervals: everything is computed from counts per sign group.

A bootstrap draw is a vector of weights over sign groups; a score of a draw needs only weighted sums of the
groups' counts, so all draws of a score are one matrix product. All features and encoders share the draws of a
split, which makes every comparison a paired one.

Shapes: N clips, G sign groups, B draws, K classes.
"""

from dataclasses import dataclass

import numpy as np

from islr.evaluation.metrics import holm

CONFIDENCE = 0.95
CALIBRATION_BINS = 15
METRICS = ("balanced_accuracy", "macro_f1", "mcc", "accuracy", "bits")
CI_METHOD = "cluster bootstrap over sign groups within folds"


@dataclass(frozen=True)
class Counts:
    """Counts of one feature's predictions, `[G, 3 K + 1]`: hits, predictions and truths by class, sum of
    log-loss.
    """

    table: np.ndarray
    classes: int

    @classmethod
    def of(
        cls,
        truth: np.ndarray,
        predicted: np.ndarray,
        log_loss: np.ndarray,
        cluster: np.ndarray,
        groups: int,
        classes: int,
    ) -> "Counts":
        """Count the rows whose truth and prediction are both known.

        Args:
            truth: Labels `[N]`, -1 = not scored.
            predicted: Predicted labels `[N]`, -1 = not scored.
            log_loss: Negative log-probability of the truth `[N]`, in nats.
            cluster: Group number of each row `[N]`.
            groups: Number of groups.
            classes: Number of classes.
        """
        rows = (truth >= 0) & (predicted >= 0)
        y, p, g = truth[rows], predicted[rows], cluster[rows]
        table = np.zeros((groups, 3 * classes + 1))
        np.add.at(table, (g[y == p], y[y == p]), 1)
        np.add.at(table, (g, classes + p), 1)
        np.add.at(table, (g, 2 * classes + y), 1)
        table[:, -1] = np.bincount(g, log_loss[rows], minlength=groups)
        return cls(table, classes)

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each of `METRICS` for each row of weights `[B, G]`; see `scores_of`."""
        used = np.flatnonzero(self.table[:, 2 * self.classes : 3 * self.classes].any(1))
        return scores_of(weights[:, used] @ self.table[used], self.classes)


def scores_of(total: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Scores from summed counts `[B, 3 K + 1]`; nan where nothing was scored.

    Balanced accuracy is the mean recall of the classes present; macro-F1 the mean over classes present or
    predicted; bits the entropy of the truth less the log-loss (V-information, Xu et al. 2020), comparable
    between features.
    """
    hits, predicted, truth = (total[:, i * classes : (i + 1) * classes] for i in range(3))
    n = truth.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        present = truth > 0
        recall = np.where(present, hits / truth, 0.0)
        balanced = recall.sum(1) / present.sum(1)
        either = (truth + predicted) > 0
        f1 = np.where(either, 2 * hits / (truth + predicted), 0.0).sum(1) / either.sum(1)
        correct = hits.sum(1)
        spread = np.sqrt((n**2 - (predicted**2).sum(1)) * (n**2 - (truth**2).sum(1)))
        mcc = np.where(spread > 0, (correct * n - (predicted * truth).sum(1)) / spread, 0.0)
        share = truth / n[:, None]
        entropy = -np.where(present, share * np.log2(share), 0.0).sum(1)
        bits = entropy - total[:, -1] / n / np.log(2)
        accuracy = correct / n
    mcc = np.where(n > 0, mcc, np.nan)
    return {"balanced_accuracy": balanced, "macro_f1": f1, "mcc": mcc, "accuracy": accuracy, "bits": bits}


def draw_weights(stratum: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Bootstrap weights `[1 + B, G]`: the sample itself, then draws of groups with replacement within strata.

    Args:
        stratum: Fold in which each group is tested `[G]`.
        draws: Number of draws.
        seed: Same seed and strata, same draws.
    """
    rng = np.random.default_rng([seed, 5])
    weights = np.ones((1 + draws, len(stratum)))
    for value in np.unique(stratum):
        here = np.flatnonzero(stratum == value)
        weights[1:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=draws)
    return weights


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, with the draws `[B]` it comes from."""

    value: float
    low: float
    high: float
    draws: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """From values of the sample (first) and of the draws; the interval is widened to hold the value if
        need be.
        """
        value, draws = float(values[0]), values[1:]
        finite = draws[np.isfinite(draws)]
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(finite, [tail, 100 - tail]) if len(finite) else (value, value)
        return cls(value, min(float(low), value), max(float(high), value), draws)

    @property
    def p_value(self) -> float:
        """Two-sided bootstrap p-value of "the true value is zero"."""
        draws = self.draws[np.isfinite(self.draws)]
        tail = min((draws <= 0).sum(), (draws >= 0).sum())
        return min(1.0, 2 * (1 + int(tail)) / (1 + len(draws)))


def adjusted(p_values: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Holm-adjusted p-values of one family of comparisons."""
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal-width bins of confidence."""
    if not len(correct):
        return float("nan")
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.zeros(CALIBRATION_BINS)
    np.add.at(gaps, bins, correct.astype(float) - confidence)
    return float(np.abs(gaps).sum() / len(correct))
