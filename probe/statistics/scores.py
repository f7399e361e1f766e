"""Scores of predictions and their intervals, computed from counts per sign group.

A bootstrap draw is a vector of weights over sign groups; a score of a draw needs only weighted sums of the groups'
counts, so all draws of a score are one matrix product. All features and encoders share the draws of a split, which
makes every comparison a paired one.

Shapes: N clips, G sign groups, B draws, K classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

CONFIDENCE = 0.95
CALIBRATION_BINS = 15
METRICS = ("balanced_accuracy", "macro_f1", "mcc", "accuracy", "bits", "log_loss")
LIKELIHOODS = ("bits", "log_loss")  # of METRICS, those that need the probabilities
NOT_CONVERGED = "NOT CONVERGED"  # mark in a record's `ci_method`
BOOTSTRAP = "cluster bootstrap over sign groups within folds"
CI_METHOD = f"{BOOTSTRAP}, widened for dependence between signs"
# Range of each score and of its interval.
BOUNDS = {"balanced_accuracy": (0.0, 1.0), "macro_f1": (0.0, 1.0), "accuracy": (0.0, 1.0), "mcc": (-1.0, 1.0)}
UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True)
class Counts:
    """Counts of one feature's predictions, `[G, 3 K + 1]`: hits, predictions and truths by class, sum of log-loss."""

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

    @property
    def groups_of_classes(self) -> np.ndarray:
        """Number of tested sign groups of each class `[K]`."""
        truth = self.table[:, 2 * self.classes : 3 * self.classes]
        return np.asarray((truth > 0).sum(0))

    @property
    def tested(self) -> int:
        """Number of tested sign groups."""
        return int(self.table[:, 2 * self.classes : 3 * self.classes].any(1).sum())

    def contributions(self) -> np.ndarray:
        """Return what each group adds to balanced accuracy `[G]`; the sum is balanced accuracy."""
        hits, truth = self.table[:, : self.classes], self.table[:, 2 * self.classes : 3 * self.classes]
        total = truth.sum(0)
        present = total > 0
        return np.asarray((hits[:, present] / total[present]).sum(1) / present.sum())

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute each of `METRICS` for each row of weights `[B, G]`; see `scores_of`."""
        used = np.flatnonzero(self.table[:, 2 * self.classes : 3 * self.classes].any(1))
        return scores_of(weights[:, used] @ self.table[used], self.classes)


def scores_of(total: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Compute scores from summed counts `[B, 3 K + 1]`; nan where nothing was scored.

    Balanced accuracy is the mean recall of the classes present; macro-F1 the mean over classes present or predicted;
    bits the entropy of the truth minus the log-loss (V-information, Xu et al. 2020), comparable between features;
    log-loss is in nats.
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
        loss = total[:, -1] / n
        bits = entropy - loss / np.log(2)
        accuracy = correct / n
    mcc = np.where(n > 0, mcc, np.nan)
    hard = {"balanced_accuracy": balanced, "macro_f1": f1, "mcc": mcc, "accuracy": accuracy}
    return hard | {"bits": bits, "log_loss": loss}


def draw_weights(stratum: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Draw bootstrap weights `[1 + B, G]`: the sample itself, then groups with replacement within strata.

    Of a stratum's n groups n - 1 are drawn and weighted by n / (n - 1), which makes the variance of a mean over
    the stratum unbiased (Rao and Wu 1988); n draws are too small by (n - 1) / n, 8 % of the variance for twelve
    groups in a fold. A stratum of one group keeps its weight.

    Args:
        stratum: Fold in which each group is tested `[G]`.
        draws: Number of draws.
        seed: Of the draws; the same seed and strata give the same draws.
    """
    rng = np.random.default_rng([seed, 5])
    weights = np.ones((1 + draws, len(stratum)))
    for value in np.unique(stratum):
        here = np.flatnonzero(stratum == value)
        n = len(here)
        if n > 1:
            weights[1:, here] = rng.multinomial(n - 1, np.full(n, 1 / n), size=draws) * (n / (n - 1))
    return weights


def perfect_score_errors(draws: int, groups: int, seed: int) -> np.ndarray:
    """Draw the share of misclassified groups `[B]` where none of `groups` was: Beta(1, groups).

    A bootstrap of groups that are all classified correctly never draws an error; the 97.5 % point of these draws is
    the exact (Clopper-Pearson) bound.
    """
    return np.random.default_rng([seed, 8]).beta(1, max(groups, 1), draws)


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, with the draws `[B]` behind it."""

    value: float
    low: float
    high: float
    draws: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, bounds: tuple[float, float] = UNBOUNDED) -> "Estimate":
        """Estimate from the values of the sample (first) and of the draws; percentile interval.

        The interval is extended to hold the value and cut at `bounds`.
        """
        value, draws = float(values[0]), values[1:]
        finite = draws[np.isfinite(draws)]
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(finite, [tail, 100 - tail]) if len(finite) else (value, value)
        low, high = np.clip([low, high], *bounds)
        return cls(value, min(float(low), value), max(float(high), value), draws)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true value is zero", by the normal tail of the draws' deviation.

        A count of draws would never be below 2 / B, which Holm's factor would push above 0.05 in any table of a
        hundred comparisons. Without any deviation the p-value is 1.
        """
        deviation = float(self.draws[np.isfinite(self.draws)].std()) if np.isfinite(self.draws).any() else 0.0
        return float(2 * ndtr(-abs(self.value) / deviation)) if deviation > 0 else 1.0


def widen(values: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the deviations of the draws by `factor` and centre them on the sample's value, `[1 + B]`.

    Sums, means and differences of widened scores are thereby widened too.
    """
    if len(values) < 2 or not np.isfinite(values[1:]).any():
        return values
    return np.concatenate([values[:1], values[0] + factor * (values[1:] - np.nanmean(values[1:]))])


def swap_test(moves: np.ndarray, difference: float, draws: int, seed: int) -> float:
    """Return the two-sided p-value of a permutation test that swaps two rows' predictions of whole sign groups.

    Args:
        moves: What each group adds to the difference `[G]`, times the factor that widens its deviations.
        difference: The observed difference.
        draws: Number of random swaps.
        seed: Of the swaps.
    """
    sign = np.random.default_rng([seed, 9]).choice(np.array([-1.0, 1.0]), (draws, len(moves)))
    return float((1 + (np.abs(sign @ moves) >= abs(difference) - 1e-12).sum()) / (1 + draws))


def calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Return the expected calibration error: mean |accuracy - confidence| over equal-width bins of confidence."""
    if not len(correct):
        return float("nan")
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.zeros(CALIBRATION_BINS)
    np.add.at(gaps, bins, correct.astype(float) - confidence)
    return float(np.abs(gaps).sum() / len(correct))
