"""Retrieval without training: is the nearest clip the same sign, or another sign with the same feature value?

Cosine of standardised features. The gallery of a clip is the clips of other signers (all other clips where signers
are unknown); for a feature it also excludes the clip's own sign group, so that sign identity does not help. Only
queries are resampled for the intervals; the gallery is fixed.
"""

import numpy as np

from probe.analyses.context import AnalysisContext, by_group
from probe.findings import Finding
from probe.statistics.scores import BOOTSTRAP

ANALYSIS = "retrieval"
SIGN = "sign"
MEASURES = ("recall_at_1", "mrr", "dcg", "ndcg")
_METHOD = f"{BOOTSTRAP}, queries only"
_QUERIES = 512  # at once, so that memory stays at queries x gallery


def retrieval(context: AnalysisContext) -> list[Finding]:
    """Compute recall at 1, mean reciprocal rank, DCG and NDCG for signs and for features.

    Signs are averaged over sign groups; features over their classes, like balanced accuracy. The recall of a random
    ranking is reported as `recall_at_1_chance`.
    """
    findings: list[Finding] = []
    labels = {SIGN: context.groups, **context.targets.features}
    for layer in context.fixed_layers():
        scores = _scores(context, layer, labels)
        tables: dict[str, dict[str, np.ndarray]] = {}
        rows: dict[str, np.ndarray] = {}
        for name, values in scores.items():  # [M + 1, N]
            rows[name] = np.isfinite(values[0])
            classes = np.zeros_like(context.groups) if name == SIGN else labels[name]
            for measure, row in zip((*MEASURES, "recall_at_1_chance"), values, strict=True):
                tables.setdefault(measure, {})[name] = _macro(context, row, classes, rows[name], name == SIGN)
        anyone = np.asarray(np.any([known for name, known in rows.items() if name != SIGN], axis=0))
        for measure, table in tables.items():
            features = {name: values for name, values in table.items() if name != SIGN}
            for name, values in {SIGN: table[SIGN], **context.with_averages(features)}.items():
                here = rows.get(name, anyone)
                if here.any():
                    findings.append(
                        context.finding(
                            ANALYSIS, measure, name, values, here, layer=context.block(layer), method=_METHOD
                        )
                    )
    return findings


def _macro(
    context: AnalysisContext, values: np.ndarray, classes: np.ndarray, rows: np.ndarray, equal: bool
) -> np.ndarray:
    """Average over classes for the sample and the draws; with `equal`, over sign groups of equal weight instead."""
    weights, groups = context.bootstrap.weights, context.bootstrap.groups
    if not rows.any():
        return np.full(len(weights), np.nan)
    if equal:
        mean = by_group(values[rows], context.groups[rows], groups)
        known = np.isfinite(mean)
        return (weights @ np.where(known, mean, 0)) / (weights @ known)
    total, count = np.zeros((2, groups, int(classes.max()) + 1))
    np.add.at(total, (context.groups[rows], classes[rows]), values[rows])
    np.add.at(count, (context.groups[rows], classes[rows]), 1)
    size = weights @ count  # [1 + B, K]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(size > 0, (weights @ total) / size, 0)
    return mean.sum(1) / (size > 0).sum(1)


def _scores(context: AnalysisContext, layer: int, targets_of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rank the gallery of every clip; for each target `[measures + chance, N]`, nan without a relevant clip."""
    targets = context.targets
    rows = np.flatnonzero(context.present)
    # Equal similarities (constant features) must not be ranked by the order of clips, which is that of signs.
    gallery = np.random.default_rng([context.seed, 10]).permutation(rows)
    x = context.directions(layer)
    scores = {name: np.full((len(MEASURES) + 1, len(targets)), np.nan) for name in targets_of}
    for start in range(0, len(rows), _QUERIES):
        context.check_stop()
        queries = rows[start : start + _QUERIES]
        order = np.argsort(-(x[queries] @ x[gallery].T), axis=1, kind="stable")
        ranked = gallery[order]  # [q, n] rows of the gallery, best first
        own = targets.signers[queries][:, None]
        allowed = (targets.signers[ranked] != own) | (own == "")
        allowed &= (ranked != queries[:, None]) & (targets.contents[ranked] != targets.contents[queries][:, None])
        same_sign = context.groups[ranked] == context.groups[queries][:, None]
        for name, labels in targets_of.items():
            if name == SIGN:
                usable, relevant = allowed, same_sign
            else:
                usable = allowed & ~same_sign & (labels[ranked] >= 0)
                relevant = labels[ranked] == labels[queries][:, None]
            known = labels[queries] >= 0
            if known.any():
                scores[name][:, queries[known]] = ranking_scores(relevant[known], usable[known])
    return scores


def ranking_scores(relevant: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Score rankings `[q, n]`, best first.

    Args:
        relevant: Whether each place holds a relevant clip.
        usable: Places that count; the others are skipped without taking a rank.

    Returns:
        Recall at 1, reciprocal rank of the first hit, DCG (sum over hits of 1 / log2(1 + rank)), NDCG (DCG over that
        of the ideal ranking), and the share of hits among usable places; `[5, q]`, nan for a ranking without hits.
    """
    hit = relevant & usable
    rank = np.cumsum(usable, axis=1)
    count = hit.sum(1)
    first = np.take_along_axis(rank, hit.argmax(1)[:, None], 1)[:, 0].astype(float)
    discount = 1 / np.log2(1 + np.arange(1, hit.shape[1] + 1))
    dcg = np.where(hit, 1 / np.log2(1 + np.maximum(rank, 1)), 0).sum(1)
    ideal = np.concatenate([[0.0], discount.cumsum()])[count]
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.stack([first == 1, 1 / first, dcg, dcg / ideal, count / rank[:, -1]]).astype(float)
    table[:, count == 0] = np.nan
    return table
