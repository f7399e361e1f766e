"""Representational similarity analysis (Kriegeskorte et al. 2008): do distances of features follow phonology?

Spearman correlation, over pairs of signs, of the cosine distance of the signs' mean features with the share of
phonological features in which they differ; all features of the lexicon, and each bundle alone. Whether a sign is one-
or two-handed is visible and shared by many features, so the partial correlation at constant sign type is reported
beside it. Nothing is trained.

The noise ceiling is the correlation that a perfect model of the encoder's own distances would reach: the square root
of their reliability between two halves of the signers, corrected by Spearman and Brown's formula.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from probe.analyses.context import AnalysisContext, by_group, unit
from probe.analyses.minimal_pairs import PAIR_BOOTSTRAP, sign_table
from probe.findings import Finding
from probe.targets import BUNDLES

ANALYSIS = "rsa"
ALL = "all features"
PERMUTATIONS = 999  # of the Mantel test: p >= 0.001
HALVES = 10  # splits of the signers, averaged
_METHOD = f"{PAIR_BOOTSTRAP}, ranks of the whole sample"
_CONTROLLED = "SignType"


def rsa(context: AnalysisContext) -> list[Finding]:
    """Compute the correlation, the correlation at equal sign type, the Mantel p-values of both, and noise ceilings."""
    table, names = sign_table(context)
    signs = np.flatnonzero(np.isin(np.arange(context.bootstrap.groups), context.groups[context.present]))
    columns = {ALL: names} | {bundle: [n for n in names if n in members] for bundle, members in BUNDLES.items()}
    phonology = {
        name: ranks_of(hamming(table[signs][:, [names.index(member) for member in members]]))
        for name, members in columns.items()
        if members
    }
    control = ranks_of(hamming(table[signs][:, [names.index(_CONTROLLED)]])) if _CONTROLLED in names else None
    findings: list[Finding] = []
    for layer in context.fixed_layers():
        context.check_stop()
        values = _correlations(context, layer, signs, phonology, columns, control)
        for (name, metric), draws in values.items():
            test = metric.startswith("p_")
            findings.append(
                context.finding(
                    ANALYSIS,
                    metric,
                    name,
                    draws,
                    context.present,
                    layer=context.block(layer),
                    higher_is_better=not test,
                    method="" if test else _METHOD,
                )
            )
    return findings


def _correlations(
    context: AnalysisContext,
    layer: int,
    signs: np.ndarray,
    phonology: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[str]],
    control: np.ndarray | None,
) -> dict[tuple[str, str], np.ndarray]:
    """Correlate the distances of one layer with each of the phonological ones; (bundle, metric) -> draws."""
    weights = context.bootstrap.weights[:, signs]
    x = context.directions(layer)
    means = by_group(x[context.present], context.groups[context.present], context.bootstrap.groups)[signs]
    encoder = ranks_of(cosine_distance(means))
    values: dict[tuple[str, str], np.ndarray] = {(ALL, "noise_ceiling"): _ceiling(context, x, signs, weights)}
    for name, ranks in phonology.items():
        values[name, "rho"] = correlation(weights, encoder, ranks)
        if name == ALL:
            values[name, "p_mantel"] = np.array([mantel(encoder, ranks, _rng(context))])
        if control is not None and _CONTROLLED not in columns[name][:1]:
            values[name, "rho_partial"] = partial(weights, encoder, ranks, control)
            if name == ALL:
                pair = residual(encoder, control), residual(ranks, control)
                values[name, "p_mantel_partial"] = np.array([mantel(*pair, _rng(context))])
    return values


def _rng(context: AnalysisContext) -> np.random.Generator:
    return np.random.default_rng([context.seed, 12])


def hamming(table: np.ndarray) -> np.ndarray:
    """Return the share of features in which signs differ `[G, G]`, of those that either has.

    Args:
        table: Feature values `[G, A]`, -1 = none.
    """
    differs, either = np.zeros((2, len(table), len(table)))
    for column in table.T:
        known = column >= 0
        differs += column[:, None] != column
        either += known[:, None] | known
    return differs / np.maximum(either, 1)


def cosine_distance(vectors: np.ndarray) -> np.ndarray:
    """Return cosine distances `[G, G]`, rounded so that equal vectors have equal distances."""
    x = unit(vectors).astype(np.float64)
    return (1 - x @ x.T).round(6)


def ranks_of(matrix: np.ndarray) -> np.ndarray:
    """Return the centred ranks of the entries above the diagonal as a symmetric matrix, 0 on the diagonal."""
    rows, columns = np.triu_indices(len(matrix), 1)
    ranks = rankdata(matrix[rows, columns])
    made = np.zeros(matrix.shape)
    made[rows, columns] = ranks - ranks.mean()
    return made + made.T


def correlation(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the weighted Pearson correlation of two symmetric matrices' off-diagonal entries.

    The weight of a pair is the product of its signs' weights.

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
    """Return the partial correlation of a and b with c held constant."""
    ab, ac, bc = (correlation(weights, *pair) for pair in ((a, b), (a, c), (b, c)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))


def residual(matrix: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return the residuals of centred ranks after linear regression on the control's."""
    size = (control**2).sum()
    return matrix - control * ((matrix * control).sum() / size if size else 0.0)


def mantel(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """Return the one-sided p-value of the Mantel test (1967): permute the signs of one matrix."""
    observed = (a * b).sum()
    above = 0
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(a))
        above += (a[np.ix_(order, order)] * b).sum() >= observed - 1e-9 * abs(observed)
    return (1 + int(above)) / (1 + PERMUTATIONS)


def _ceiling(context: AnalysisContext, x: np.ndarray, signs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    signers = context.targets.signers
    units = signers if (signers != "").all() else context.targets.clip_ids
    names, of_row = np.unique(units, return_inverse=True)
    parts = []
    for number in range(HALVES):
        half = np.random.default_rng([context.seed, 13, number]).permutation(len(names))[of_row] % 2
        means = []
        for side in (0, 1):
            rows = context.present & (half == side)
            means.append(by_group(x[rows], context.groups[rows], context.bootstrap.groups)[signs])
        both = np.isfinite(means[0][:, 0]) & np.isfinite(means[1][:, 0])
        if both.sum() > 2:
            pair = [ranks_of(cosine_distance(mean[both])) for mean in means]
            parts.append(correlation(weights[:, both], *pair))
    if not parts:
        return np.full(len(weights), np.nan)
    return ceiling(parts)


def ceiling(correlations: Sequence[np.ndarray]) -> np.ndarray:
    """Return the highest expected correlation, from correlations between halves; 0 where they are negative."""
    r = np.mean(correlations, axis=0).clip(0, 1)
    return np.sqrt(2 * r / (1 + r))
