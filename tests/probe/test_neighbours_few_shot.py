"""k-NN and few-shot classification on cases worked out by hand."""

import numpy as np
from support.probe_signs import context_of, corpus, planted, point

from probe.analyses import ANALYSES
from probe.analyses.context import unit
from probe.analyses.few_shot import draw_signs, nearest_class
from probe.analyses.neighbours import nearest, vote


def test_nearest_and_vote_by_hand() -> None:
    gallery = unit(np.array([[1, 0], [1, 1], [0, 1], [-1, 0]], np.float32))
    near, similarity = nearest(unit(np.array([[2.0, 0.1]], np.float32)), gallery, 9)
    assert near.tolist() == [[0, 1, 2, 3]]
    assert (np.diff(similarity) < 0).all()
    assert vote(np.array([[0, 1, 1], [0, 1, 2]]), np.array([[0.9, 0.5, 0.5], [0.2, 0.3, 0.1]])).tolist() == [1, 1]


def test_few_shot_draws_signs_of_each_class_and_more_of_them_help() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    drawn = draw_signs(labels, 2, np.random.default_rng(0))
    assert np.bincount(labels[drawn]).tolist() == [2, 2, 1]
    assert len(set(drawn.tolist())) == 5
    assert nearest_class(np.array([[1.0, 0.1]]), np.array([[0.0, 1], [1, 0]]), np.array([4, 7])).tolist() == [7]
    found = ANALYSES["few_shot"](context_of(planted(corpus(), noise=0.8)))
    scores = [point(found, "balanced_accuracy", setting=f"{s} sign{'s' * (s > 1)} per class") for s in (1, 5, 10)]
    assert scores[0] + 0.05 < scores[1] <= scores[2] + 0.03
