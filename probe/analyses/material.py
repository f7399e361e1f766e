"""What every analysis works on: one feature set, its clips, the unseen-sign folds, and the linear probe's
choices inside them.

Shapes: N clips, F probed features, A features of the whole lexicon, G sign groups, B bootstrap draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.config import AnalysesConfig
from probe.features.tokens import Tokens
from probe.findings import Finding
from probe.fitting import UNSCORED, FitConfig, Outcome, scored_labels, standardise
from probe.splits import Split
from probe.statistics.draws import HEADLINE, Board, over_seeds
from probe.statistics.scores import CI_METHOD
from probe.targets import Targets


@dataclass(frozen=True)
class Part:
    """One fold: rows that have features, and the layer the linear probe chose for each feature inside its
    training signs.

    Attributes:
        labels: Scored labels `[F, N]`, -1 = missing or dropped in this fold.
        layers: Chosen layer of each feature `[F]`.
    """

    number: int
    labels: np.ndarray
    fit: np.ndarray
    select: np.ndarray
    train: np.ndarray
    test: np.ndarray
    layers: np.ndarray

    @property
    def common_layer(self) -> int:
        """The layer chosen for most features, the deeper of equals."""
        count = np.bincount(self.layers)
        return int(np.flatnonzero(count == count.max())[-1])


@dataclass(frozen=True)
class Material:
    """One feature set and everything an analysis may use.

    Attributes:
        layers: `[N, D_l]` of each layer, in the order of `targets`; rows that are not `present` are never read.
        present: Which clips have features, `[N]`.
        targets: The probed features.
        lexicon: All features of the lexicon for the same clips, int64 `[A, N]` each row under its name.
        split: The unseen-sign split.
        board: Groups and bootstrap weights of that split.
        linear: What the linear probe chose and predicted on it.
        fit: Grid and thresholds of the linear probe.
        config: Settings of the analyses.
        seed: Of everything random.
        max_rank: Principal directions used at most, as by the linear probe.
        device: Where probes are fitted.
        blocks: Block behind each layer; None = all of them, in order.
        tokens: Gives the token features of one block, aligned with `targets`; None where there are none.
        alive: Called between pieces of work.
    """

    layers: Sequence[np.ndarray]
    present: np.ndarray
    targets: Targets
    lexicon: Mapping[str, np.ndarray]
    split: Split
    board: Board
    linear: Outcome
    fit: FitConfig
    config: AnalysesConfig
    seed: int = 0
    max_rank: int | None = None
    device: str = "cpu"
    blocks: tuple[int, ...] | None = None
    tokens: Callable[[], Tokens] | None = None
    alive: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        assert len(self.present) == len(self.targets), "one mark per clip"

    @property
    def groups(self) -> np.ndarray:
        """Number of the sign group of each clip `[N]`, the column of `board.weights`."""
        return self.board.cluster

    def parts(self) -> Iterator[Part]:
        """The folds."""
        count = len(self.targets.features)
        place = {feature: f for f, feature in enumerate(self.targets.features)}
        for number, fold in enumerate(self.split.folds):
            self.alive()
            layers = np.zeros(count, dtype=np.int64)
            for record in self.linear.details:
                if record["fold"] == number:
                    layers[place[record["feature"]]] = record["layer"]
            labels, _ = scored_labels(self.targets, fold, self.fit)
            fit, select, train, test = (
                rows[self.present[rows]] for rows in (fold.fit, fold.select, fold.train, fold.test)
            )
            yield Part(number, labels, fit, select, train, test, layers)

    def block(self, layer: int) -> str:
        """Number of the block behind a layer."""
        return str(layer if self.blocks is None else self.blocks[layer])

    def fixed_layers(self) -> list[int]:
        """The layers that analyses without any learning read."""
        last = len(self.layers) - 1
        return [last] if self.config.layers == "last" else list(range(last + 1))

    def directions(self, layer: int) -> np.ndarray:
        """Features of the clips present, standardised over all of them without labels, of length one; zeros
        elsewhere. `[N, D]`"""
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
        """A finding about the clips marked in `rows` (`[N]` bool)."""
        signs = len(np.unique(self.groups[rows]))
        return Finding(
            analysis, metric, feature, values, int(rows.sum()), signs, setting, layer, higher_is_better, method
        )

    def with_averages(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Features and the averages over bundles."""
        return dict(values) | self.board.averages(values)

    def rows_of(self, truth: np.ndarray) -> dict[str, np.ndarray]:
        """For each feature and average which clips are scored, `[N]`, from labels `[F, N]`."""
        known = dict(zip(self.targets.features, truth >= 0, strict=True))
        anyone = (truth >= 0).any(0)
        names = ("mean:bundles", "mean:features", *(f"mean:{bundle}" for bundle in self.targets.bundles))
        return known | dict.fromkeys(names, anyone)

    def classified(
        self, analysis: str, predictions: Sequence[np.ndarray], setting: str = "", layer: str = "chosen"
    ) -> list[Finding]:
        """Balanced accuracy of predicted labels, and the paired difference to the linear probe's.

        Args:
            analysis: Its name.
            predictions: Predicted labels `[F, N]` on the linear probe's test clips, -1 = none; several are
                averaged, value by value.
            setting: The condition.
            layer: What was read.
        """
        truth = self.linear.truth
        rows = self.rows_of(np.where(predictions[0] >= 0, truth, UNSCORED))
        found = []
        series = [self.board.series(truth, predicted) for predicted in predictions]
        scores = {feature: metrics[HEADLINE] for feature, metrics in over_seeds(series).items()}
        base = self.board.series(np.where(predictions[0] >= 0, truth, UNSCORED), self.linear.predicted)
        gains = {f: values - base[f][HEADLINE] for f, values in scores.items() if f in base}
        for metric, table in ((HEADLINE, scores), ("over_linear", gains)):
            for feature, values in self.with_averages(table).items():
                found.append(
                    self.finding(analysis, metric, feature, values, rows[feature], setting=setting, layer=layer)
                )
        return found


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one; zero rows stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.where(length > 0, length, 1)).astype(np.float32)


def by_group(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Mean of rows `[n, ...]` by group, `[count, ...]`; nan for a group without rows."""
    total = np.zeros((count, *values.shape[1:]))
    np.add.at(total, groups, values)
    size = np.bincount(groups, minlength=count).astype(float)
    size[size == 0] = np.nan
    return total / size.reshape(-1, *[1] * (values.ndim - 1))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values share the mean of theirs."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[inverse.reshape(values.shape)]
