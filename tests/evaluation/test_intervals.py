"""Intervals and paired tests: coverage, level, clusters, and what they refuse."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats
from support.random_predictions import by_key, predictions
from support.records import PROVENANCE

from islr.errors import UserError
from islr.evaluation import intervals, metrics
from islr.evaluation.results import Provenance


def test_bootstrap_agrees_with_a_plain_loop_of_the_same_draws() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, 25).astype(float)
    labels = rng.integers(0, 4, 25)
    clusters = np.array([f"s{i}" for i in rng.integers(0, 5, 25)])
    index = np.unique(clusters, return_inverse=True)[1]
    for weights in itertools.chain(intervals._weights(25, None, 7, 1), intervals._weights(25, index, 7, 1)):
        got = intervals._weighted(values, labels, weights)
        for row, value in zip(weights.astype(int), got, strict=True):
            drawn = np.repeat(np.arange(25), row)
            means = [values[drawn][labels[drawn] == c].mean() for c in np.unique(labels[drawn])]
            assert value == pytest.approx(np.mean(means))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        sample = (rng.random(80) < 0.7).astype(float)
        interval = intervals.bootstrap(sample, draws=300, seed=trial)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.7 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_clustering_widens_the_interval_when_clips_of_a_signer_agree() -> None:
    values = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 50)
    signers = np.repeat(list("abcdef"), 50).tolist()
    plain, clustered = intervals.bootstrap(values), intervals.bootstrap(values, clusters=signers)
    assert plain.low is not None
    assert plain.high is not None
    assert clustered.low is not None
    assert clustered.high is not None
    assert clustered.high - clustered.low > 3 * (plain.high - plain.low)
    assert "signers" in clustered.method


def simulated_signers(count: int, each: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Hits of people of different skill, mean 2/3: beta(4, 2), as unequal as signers are."""
    skill = rng.beta(4, 2, count)
    right = rng.random((count, each)) < skill[:, None]
    return right.astype(float).ravel(), np.repeat([f"s{i}" for i in range(count)], each).tolist()


@pytest.mark.parametrize(("signers", "least"), [(5, 0.89), (12, 0.91)])
def test_clustered_interval_covers_the_truth_and_the_plain_one_does_not(signers: int, least: float) -> None:
    rng = np.random.default_rng(signers)
    covered = plain = 0
    trials = 200
    for trial in range(trials):
        values, names = simulated_signers(signers, 15, rng)
        for clusters in (names, None):
            interval = intervals.bootstrap(values, clusters=clusters, draws=200, seed=trial)
            assert interval.low is not None
            assert interval.high is not None
            inside = interval.low <= 2 / 3 <= interval.high
            covered, plain = covered + (inside and clusters is not None), plain + (inside and clusters is None)
    assert least <= covered / trials <= 0.99
    assert plain / trials < 0.85


def test_clustered_paired_test_keeps_its_level() -> None:
    rng = np.random.default_rng(8)
    small = {"signer": 0, "clip": 0}
    trials = 150
    for trial in range(trials):
        a, names = simulated_signers(12, 15, rng)
        b, _ = simulated_signers(12, 15, rng)
        for key, clusters in (("signer", names), ("clip", None)):
            small[key] += intervals.paired_bootstrap(a, b, clusters=clusters, draws=200, seed=trial).p_value < 0.05
    assert small["signer"] / trials <= 0.10
    assert small["clip"] / trials > 0.15


def test_clusters_of_one_clip_give_students_interval_and_test() -> None:
    values = np.random.default_rng(0).normal(0.2, 0.3, 15).clip(-0.9, 0.9)
    names = [str(i) for i in range(15)]
    difference = intervals.paired_bootstrap(values, np.zeros(15), clusters=names, draws=40_000)
    half = stats.t.ppf(0.975, 14) * values.std(ddof=1) / np.sqrt(15)
    assert difference.low == pytest.approx(values.mean() - half, abs=0.02 * half)
    assert difference.high == pytest.approx(values.mean() + half, abs=0.02 * half)
    assert difference.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=0.05)
    assert (difference.low > 0) == (difference.p_value < 0.05)


def test_signers_of_equal_scores_do_not_make_certainty() -> None:
    values = np.tile([1.0, 1.0, 1.0, 0.0], 20)
    names = np.repeat([f"s{i}" for i in range(5)], 16).tolist()  # each signer is right in 12 of 16
    interval = intervals.bootstrap(values, clusters=names)
    half = stats.t.ppf(0.975, 4) * np.sqrt(0.75 * 0.25 / 80)
    assert interval.low == pytest.approx(0.75 - half, rel=0.03)
    difference = intervals.paired_bootstrap(values, 1 - values, clusters=names)
    plain = intervals.paired_bootstrap(values, 1 - values)
    assert difference.low is not None
    assert plain.low is not None
    assert difference.low < plain.low


def test_clustered_bounds_stay_where_the_statistic_can_be() -> None:
    values, names = np.array([1.0] * 19 + [0.0]), [f"s{i % 3}" for i in range(20)]
    interval = intervals.bootstrap(values, clusters=names)
    assert interval.high == 1.0
    losses = intervals.bootstrap(values * 9, clusters=names)
    assert losses.high is not None
    assert losses.high > 9
    gap = intervals.paired_bootstrap(values, 0 * values, clusters=names)
    assert gap.high == 1.0
    assert gap.low == pytest.approx(interval.low, rel=0.1)
    assert intervals.paired_bootstrap(values, values, clusters=names).p_value == 1.0
    assert intervals.paired_bootstrap(0 * values + 1, 0 * values, clusters=names).p_value < 0.001


def test_few_signers_are_said_in_the_method() -> None:
    values = np.tile([1.0, 0.0], 30)
    few = intervals.bootstrap(values, clusters=[f"s{i % 4}" for i in range(60)])
    many = intervals.bootstrap(values, clusters=[f"s{i % 12}" for i in range(60)])
    assert "4 whole signers" in few.method
    assert "fewer than 10 signers" in few.method
    assert "fewer" not in many.method


def test_hits_that_are_all_alike_get_the_exact_interval() -> None:
    right, wrong = intervals.bootstrap(np.ones(20)), intervals.bootstrap(np.zeros(20))
    exact = stats.binomtest(20, 20).proportion_ci(0.95, "exact")
    assert (right.low, right.high) == pytest.approx((exact.low, 1.0))
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 1 - exact.low))
    assert "exact binomial" in right.method
    assert intervals.bootstrap(np.ones(20), clusters=[f"s{i % 5}" for i in range(20)]) == right
    assert intervals.bootstrap(np.full(5, 0.5)).low == 0.5  # a mean over seeds is no hit


def test_clips_without_a_signer_cannot_be_drawn_by_signer() -> None:
    nameless = dataclasses.replace(predictions(), signers=("s0", *[""] * 59))
    record = Provenance(**PROVENANCE | {"cluster": "signer"})
    with pytest.raises(UserError, match="59 of 60 have none, such as clip001"):
        metrics.accuracy_results(nameless, "m", 8, record, draws=20)
    with pytest.raises(ValueError, match="59 of 60 have none"):
        metrics.compare(nameless, nameless, cluster_by_signer=True)


def test_records_of_one_signer_have_no_interval_over_signers() -> None:
    single = dataclasses.replace(predictions(), signers=("s0",) * 60)
    record = Provenance(**PROVENANCE | {"cluster": "signer"})
    records = by_key(metrics.accuracy_results(single, "m", 8, record, draws=20))
    assert records["top1", ""].ci_low is None
    assert ("top1_per_signer", "") not in records


def test_signers_seen_in_training_by_hand() -> None:
    made = predictions(n=60, k=12)
    right = metrics.hits(made, 1)
    provenance = Provenance(**PROVENANCE)
    records = metrics.accuracy_results(made, "m", 12, provenance, trained_signers={"s0", "s9"}, draws=50)
    seen = {(r.metric, r.group[metrics.SEEN_KEY]): r for r in records if metrics.SEEN_KEY in r.group}
    assert {metric for metric, _ in seen} == {"top1", "top5", "top10"}
    assert seen["top1", "yes"].value == pytest.approx(right[0::3].mean())
    assert seen["top1", "no"].value == pytest.approx(np.delete(right, np.arange(0, 60, 3)).mean())
    assert (seen["top5", "yes"].n, seen["top5", "no"].n) == (20, 40)
    mean = by_key([r for r in records if not r.group])["top1_per_signer", ""]
    assert mean.value == pytest.approx(np.mean([right[i::3].mean() for i in range(3)]))
    nobody = metrics.accuracy_results(made, "m", 12, provenance, trained_signers=(), draws=50)
    assert {r.group[metrics.SEEN_KEY] for r in nobody if metrics.SEEN_KEY in r.group} == {"no"}
    unknown = metrics.accuracy_results(made, "m", 12, provenance, draws=50)
    assert not [r for r in unknown if metrics.SEEN_KEY in r.group]


@pytest.mark.parametrize("cluster", ["", "signer"])
def test_values_do_not_depend_on_the_order_of_clips(cluster: str) -> None:
    made = predictions(n=60, k=12)
    order = np.random.default_rng(0).permutation(60)
    shuffled = dataclasses.replace(
        made,
        **{n: tuple(getattr(made, n)[i] for i in order) for n in ("clip_ids", "signers", "sources", "classes")},
        **{n: getattr(made, n)[order] for n in ("labels", "scores", "true_probabilities", "true_ranks")},
    )
    record = Provenance(**PROVENANCE | {"cluster": cluster})
    one, other = (
        metrics.accuracy_results(p, "m", 12, record, trained_signers={"s1"}, draws=1000) for p in (made, shuffled)
    )
    assert [(r.metric, r.group, r.n) for r in one] == [(r.metric, r.group, r.n) for r in other]
    assert [r.value for r in one] == pytest.approx([r.value for r in other])
    bounded = [i for i, r in enumerate(one) if not r.group and r.ci_low is not None]
    assert [one[i].ci_low for i in bounded] == pytest.approx([other[i].ci_low for i in bounded], abs=0.05)


def test_no_interval_from_one_clip_or_one_signer() -> None:
    assert intervals.bootstrap(np.ones(1)).low is None
    assert intervals.bootstrap(np.array([1.0, 0.0]), clusters=["a", "a"]).low is None
    with pytest.raises(ValueError, match="no clips"):
        intervals.bootstrap(np.zeros(0))


def test_paired_difference_finds_a_real_gap_and_not_an_absent_one() -> None:
    a, b = predictions(300, seed=0, skill=3.0), predictions(300, seed=1, skill=0.5)
    gap = metrics.compare(a, b)
    assert gap.value == pytest.approx(metrics.hits(a, 1).mean() - metrics.hits(b, 1).mean())
    assert gap.low is not None
    assert gap.low > 0
    assert gap.p_value < 0.01
    same = metrics.compare(a, a)
    assert (same.value, same.p_value) == (0.0, 1.0)


def test_paired_p_values_are_not_too_small_when_there_is_no_difference() -> None:
    rng = np.random.default_rng(5)
    p = []
    for trial in range(200):
        a, b = (rng.random((2, 100)) < 0.6).astype(float)
        p.append(intervals.paired_bootstrap(a, b, draws=200, seed=trial).p_value)
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10


def test_runs_are_matched_by_clip_not_by_row() -> None:
    a, b = predictions(seed=0), predictions(seed=1)
    order = np.random.default_rng(0).permutation(len(b))
    shuffled = dataclasses.replace(
        b,
        **{name: tuple(getattr(b, name)[i] for i in order) for name in ("clip_ids", "signers", "classes", "ranked")},
        **{name: getattr(b, name)[order] for name in ("labels", "scores", "true_probabilities", "true_ranks")},
    )
    assert metrics.compare(a, shuffled) == metrics.compare(a, b)
    with pytest.raises(ValueError, match="only one of the runs"):
        metrics.compare(a, predictions(59))


def test_holm_matches_a_worked_example() -> None:
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, and the running maximum lifts the last to .06.
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.9, 0.8]) == [1.0, 1.0]
    assert intervals.holm([]) == []
