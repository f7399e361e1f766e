"""From predictions to result records: scores, intervals, paired differences, averages over features.

A row of the tables is an encoder or a control, measured on one or more splits; where it has several seeds,
its score is the mean of theirs, in the sample and in every bootstrap draw. All rows of a split share the
draws.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from islr.evaluation.results import Provenance, Result
from probe.findings import Finding, differences, mean_over_seeds
from probe.fitting import UNSCORED, Outcome
from probe.splits import Split
from probe.statistics.dependence import alike
from probe.statistics.draws import BUNDLES_MEAN, FEATURES_MEAN, HEADLINE, Board, over_seeds
from probe.statistics.scores import (
    BOUNDS,
    CI_METHOD,
    METRICS,
    UNBOUNDED,
    Estimate,
    adjusted,
    calibration_error,
    swapped,
    widened,
)
from probe.targets import Targets

DIFFERENCE = "balanced_accuracy_difference"
CHOSEN = "chosen"
LOWER_IS_BETTER = ("ece", "log_loss", "p_holm", "p_permutation", "seen_unseen")
ANALYSED = "unseen_sign"  # the split whose folds the analyses work on


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        name: Encoder or control.
        control: "" for an encoder, else which control it is.
        provenance: Where its numbers come from.
        outcomes: Split name -> predictions of each seed.
        floor: Name of the random-init row of the same architecture, to compare with; "" for none.
        blocks: Number of the block behind each probed layer; None = all of them, in order.
        findings: What the analyses found, for each seed.
    """

    name: str
    control: str
    provenance: Provenance
    outcomes: dict[str, list[Outcome]]
    floor: str = ""
    blocks: tuple[int, ...] | None = None
    findings: tuple[Sequence[Finding], ...] = ()

    def block(self, layer: int) -> int:
        """The block behind a probed layer."""
        return layer if self.blocks is None else self.blocks[layer]

    @property
    def key(self) -> tuple[str, str]:
        """What tells rows apart: random initialisations of two architectures share a name."""
        return self.name, self.provenance.encoder


class Recorder:
    """Collects the records of all rows.

    Args:
        targets: What was probed.
        splits: The splits, by name.
        draws: Bootstrap draws.
        seed: Of the draws.
    """

    def __init__(self, targets: Targets, splits: Mapping[str, Split], draws: int, seed: int) -> None:
        self.targets = targets
        self.boards = {name: Board(targets, split, draws, seed) for name, split in splits.items()}
        self.draws, self.method = draws, f"{CI_METHOD}, {draws} draws"
        self.results: list[Result] = []
        self._sizes: dict[tuple[str, ...], dict[str, str]] = {}

    def _add(
        self,
        row: Row,
        metric: str,
        feature: str,
        split: str,
        estimate: Estimate | float,
        n: int,
        **group: str,
    ) -> None:
        interval = isinstance(estimate, Estimate)
        value = estimate.value if isinstance(estimate, Estimate) else estimate
        if not np.isfinite(value) or n < 1:
            return
        labels = {"feature": feature, "split": split, "layer": CHOSEN, "control": row.control, **group}
        labels |= self._sizes.get((*row.key, split, feature), {})
        self.results.append(
            Result(
                name=row.name,
                metric=metric,
                value=value,
                ci_low=estimate.low if isinstance(estimate, Estimate) else None,
                ci_high=estimate.high if isinstance(estimate, Estimate) else None,
                ci_method=self.method + self._mark(row, feature, split) if interval else "",
                n=n,
                higher_is_better=not metric.startswith(LOWER_IS_BETTER),
                group=labels,
                provenance=row.provenance,
            )
        )

    def _mark(self, row: Row, feature: str, split: str) -> str:
        """Words that mark a number in which a probe did not reach its optimum."""
        if feature.startswith("mean:"):
            members = set(self.targets.features)
        else:
            members = {feature}
        fits = [record for o in row.outcomes[split] for record in o.details if record["feature"] in members]
        missed = sum(not record.get("converged", True) for record in fits if record["scored"])
        return f"; {missed} of {len(fits)} probes NOT CONVERGED" if missed else ""

    def _counts(self, outcome: Outcome) -> dict[str, int]:
        scored = ((outcome.truth >= 0) & (outcome.predicted >= 0)).sum(1)
        counts = dict(zip(self.targets.features, scored.tolist(), strict=True))
        total = int(((outcome.truth >= 0) & (outcome.predicted >= 0)).any(0).sum())
        return (
            counts
            | dict.fromkeys([*(f"mean:{bundle}" for bundle in self.targets.bundles)], total)
            | {
                BUNDLES_MEAN: total,
                FEATURES_MEAN: total,
            }
        )

    def row(self, row: Row) -> None:
        """Scores of one row on all its splits: at the chosen layer, by layer, of its permuted-label
        control.
        """
        headline: dict[str, dict[str, np.ndarray]] = {}
        for split, outcomes in row.outcomes.items():
            board, n = self.boards[split], self._counts(outcomes[0])
            for f, feature in enumerate(self.targets.features):
                counts = board.counts(f, outcomes[0].truth[f], outcomes[0].predicted[f])
                classes = int((counts.groups_of_classes > 0).sum())
                self._sizes[*row.key, split, feature] = {"sign_groups": str(counts.tested), "classes": str(classes)}
            real = over_seeds([board.series(o.truth, o.predicted, o.log_loss) for o in outcomes])
            for metric in METRICS:
                values = {feature: metrics[metric] for feature, metrics in real.items()}
                both = values | board.averages(values)
                for feature, draws in both.items():
                    estimate = Estimate.of(draws, BOUNDS.get(metric, UNBOUNDED))
                    self._add(row, metric, feature, split, estimate, n[feature])
                if metric == HEADLINE:
                    headline[split] = both
            for f, feature in enumerate(self.targets.features):
                errors = [_calibration(outcome, f) for outcome in outcomes]
                self._add(row, "ece", feature, split, float(np.mean(errors)), n[feature])
            self._layers(row, split, outcomes, n)
            self._selectivity(row, split, outcomes, headline[split], n)
        if {"unseen_sign", "seen_sign"} <= headline.keys():
            for feature, draws in headline["seen_sign"].items():
                if feature in headline["unseen_sign"]:
                    gap = float(draws[0] - headline["unseen_sign"][feature][0])
                    self._add(row, "seen_unseen_gap", feature, "seen_sign", gap, len(self.targets))

    def _layers(self, row: Row, split: str, outcomes: Sequence[Outcome], n: Mapping[str, int]) -> None:
        board = self.boards[split]
        count = len(outcomes[0].by_layer)
        for layer in range(count) if count > 1 else ():
            parts = [board.series(o.truth, o.by_layer[layer]) for o in outcomes]
            values = {feature: metrics[HEADLINE] for feature, metrics in over_seeds(parts).items()}
            for feature, draws in (values | board.averages(values)).items():
                estimate = Estimate.of(draws, BOUNDS[HEADLINE])
                self._add(row, HEADLINE, feature, split, estimate, n[feature], layer=str(row.block(layer)))

    def _selectivity(
        self,
        row: Row,
        split: str,
        outcomes: Sequence[Outcome],
        real: Mapping[str, np.ndarray],
        n: Mapping[str, int],
    ) -> None:
        board = self.boards[split]
        pairs = [
            (truth, predicted)
            for o in outcomes
            for truth, predicted in zip(o.control_truth, o.control_predicted, strict=True)
        ]
        if not pairs:
            return
        control = over_seeds([board.series(truth, predicted) for truth, predicted in pairs])
        values = {feature: metrics[HEADLINE] for feature, metrics in control.items()}
        for feature, draws in (values | board.averages(values)).items():
            estimate = Estimate.of(draws, BOUNDS[HEADLINE])
            self._add(row, HEADLINE, feature, split, estimate, n[feature], control="permuted")
            if feature in real:
                self._add(row, "selectivity", feature, split, Estimate.of(real[feature] - draws), n[feature])

    def differences(self, rows: Sequence[Row]) -> None:
        """Paired differences: every encoder and its random init, and every two encoders, adjusted by Holm."""
        by_key = {row.key: row for row in rows}
        encoders = [row for row in rows if not row.control]
        pairs = [(row, by_key[row.floor, row.provenance.encoder]) for row in encoders if row.floor]
        pairs += [(a, b) for i, a in enumerate(encoders) for b in encoders[i + 1 :]]
        for split, board in self.boards.items():
            p_values: dict[tuple[str, ...], float] = {}
            found: dict[tuple[str, ...], tuple[Row, str, int]] = {}
            for a, b in pairs:
                if split not in a.outcomes or split not in b.outcomes:
                    continue
                suffix = "" if b.control else f":{b.name}"
                metric = "difference_to" + suffix if suffix else DIFFERENCE
                for feature, draws, chance, n in self.paired(board, a.outcomes[split], b.outcomes[split]):
                    estimate = Estimate.of(draws, (-1.0, 1.0))
                    self._add(a, metric, feature, split, estimate, n)
                    self._add(a, "p_permutation" + suffix, feature, split, chance, n)
                    key = ("mean" if feature.startswith("mean:") else "single", *a.key, *b.key, feature)
                    p_values[key], found[key] = estimate.p_value, (a, "p_holm" + suffix, n)
            for family in ("single", "mean"):
                members = {key: p for key, p in p_values.items() if key[0] == family}
                for member, p in adjusted(members).items():
                    row, metric, n = found[member]
                    self._add(row, metric, member[-1], split, p, n)

    def analyses(self, rows: Sequence[Row]) -> None:
        """What the analyses found in each row, and paired differences to its random initialisation.

        Intervals of differences are not corrected for their number.
        """
        found = {row.key: mean_over_seeds(row.findings) for row in rows if row.findings}
        for row in rows:
            own = found.get(row.key, [])
            floor = found.get((row.floor, row.provenance.encoder), [])
            for finding in [*own, *differences(own, floor)]:
                self._add_finding(row, finding)

    def _add_finding(self, row: Row, finding: Finding) -> None:
        bounds = BOUNDS.get(finding.metric, UNBOUNDED)
        interval = Estimate.of(finding.values, bounds) if len(finding.values) > 1 else None
        value = float(finding.values[0])
        if not np.isfinite(value) or finding.clips < 1:
            return
        group = {"feature": finding.feature, "split": ANALYSED, "layer": finding.layer, "control": row.control}
        group |= {"analysis": finding.analysis, "setting": finding.setting, "signs": str(finding.signs)}
        self.results.append(
            Result(
                name=row.name,
                metric=finding.metric,
                value=value,
                ci_low=interval.low if interval else None,
                ci_high=interval.high if interval else None,
                ci_method=f"{finding.method}, {self.draws} draws" if interval else "",
                n=finding.clips,
                higher_is_better=finding.higher_is_better,
                group=group,
                provenance=row.provenance,
            )
        )

    def paired(
        self, board: Board, first: Sequence[Outcome], second: Sequence[Outcome]
    ) -> Iterable[tuple[str, np.ndarray, float, int]]:
        """Feature (or mean), difference of the headline score `[1 + B]`, p-value of the permutation test that
        swaps the two rows' predictions of whole sign groups, clips; on the clips that both have.
        """
        common = (first[0].predicted >= 0) & (second[0].predicted >= 0)  # [F, N]
        values: dict[str, np.ndarray] = {}
        moves: dict[str, np.ndarray] = {}
        for f, feature in enumerate(self.targets.classes):
            sides = [
                board.side(f, [(np.where(common[f], o.truth[f], UNSCORED), o.predicted[f]) for o in outcomes])
                for outcomes in (first, second)
            ]
            if any(side is None for side in sides):
                continue
            (a, a_groups, factor, classes), (b, b_groups, _, _) = (side for side in sides if side is not None)
            if board.crossed:
                factor *= alike(a[1:], b[1:], float(a[0] + b[0]) / 2, classes)
            values[feature] = widened(a - b, factor)
            moves[feature] = (a_groups - b_groups) * factor
        counts = dict(zip(self.targets.features, common.sum(1).tolist(), strict=True))
        total = int(common.any(0).sum())
        moves |= board.averages(moves)
        for feature, draws in (values | board.averages(values)).items():
            p = swapped(moves[feature], float(draws[0]), len(draws) - 1, board.seed)
            yield feature, draws, p, counts.get(feature, total)


def _calibration(outcome: Outcome, feature: int) -> float:
    known = (outcome.truth[feature] >= 0) & (outcome.predicted[feature] >= 0)
    correct = outcome.truth[feature, known] == outcome.predicted[feature, known]
    return calibration_error(correct, outcome.confidence[feature, known].astype(np.float64))


def details(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Per row, split, seed, fold and feature: classes, dropped classes, layer, C, convergence."""
    return [
        {"row": row.name, "encoder": row.provenance.encoder, "split": split, "seed": seed}
        | record
        | ({"layer": row.block(record["layer"])} if "layer" in record else {})
        for row in rows
        for split, outcomes in row.outcomes.items()
        for seed, outcome in enumerate(outcomes)
        for record in outcome.details
    ]
