"""Minimal pairs: does the representation separate two signs that differ in one bundle of features only?

Pairs are of bundles, not of single features, because features of a bundle move together (one handshape cannot
change its flexion alone). Nothing is trained: a pair is separated when clips of one sign by different signers are
closer to each other than to clips of the other sign. Sign identity alone separates every pair equally well, so compare
bundles with each other and with random initialisation.
"""

import numpy as np
from scipy.stats import rankdata

from probe.analyses.context import AnalysisContext
from probe.findings import Finding
from probe.statistics.scores import BOOTSTRAP
from probe.targets import BUNDLES

ANALYSIS = "minimal_pairs"
MEASURES = ("auc", "d_prime", "abx_error")
# The non-dominant handshape may differ too: symmetrical signs copy the dominant one, one-handed signs have none.
FREE = {"handshape": ("NonDominantHandshape",), "two-handedness": ("NonDominantHandshape",)}
PAIR_BOOTSTRAP = f"{BOOTSTRAP}, a pair weighs as both its signs"


def minimal_pairs(context: AnalysisContext) -> list[Finding]:
    """Compute AUC, d' and ABX error of every bundle, averaged over its pairs."""
    bundles = [name for name, members in BUNDLES.items() if any(feature in context.lexicon for feature in members)]
    pairs = {bundle: find_pairs(context, bundle) for bundle in bundles}
    findings: list[Finding] = []
    for layer in context.fixed_layers():
        x = context.directions(layer)
        for bundle, members in pairs.items():
            scores = np.array([pair_scores(context, x, a, b) for a, b in members]).reshape(-1, len(MEASURES))
            known = np.isfinite(scores).all(1)
            a, b = members[known].T
            if not len(a):
                continue
            rows = context.present & np.isin(context.groups, members[known])
            weight = context.bootstrap.weights[:, a] * context.bootstrap.weights[:, b]  # [1 + B, pairs]
            with np.errstate(divide="ignore", invalid="ignore"):
                means = (weight @ scores[known]) / weight.sum(1, keepdims=True)
            for measure, values in zip(MEASURES, means.T, strict=True):
                findings.append(
                    context.finding(
                        ANALYSIS,
                        measure,
                        bundle,
                        values,
                        rows,
                        setting=f"{len(a)} pairs",
                        layer=context.block(layer),
                        higher_is_better=measure != "abx_error",
                        method=PAIR_BOOTSTRAP,
                    )
                )
    return findings


def sign_table(context: AnalysisContext) -> tuple[np.ndarray, list[str]]:
    """Return the value of every lexicon feature of each sign group, `[G, A]`, and the features' names.

    A value is -1 where it is missing or the group's clips disagree; a group without clips is all -1.
    """
    names = list(context.lexicon)
    table = np.full((context.bootstrap.groups, len(names)), -1)
    for group in np.unique(context.groups[context.present]):
        here = context.present & (context.groups == group)
        for column, name in enumerate(names):
            levels = np.unique(context.lexicon[name][here])
            if len(levels) == 1:
                table[group, column] = levels[0]
    return table, names


def find_pairs(context: AnalysisContext, bundle: str) -> np.ndarray:
    """Find the pairs of sign groups `[P, 2]` that differ in a bundle and in nothing else.

    All features of the lexicon count, probed or not. At least one difference is between two known values. Two missing
    values are equal (the feature does not apply); a missing and a known one differ.
    """
    table, names = sign_table(context)
    inside = np.array([name in BUNDLES[bundle] for name in names])
    free = np.array([name in FREE.get(bundle, ()) for name in names])
    pairs: list[tuple[int, int]] = []
    for a in np.flatnonzero((table >= 0).any(1)).tolist():
        differs = table[a + 1 :] != table[a]  # [rest, A]
        known = (table[a + 1 :] >= 0) & (table[a] >= 0)
        fits = (differs & known & inside).any(1) & ~(differs & ~(inside | free)).any(1)
        pairs += [(a, a + 1 + int(b)) for b in np.flatnonzero(fits)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def pair_scores(context: AnalysisContext, x: np.ndarray, a: int, b: int) -> tuple[float, float, float]:
    """Compute AUC, d' and ABX error of two sign groups by cosine distance; nan without clips of two signers."""
    rows = [np.flatnonzero(context.present & (context.groups == sign)) for sign in (a, b)]
    both = np.concatenate(rows)
    sign = np.repeat([0, 1], [len(part) for part in rows])
    signer = context.targets.signers[both]
    distance = 1 - x[both] @ x[both].T
    across = (signer[:, None] != signer) | (signer == "")
    np.fill_diagonal(across, False)
    upper = np.triu(across)
    same = distance[upper & (sign[:, None] == sign)]
    other = distance[upper & (sign[:, None] != sign)]
    if not len(same) or not len(other):
        return float("nan"), float("nan"), float("nan")
    spread = np.sqrt((same.var() + other.var()) / 2)
    d_prime = (other.mean() - same.mean()) / spread if spread > 0 else 0.0
    return auc(same, other), float(d_prime), abx_error(distance, sign, signer)


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """Return the probability that a value of `high` is above one of `low`; ties count half."""
    ranks = rankdata(np.concatenate([low, high]))
    return float((ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))


def abx_error(distance: np.ndarray, sign: np.ndarray, signer: np.ndarray) -> float:
    """Return how often X is closer to B, of the other sign, than to A, of its own; ties count half.

    A and B are by one signer and X by another (Schatz et al. 2013); where signers are unknown, any three clips.

    Args:
        distance: `[n, n]`.
        sign: 0 or 1 of each clip.
        signer: "" = unknown.
    """
    wrong, count = 0.0, 0
    known = (signer != "").all()
    for x in range(len(sign)):
        usable = (signer != signer[x]) if known else np.arange(len(sign)) != x
        a, b = (np.flatnonzero(usable & ((sign == sign[x]) == own)) for own in (True, False))
        triples = signer[a][:, None] == signer[b] if known else np.ones((len(a), len(b)), dtype=bool)
        gap = distance[x, a][:, None] - distance[x, b]
        wrong += ((gap > 0) + 0.5 * (gap == 0))[triples].sum()
        count += int(triples.sum())
    return float(wrong / count) if count else float("nan")
