"""Representational similarity: planted phonology, partial correlations, the Mantel test."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from support.probe_signs import SIGNERS, SIGNS, WIDTH, context_of, corpus, point, result, value

from probe.analyses import ANALYSES
from probe.analyses.rsa import ceiling, correlation, hamming, mantel, ranks_of
from probe.analyses.rsa import partial as partial_correlation


def test_rsa_finds_planted_phonology_and_its_ceiling_bounds_it() -> None:
    found = result("rsa", "planted")
    rho, top = value(found, "rho", "all features"), value(found, "noise_ceiling", "all features")
    assert 0.5 < rho.values[0] < top.values[0] <= 1
    assert point(found, "p_mantel", "all features") == 0.001
    none = result("rsa", "identity")
    assert abs(point(none, "rho", "all features")) < 0.15


def test_sign_type_is_held_constant() -> None:
    """An encoder that sees one or two hands only: its correlation with phonology is gone at equal sign type."""
    targets = corpus()
    rng = np.random.default_rng(9)
    hands = np.repeat(rng.permutation(SIGNS) % 2, SIGNERS)
    lexicon = {**targets.features, "SignType": hands, "NonDominantHandshape": np.where(hands == 0, -1, 0)}
    x = (rng.normal(size=(2, WIDTH))[hands] + 0.3 * rng.normal(size=(len(targets), WIDTH))).astype("f4")
    found = ANALYSES["rsa"](context_of(x, lexicon=lexicon))
    assert point(found, "rho", "all features") > 0.5
    assert abs(point(found, "rho_partial", "all features")) < 0.1
    assert point(found, "p_mantel", "all features") < 0.01 < point(found, "p_mantel_partial", "all features")


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (np.round(m + m.T, 1) for m in rng.normal(size=(3, 12, 12)))
    b += 0.7 * a
    upper = np.triu_indices(12, 1)
    matrices = [ranks_of(m) for m in (a, b, c)]
    weights = np.ones((1, 12))
    assert correlation(weights, *matrices[:2])[0] == pytest.approx(spearmanr(a[upper], b[upper]).statistic)
    x, y, z = (rankdata(m[upper]) for m in (a, b, c))
    left, right = (v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y))
    assert partial_correlation(weights, *matrices)[0] == pytest.approx(np.corrcoef(left, right)[0, 1])
    # A draw that holds sign 0 twice and sign 1 never is a sample of its pairs.
    draw = np.ones((1, 12))
    draw[0, :2] = 2, 0
    w = np.outer(draw[0], draw[0])[upper]
    mean = [np.average(v, weights=w) for v in (x, y)]
    cov = np.average((x - mean[0]) * (y - mean[1]), weights=w)
    spread = np.prod([np.average((v - m) ** 2, weights=w) for v, m in zip((x, y), mean, strict=True)])
    assert correlation(draw, *matrices[:2])[0] == pytest.approx(cov / np.sqrt(spread))


def test_hamming_and_ceiling_by_hand() -> None:
    table = np.array([[0, 1, -1], [0, 2, -1], [1, 1, 3]])
    np.testing.assert_allclose(hamming(table), [[0, 1 / 2, 2 / 3], [1 / 2, 0, 1], [2 / 3, 1, 0]])
    assert ceiling([np.array([0.5])])[0] == pytest.approx(np.sqrt(2 / 3))  # Spearman-Brown: 1 / 1.5
    assert ceiling([np.array([-0.2])])[0] == 0


def test_the_mantel_test_keeps_its_error_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.analyses.rsa.PERMUTATIONS", 99)
    rng = np.random.default_rng(1)
    p = []
    for _ in range(200):
        a, b = (ranks_of(np.abs(v[:, None] - v)) for v in rng.normal(size=(2, 12)))
        p.append(mantel(a, b, rng))
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10
