"""Coverage simulation: the intervals and tests of the protocol on simulated corpora whose true scores are known.

    python -m probe.evidence.coverage [--datasets 500] [--seed 0] [--settings few-null,...]

Each data set has signs, some of which share a group, with unequal numbers of clips; two features of two and five
classes of unequal size; and two sets of features, made alike but independently, so that their difference is zero in
truth. Features are noise of the sign plus noise of the clip; in a planted setting every class also has a direction of
its own, the same in every data set. Everything after that is the protocol's own code: five folds by sign group,
penalty chosen inside them, scores, intervals and paired tests. A calibrated interval covers the truth in 95 % of the
data sets, a calibrated test rejects in 5 %; 500 data sets measure either to about 2 points.

Truth is chance (1 / classes) without a planted signal, else the mean score over all data sets.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from islr.errors import UserError
from probe.config import FitConfig
from probe.fitting import run_split
from probe.splits import unseen_sign
from probe.statistics.bootstrap import HEADLINE, BootstrapDraws
from probe.statistics.paired import paired_differences
from probe.statistics.scores import Estimate
from probe.targets import Targets, make_targets

CLASSES = (2, 5)
MOST_CLIPS = 9
CLIP_NOISE = 0.5  # of the deviation between signs
FOLDS, HELD_OUT = 5, 0.2
FIT = FitConfig(inverse_penalties=(1e-4, 1e-3, 1e-2, 1e-1), min_train_signs=3, min_test_signs=1, permutations=0)
DRAWS = 1000
LEVEL = 0.05


@dataclass(frozen=True)
class Setting:
    """One kind of data set.

    Attributes:
        signs: Number of signs; every seventh is in the group of the one before.
        signal: Length of a class's direction, in deviations between signs.
        width: Dimensions of the features.
    """

    signs: int
    signal: float = 0.0
    width: int = 32


SETTINGS = {
    "few-null": Setting(60),
    "many-null": Setting(400),
    "few-planted": Setting(60, signal=2.0),
    "many-planted": Setting(400, signal=2.0),
}


def simulate(setting: Setting, seed: int) -> tuple[Targets, list[np.ndarray]]:
    """A data set: targets of N clips, and two sets of features `[N, width]`."""
    rng = np.random.default_rng([seed, setting.signs])
    sign = np.repeat(np.arange(setting.signs), np.minimum(1 + rng.geometric(0.3, setting.signs), MOST_CLIPS))
    labels: dict[str, np.ndarray] = {}
    sides = [rng.normal(size=(setting.signs, setting.width)) for _ in range(2)]
    for count in CLASSES:
        share = np.arange(1, count + 1) ** -0.5
        label = rng.choice(count, setting.signs, p=share / share.sum())
        label[: 3 * count] = np.tile(np.arange(count), 3)  # no class is too rare to be probed
        labels[f"{count} classes"] = label[sign]
        # An axis for each class, the same in every data set and on both sides: one population, no true difference.
        axes = sum(other for other in CLASSES if other < count) + label
        for side in sides:
            side[np.arange(setting.signs), axes] += setting.signal
    group = np.arange(setting.signs) - (np.arange(setting.signs) % 7 == 6)
    targets = make_targets(
        clip_ids=[f"{clip:06d}" for clip in range(len(sign))],
        features=labels,
        classes={f"{count} classes": [str(label) for label in range(count)] for count in CLASSES},
        signs=[f"{number:05d}" for number in sign],
        groups=[f"{group[number]:05d}" for number in sign],
    )
    noise = [CLIP_NOISE * rng.normal(size=(len(sign), setting.width)) for _ in sides]
    return targets, [(side[sign] + extra).astype(np.float32) for side, extra in zip(sides, noise, strict=True)]


@dataclass
class Tally:
    """Scores, intervals and p-values of one feature over all data sets of a setting.

    Attributes:
        scores: Balanced accuracies, two for each data set.
        intervals: Kind -> the (low, high) of each score.
        deviations: Kind -> bootstrap deviation of each score.
        p_values: Kind -> p-values of the differences.
    """

    scores: list[float] = field(default_factory=list)
    intervals: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    deviations: dict[str, list[float]] = field(default_factory=dict)
    p_values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, low: float, high: float, deviation: float) -> None:
        """Add one interval of one kind."""
        self.intervals.setdefault(kind, []).append((low, high))
        self.deviations.setdefault(kind, []).append(deviation)

    def coverage(self, kind: str, truth: float) -> float:
        """Return the share of the intervals that hold the truth."""
        low, high = np.array(self.intervals[kind]).T
        return float(((low <= truth) & (truth <= high)).mean())

    def rejected(self, kind: str) -> float:
        """Return the share of the tests that reject."""
        return float((np.array(self.p_values[kind]) < LEVEL).mean())

    def variance_ratio(self, kind: str) -> float:
        """Return the variance of the scores over the mean squared deviation: 1 for calibrated deviations."""
        return float(np.var(self.scores, ddof=1) / np.mean(np.square(self.deviations[kind])))


CLIPS, SIGNS, PROTOCOL, PERMUTATION = "clips", "signs", "protocol", "permutation"


def measure(
    setting: Setting, datasets: int, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Tally]:
    """Run the procedure on simulated data sets and tally the results of each feature.

    The kinds compared: `clips` treats clips as independent (normal approximation), `signs` is the unwidened bootstrap
    over sign groups, `protocol` is what the records carry.
    """
    tallies: dict[str, Tally] = {}
    for number in range(datasets):
        targets, sides = simulate(setting, seed + number)
        split = unseen_sign(targets, FOLDS, HELD_OUT, seed + number)
        everyone = np.ones(len(targets), dtype=bool)
        rows = [run_split([side], everyone, targets, split, FIT, seed=number) for side in sides]
        bootstrap = BootstrapDraws(targets, split, DRAWS, seed + number)
        for row in rows:
            wide = bootstrap.series(row.truth, row.predicted)
            for f, feature in enumerate(targets.features):
                tally = tallies.setdefault(feature, Tally())
                _add_intervals(tally, bootstrap, f, row.truth[f], row.predicted[f], wide[feature][HEADLINE])
        for difference in paired_differences(bootstrap, [rows[0]], [rows[1]]):
            if difference.feature in tallies:
                kinds = tallies[difference.feature].p_values
                kinds.setdefault(PROTOCOL, []).append(Estimate.of(difference.values).p_value)
                kinds.setdefault(PERMUTATION, []).append(difference.p_permutation)
        for f, feature in enumerate(targets.features):
            raw = [
                bootstrap.counts(f, row.truth[f], row.predicted[f]).scores(bootstrap.weights)[HEADLINE] for row in rows
            ]
            tallies[feature].p_values.setdefault(SIGNS, []).append(Estimate.of(raw[0] - raw[1]).p_value)
        progress(number + 1)
    return tallies


def _add_intervals(
    tally: Tally, bootstrap: BootstrapDraws, f: int, truth: np.ndarray, predicted: np.ndarray, wide: np.ndarray
) -> None:
    raw = bootstrap.counts(f, truth, predicted).scores(bootstrap.weights)[HEADLINE]
    value = float(raw[0])
    tally.scores.append(value)
    deviation = float(np.sqrt(value * (1 - value) / (truth >= 0).sum()))
    tally.add(CLIPS, value - 1.96 * deviation, value + 1.96 * deviation, deviation)
    for kind, draws in ((SIGNS, raw), (PROTOCOL, wide)):
        estimate = Estimate.of(draws, (0.0, 1.0))
        tally.add(kind, estimate.low, estimate.high, float(np.std(draws[1:])))


def truth_of(setting: Setting, feature: str, tally: Tally) -> float:
    """Return chance without a signal, else the mean score."""
    return float(np.mean(tally.scores)) if setting.signal else 1 / int(feature.split()[0])


def table_line(name: str, setting: Setting, feature: str, tally: Tally) -> str:
    """Format one line of the table, in percent."""
    truth = truth_of(setting, feature, tally)
    cells = [f"{100 * tally.coverage(kind, truth):5.1f}" for kind in (CLIPS, SIGNS, PROTOCOL)]
    cells += [f"{100 * tally.rejected(kind):5.1f}" for kind in (SIGNS, PROTOCOL, PERMUTATION)]
    scores = f"{100 * np.mean(tally.scores):5.1f} +- {100 * np.std(tally.scores):4.1f}"
    return f"{name:13} {setting.signs:5} {feature:10} {scores}   {'  '.join(cells)}   {tally.variance_ratio(SIGNS):.2f}"


HEADER = (
    f"{'':30} {'balanced':13}   {'covered by 95 % interval':19}   {'false positives':19}   variance over\n"
    f"{'setting':13} {'signs':5} {'feature':10} {'accuracy':13}   clips  signs  prot.   signs  prot.  perm.   bootstrap"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Raises:
        UserError: A setting is unknown.
    """
    parser = argparse.ArgumentParser(
        prog="python -m probe.evidence.coverage", description="coverage of the probe intervals"
    )
    parser.add_argument("--datasets", type=int, default=500, help="data sets for each setting")
    parser.add_argument("--seed", type=int, default=0, help="of the first data set")
    parser.add_argument("--settings", default=",".join(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    options = parser.parse_args(arguments)
    names = options.settings.split(",")
    for name in names:
        if name not in SETTINGS:
            raise UserError(f"unknown setting '{name}'; known: {', '.join(SETTINGS)}")
    print(HEADER, flush=True)
    for name in names:
        start = time.process_time()
        for feature, tally in measure(SETTINGS[name], options.datasets, options.seed).items():
            print(table_line(name, SETTINGS[name], feature, tally), flush=True)
        print(f"  ({options.datasets} data sets, {time.process_time() - start:.0f} s CPU)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
