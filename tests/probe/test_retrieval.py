"""Retrieval scores, and galleries without a clip's own signer or sign."""

import numpy as np
import pytest
from sklearn import metrics as reference
from support.probe_signs import SIGNERS, SIGNS, WIDTH, context_of, corpus, point, result

from probe.analyses import ANALYSES
from probe.analyses.retrieval import ranking_scores


def test_ranking_scores_by_hand() -> None:
    relevant = np.array([[False, True, False, True], [True, False, False, False], [False] * 4])
    usable = np.array([[True, True, True, True], [False, True, True, True], [True] * 4])
    recall, mrr, dcg, ndcg, chance = ranking_scores(relevant, usable).T.tolist()[0]
    assert (recall, mrr, chance) == (0, 0.5, 0.5)
    assert dcg == pytest.approx(1 / np.log2(3) + 1 / np.log2(5))
    assert ndcg == pytest.approx(dcg / (1 + 1 / np.log2(3)))
    assert np.isnan(ranking_scores(relevant, usable)[:, 1:]).all()  # the only hit may not be used; there is none
    moved = ranking_scores(relevant[:1], np.array([[False, True, True, True]]))[:, 0]  # a place is closed up
    assert moved[:2].tolist() == [1, 1]
    assert moved[2] == pytest.approx(1 + 1 / np.log2(4))


def test_ndcg_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    relevant, score = rng.random((6, 20)) < 0.3, rng.random((6, 20))
    order = np.argsort(-score, axis=1)
    found = ranking_scores(np.take_along_axis(relevant, order, 1), np.ones((6, 20), bool))
    for row in range(6):
        assert found[3, row] == pytest.approx(reference.ndcg_score(relevant[row : row + 1], score[row : row + 1]))
        assert found[2, row] == pytest.approx(reference.dcg_score(relevant[row : row + 1], score[row : row + 1]))


def test_identity_retrieves_signs_and_no_features() -> None:
    same = [result("retrieval", "identity", seed) for seed in range(3)]
    assert point(same[0], "recall_at_1", "sign") > 0.98
    gaps = [point(found, "recall_at_1") - point(found, "recall_at_1_chance") for found in same]
    assert abs(np.mean(gaps)) < 0.1
    assert point(result("retrieval", "planted"), "recall_at_1") > 0.9
    assert point(same[0], "recall_at_1_chance", "sign") == pytest.approx(1 / SIGNS)


def test_clips_of_the_same_signer_and_constant_features_are_no_help() -> None:
    targets = corpus()
    rng = np.random.default_rng(0)
    signer = rng.normal(size=(SIGNERS, WIDTH))[np.unique(targets.signers, return_inverse=True)[1]]
    found = ANALYSES["retrieval"](context_of((signer + 0.1 * rng.normal(size=signer.shape)).astype("f4")))
    assert point(found, "recall_at_1", "sign") < 0.08
    blank = ANALYSES["retrieval"](context_of(np.zeros((len(targets), WIDTH), np.float32)))
    assert point(blank, "recall_at_1", "sign") < 0.08
