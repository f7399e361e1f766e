"""Minimal pairs: can two signs be told apart that differ in one bundle of features only?

Pairs are of bundles, not of single features, because features of a bundle move together (one handshape cannot
change its flexion alone). Nothing is trained: a pair is told apart when clips of one sign by different signers are
closer to each other than to clips of the other sign. That shows what the representation separates, whether or not it
knows why: sign identity alone separates every pair alike, so bundles are to be compared with each other and with
random initialisation.
"""

from collections.abc import Mapping

import numpy as np

from probe.analyses.material import Material, average_ranks
from probe.findings import Finding
from probe.statistics.scores import BOOTSTRAP
from probe.targets import BUNDLES

ANALYSIS = "minimal_pairs"
MEASURES = ("auc", "d_prime", "abx_error")
# The other hand follows: it copies the handshape of symmetrical signs, and one-handed signs have none.
FREE = {"handshape": ("NonDominantHandshape",), "two-handedness": ("NonDominantHandshape",)}
_METHOD = f"{BOOTSTRAP}, a pair weighs as both its signs"


def minimal_pairs(material: Material) -> list[Finding]:
    """AUC, d' and ABX error of every bundle, mean over its pairs."""
    pairs = {bundle: find_pairs(material, bundle) for bundle in _bundles(material.lexicon)}
    found: list[Finding] = []
    for layer in material.fixed_layers():
        x = material.directions(layer)
        for bundle, members in pairs.items():
            scores = np.array([pair_scores(material, x, a, b) for a, b in members]).reshape(-1, len(MEASURES))
            known = np.isfinite(scores).all(1)
            a, b = members[known].T
            if not len(a):
                continue
            rows = material.present & np.isin(material.groups, members[known])
            weight = material.board.weights[:, a] * material.board.weights[:, b]  # [1 + B, pairs]
            with np.errstate(divide="ignore", invalid="ignore"):
                means = (weight @ scores[known]) / weight.sum(1, keepdims=True)
            for measure, values in zip(MEASURES, means.T, strict=True):
                found.append(
                    material.finding(
                        ANALYSIS,
                        measure,
                        bundle,
                        values,
                        rows,
                        setting=f"{len(a)} pairs",
                        layer=material.block(layer),
                        higher_is_better=measure != "abx_error",
                        method=_METHOD,
                    )
                )
    return found


def _bundles(features: Mapping[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    present = {name: tuple(f for f in members if f in features) for name, members in BUNDLES.items()}
    return {name: members for name, members in present.items() if members}


def sign_table(material: Material) -> tuple[np.ndarray, list[str]]:
    """Levels of every lexicon feature of each sign group with clips, `[G, A]`; -1 = missing or not one level, and
    all -1 for a group without clips."""
    names = list(material.lexicon)
    table = np.full((material.board.groups, len(names)), -1)
    for group in np.unique(material.groups[material.present]):
        here = material.present & (material.groups == group)
        for column, name in enumerate(names):
            levels = np.unique(material.lexicon[name][here])
            if len(levels) == 1:
                table[group, column] = levels[0]
    return table, names


def find_pairs(material: Material, bundle: str) -> np.ndarray:
    """Pairs of sign groups `[P, 2]` that differ in a bundle and in nothing else.

    All features of the lexicon count, probed or not. At least one difference is between two known levels. Two
    missing levels are equal (a feature that does not apply), a missing and a known one differ.
    """
    table, names = sign_table(material)
    inside = np.array([name in BUNDLES[bundle] for name in names])
    free = np.array([name in FREE.get(bundle, ()) for name in names])
    found = []
    for a in np.flatnonzero((table >= 0).any(1)).tolist():
        differs = table[a + 1 :] != table[a]  # [rest, A]
        known = (table[a + 1 :] >= 0) & (table[a] >= 0)
        fits = (differs & known & inside).any(1) & ~(differs & ~(inside | free)).any(1)
        found += [(a, a + 1 + int(b)) for b in np.flatnonzero(fits)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def pair_scores(material: Material, x: np.ndarray, a: int, b: int) -> tuple[float, float, float]:
    """AUC, d' and ABX error of two sign groups by cosine distance; nan where no two signers made them."""
    rows = [np.flatnonzero(material.present & (material.groups == sign)) for sign in (a, b)]
    both = np.concatenate(rows)
    sign = np.repeat([0, 1], [len(part) for part in rows])
    signer = material.targets.signers[both]
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
    """Probability that a value of `high` is above one of `low`, ties half."""
    ranks = average_ranks(np.concatenate([low, high]))
    return float((ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))


def abx_error(distance: np.ndarray, sign: np.ndarray, signer: np.ndarray) -> float:
    """How often X is closer to B, of the other sign, than to A, of its own; ties half.

    A and B are by one signer and X by another (Schatz et al. 2013); where signers are not known, any three clips.

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
