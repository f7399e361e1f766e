"""Result records of probing: scores, intervals, paired differences, averages over features.

A row of the tables is an encoder or a control, probed on one or more splits; the score of a row with several seeds is
their mean, in the sample and in every bootstrap draw. All rows of a split share the draws.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from islr.evaluation.intervals import holm
from islr.evaluation.results import Provenance, Result
from probe.config import UNSEEN_SIGN
from probe.findings import Finding, differences, mean_over_seeds
from probe.fitting import ProbePredictions
from probe.splits import Split
from probe.statistics.bootstrap import BUNDLES_MEAN, FEATURES_MEAN, HEADLINE, BootstrapDraws, over_seeds
from probe.statistics.paired import paired_differences
from probe.statistics.scores import BOUNDS, CI_METHOD, METRICS, NOT_CONVERGED, UNBOUNDED, Estimate, calibration_error
from probe.targets import Targets

DIFFERENCE = "balanced_accuracy_difference"
CHOSEN = "chosen"
LOWER_IS_BETTER = ("ece", "log_loss", "p_holm", "p_permutation", "seen_unseen")


@dataclass(frozen=True)
class ResultRow:
    """One row of the tables.

    Attributes:
        name: Encoder or control.
        control: "" for an encoder, else the name of the control.
        provenance: Where its numbers come from.
        predictions: Split name -> predictions of each seed.
        floor: Name of the random-init row of the same form of encoder, to compare with; "" for none.
        blocks: Number of the block behind each probed layer; None = all of them, in order.
        findings: Findings of the analyses, for each seed.
    """

    name: str
    control: str
    provenance: Provenance
    predictions: dict[str, list[ProbePredictions]]
    floor: str = ""
    blocks: tuple[int, ...] | None = None
    findings: tuple[Sequence[Finding], ...] = ()

    def block(self, layer: int) -> int:
        """Return the block behind a probed layer."""
        return layer if self.blocks is None else self.blocks[layer]

    @property
    def key(self) -> tuple[str, str]:
        """Identifier of the row: random initialisations of two encoders share a name."""
        return self.name, self.provenance.encoder


class Recorder:
    """Collects the records of all rows in `results`.

    Args:
        targets: The probed features.
        splits: The splits, by name.
        draws: Number of bootstrap draws.
        seed: Of the draws.
    """

    def __init__(self, targets: Targets, splits: Mapping[str, Split], draws: int, seed: int) -> None:
        self.targets = targets
        self.bootstraps = {name: BootstrapDraws(targets, split, draws, seed) for name, split in splits.items()}
        self.draws, self.method = draws, f"{CI_METHOD}, {draws} draws"
        self.results: list[Result] = []
        self._sizes: dict[tuple[str, ...], dict[str, str]] = {}

    def add_scores(self, row: ResultRow) -> None:
        """Record the scores of a row on all its splits: at the chosen layer, by layer, and of the permuted labels."""
        headline: dict[str, dict[str, np.ndarray]] = {}
        for split, seeds in row.predictions.items():
            bootstrap, n = self.bootstraps[split], self._clip_counts(seeds[0])
            self._count_signs(row, split, seeds[0])
            scores = over_seeds([bootstrap.series(seed.truth, seed.predicted, seed.log_loss) for seed in seeds])
            for metric in METRICS:
                of_features = {feature: metrics[metric] for feature, metrics in scores.items()}
                values = of_features | bootstrap.averages(of_features)
                for feature, draws in values.items():
                    estimate = Estimate.of(draws, BOUNDS.get(metric, UNBOUNDED))
                    self._add(row, metric, feature, split, estimate, n[feature])
                if metric == HEADLINE:
                    headline[split] = values
            for f, feature in enumerate(self.targets.features):
                errors = [_calibration_error(seed, f) for seed in seeds]
                self._add(row, "ece", feature, split, float(np.mean(errors)), n[feature])
            self._add_layers(row, split, n)
            self._add_selectivity(row, split, headline[split], n)
        if {UNSEEN_SIGN, "seen_sign"} <= headline.keys():
            for feature, draws in headline["seen_sign"].items():
                if feature in headline[UNSEEN_SIGN]:
                    gap = float(draws[0] - headline[UNSEEN_SIGN][feature][0])
                    self._add(row, "seen_unseen_gap", feature, "seen_sign", gap, len(self.targets))

    def _count_signs(self, row: ResultRow, split: str, predictions: ProbePredictions) -> None:
        """Note the tested sign groups and classes of each feature, which every record of it carries."""
        for f, feature in enumerate(self.targets.features):
            counts = self.bootstraps[split].counts(f, predictions.truth[f], predictions.predicted[f])
            classes = int((counts.groups_of_classes > 0).sum())
            self._sizes[*row.key, split, feature] = {"sign_groups": str(counts.tested), "classes": str(classes)}

    def _clip_counts(self, predictions: ProbePredictions) -> dict[str, int]:
        """Return the number of scored clips of every feature and average."""
        scored = (predictions.truth >= 0) & (predictions.predicted >= 0)
        counts = dict(zip(self.targets.features, scored.sum(1).tolist(), strict=True))
        averages = [*(f"mean:{bundle}" for bundle in self.targets.bundles), BUNDLES_MEAN, FEATURES_MEAN]
        return counts | dict.fromkeys(averages, int(scored.any(0).sum()))

    def _add_layers(self, row: ResultRow, split: str, n: Mapping[str, int]) -> None:
        """Record the headline score of every layer, where there are several."""
        bootstrap, seeds = self.bootstraps[split], row.predictions[split]
        count = len(seeds[0].by_layer)
        for layer in range(count) if count > 1 else ():
            series = over_seeds([bootstrap.series(seed.truth, seed.by_layer[layer]) for seed in seeds])
            for feature, draws in self._headlines(bootstrap, series).items():
                estimate = Estimate.of(draws, BOUNDS[HEADLINE])
                self._add(row, HEADLINE, feature, split, estimate, n[feature], layer=str(row.block(layer)))

    def _add_selectivity(
        self, row: ResultRow, split: str, scores: Mapping[str, np.ndarray], n: Mapping[str, int]
    ) -> None:
        """Record the score on permuted labels, and selectivity: the score on the true ones minus that."""
        bootstrap = self.bootstraps[split]
        series = [
            bootstrap.series(truth, predicted)
            for seed in row.predictions[split]
            for truth, predicted in zip(seed.control_truth, seed.control_predicted, strict=True)
        ]
        if not series:
            return
        for feature, draws in self._headlines(bootstrap, over_seeds(series)).items():
            estimate = Estimate.of(draws, BOUNDS[HEADLINE])
            self._add(row, HEADLINE, feature, split, estimate, n[feature], control="permuted")
            if feature in scores:
                self._add(row, "selectivity", feature, split, Estimate.of(scores[feature] - draws), n[feature])

    @staticmethod
    def _headlines(bootstrap: BootstrapDraws, series: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        values = {feature: metrics[HEADLINE] for feature, metrics in series.items()}
        return values | bootstrap.averages(values)

    def add_differences(self, rows: Sequence[ResultRow]) -> None:
        """Record paired differences between every encoder and its random initialisation, and between encoders.

        p-values are Holm-adjusted in two families for each split: single features, and averages.
        """
        by_key = {row.key: row for row in rows}
        encoders = [row for row in rows if not row.control]
        pairs = [(row, by_key[row.floor, row.provenance.encoder]) for row in encoders if row.floor]
        pairs += [(a, b) for i, a in enumerate(encoders) for b in encoders[i + 1 :]]
        for split, bootstrap in self.bootstraps.items():
            families: dict[bool, list[tuple[float, ResultRow, str, str, int]]] = {False: [], True: []}
            for a, b in pairs:
                if split not in a.predictions or split not in b.predictions:
                    continue
                suffix = "" if b.control else f":{b.name}"
                metric = "difference_to" + suffix if suffix else DIFFERENCE
                for paired in paired_differences(bootstrap, a.predictions[split], b.predictions[split]):
                    feature, n = paired.feature, paired.clips
                    estimate = Estimate.of(paired.values, (-1.0, 1.0))
                    self._add(a, metric, feature, split, estimate, n)
                    self._add(a, "p_permutation" + suffix, feature, split, paired.p_permutation, n)
                    family = families[feature.startswith("mean:")]
                    family.append((estimate.p_value, a, "p_holm" + suffix, feature, n))
            for family in families.values():
                adjusted = holm([p for p, *_ in family])
                for p, (_, row, metric, feature, n) in zip(adjusted, family, strict=True):
                    self._add(row, metric, feature, split, p, n)

    def add_findings(self, rows: Sequence[ResultRow]) -> None:
        """Record the findings of the analyses, and their paired differences to the random initialisation.

        Intervals of these differences are not corrected for multiple comparisons.
        """
        means = {row.key: mean_over_seeds(row.findings) for row in rows if row.findings}
        for row in rows:
            findings = means.get(row.key, [])
            floor = means.get((row.floor, row.provenance.encoder), [])
            for finding in [*findings, *differences(findings, floor)]:
                self._add_finding(row, finding)

    def _add_finding(self, row: ResultRow, finding: Finding) -> None:
        bounds = BOUNDS.get(finding.metric, UNBOUNDED)
        estimate: Estimate | float = float(finding.values[0])
        if len(finding.values) > 1:
            estimate = Estimate.of(finding.values, bounds)
        group = {"feature": finding.feature, "split": UNSEEN_SIGN, "layer": finding.layer, "control": row.control}
        group |= {"analysis": finding.analysis, "setting": finding.setting, "signs": str(finding.signs)}
        method = f"{finding.method}, {self.draws} draws"
        self._append(row, finding.metric, estimate, finding.clips, group, method, finding.higher_is_better)

    def _add(
        self, row: ResultRow, metric: str, feature: str, split: str, estimate: Estimate | float, n: int, **group: str
    ) -> None:
        labels = {"feature": feature, "split": split, "layer": CHOSEN, "control": row.control, **group}
        labels |= self._sizes.get((*row.key, split, feature), {})
        method = self.method + self._convergence_note(row, feature, split)
        self._append(row, metric, estimate, n, labels, method, not metric.startswith(LOWER_IS_BETTER))

    def _append(
        self,
        row: ResultRow,
        metric: str,
        estimate: Estimate | float,
        n: int,
        group: dict[str, str],
        method: str,
        higher_is_better: bool,
    ) -> None:
        """Append a record, unless its value is undefined or no clip was scored."""
        interval = estimate if isinstance(estimate, Estimate) else None
        value = estimate.value if isinstance(estimate, Estimate) else estimate
        if not np.isfinite(value) or n < 1:
            return
        self.results.append(
            Result(
                name=row.name,
                metric=metric,
                value=value,
                ci_low=interval.low if interval else None,
                ci_high=interval.high if interval else None,
                ci_method=method if interval else "",
                n=n,
                higher_is_better=higher_is_better,
                group=group,
                provenance=row.provenance,
            )
        )

    def _convergence_note(self, row: ResultRow, feature: str, split: str) -> str:
        """Return the mark of a number in which a probe did not reach its optimum, else an empty string."""
        members = set(self.targets.features) if feature.startswith("mean:") else {feature}
        fits = [record for seed in row.predictions[split] for record in seed.details if record["feature"] in members]
        missed = sum(not record.get("converged", True) for record in fits if record["scored"])
        return f"; {missed} of {len(fits)} probes {NOT_CONVERGED}" if missed else ""


def _calibration_error(predictions: ProbePredictions, f: int) -> float:
    known = (predictions.truth[f] >= 0) & (predictions.predicted[f] >= 0)
    correct = predictions.truth[f, known] == predictions.predicted[f, known]
    return calibration_error(correct, predictions.confidence[f, known].astype(np.float64))


def details(rows: Iterable[ResultRow]) -> list[dict[str, Any]]:
    """List the fits of each row, split, seed, fold and feature: classes, dropped classes, layer, C, convergence."""
    return [
        {"row": row.name, "encoder": row.provenance.encoder, "split": split, "seed": number}
        | record
        | ({"layer": row.block(record["layer"])} if "layer" in record else {})
        for row in rows
        for split, seeds in row.predictions.items()
        for number, seed in enumerate(seeds)
        for record in seed.details
    ]
