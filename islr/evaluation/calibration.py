"""Calibration: whether predictions of 80 % confidence are correct 80 % of the time.

Everything but the temperature is computed from two columns of `predictions.csv`: the probability of the first choice
and that of the true class. Predictions without probabilities (ranks alone, or other scores) have no calibration.

The expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) is never zero on a finite set: a bin of
ten clips cannot agree exactly with any probability. So the error that a perfectly calibrated model of the same
confidences would show on as many clips is recorded beside it (consistency resampling, Bröcker and Smith 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from islr.evaluation.intervals import CONFIDENCE, Interval, bootstrap
from islr.evaluation.metrics import signer_clusters
from islr.evaluation.predictions import Predictions
from islr.evaluation.results import Provenance, Result

BINS = 15  # as Guo et al. 2017
_LEAST = 1e-12  # floor of probabilities, so that the loss of one clip cannot make a mean infinite
_SUM_SLACK = 1e-6  # rounding of a probability above 1
_RESAMPLES, _AT_ONCE = 1000, 20
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))

Binning = Literal["width", "mass"]


@dataclass(frozen=True)
class Bin:
    """Clips of similar confidence: their number, mean confidence and accuracy."""

    count: int
    confidence: float
    accuracy: float


def is_probabilistic(predictions: Predictions) -> bool:
    """Return whether every clip has the probability of its first choice and of its true class."""
    first, true = predictions.scores[:, 0], predictions.true_probabilities
    given = np.isfinite(first) & np.isfinite(true) & (true >= 0) & (true <= first + _SUM_SLACK)
    return bool((given & (first <= 1 + _SUM_SLACK) & (first > 0)).all())


def confidences(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of each clip's first choice, and 1.0 where that is correct; `[N]` each.

    Raises:
        ValueError: The predictions hold no probabilities.
    """
    if not is_probabilistic(predictions):
        raise ValueError("these predictions have no probabilities (score1 and true_probability in 0..1 for every clip)")
    return np.minimum(predictions.scores[:, 0], 1.0), (predictions.true_ranks == 1).astype(np.float64)


def bin_index(confidence: NDArray[np.float64], binning: Binning = "width", bins: int = BINS) -> NDArray[np.int64]:
    """Return the bin of each clip: bins of equal width in 0..1, closed above, or of about equal numbers of clips.

    Clips of equal confidence share a bin, so the result does not depend on the order of rows.
    """
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    else:
        ordered = np.sort(confidence)
        edges = np.unique(ordered[np.maximum(np.arange(1, bins) * len(ordered) // bins - 1, 0)])  # last of each bin
    return np.searchsorted(edges, confidence, side="left").astype(np.int64)


def reliability(predictions: Predictions, binning: Binning = "width", bins: int = BINS) -> tuple[Bin, ...]:
    """Return the reliability diagram: the bins that hold clips, least confident first."""
    confidence, right = confidences(predictions)
    index = bin_index(confidence, binning, bins)
    chosen = [index == place for place in np.unique(index)]
    return tuple(Bin(int(c.sum()), float(confidence[c].mean()), float(right[c].mean())) for c in chosen)


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.float64], index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the expected calibration error of each row of outcomes.

    It is the mean over bins, weighted by clips, of the gap between confidence and accuracy.

    Args:
        confidence: Of each clip, `[N]`.
        right: 1.0 where a prediction is correct, `[..., N]`.
        index: Bin of each clip, `[N]`.
    """
    members = (index[:, None] == np.unique(index)).astype(np.float64)  # [N, bins]
    return np.asarray(np.abs((right - confidence) @ members).sum(axis=-1) / len(confidence))


def calibration_results(predictions: Predictions, name: str, provenance: Provenance) -> list[Result]:
    """Return the records `ece`, `ece_adaptive` (bins of equal numbers of clips), `ece_if_calibrated` and `nll`.

    `ece_if_calibrated` is what a perfectly calibrated model of the same confidences would show: its mean, and as
    bounds the range of 95 % of resampled outcomes. An `ece` inside it is no evidence of miscalibration. `nll` is the
    mean negative logarithm (natural) of the true class's probability.

    Returns:
        The records; none where the predictions hold no probabilities.
    """
    if not is_probabilistic(predictions):
        return []
    confidence, right = confidences(predictions)
    clusters = signer_clusters(predictions) if provenance.cluster == "signer" else None
    loss = -np.log(np.maximum(predictions.true_probabilities, _LEAST))
    index = bin_index(confidence)
    error = float(calibration_error(confidence, right, index))
    adaptive = float(calibration_error(confidence, right, bin_index(confidence, "mass")))
    rng = np.random.default_rng(0)
    # A few outcomes at a time: all of them would be gigabytes on a large test set.
    outcomes = (rng.random((_AT_ONCE, len(confidence))) < confidence for _ in range(_RESAMPLES // _AT_ONCE))
    ideal = np.concatenate([calibration_error(confidence, right.astype(np.float64), index) for right in outcomes])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ideal, [tail, 1 - tail])
    method = f"{CONFIDENCE * 100:.0f} % of {_RESAMPLES} sets of outcomes drawn from the model's own confidences"
    made = {
        "ece": Interval(error, None, None, ""),
        "ece_adaptive": Interval(adaptive, None, None, ""),
        "ece_if_calibrated": Interval(float(ideal.mean()), float(low), float(high), method),
        "nll": bootstrap(loss, clusters=clusters),
    }
    return [
        interval.record(name, metric, len(predictions), provenance, higher_is_better=False)
        for metric, interval in made.items()
    ]


def with_temperature(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the softmax of the log-probabilities divided by `temperature`, `[N, K]`; ranks stay.

    Deviation: Guo et al. divide logits before any averaging; here views are averaged first, and the logarithm of
    that average takes the logits' place. For one view the two are the same.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def fit_temperature(probabilities: NDArray[np.float64], labels: Sequence[int] | NDArray[np.int64]) -> float:
    """Return the temperature of least negative log-likelihood on held-out clips, within 0.05..20."""
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        chosen = with_temperature(probabilities, float(np.exp(log_temperature)))[rows, np.asarray(labels)]
        return float(-np.log(np.maximum(chosen, _LEAST)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))
