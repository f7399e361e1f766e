"""The input of every analysis: one feature set, its clips, the unseen-sign folds, and the linear probe's choices there.

Shapes: N clips, F probed features, A features of the whole lexicon, G sign groups, B bootstrap draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.config import AnalysesConfig, FitConfig
from probe.features.tokens import Tokens
from probe.findings import Finding
from probe.fitting import UNSCORED, ProbePredictions, scored_labels, standardise
from probe.splits import Fold, Split
from probe.statistics.bootstrap import BUNDLES_MEAN, FEATURES_MEAN, HEADLINE, BootstrapDraws, over_seeds
from probe.statistics.scores import CI_METHOD
from probe.targets import Targets


@dataclass(frozen=True)
class AnalysisFold(Fold):
    """One fold without the clips that have no features.

    Attributes:
        number: Its number.
        labels: Scored labels `[F, N]`, -1 = missing or dropped in this fold.
        layers: Layer that the linear probe chose for each feature inside its training signs `[F]`.
    """

    number: int
    labels: np.ndarray
    layers: np.ndarray

    @property
    def common_layer(self) -> int:
        """The layer chosen for most features, the deeper of equals."""
        count = np.bincount(self.layers)
        return int(np.flatnonzero(count == count.max())[-1])

    def by_layer(self) -> Iterator[tuple[int, list[int]]]:
        """Yield every chosen layer with the features it was chosen for."""
        for layer in np.unique(self.layers).tolist():
            yield layer, np.flatnonzero(self.layers == layer).tolist()


@dataclass(frozen=True)
class AnalysisContext:
    """One feature set and everything an analysis may use.

    Attributes:
        layers: `[N, D_l]` of each layer, in the order of `targets`; rows that are not `present` are never read.
        present: Which clips have features, `[N]`.
        targets: The probed features.
        lexicon: Labels of all features of the lexicon for the same clips, `[N]` for each of A features.
        split: The unseen-sign split.
        bootstrap: Sign groups and bootstrap weights of that split.
        linear: Choices and predictions of the linear probe on it.
        fit: Grid and thresholds of the linear probe.
        config: Settings of the analyses.
        seed: Of every random number.
        max_rank: Principal directions used at most, as by the linear probe.
        device: Where probes are fitted.
        blocks: Block behind each layer; None = all blocks, in order.
        tokens: Computes the token features of one block, aligned with `targets`; None where there are none.
        check_stop: Called between pieces of work; raises to stop.
    """

    layers: Sequence[np.ndarray]
    present: np.ndarray
    targets: Targets
    lexicon: Mapping[str, np.ndarray]
    split: Split
    bootstrap: BootstrapDraws
    linear: ProbePredictions
    fit: FitConfig
    config: AnalysesConfig
    seed: int = 0
    max_rank: int | None = None
    device: str = "cpu"
    blocks: tuple[int, ...] | None = None
    tokens: Callable[[], Tokens] | None = None
    check_stop: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        assert len(self.present) == len(self.targets), "one mark per clip"

    @property
    def groups(self) -> np.ndarray:
        """Number of the sign group of each clip `[N]`, the column of `bootstrap.weights`."""
        return self.bootstrap.cluster

    def folds(self) -> Iterator[AnalysisFold]:
        """Yield the folds of the split."""
        place = {feature: f for f, feature in enumerate(self.targets.features)}
        for number, fold in enumerate(self.split.folds):
            self.check_stop()
            layers = np.zeros(len(place), dtype=np.int64)
            for record in self.linear.details:
                if record["fold"] == number:
                    layers[place[record["feature"]]] = record["layer"]
            labels, _ = scored_labels(self.targets, fold, self.fit)
            here = fold.at(self.present)
            yield AnalysisFold(here.fit, here.select, here.test, number, labels, layers)

    def unscored(self) -> np.ndarray:
        """Return an array for predicted labels `[F, N]` in which nothing is scored yet."""
        return np.full(self.linear.truth.shape, UNSCORED)

    def block(self, layer: int) -> str:
        """Return the number of the block behind a layer."""
        return str(layer if self.blocks is None else self.blocks[layer])

    def fixed_layers(self) -> list[int]:
        """Return the layers that analyses without training use."""
        last = len(self.layers) - 1
        return [last] if self.config.layers == "last" else list(range(last + 1))

    def directions(self, layer: int) -> np.ndarray:
        """Return features standardised over all present clips, without labels, and scaled to unit length, `[N, D]`.

        Absent clips are zero.
        """
        return unit(np.where(self.present[:, None], standardise(self.layers[layer], self.present.nonzero()[0]), 0))

    # ---- findings

    def finding(
        self,
        analysis: str,
        metric: str,
        feature: str,
        values: np.ndarray,
        rows: np.ndarray,
        *,
        setting: str = "",
        layer: str = "chosen",
        higher_is_better: bool = True,
        method: str = CI_METHOD,
    ) -> Finding:
        """Make a finding about the clips marked in `rows` (`[N]` bool)."""
        signs = len(np.unique(self.groups[rows]))
        return Finding(
            analysis, metric, feature, values, int(rows.sum()), signs, setting, layer, higher_is_better, method
        )

    def with_averages(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add the averages over features and bundles to the values of features."""
        return dict(values) | self.bootstrap.averages(values)

    def rows_of(self, truth: np.ndarray) -> dict[str, np.ndarray]:
        """Return for each feature and average which clips `[N]` are scored, from labels `[F, N]`."""
        known = dict(zip(self.targets.features, truth >= 0, strict=True))
        names = (BUNDLES_MEAN, FEATURES_MEAN, *(f"mean:{bundle}" for bundle in self.targets.bundles))
        return known | dict.fromkeys(names, (truth >= 0).any(0))

    def classified(
        self, analysis: str, predictions: Sequence[np.ndarray], setting: str = "", layer: str = "chosen"
    ) -> list[Finding]:
        """Score predicted labels: balanced accuracy, and its paired difference to the linear probe's.

        Args:
            analysis: Its name.
            predictions: Predicted labels `[F, N]` of the linear probe's test clips, -1 = none; several are averaged,
                draw by draw.
            setting: The condition.
            layer: The layer used.
        """
        truth = self.linear.truth
        scored = np.where(predictions[0] >= 0, truth, UNSCORED)
        rows = self.rows_of(scored)
        series = [self.bootstrap.series(truth, predicted) for predicted in predictions]
        scores = {feature: metrics[HEADLINE] for feature, metrics in over_seeds(series).items()}
        linear = self.bootstrap.series(scored, self.linear.predicted)
        gains = {feature: values - linear[feature][HEADLINE] for feature, values in scores.items() if feature in linear}
        return [
            self.finding(analysis, metric, feature, values, rows[feature], setting=setting, layer=layer)
            for metric, table in ((HEADLINE, scores), ("over_linear", gains))
            for feature, values in self.with_averages(table).items()
        ]


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to length one; zero rows stay zero."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.where(length > 0, length, 1)).astype(np.float32)


def by_group(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Average rows `[n, ...]` by group, `[count, ...]`; nan for a group without rows."""
    total = np.zeros((count, *values.shape[1:]))
    np.add.at(total, groups, values)
    size = np.bincount(groups, minlength=count).astype(float)
    size[size == 0] = np.nan
    return total / size.reshape(-1, *[1] * (values.ndim - 1))
