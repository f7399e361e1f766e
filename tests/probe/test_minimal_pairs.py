"""Minimal pairs: which signs form pairs, and AUC and ABX on cases worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as reference
from support.probe_signs import (
    WIDTH,
    context_of,
    corpus,
    planted,
    point,
)

from probe.analyses import ANALYSES
from probe.analyses.minimal_pairs import abx_error, auc, find_pairs
from probe.targets import make_targets


def test_only_the_bundle_that_is_encoded_is_told_apart() -> None:
    targets = corpus()
    rng = np.random.default_rng(8)
    place = rng.normal(size=(2, WIDTH))[targets.features["MajorLocation"]]
    found = ANALYSES["minimal_pairs"](context_of((place + 0.3 * rng.normal(size=place.shape)).astype("f4")))
    assert point(found, "auc", "location") > 0.95
    assert point(found, "d_prime", "location") > 2
    assert point(found, "abx_error", "location") < 0.05
    assert abs(point(found, "auc", "handshape") - 0.5) < 0.03
    assert abs(point(found, "d_prime", "handshape")) < 0.1
    assert abs(point(found, "abx_error", "handshape") - 0.5) < 0.05


def test_pairs_differ_in_one_bundle_and_the_other_hand_may_follow() -> None:
    levels = {
        "Handshape": [0, 1, 0, 1, 1],
        "Flexion": [0, 1, 0, -1, 1],
        "MajorLocation": [0, 0, 1, 0, 0],
        "NonDominantHandshape": [-1, -1, -1, -1, 2],
        "Movement": [0, 0, 0, 0, 0],
    }
    ids = [f"c{i}{j}" for i in range(5) for j in range(4)]
    repeated = {name: np.repeat(values, 4) for name, values in levels.items()}
    targets = make_targets(
        clip_ids=ids,
        features={"Handshape": repeated["Handshape"]},
        classes={"Handshape": ["a", "b"]},
        signs=[i[:2] for i in ids],
    )
    weights = type("Groups", (), {"groups": 5, "cluster": np.repeat(np.arange(5), 4)})()
    made = replace(context_of(planted(corpus())), targets=targets, lexicon=repeated, present=np.ones(20, bool))
    made = replace(made, bootstrap=weights)
    assert find_pairs(made, "handshape").tolist() == [[0, 1], [0, 3], [0, 4]]
    assert find_pairs(made, "location").tolist() == [[0, 2]]
    assert find_pairs(made, "movement").tolist() == []


def test_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 8, 40).astype(float), rng.integers(2, 10, 30).astype(float)
    expected = reference.roc_auc_score(np.repeat([0, 1], [40, 30]), np.concatenate([low, high]))
    assert auc(low, high) == pytest.approx(expected)
    assert auc(np.array([1.0, 2]), np.array([2.0, 3])) == 3.5 / 4


def test_abx_by_hand() -> None:
    # One clip of each sign by each of two signers: X = clip 0 sees A = 2 (its sign, other signer) and B = 3.
    position = np.array([0.0, 10.0, 1.0, 4.0])  # sign 0 signer a, sign 1 a, sign 0 b, sign 1 b
    distance = np.abs(position[:, None] - position)
    sign, signer = np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    # X=0: 1 < 4 right. X=1: 6 < 9 right. X=2: 1 < 9 right. X=3: its sign at 6, the other at 4: wrong.
    assert abx_error(distance, sign, signer) == 0.25
    assert abx_error(np.zeros((4, 4)), sign, signer) == 0.5
    assert np.isnan(abx_error(distance, sign, np.array(["a"] * 4)))
