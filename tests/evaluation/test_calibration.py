"""Calibration against hand-computed values, scikit-learn and its own promises."""

import dataclasses

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss
from support.records import PROVENANCE

from islr.evaluation.calibration import (
    Bin,
    bin_index,
    calibration_error,
    calibration_results,
    confidences,
    fit_temperature,
    is_probabilistic,
    reliability,
    with_temperature,
)
from islr.evaluation.predictions import Predictions, rank_scores
from islr.evaluation.results import Provenance, Result

NAMES = [f"sign {i}" for i in range(5)]


def drawn(n: int = 400, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a calibrated model made too sure (above 1) or too unsure, and labels drawn from the former."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.full(len(NAMES), 0.6), n)
    labels = (rng.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    return with_temperature(true, 1 / sharpness), np.minimum(labels, len(NAMES) - 1)


def made(n: int = 400, sharpness: float = 1.0, seed: int = 0) -> Predictions:
    table, labels = drawn(n, sharpness, seed)
    return rank_scores(table, labels, NAMES, [f"c{i}" for i in range(n)], [f"s{i % 12}" for i in range(n)])


def records(predictions: Predictions, **changes: str) -> dict[str, Result]:
    found = calibration_results(predictions, "m", Provenance(**PROVENANCE | changes))
    return {record.metric: record for record in found}


def test_a_worked_example() -> None:
    # Two bins of four: (.55, .65) with one right, (.85, .95) with both right; |.60 - .5| and |.90 - 1|, each half.
    table = np.array([[0.55, 0.45], [0.65, 0.35], [0.85, 0.15], [0.05, 0.95]])
    predictions = rank_scores(table, np.array([0, 1, 0, 1]), ["a", "b"], list("wxyz"))
    confidence, right = confidences(predictions)
    index = bin_index(confidence, "width", bins=4)
    assert calibration_error(confidence, right, index) == pytest.approx(0.1)
    found = reliability(predictions, "width", bins=4)
    assert found == (Bin(2, pytest.approx(0.6), 0.5), Bin(2, pytest.approx(0.9), 1.0))
    assert records(predictions)["nll"].value == pytest.approx(-np.log([0.55, 0.35, 0.85, 0.95]).mean())


def test_bins_and_loss_agree_with_scikit_learn() -> None:
    predictions = made()
    confidence, right = confidences(predictions)
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    ours = reliability(predictions)
    assert [b.accuracy for b in ours] == pytest.approx(accuracy)
    assert [b.confidence for b in ours] == pytest.approx(mean)
    assert sum(b.count for b in ours) == len(predictions)
    table, labels = drawn()
    assert records(predictions)["nll"].value == pytest.approx(log_loss(labels, table, labels=range(5)))


@pytest.mark.parametrize("n", [1, 3, 14, 15, 16, 100])
def test_bins_of_equal_numbers_are_even_and_never_part_equal_confidences(n: int) -> None:
    confidence = np.random.default_rng(n).random(n)
    counts = np.bincount(bin_index(confidence, "mass"))
    assert len(counts) == min(n, 15)
    assert counts.max() - counts.min() <= 1
    repeated = np.repeat(confidence, 3)
    assert (np.diff(bin_index(repeated, "mass").reshape(n, 3), axis=1) == 0).all()


def test_the_order_of_rows_does_not_matter() -> None:
    predictions = made(97)
    order = np.random.default_rng(1).permutation(97)
    shuffled = dataclasses.replace(
        predictions,
        **{name: tuple(getattr(predictions, name)[i] for i in order) for name in ("clip_ids", "signers", "ranked")},
        **{name: getattr(predictions, name)[order] for name in ("scores", "true_probabilities", "true_ranks")},
    )
    for metric in ("ece", "ece_adaptive"):
        assert records(shuffled)[metric].value == pytest.approx(records(predictions)[metric].value, abs=1e-12)


def test_a_calibrated_model_stays_inside_what_chance_allows_and_a_sharpened_one_does_not() -> None:
    inside = 0
    for seed in range(40):
        found = records(made(200, seed=seed))
        assert found["ece_if_calibrated"].ci_high is not None
        inside += found["ece"].value <= found["ece_if_calibrated"].ci_high
    assert inside >= 35  # 97.5 % of 40 are 39; below 35 happens once in 5000
    sharp = records(made(200, sharpness=3.0))
    assert sharp["ece_if_calibrated"].ci_high is not None
    assert sharp["ece"].value > 1.5 * sharp["ece_if_calibrated"].ci_high


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_and_keeps_the_ranks(sharpness: float) -> None:
    table, labels = drawn(3000, sharpness)
    temperature = fit_temperature(table, labels)
    assert temperature == pytest.approx(sharpness, rel=0.1)
    scaled = with_temperature(table, temperature)
    assert scaled.sum(axis=1) == pytest.approx(1)
    assert (scaled.argsort(axis=1) == table.argsort(axis=1)).all()
    rows = np.arange(len(labels))
    best = -np.log(scaled[rows, labels]).mean()
    for other in (0.9, 1.1):
        assert best <= -np.log(with_temperature(table, temperature * other)[rows, labels]).mean()


def test_a_probability_of_zero_makes_no_infinite_loss() -> None:
    table = np.array([[1.0, 0.0], [1.0, 0.0]])
    predictions = rank_scores(table, np.array([0, 1]), ["a", "b"], ["x", "y"])
    assert records(predictions)["nll"].value == pytest.approx(-np.log(1e-12) / 2)
    assert np.isfinite(with_temperature(table, 0.05)).all()


def test_what_is_no_probability_has_no_calibration() -> None:
    predictions = made(20)
    for changes in (
        {"true_probabilities": np.full(20, np.nan)},
        {"scores": predictions.scores * 7},
        {"true_probabilities": predictions.true_probabilities + 1},
    ):
        other = dataclasses.replace(predictions, **changes)
        assert not is_probabilistic(other)
        assert records(other) == {}
        with pytest.raises(ValueError, match="no probabilities"):
            confidences(other)


def test_the_loss_is_clustered_where_the_record_says_so() -> None:
    plain, clustered = records(made(120))["nll"], records(made(120), cluster="signer")["nll"]
    assert plain.value == clustered.value
    assert "12 whole signers" in clustered.ci_method
    assert "over clips" in plain.ci_method
