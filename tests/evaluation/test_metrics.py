"""Recognition metrics against slow references, intervals against simulation, and the predictions file."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from support.records import PROVENANCE

from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.evaluation import intervals, metrics
from islr.evaluation.predictions import Predictions, rank_scores, read_predictions, write_predictions
from islr.evaluation.results import Provenance, Result


def predictions(n: int = 60, k: int = 8, seed: int = 0, skill: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, k, n)
    scores = rng.random((n, k))
    scores[np.arange(n), labels] += skill * rng.random(n)
    scores /= scores.sum(axis=1, keepdims=True)
    names = [f"sign {chr(97 + i)}" for i in range(k)]
    ids = [f"clip{i:03d}" for i in range(n)]
    return rank_scores(scores, labels, names, ids, [f"s{i % 3}" for i in range(n)], [f"src{i % 2}" for i in range(n)])


def by_key(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(r.metric, "".join(r.group.values())): r for r in results}


def test_top_k_and_per_class_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = np.concatenate([np.arange(8), rng.integers(0, 8, 50)])
    scores = rng.random((58, 8))
    made = rank_scores(scores, labels, [str(i) for i in range(8)], [str(i) for i in range(58)])
    for k in (1, 2, 5, 7):
        expected = top_k_accuracy_score(labels, scores, k=k)
        assert metrics.hits(made, k).mean() == pytest.approx(expected)
    per_class = intervals.bootstrap(metrics.hits(made, 1), made.labels, draws=50).value
    assert per_class == pytest.approx(balanced_accuracy_score(labels, scores.argmax(axis=1)))


def test_ties_count_against_the_model_and_are_deterministic() -> None:
    flat = rank_scores(np.full((3, 4), 0.25), np.array([0, 1, 3]), list("abcd"), list("xyz"))
    assert flat.true_ranks.tolist() == [4, 4, 4]
    assert [row[0] for row in flat.ranked] == ["b", "a", "a"]
    assert [row[-1] for row in flat.ranked] == ["a", "b", "d"]
    pair = rank_scores(np.array([[0.4, 0.4, 0.2]]), np.array([0]), list("abc"), ["x"])
    assert pair.true_ranks.tolist() == [2]
    assert metrics.hits(pair, 1).tolist() == [0.0]
    assert metrics.hits(pair, 2).tolist() == [1.0]


@pytest.mark.parametrize(
    ("scores", "labels", "names", "ids", "words"),
    [
        ([[0.5, np.nan]], [0], "ab", "x", "clip x are not finite"),
        ([[0.5, 0.5]], [2], "ab", "x", "labels must be"),
        ([[0.5, 0.5]], [-1], "ab", "x", "labels must be"),
        ([[0.5, 0.5]], [0], "aa", "x", "unique"),
        ([[0.5, 0.5], [0.1, 0.9]], [0, 1], "ab", "xx", "unique"),
        ([[0.5, 0.5]], [0], "abc", "x", "scores"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(
    scores: list[list[float]], labels: list[int], names: str, ids: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        rank_scores(np.array(scores), np.array(labels), list(names), list(ids))


def test_mrr_and_dcg_by_hand() -> None:
    scores = np.array([[0.6, 0.3, 0.1, 0.0], [0.6, 0.3, 0.1, 0.0], [0.4, 0.4, 0.1, 0.1]])
    made = rank_scores(scores, np.array([0, 2, 3]), list("abcd"), list("xyz"))  # ranks 1, 3 and, by a tie, 4
    records = by_key(metrics.accuracy_results(made, "m", 4, Provenance(**PROVENANCE), draws=200))
    assert records["mrr", ""].value == pytest.approx((1 + 1 / 3 + 1 / 4) / 3)
    assert records["dcg", ""].value == pytest.approx((1 + 1 / 2 + 1 / np.log2(5)) / 3)
    assert records["dcg", ""].ci_low < records["dcg", ""].value < records["dcg", ""].ci_high
    assert records["mrr", ""].n == 3


@pytest.mark.parametrize(
    ("text", "mrr", "top5"),
    [
        ("clip_id,class,rank1,rank2\nx,a,a,b\ny,c,a,b\n", None, None),  # the rank of c is above 2, and unknown
        ("clip_id,class,rank1,rank2\nx,a,a,b\ny,b,a,b\n", 0.75, None),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,a,b,1\ny,c,a,b,4\n", 0.625, None),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,a,b,1\ny,c,a,b,\n", None, None),  # a blank cell is no rank
        ("clip_id,class,rank1,rank2,true_rank\nx,a,a,b,1\ny,c,a,b,8\n", 0.5625, 0.5),
    ],
)
def test_a_rank_that_a_file_does_not_give_is_unknown(
    tmp_path: Path, text: str, mrr: float | None, top5: float | None
) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    read = read_predictions(path)
    records = by_key(metrics.accuracy_results(read, "m", 9, Provenance(**PROVENANCE), draws=20))
    values = [records[name, ""].value if (name, "") in records else None for name in ("mrr", "top5")]
    assert values == [mrr, top5]
    if mrr is None:
        with pytest.raises(ValueError, match=r"dcg needs the rank .* unknown for 1 of 2 clips"):
            metrics.gains(read, "dcg")


def test_no_top5_with_five_classes_or_fewer() -> None:
    assert metrics.defined_ks(5, 5) == (1,)
    assert metrics.defined_ks(6, 5) == (1, 5)
    assert metrics.defined_ks(10, 10) == (1, 5)
    assert metrics.defined_ks(11, 11) == (1, 5, 10)
    assert metrics.defined_ks(100, 3) == (1,)
    records = metrics.accuracy_results(predictions(k=4), "m", 4, Provenance(**PROVENANCE), draws=20)
    assert not [r for r in records if r.metric.startswith("top5")]


def test_records_cover_classes_signers_sources_chance_and_absent_classes() -> None:
    made = predictions(n=60, k=8)
    records = by_key(metrics.accuracy_results(made, "maskfeat", 10, Provenance(**PROVENANCE), draws=200))
    right = metrics.hits(made, 1)
    assert records["top1", ""].value == pytest.approx(right.mean())
    assert records["top1", ""].n == 60
    assert records["top1", "s1"].value == pytest.approx(right[1::3].mean())
    assert records["top1", "s1"].group == {"signer": "s1"}
    assert records["top1", "src0"].n == 30
    assert records["chance_top1", ""].value == pytest.approx(0.1)
    assert records["classes_absent", ""].value == 2
    assert records["top5_per_class", ""].ci_high is not None
    assert all(r.name == "maskfeat" for r in records.values())


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


def test_confusions_are_counted_and_ordered() -> None:
    scores = np.array([[0.1, 0.9, 0], [0.2, 0.8, 0], [0.9, 0.1, 0], [0, 0.1, 0.9], [0, 0.9, 0.1]])
    made = rank_scores(scores, np.array([0, 0, 0, 1, 1]), ["LOVE", "HUG", "REST"], list("vwxyz"))
    assert metrics.confusions(made) == [
        metrics.Confusion("LOVE", "HUG", 2, 3),
        metrics.Confusion("HUG", "REST", 1, 2),
    ]
    assert len(metrics.confusions(made, limit=1)) == 1


@pytest.mark.parametrize("k", [3, 8])
def test_predictions_file_round_trip(tmp_path: Path, k: int) -> None:
    made = predictions(k=k)
    write_predictions(tmp_path / "predictions.csv", made)
    read = read_predictions(tmp_path / "predictions.csv")
    for name in ("clip_ids", "signers", "sources", "classes", "ranked"):
        assert getattr(read, name) == getattr(made, name)
    for name in ("labels", "true_probabilities", "true_ranks"):
        assert np.array_equal(getattr(read, name), getattr(made, name))
    assert np.array_equal(read.scores[:, : min(k, 5)], made.scores)
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header[:6] == ["clip_id", "signer", "source", "label", "class", "rank1"]


def test_foreign_predictions_are_scored_with_the_truth_of_the_manifest(tmp_path: Path) -> None:
    clips = tuple(Clip(f"c{i}", f"c{i}.mp4", label=i % 2, signer=f"s{i}", split="test") for i in range(4))
    manifest = Manifest("m", clips, tmp_path, classes=("BOOK", "DRINK", "CUP"))
    path = tmp_path / "theirs.csv"
    path.write_text("clip_id,rank1,rank2\nc0,BOOK,DRINK\nc1,BOOK,DRINK\nc2,CUP,BOOK\nc3,CUP,BOOK\n")
    read = read_predictions(path, manifest)
    assert read.true_ranks.tolist() == [1, 2, 2, 3]
    assert read.signers == ("s0", "s1", "s2", "s3")
    assert metrics.hits(read, 2).tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="list 2"):
        metrics.hits(read, 5)


def test_foreign_ties_count_against_the_model(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("clip_id,class,rank1,rank2,score1,score2\nc0,BOOK,BOOK,CUP,0.5,0.5\nc1,BOOK,BOOK,CUP,0.6,0.4\n")
    assert read_predictions(path).true_ranks.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip,rank1\nx,y\n", "no column 'clip_id'"),
        ("clip_id,rank1\nx,y\n", "no column 'class'"),
        ("clip_id,class,rank1\n", "no predictions"),
        ("clip_id,class,rank1\nx,a,a\nx,a,a\n", "clip x occurs more than once"),
        ("clip_id,class,rank1,rank2\nx,a,b,b\n", "line 2: a class is ranked twice"),
        ("clip_id,class,rank1\nx,a,\n", "line 2"),
        ("clip_id,class,rank1,score1\nx,a,a,high\n", "line 2"),
        ("clip_id,class,rank1,rank2,score1,score2\nx,a,a,b,0.2,0.4\n", "line 2: scores must fall"),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,b,a,1\n", "line 2: true_rank 1 contradicts"),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,b,c,2\n", "line 2: true_rank 2 contradicts"),
    ],
)
def test_broken_prediction_files_are_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_predictions(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "absent.csv")


def test_foreign_predictions_that_contradict_the_manifest_are_refused(tmp_path: Path) -> None:
    manifest = Manifest("m", (Clip("c0", "c0.mp4", label=0, split="test"),), tmp_path, classes=("BOOK",))
    path = tmp_path / "theirs.csv"
    path.write_text("clip_id,class,rank1\nc0,CUP,CUP\n")
    with pytest.raises(UserError, match="'BOOK' in the manifest"):
        read_predictions(path, manifest)
    path.write_text("clip_id,rank1\nother,CUP\n")
    with pytest.raises(UserError, match="not a labelled clip"):
        read_predictions(path, manifest)
    path.write_text("clip_id,rank1,rank2\nc0,BOOK,CUP\n")
    with pytest.raises(UserError, match="line 2: 'CUP' is not one of the 1 classes of m"):
        read_predictions(path, manifest)
    path.write_text("clip_id,rank1,true_rank\nc0,BOOK,2\n")
    with pytest.raises(UserError, match="line 2: true_rank 2 is beyond the 1 classes of m"):
        read_predictions(path, manifest)
