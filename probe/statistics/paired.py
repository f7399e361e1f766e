"""Paired differences between two rows on the clips that both have, with intervals and permutation tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from probe.fitting import UNSCORED, ProbePredictions
from probe.statistics.bootstrap import BootstrapDraws
from probe.statistics.dependence import difference_factor
from probe.statistics.scores import swap_test, widen


@dataclass(frozen=True)
class PairedDifference:
    """Difference of the headline score of two rows.

    Attributes:
        feature: Feature, bundle or average.
        values: The sample's difference and those of the draws `[1 + B]`.
        p_permutation: p-value of the permutation test that swaps the two rows' predictions of whole sign groups.
        clips: Clips scored for both rows.
    """

    feature: str
    values: np.ndarray
    p_permutation: float
    clips: int


def paired_differences(
    bootstrap: BootstrapDraws, first: Sequence[ProbePredictions], second: Sequence[ProbePredictions]
) -> Iterator[PairedDifference]:
    """Yield the differences of two rows, each with the predictions of one or several seeds."""
    targets = bootstrap.targets
    common = (first[0].predicted >= 0) & (second[0].predicted >= 0)  # [F, N]
    values: dict[str, np.ndarray] = {}
    moves: dict[str, np.ndarray] = {}
    for f, feature in enumerate(targets.classes):
        sides = [
            bootstrap.side(f, [(np.where(common[f], seed.truth[f], UNSCORED), seed.predicted[f]) for seed in seeds])
            for seeds in (first, second)
        ]
        if sides[0] is None or sides[1] is None:
            continue
        a, b = sides[0], sides[1]
        factor = a.factor
        if bootstrap.crossed:
            mean = float(a.scores[0] + b.scores[0]) / 2
            factor *= difference_factor(a.scores[1:], b.scores[1:], mean, a.classes)
        values[feature] = widen(a.scores - b.scores, factor)
        moves[feature] = (a.contributions - b.contributions) * factor
    counts = dict(zip(targets.features, common.sum(1).tolist(), strict=True))
    total = int(common.any(0).sum())
    moves |= bootstrap.averages(moves)
    for feature, draws in (values | bootstrap.averages(values)).items():
        p = swap_test(moves[feature], float(draws[0]), len(draws) - 1, bootstrap.seed)
        yield PairedDifference(feature, draws, p, counts.get(feature, total))
