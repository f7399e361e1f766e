"""The probe intervals cover what they say, where intervals that take hits for independent do not."""

from collections.abc import Iterator

import numpy as np
import pytest

from islr.errors import UserError
from probe.evidence import coverage
from probe.statistics.dependence import covariance_ratio, difference_factor, small_sample_factor, widening_factor
from probe.statistics.scores import BOUNDS, Counts, Estimate, draw_weights, perfect_score_errors, swap_test, widen

SIGNS, FOLDS = 60, 5


def cross_validated(rng: np.random.Generator, width: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of two classes, predictions of a linear classifier trained on the other folds, folds: no signal.

    The classifier is a sum of training labels weighted by products of features, which is what a probe with a
    strong penalty is, and which needs no fitting.
    """
    x = rng.normal(size=(SIGNS, width))
    y = rng.permutation(np.arange(SIGNS) % 2)
    fold = np.empty(SIGNS, dtype=int)
    for label in range(2):  # stratified
        here = np.flatnonzero(y == label)
        fold[here] = np.arange(len(here)) % FOLDS
    kernel = (x @ x.T) * (fold[:, None] != fold)
    return y, (kernel @ (2 * y - 1) > 0).astype(int), fold


def counts_of(y: np.ndarray, p: np.ndarray) -> Counts:
    return Counts.of(y, p, np.zeros(len(y)), np.arange(len(y)), len(y), 2)


def null_scores(datasets: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws of two rows of every data set, not widened."""
    rng = np.random.default_rng(seed)
    for number in range(datasets):
        rows = []
        for _ in range(2):
            y, p, fold = cross_validated(rng)
            rows.append(counts_of(y, p).scores(draw_weights(fold, 200, number))["balanced_accuracy"])
        yield rows[0], rows[1]


def test_intervals_cover_although_signs_train_each_other() -> None:
    groups = np.array([SIGNS // 2, SIGNS // 2])
    plain, ours, rejected, values, variances = [], [], [], [], []
    for first, second in null_scores(300, 0):
        estimate = Estimate.of(first)
        plain.append(estimate.low <= 0.5 <= estimate.high)
        factor = widening_factor(float(first[0]), groups, crossed=True)
        estimate = Estimate.of(widen(first, factor))
        ours.append(estimate.low <= 0.5 <= estimate.high)
        rejected.append(Estimate.of(widen(first - second, factor)).p_value < 0.05)
        values.append(first[0])
        variances.append(first[1:].var())
    # 300 data sets know a share of 0.95 to 0.013 (one error).
    assert np.mean(plain) < 0.91, np.mean(plain)
    assert 0.91 <= np.mean(ours) <= 0.985, np.mean(ours)
    assert 0.015 <= np.mean(rejected) <= 0.09, np.mean(rejected)
    # The cause is the one that is corrected: 1 + 2 / pi times the variance, to the error of a variance (0.08).
    assert np.var(values) / np.mean(variances) == pytest.approx(1 + 2 / np.pi, rel=0.25)


def test_the_whole_procedure_is_measured() -> None:
    setting = coverage.Setting(30, signal=6.0, width=8)
    tallies = coverage.measure(setting, 4)
    assert set(tallies) == {"2 classes", "5 classes"}
    for feature, tally in tallies.items():
        assert len(tally.scores) == 8
        assert np.mean(tally.scores) > 0.6
        truth = coverage.truth_of(setting, feature, tally)
        widths = {kind: np.diff(np.array(rows), axis=1).mean() for kind, rows in tally.intervals.items()}
        assert widths["protocol"] > widths["signs"]
        assert tally.coverage("protocol", truth) >= tally.coverage("clips", truth)
        assert {len(p) for p in tally.p_values.values()} == {4}
        assert feature in coverage.table_line("planted", setting, feature, tally)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(UserError, match="unknown setting 'none'; known: few-null"):
        coverage.main(["--settings", "none"])


def test_the_shared_part_is_known_at_chance() -> None:
    assert covariance_ratio(0.5, 2) == pytest.approx(2 / np.pi, rel=1e-3)
    for classes in (3, 6, 50):
        largest = np.random.default_rng(0).normal(size=(20000, classes)).max(1).mean()
        assert covariance_ratio(1 / classes, classes) == pytest.approx(
            classes * largest**2 / (classes - 1) ** 2, rel=0.05
        )
    assert covariance_ratio(0.1, 2) == covariance_ratio(0.5, 2)  # below chance is luck
    parts = [covariance_ratio(p, 2) for p in (0.5, 0.7, 0.9, 0.99)]
    assert parts == sorted(parts, reverse=True)
    assert parts[-1] < 0.1


def test_few_groups_widen_and_many_do_not() -> None:
    assert small_sample_factor(np.array([1000, 1000])) == pytest.approx(1, abs=2e-3)
    # One class alone: Student's quantile and n / (n - 1) of a mean over ten.
    assert small_sample_factor(np.array([10, 0])) == pytest.approx(2.262 / 1.96 * np.sqrt(10 / 9), rel=1e-3)
    assert np.isfinite(small_sample_factor(np.array([1, 30])))
    assert widening_factor(0.5, np.array([500, 500]), crossed=False) < 1.01
    assert widening_factor(0.5, np.array([500, 500]), crossed=True) == pytest.approx(np.sqrt(1 + 2 / np.pi), rel=0.01)


def test_rows_that_agree_share_their_dependence() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 4000))
    assert difference_factor(first, other, 0.5, 2) == pytest.approx(1, abs=0.02)
    near = difference_factor(first, first + 0.1 * other, 0.5, 2)
    assert 1 / np.sqrt(1 + 2 / np.pi) <= near < 0.9
    assert difference_factor(first, first, 0.5, 2) == 1  # no difference at all: nothing to scale


def test_deviations_of_few_groups_are_not_too_small() -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for trial in range(60):
        y = np.arange(40) % 2
        counts = counts_of(y, rng.integers(0, 2, 40))
        strata = np.repeat(np.arange(10), 4)
        ratios.append(counts.scores(draw_weights(strata, 400, trial))["accuracy"][1:].var())
    # Variance of a mean of 40 coins; n draws of each stratum's n groups would give 3 / 4 of it.
    assert np.mean(ratios) == pytest.approx(0.25 / 40, rel=0.07)


def test_widening_travels_with_sums_and_differences() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([[0.4], 0.5 + 0.1 * rng.normal(size=500)])
    wide = widen(values, 1.5)
    assert wide[0] == 0.4
    assert wide[1:].mean() == pytest.approx(0.4)
    assert wide[1:].std() == pytest.approx(1.5 * values[1:].std())
    assert widen(values[:1], 1.5).tolist() == [0.4]


def test_intervals_stay_within_what_a_score_can_be() -> None:
    rng = np.random.default_rng(0)
    estimate = Estimate.of(np.concatenate([[0.95], 0.95 + 0.05 * rng.normal(size=500)]), BOUNDS["balanced_accuracy"])
    assert estimate.high == 1
    assert estimate.low < 0.9


def test_a_perfect_score_has_the_exact_bound() -> None:
    draws = 1 - perfect_score_errors(4000, 30, 0)
    low = Estimate.of(np.concatenate([[1.0], draws])).low
    assert low == pytest.approx(0.025 ** (1 / 30), abs=0.01)


def test_p_values_resolve_more_than_the_number_of_draws() -> None:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.normal(size=200)
    assert Estimate.of(np.concatenate([[0.6], 0.6 + noise])).p_value < 1e-6
    assert Estimate.of(np.concatenate([[0.196], 0.196 + noise])).p_value == pytest.approx(0.05, abs=0.02)
    assert Estimate.of(np.zeros(5)).p_value == 1


def test_swapping_rows_by_group() -> None:
    moves = np.full(8, 0.05)
    assert swap_test(moves, 0.4, 4000, 0) == pytest.approx(2 / 2**8, abs=0.005)  # all eight one way or the other
    assert swap_test(np.array([0.1, -0.1]), 0.0, 100, 0) == 1
    assert swap_test(1.6 * moves, 0.4, 4000, 0) > 0.01
