"""Scores of predictions, in the sample and in every bootstrap draw over sign groups; all rows share the draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from probe.splits import Split
from probe.statistics.dependence import widening_factor
from probe.statistics.scores import (
    BOUNDS,
    LIKELIHOODS,
    UNBOUNDED,
    Counts,
    draw_weights,
    perfect_score_errors,
    widen,
)
from probe.targets import Targets

BUNDLES_MEAN, FEATURES_MEAN = "mean:bundles", "mean:features"
HEADLINE = "balanced_accuracy"


@dataclass(frozen=True)
class Side:
    """One side of a paired difference of the headline score.

    Attributes:
        scores: Score of the sample and of the draws `[1 + B]`, not widened.
        contributions: What each sign group adds to the score `[G]`.
        factor: Factor that widens the draws.
        classes: Number of classes tested.
    """

    scores: np.ndarray
    contributions: np.ndarray
    factor: float
    classes: int


@dataclass
class BootstrapDraws:
    """Bootstrap draws over the tested sign groups of one split, shared by all rows.

    Attributes:
        weights: Weights of the groups in the sample and in the draws, `[1 + B, G]`.
        cluster: Number of the tested group of each clip `[N]`, -1 for a clip that is not tested.
        crossed: Whether tested groups train the probes of each other.
    """

    targets: Targets
    split: Split
    draws: int
    seed: int
    weights: np.ndarray = field(init=False)
    cluster: np.ndarray = field(init=False)
    crossed: bool = field(init=False)

    def __post_init__(self) -> None:
        fold_of = np.full(len(self.targets), -1)
        for number, fold in enumerate(self.split.folds):
            fold_of[fold.test] = number
        tested = fold_of >= 0
        names, index, inverse = np.unique(self.targets.groups[tested], return_index=True, return_inverse=True)
        self.cluster = np.full(len(self.targets), -1)
        self.cluster[tested] = inverse
        self.groups = len(names)
        self.weights = draw_weights(fold_of[tested][index], self.draws, self.seed)
        self.crossed = len(self.split.folds) > 1

    def series(
        self, truth: np.ndarray, predicted: np.ndarray, log_loss: np.ndarray | None = None
    ) -> dict[str, dict[str, np.ndarray]]:
        """Score predictions: feature -> metric -> values of the sample and the draws, `[1 + B]`.

        Features without scored clips are left out. The draws are widened by the variance that a bootstrap misses
        (`probe.statistics.dependence`).

        Args:
            truth, predicted: Labels `[F, N]`, -1 = not scored.
            log_loss: `[F, N]`; without it there are no bits and no log-loss.
        """
        result = {}
        for f, feature in enumerate(self.targets.classes):
            counts = self.counts(f, truth[f], predicted[f], None if log_loss is None else log_loss[f])
            if counts.table.any():
                scores = counts.scores(self.weights)
                factor = widening_factor(float(scores[HEADLINE][0]), counts.groups_of_classes, self.crossed)
                result[feature] = {
                    metric: self._widen(metric, values, factor, counts.tested)
                    for metric, values in scores.items()
                    if log_loss is not None or metric not in LIKELIHOODS
                }
        return result

    def counts(self, f: int, truth: np.ndarray, predicted: np.ndarray, log_loss: np.ndarray | None = None) -> Counts:
        """Count the predictions `[N]` of one feature by tested group."""
        loss = np.zeros(len(self.targets)) if log_loss is None else log_loss
        classes = len(list(self.targets.classes.values())[f])
        return Counts.of(truth, predicted, loss, self.cluster, self.groups, classes)

    def side(self, f: int, seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Side | None:
        """Score one side of a paired difference from truths and predictions `[N]` of each seed.

        Returns:
            The side; None where nothing is scored.
        """
        parts = [self.counts(f, truth, predicted) for truth, predicted in seeds]
        if not parts[0].table.any():
            return None
        scores = np.mean([self._unwidened(part) for part in parts], axis=0)
        groups = parts[0].groups_of_classes
        factor = widening_factor(float(scores[0]), groups, self.crossed)
        return Side(scores, np.mean([part.contributions() for part in parts], axis=0), factor, int((groups > 0).sum()))

    def _unwidened(self, counts: Counts) -> np.ndarray:
        return self._widen(HEADLINE, counts.scores(self.weights)[HEADLINE], 1.0, counts.tested)

    def _widen(self, metric: str, values: np.ndarray, factor: float, groups: int) -> np.ndarray:
        """Widen draws; where every group is correct (or wrong), draw from the exact binomial bound instead."""
        low, high = BOUNDS.get(metric, UNBOUNDED)
        if values[0] in (low, high) and (values == values[0]).all():
            wrong = perfect_score_errors(len(values) - 1, groups, self.seed) * (high - low)
            return np.concatenate([values[:1], values[0] + np.where(values[0] == high, -wrong, wrong)])
        return widen(values, factor)

    def averages(self, series: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Average over the features of each bundle, over bundles, and over all features."""
        inside = {
            name: [series[feature] for feature in members if feature in series]
            for name, members in self.targets.bundles.items()
        }
        means = {name: np.mean(values, axis=0) for name, values in inside.items() if values}
        result = {f"mean:{name}": mean for name, mean in means.items() if len(inside[name]) > 1}
        if means:
            result[BUNDLES_MEAN] = np.mean(list(means.values()), axis=0)
            result[FEATURES_MEAN] = np.mean(list(series.values()), axis=0)
        return result


def over_seeds(parts: Sequence[dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """Average the series of several seeds, draw by draw."""
    return {
        feature: {metric: np.mean([part[feature][metric] for part in parts], axis=0) for metric in metrics}
        for feature, metrics in parts[0].items()
        if all(feature in part for part in parts)
    }
