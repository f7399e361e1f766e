"""Representational similarity (Kriegeskorte et al. 2008): are signs that are alike in phonology alike for the
encoder?

Spearman correlation, over pairs of signs, of the cosine distance of the signs' mean features with the share of
phonological features in which they differ; all features of the lexicon, and each bundle alone. The one- or
two-handedness of a sign is easily seen and shared by many features, so the correlation with sign type held
constant stands beside it. Nothing is trained.

The noise ceiling is what a perfect model of the encoder's own distances would reach: the square root of their
reliability between two halves of the signers, lengthened by Spearman and Brown.
"""

from collections.abc import Sequence

import numpy as np

from probe.analyses.material import Material, average_ranks, by_group, unit
from probe.analyses.pairs import sign_table
from probe.findings import Finding
from probe.statistics.scores import BOOTSTRAP
from probe.targets import BUNDLES

ANALYSIS = "rsa"
ALL = "all features"
PERMUTATIONS = 999  # of the Mantel test: p >= 0.001
HALVES = 10  # splits of the signers, averaged
_METHOD = f"{BOOTSTRAP}, a pair weighs as both its signs, ranks of the whole sample"
_CONTROLLED = "SignType"


def rsa(material: Material) -> list[Finding]:
    """Correlation, correlation at equal sign type, Mantel p of both, and noise ceiling."""
    table, names = sign_table(material)
    signs = np.flatnonzero(np.isin(np.arange(material.board.groups), material.groups[material.present]))
    table = table[signs]
    weights = material.board.weights[:, signs]
    columns = {ALL: names} | {bundle: [n for n in names if n in members] for bundle, members in BUNDLES.items()}
    control = ranks_of(hamming(table[:, [names.index(_CONTROLLED)]])) if _CONTROLLED in names else None
    found: list[Finding] = []
    for layer in material.fixed_layers():
        material.alive()
        x = material.directions(layer)
        means = by_group(x[material.present], material.groups[material.present], material.board.groups)[signs]
        encoder = ranks_of(cosine_distance(means))
        values: dict[tuple[str, str], np.ndarray] = {(ALL, "noise_ceiling"): _ceiling(material, x, signs, weights)}
        for name, members in columns.items():
            if not members:
                continue
            phonology = ranks_of(hamming(table[:, [names.index(member) for member in members]]))
            values[name, "rho"] = correlation(weights, encoder, phonology)
            if name == ALL:
                values[name, "p_mantel"] = np.array([mantel(encoder, phonology, _rng(material))])
            if control is not None and _CONTROLLED not in members[:1]:
                values[name, "rho_partial"] = partial(weights, encoder, phonology, control)
                if name == ALL:
                    pair = residual(encoder, control), residual(phonology, control)
                    values[name, "p_mantel_partial"] = np.array([mantel(*pair, _rng(material))])
        for (name, metric), draws in values.items():
            test = metric.startswith("p_")
            found.append(
                material.finding(
                    ANALYSIS,
                    metric,
                    name,
                    draws,
                    material.present,
                    layer=material.block(layer),
                    higher_is_better=not test,
                    method="" if test else _METHOD,
                )
            )
    return found


def _rng(material: Material) -> np.random.Generator:
    return np.random.default_rng([material.seed, 12])


def hamming(table: np.ndarray) -> np.ndarray:
    """Share of features in which signs differ `[G, G]`, of those that either has; from levels `[G, A]`, -1 = none."""
    differs, either = np.zeros((2, len(table), len(table)))
    for column in table.T:
        known = column >= 0
        differs += column[:, None] != column
        either += known[:, None] | known
    return differs / np.maximum(either, 1)


def cosine_distance(vectors: np.ndarray) -> np.ndarray:
    """`[G, G]`; rounded, so that equal vectors are at equal distances."""
    x = unit(vectors).astype(np.float64)
    return (1 - x @ x.T).round(6)


def ranks_of(matrix: np.ndarray) -> np.ndarray:
    """Centred ranks of the entries above the diagonal, symmetric, 0 on the diagonal."""
    rows, columns = np.triu_indices(len(matrix), 1)
    ranks = average_ranks(matrix[rows, columns])
    made = np.zeros(matrix.shape)
    made[rows, columns] = ranks - ranks.mean()
    return made + made.T


def correlation(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of two symmetric matrices' entries off the diagonal; a pair weighs as the
    product of its signs' weights.

    Args:
        weights: `[B, G]`.
        a, b: `[G, G]`, 0 on the diagonal.
    """

    def total(matrix: np.ndarray) -> np.ndarray:
        return ((weights @ matrix) * weights).sum(1)

    off = 1 - np.eye(len(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        n = total(off)
        mean_a, mean_b = total(a) / n, total(b) / n
        cov = total(a * b) / n - mean_a * mean_b
        spread = (total(a * a) / n - mean_a**2) * (total(b * b) / n - mean_b**2)
        return np.where(spread > 0, cov / np.sqrt(np.where(spread > 0, spread, 1)), np.nan)


def partial(weights: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Correlation of a and b with c held constant."""
    ab, ac, bc = (correlation(weights, *pair) for pair in ((a, b), (a, c), (b, c)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))


def residual(matrix: np.ndarray, control: np.ndarray) -> np.ndarray:
    """What is left of centred ranks after linear regression on the control's."""
    size = (control**2).sum()
    return matrix - control * ((matrix * control).sum() / size if size else 0.0)


def mantel(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """One-sided p-value of "a and b do not hang together": signs of one matrix are dealt anew (Mantel 1967)."""
    seen = (a * b).sum()
    above = 0
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(a))
        above += (a[np.ix_(order, order)] * b).sum() >= seen - 1e-9 * abs(seen)
    return (1 + int(above)) / (1 + PERMUTATIONS)


def _ceiling(material: Material, x: np.ndarray, signs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    signers = material.targets.signers
    units = signers if (signers != "").all() else material.targets.clip_ids
    names, of_row = np.unique(units, return_inverse=True)
    parts = []
    for number in range(HALVES):
        half = np.random.default_rng([material.seed, 13, number]).permutation(len(names))[of_row] % 2
        means = []
        for side in (0, 1):
            rows = material.present & (half == side)
            means.append(by_group(x[rows], material.groups[rows], material.board.groups)[signs])
        both = np.isfinite(means[0][:, 0]) & np.isfinite(means[1][:, 0])
        if both.sum() > 2:
            pair = [ranks_of(cosine_distance(mean[both])) for mean in means]
            parts.append(correlation(weights[:, both], *pair))
    if not parts:
        return np.full(len(weights), np.nan)
    return ceiling(parts)


def ceiling(correlations: Sequence[np.ndarray]) -> np.ndarray:
    """Highest correlation that can be expected, from correlations between halves; 0 where halves do not agree."""
    r = np.mean(correlations, axis=0).clip(0, 1)
    return np.sqrt(2 * r / (1 + r))
