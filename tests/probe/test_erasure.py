"""Erasure removes one feature and moves the representation least."""

import numpy as np
from support.probe_signs import CLASSES, point, result

from probe.analyses.erasure import Eraser
from probe.solver.linear import LinearProbes


def test_an_erased_feature_is_at_majority_and_an_independent_one_stays() -> None:
    found = result("erasure", "planted")
    for feature, k in CLASSES.items():
        for other in CLASSES:
            score = point(found, "balanced_accuracy", other, setting=f"erased {feature}")
            change = point(found, "erasure_change", other, setting=f"erased {feature}")
            if feature == other:
                assert score <= 1 / k + 0.02
                assert change < -0.4
            else:
                assert score > 0.95
                assert abs(change) < 0.05


def test_erased_features_are_uncorrelated_with_the_labels_and_moved_least() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8)) + rng.normal(size=(3, 8))[labels]
    eraser = Eraser(x, labels)
    erased = eraser(x).astype(np.float64)
    onehot = np.eye(3)[labels]
    cross = (erased - erased.mean(0)).T @ (onehot - onehot.mean(0)) / 300
    assert np.abs(cross).max() < 1e-5
    np.testing.assert_allclose(erased.mean(0), x.mean(0), atol=1e-5)
    # Subtracting class means' span orthogonally also removes the cross-covariance, at a greater distance in the
    # covariance's own metric.
    span = np.linalg.svd((x - x.mean(0)).T @ (onehot - onehot.mean(0)), full_matrices=False)[0][:, :2]
    plain = x - (x - x.mean(0)) @ span @ span.T
    assert np.abs((plain - plain.mean(0)).T @ (onehot - onehot.mean(0)) / 300).max() < 1e-9
    metric = np.linalg.inv(np.cov(x.T))
    moved = [np.einsum("nd,de,ne->", d, metric, d) for d in (erased - x, plain - x)]
    assert moved[0] < moved[1]
    probes = LinearProbes(erased, labels[None])
    weights, _ = probes.coefficients(probes.fit(10.0), 0)
    assert np.abs(weights).max() < 1e-3
