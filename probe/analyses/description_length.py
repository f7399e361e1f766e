"""Minimum description length by online coding (Voita & Titov 2020, 2003.12298): bits of the labels given the features.

Signs are sent one block after another; the labels of a block are coded with probes fitted to all earlier blocks, the
first block with equal probabilities. A short code needs probes that generalise from few signs. Blocks consist of sign
groups, not clips, because further clips of a sign already sent would be free. A sign costs the mean of its clips.

The probes that code a block are a mixture: every layer at every penalty, and the label frequencies alone. Their
weights come from the code lengths of earlier blocks (Bayes), so nothing is chosen with labels that are still to be
sent, and not knowing the best layer and penalty costs at most log2(number of them) bits in all.
Deviation: Voita & Titov fix one probe.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from torch import Tensor

from probe.analyses.context import AnalysisContext, by_group
from probe.findings import Finding
from probe.fitting import UNSCORED, standardise
from probe.solver.linear import Fit, LinearProbes
from probe.statistics.scores import BOOTSTRAP

ANALYSIS = "mdl"
PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
_PRIOR_COUNT = 0.5  # of each class, Krichevsky & Trofimov: a class not sent before has a probability too
_PENALTIES = 5  # values of C, evenly spaced in the grid: more of them change the mixture little and cost time


def portions(signs: int) -> list[int]:
    """Return the number of signs sent after each block; the last is all."""
    return sorted({max(1, round(share * signs)) for share in PORTIONS})


def mdl(context: AnalysisContext) -> list[Finding]:
    """Compute the code length in bits, averaged over orders, and compression: uniform code length over code length."""
    labels = _coded_labels(context)
    sizes = [len(np.unique(row[row >= 0])) for row in labels]
    cost = np.stack([one_order(context, labels, sizes, order) for order in range(context.config.orders)]).mean(0)
    lengths: dict[str, np.ndarray] = {}
    tables: dict[str, dict[str, np.ndarray]] = {"compression": {}, "compression_without_features": {}}
    for f, feature in enumerate(context.targets.features):
        if sizes[f] < 2:
            continue
        uniform = np.where(np.isnan(cost[0, f]), np.nan, np.log2(sizes[f]))
        total, blind, even = (
            context.bootstrap.weights @ np.nan_to_num(bits) for bits in (cost[0, f], cost[1, f], uniform)
        )
        lengths[feature] = total
        with np.errstate(divide="ignore", invalid="ignore"):
            tables["compression"][feature] = even / total
            tables["compression_without_features"][feature] = even / blind
    make = partial(context.finding, ANALYSIS, layer="all", method=BOOTSTRAP)
    rows = context.rows_of(labels)
    findings = [make("codelength", name, bits, rows[name], higher_is_better=False) for name, bits in lengths.items()]
    for metric, table in tables.items():
        findings += [make(metric, name, values, rows[name]) for name, values in context.with_averages(table).items()]
    return findings


def _coded_labels(context: AnalysisContext) -> np.ndarray:
    """Return labels `[F, N]` of the present clips, without classes of fewer signs than a probe needs."""
    labels = np.where(context.present, context.targets.labels, UNSCORED)
    for row in labels:
        for label in np.unique(row[row >= 0]).tolist():
            if len(np.unique(context.groups[row == label])) < context.fit.min_train_signs:
                row[row == label] = UNSCORED
    return labels


def one_order(context: AnalysisContext, labels: np.ndarray, sizes: Sequence[int], order: int) -> np.ndarray:
    """Compute the bits of each sign group, with features and without, `[2, F, G]`; nan without labelled clips."""
    count, signs = len(labels), context.bootstrap.groups
    place = np.random.default_rng([context.seed, 9, order]).permutation(signs)[context.groups]  # of each clip
    cost = np.full((2, count, signs), np.nan)
    cuts = portions(signs)
    first = np.flatnonzero((place < cuts[0]) & context.present)
    for f in range(count):
        sent = first[labels[f, first] >= 0]
        cost[:, f, context.groups[sent]] = np.log2(max(sizes[f], 1))
    penalties = context.fit.coarse_grid(_PENALTIES)
    belief = np.zeros((count, len(context.layers) * len(penalties) + 1))  # log weights of the mixture
    for start, stop in pairwise(cuts):
        context.check_stop()
        known = np.flatnonzero((place < start) & context.present)
        block = np.flatnonzero((place >= start) & (place < stop) & context.present)
        if not len(known) or not len(block):
            continue
        logs = _mixture(context, labels, sizes, known, block, penalties)  # [F, E, n]
        for f in range(count):
            sent = labels[f, block] >= 0
            if sent.any():
                _code_block(cost[:, f], belief[f], logs[f][:, sent], context.groups[block[sent]])
    return cost


def _code_block(cost: np.ndarray, belief: np.ndarray, log: np.ndarray, groups: np.ndarray) -> None:
    """Write the cost `[2, G]` of a block's signs and update the mixture weights.

    Args:
        cost: Bits of each sign group, with features and without.
        belief: Log weights of the members of the mixture `[E]`.
        log: Log-probability of the labels of the block's clips under each member `[E, n]`.
        groups: Sign group of these clips.
    """
    signs = cost.shape[1]
    here = np.unique(groups)
    mixed = np.logaddexp.reduce(belief[:, None] + log, axis=0) - np.logaddexp.reduce(belief)
    for row, values in ((0, mixed), (1, log[-1])):
        cost[row, here] = -by_group(values, groups, signs)[here] / np.log(2)
    belief += by_group(log.T, groups, signs)[here].sum(0)


def _mixture(
    context: AnalysisContext,
    labels: np.ndarray,
    sizes: Sequence[int],
    known: np.ndarray,
    block: np.ndarray,
    penalties: Sequence[float],
) -> np.ndarray:
    """Compute the log-probability of the block's labels under each member `[F, E, n]`.

    The members are every layer at every penalty, and last the label frequencies alone.
    """
    count = len(labels)
    result = np.zeros((count, len(context.layers) * len(penalties) + 1, len(block)))
    sent_signs = []
    for f in range(count):
        sent = known[labels[f, known] >= 0]
        group, at = np.unique(context.groups[sent], return_index=True)
        sent_signs.append(len(group))
        if sizes[f] > 1:
            result[f, -1] = _frequencies(labels[f], sent[at], block)
    for layer, features in enumerate(context.layers):
        x = standardise(features, known)
        probes = LinearProbes(x[known], labels[:, known], max_rank=context.max_rank, device=context.device)
        rotated = probes.project(x[block])
        for number, fit in enumerate(probes.path(penalties)):
            for f in np.flatnonzero(np.array(sizes) > 1).tolist():
                share = _probability(probes, fit, rotated, f, labels[f, block])
                smoothed = (sent_signs[f] * share + _PRIOR_COUNT) / (sent_signs[f] + _PRIOR_COUNT * sizes[f])
                result[f, layer * len(penalties) + number] = np.log(smoothed)
    return result


def _frequencies(labels: np.ndarray, signs: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return log-probabilities of a block's labels by their smoothed frequency among the signs sent, one clip each."""
    names = np.unique(labels[labels >= 0])
    tally = np.array([(labels[signs] == label).sum() for label in names], dtype=float)
    share = (tally + _PRIOR_COUNT) / (len(signs) + _PRIOR_COUNT * max(len(names), 1))
    truth = np.searchsorted(names, labels[block]).clip(0, max(len(names) - 1, 0))
    return np.asarray(np.log(share[truth]))


def _probability(probes: LinearProbes, fit: Fit, rotated: Tensor, f: int, truth: np.ndarray) -> np.ndarray:
    """Return the probability of the true labels `[n]`; zero for a class that the probes were not trained on."""
    log = probes.log_probabilities(fit, rotated, f)  # [n, classes trained on]
    learnt = probes.classes[f]
    if not len(learnt):
        return np.zeros(len(truth))
    column = np.searchsorted(learnt, truth).clip(0, len(learnt) - 1)
    return np.where(learnt[column] == truth, np.exp(log[np.arange(len(truth)), column]), 0.0)
