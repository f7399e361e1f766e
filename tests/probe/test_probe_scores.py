"""Scores of probes: scikit-learn's, over draws of sign groups."""

import numpy as np
import pytest
from sklearn import metrics as reference

from probe.statistics.scores import METRICS, Counts, calibration_error, draw_weights


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, 300), rng.integers(0, 5, 300)
    cluster = rng.integers(0, 30, 300)
    loss = rng.random(300)
    counts = Counts.of(y, p, loss, cluster, 30, 5)
    weights = np.vstack([np.ones(30), rng.integers(0, 3, 30)])
    found = counts.scores(weights)
    for row, weight in enumerate(weights):
        sample = np.repeat(np.arange(300), weight[cluster].astype(int))
        a, b = y[sample], p[sample]
        share = np.bincount(a) / len(a)
        expected = {
            "balanced_accuracy": reference.balanced_accuracy_score(a, b),
            "macro_f1": reference.f1_score(a, b, average="macro"),
            "mcc": reference.matthews_corrcoef(a, b),
            "accuracy": reference.accuracy_score(a, b),
            "bits": -(share * np.log2(share)).sum() - loss[sample].mean() / np.log(2),
            "log_loss": loss[sample].mean(),
        }
        assert set(expected) == set(METRICS)
        for metric, value in expected.items():
            assert found[metric][row] == pytest.approx(value), metric


def test_draws_keep_the_number_of_groups_in_each_fold() -> None:
    stratum = np.array([0] * 7 + [1] * 5)
    weights = draw_weights(stratum, 50, 0)
    assert (weights[0] == 1).all()
    np.testing.assert_allclose(weights[:, :7].sum(1), 7)
    np.testing.assert_allclose(weights[:, 7:].sum(1), 5)
    assert (weights == draw_weights(stratum, 50, 0)).all()


def test_calibration_error() -> None:
    assert calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == 0
    assert calibration_error(np.array([False, False]), np.array([1.0, 1.0])) == 1
