"""Description length: planted features shorten the code, and a code depends on earlier blocks only."""

from dataclasses import replace

import numpy as np
import pytest
from support.probe_signs import (
    CLASSES,
    SIGNS,
    context_of,
    corpus,
    planted,
    point,
    result,
)

from probe.analyses import ANALYSES
from probe.analyses.description_length import one_order, portions


def test_a_planted_feature_has_a_short_code_and_identity_has_none() -> None:
    for feature in CLASSES:
        found = result("mdl", "planted")
        assert point(found, "compression", feature) > 1.5
        uniform = SIGNS * np.log2(CLASSES[feature])
        assert point(found, "codelength", feature) == pytest.approx(uniform / point(found, "compression", feature))
        assert point(result("mdl", "identity"), "compression", feature) < 1.1
        assert 0.85 < point(found, "compression_without_features", feature) <= 1.02


def test_the_first_block_is_paid_in_full_and_blocks_are_of_signs() -> None:
    assert portions(1000) == [1, 2, 4, 8, 16, 32, 62, 125, 250, 500, 1000]
    assert portions(48) == [1, 2, 3, 6, 12, 24, 48]
    # Perfect features cannot shorten the code below what is sent before anything was learnt: one sign of 48.
    perfect = np.eye(6, dtype=np.float32)[corpus().features["Handshape"] * 2 + corpus().features["MajorLocation"]]
    found = ANALYSES["mdl"](context_of(perfect))
    assert point(found, "codelength", "MajorLocation") >= 1.0
    # Clips of one sign are no blocks of their own: sign identity, free by clip, costs the whole code.
    assert point(result("mdl", "identity"), "codelength") > 0.9 * SIGNS * np.log2(3)


def test_a_sign_is_coded_before_its_label_or_any_later_one_is_seen() -> None:
    """The code of a block depends on the labels of the blocks before it, and on nothing after."""
    targets = corpus()
    base = context_of(planted(targets, noise=1.0))
    order = np.random.default_rng([base.seed, 9, 0]).permutation(SIGNS)[base.groups]
    half = order >= 24  # the last block
    changed = {
        name: np.where(half, (row + 1) % k, row)
        for (name, row), k in zip(targets.features.items(), CLASSES.values(), strict=True)
    }
    costs = []
    for made in (base, replace(base, targets=replace(targets, features=changed))):
        costs.append(one_order(made, made.targets.labels, list(CLASSES.values()), 0))
    first = np.unique(base.groups[~half])
    np.testing.assert_array_equal(costs[0][..., first], costs[1][..., first])
    assert (costs[0][0][:, np.unique(base.groups[half])] != costs[1][0][:, np.unique(base.groups[half])]).all()
