"""Variance that a bootstrap over sign groups misses in cross-validation, and the factor that widens intervals for it.

A bootstrap over sign groups treats the groups' predictions as independent. In cross-validation they are not: sign i
helps to train the probe that classifies sign j, and sign j the one that classifies sign i, and both act through the
same product of their features. Where the two signs look alike by chance and have the same label, both are classified
correctly, else both wrongly: their hits are correlated. A linear probe's prediction is, to first order, a weighted
sum of its training labels with weights H_ij = H_ji, so the correlations add up to the same part of the variance
however many signs there are; more signs do not help.

Their sum follows from the score alone. Let the K logits of a tested sign vary independently with unit
variance over training sets, with the true class ahead by d, so that p(d) is the chance of a hit, and let a(d) be
its derivative. Summing the first-order effect of each training sign on the hits gives

    (covariances between signs) / (sum of the signs' own variances) = a^2 K / ((K - 1) p (1 - p))

which at chance (d = 0) is 2 / pi = 0.64 for two classes, 0.39 for six, 0.11 for fifty. Where a part of the
variation between signs is their own (some signs are easy) rather than the training set's, the true part is
smaller, so above chance the intervals are conservative. No unbiased estimate from the predictions of one
cross-validation exists (Bengio and Grandvalet 2004), so the part is computed and not estimated;
`probe.evidence.coverage` measures the coverage that results.

A second factor corrects the bootstrap with few signs: the variance of a class's recall in n signs is too small by
(n - 1) / n, and the normal quantile by its ratio to Student's, with the effective degrees of freedom of a mean over
classes of unequal size (Satterthwaite 1946).
"""

from functools import lru_cache

import numpy as np
from scipy.special import ndtr, stdtrit

NORMAL_QUANTILE = 1.959964  # two-sided 95 %
_LOGITS = np.linspace(-8.0, 16.0, 2401)  # over which the chance of a hit is integrated
_LEADS = np.linspace(0.0, 8.0, 161)


@lru_cache(maxsize=128)
def _hits(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of a hit and its derivative by the lead of the true class, at each of `_LEADS`."""
    others = ndtr(_LOGITS) ** (classes - 1)  # probability that no other class is ahead
    ahead = _LOGITS - _LEADS[:, None]
    density = np.exp(-(ahead**2) / 2) / np.sqrt(2 * np.pi) * (_LOGITS[1] - _LOGITS[0])
    return density @ others, (ahead * density) @ others


def covariance_ratio(score: float, classes: int) -> float:
    """Return the covariances between signs over the signs' own variances, for a cross-validated accuracy.

    Args:
        score: Probability of a hit; taken as 1 / classes where it is below.
        classes: Number of classes, at least 2.
    """
    chance, slope = _hits(classes)
    p = min(max(score, 1 / classes), float(chance[-1]))
    a = float(np.interp(p, chance, slope))
    return a**2 * classes / ((classes - 1) * p * (1 - p))


def small_sample_factor(groups: np.ndarray) -> float:
    """Return the factor on a bootstrap's deviations for few sign groups, from the number of groups of each class.

    A class of one group counts as two, because one has no variance.
    """
    n = np.maximum(groups[groups > 0], 2).astype(float)
    if not len(n):
        return 1.0
    part = 1 / n
    freedom = part.sum() ** 2 / (part**2 / (n - 1)).sum()
    return float(np.sqrt((part * n / (n - 1)).sum() / part.sum()) * stdtrit(freedom, 0.975) / NORMAL_QUANTILE)


def widening_factor(score: float, groups: np.ndarray, crossed: bool) -> float:
    """Return the factor on the bootstrap's deviations of a score.

    Args:
        score: Balanced accuracy.
        groups: Tested sign groups of each class `[K]`.
        crossed: Whether tested signs also train the probes of each other, as in cross-validation.
    """
    classes = int((groups > 0).sum())
    shared = covariance_ratio(score, classes) if crossed and classes > 1 else 0.0
    return float(np.sqrt(1 + shared)) * small_sample_factor(groups)


def difference_factor(first: np.ndarray, second: np.ndarray, score: float, classes: int) -> float:
    """Return the factor on the deviations of a paired difference; at most 1, as rows that agree share dependence.

    With r the correlation of two rows' logits, hits correlate by (2 / pi) asin(r) and the covariances between
    signs by r, so that the covariances within the difference shrink faster than its own variance.

    Args:
        first, second: Draws of the two rows `[B]`.
        score: Mean of the two scores.
        classes: Number of classes.
    """
    own = first.var() + second.var()
    left = (first - second).var() / own if own > 0 else 1.0
    if not 0 < left < 1:
        return 1.0
    shared = covariance_ratio(score, classes)
    r = np.sin(np.pi / 2 * (1 - left))
    return float(np.sqrt((1 + shared * (1 - r) / left) / (1 + shared)))
