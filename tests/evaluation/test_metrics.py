"""Recognition metrics against slow references, intervals against simulation, and the predictions file."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from support.random_predictions import by_key, predictions
from support.records import PROVENANCE

from islr.evaluation import intervals, metrics
from islr.evaluation.predictions import rank_scores
from islr.evaluation.results import Provenance


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


def test_confusions_are_counted_and_ordered() -> None:
    scores = np.array([[0.1, 0.9, 0], [0.2, 0.8, 0], [0.9, 0.1, 0], [0, 0.1, 0.9], [0, 0.9, 0.1]])
    made = rank_scores(scores, np.array([0, 0, 0, 1, 1]), ["LOVE", "HUG", "REST"], list("vwxyz"))
    assert metrics.confusions(made) == [
        metrics.Confusion("LOVE", "HUG", 2, 3),
        metrics.Confusion("HUG", "REST", 1, 2),
    ]
    assert len(metrics.confusions(made, limit=1)) == 1
