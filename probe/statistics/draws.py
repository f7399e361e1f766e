"""Scores of predictions, in the sample and in every bootstrap draw over sign groups; all rows share the draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from probe.splits import Split
from probe.statistics.dependence import widening
from probe.statistics.scores import BOUNDS, LIKELIHOODS, UNBOUNDED, Counts, draw_weights, failures, widened
from probe.targets import Targets

BUNDLES_MEAN, FEATURES_MEAN = "mean:bundles", "mean:features"
HEADLINE = "balanced_accuracy"


@dataclass
class Board:
    """Scores of all rows on one split.

    Attributes:
        weights: Sample and bootstrap draws over the groups tested, `[1 + B, G]`.
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
        """Feature -> metric -> values of the sample and the draws, `[1 + B]`; features without scored clips
        are out. The draws are widened for what a bootstrap does not see (`probe.statistics.dependence`).

        Args:
            truth, predicted: Labels `[F, N]`, -1 = not scored.
            log_loss: `[F, N]`; without it there are no bits and no log-loss.
        """
        result = {}
        for f, feature in enumerate(self.targets.classes):
            counts = self.counts(f, truth[f], predicted[f], None if log_loss is None else log_loss[f])
            if counts.table.any():
                scores = counts.scores(self.weights)
                factor = widening(float(scores[HEADLINE][0]), counts.groups_of_classes, self.crossed)
                result[feature] = {
                    metric: self._with_doubt(metric, values, factor, counts.tested)
                    for metric, values in scores.items()
                    if log_loss is not None or metric not in LIKELIHOODS
                }
        return result

    def counts(self, f: int, truth: np.ndarray, predicted: np.ndarray, log_loss: np.ndarray | None = None) -> Counts:
        """Counts of one feature by tested group, from `[N]`."""
        loss = np.zeros(len(self.targets)) if log_loss is None else log_loss
        classes = len(list(self.targets.classes.values())[f])
        return Counts.of(truth, predicted, loss, self.cluster, self.groups, classes)

    def side(
        self, f: int, seeds: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, float, int] | None:
        """One side of a paired difference of the headline score, over truths and predictions `[N]` of each seed.

        Returns:
            The score of the sample and of the draws `[1 + B]`, not widened; what each group adds to the score
            `[G]`; the factor to widen by; the number of classes. None where nothing is scored.
        """
        parts = [self.counts(f, truth, predicted) for truth, predicted in seeds]
        if not parts[0].table.any():
            return None
        scores = np.mean([self._doubted(part) for part in parts], axis=0)
        groups = parts[0].groups_of_classes
        factor = widening(float(scores[0]), groups, self.crossed)
        return scores, np.mean([part.contributions() for part in parts], axis=0), factor, int((groups > 0).sum())

    def _doubted(self, counts: Counts) -> np.ndarray:
        """Draws of the headline score, of the exact bound where every group is right."""
        return self._with_doubt(HEADLINE, counts.scores(self.weights)[HEADLINE], 1.0, counts.tested)

    def _with_doubt(self, metric: str, values: np.ndarray, factor: float, groups: int) -> np.ndarray:
        """Widened draws; where every group is right (or wrong), draws of the exact binomial bound."""
        low, high = BOUNDS.get(metric, UNBOUNDED)
        if values[0] in (low, high) and (values == values[0]).all():
            wrong = failures(len(values) - 1, groups, self.seed) * (high - low)
            return np.concatenate([values[:1], values[0] + np.where(values[0] == high, -wrong, wrong)])
        return widened(values, factor)

    def averages(self, series: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Means over the features of each bundle, over bundles, and over all features."""
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
    """Mean over seeds, value by value."""
    return {
        feature: {metric: np.mean([part[feature][metric] for part in parts], axis=0) for metric in metrics}
        for feature, metrics in parts[0].items()
        if all(feature in part for part in parts)
    }
