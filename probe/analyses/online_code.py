"""Description length by the online code (Voita & Titov 2020, 2003.12298): how many bits the labels cost somebody
who has the features.

Signs are sent one block after another; the labels of a block are coded with probes fitted to all blocks before
it, the first block with equal probabilities. A short code needs probes that read well from few signs. Blocks are
of sign groups, not clips: other clips of a sign already sent would be free. A sign costs the mean of its clips.

The probes that code a block are a mixture: every layer at every penalty, and the plain label frequencies. Their
weights come from the code lengths of the blocks before (Bayes), so nothing is chosen with labels that are still to
be sent, and not knowing the best layer and penalty costs at most log2(number of them) bits in all.
Deviation: Voita & Titov fix one probe.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from probe.analyses.material import Material, by_group
from probe.findings import Finding
from probe.fitting import UNSCORED, standardise
from probe.solver.linear import LinearProbes
from probe.statistics.scores import BOOTSTRAP

ANALYSIS = "mdl"
PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
_PRIOR_COUNT = 0.5  # of each class, Krichevsky & Trofimov: no class is impossible before it was seen
_PENALTIES = 5  # of the grid, evenly spread: more of them change the mixture little and cost time


def portions(signs: int) -> list[int]:
    """Signs sent after each block; the last is all."""
    return sorted({max(1, round(share * signs)) for share in PORTIONS})


def mdl(material: Material) -> list[Finding]:
    """Code length in bits, averaged over orders, and compression: the uniform code's length divided by it."""
    labels = _coded_labels(material)
    sizes = [len(np.unique(row[row >= 0])) for row in labels]
    cost = np.stack([one_order(material, labels, sizes, order) for order in range(material.config.orders)]).mean(0)
    found: list[Finding] = []
    tables: dict[str, dict[str, np.ndarray]] = {"compression": {}, "compression_without_features": {}}
    weights = material.board.weights
    rows = material.rows_of(labels)
    for f, feature in enumerate(material.targets.features):
        if sizes[f] < 2:
            continue
        uniform = np.where(np.isnan(cost[0, f]), np.nan, np.log2(sizes[f]))
        total, blind, even = (weights @ np.nan_to_num(bits) for bits in (cost[0, f], cost[1, f], uniform))
        found.append(
            material.finding(
                ANALYSIS,
                "codelength",
                feature,
                total,
                rows[feature],
                layer="all",
                higher_is_better=False,
                method=BOOTSTRAP,
            )
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            tables["compression"][feature] = even / total
            tables["compression_without_features"][feature] = even / blind
    for metric, table in tables.items():
        for feature, values in material.with_averages(table).items():
            found.append(
                material.finding(ANALYSIS, metric, feature, values, rows[feature], layer="all", method=BOOTSTRAP)
            )
    return found


def _coded_labels(material: Material) -> np.ndarray:
    """Labels `[F, N]` of the clips present, without classes of fewer signs than a probe needs to learn one."""
    labels = np.where(material.present, material.targets.labels, UNSCORED)
    for row in labels:
        for label in np.unique(row[row >= 0]).tolist():
            if len(np.unique(material.groups[row == label])) < material.fit.min_train_signs:
                row[row == label] = UNSCORED
    return labels


def one_order(material: Material, labels: np.ndarray, sizes: Sequence[int], order: int) -> np.ndarray:
    """Bits that each sign group costs, with features and without, `[2, F, G]`; nan without labelled clips."""
    count, signs = len(labels), material.board.groups
    place = np.random.default_rng([material.seed, 9, order]).permutation(signs)[material.groups]  # of each clip
    cost = np.full((2, count, signs), np.nan)
    cuts = portions(signs)
    first = np.flatnonzero((place < cuts[0]) & material.present)
    for f in range(count):
        sent = first[labels[f, first] >= 0]
        cost[:, f, material.groups[sent]] = np.log2(max(sizes[f], 1))
    grid = material.fit.inverse_penalties
    penalties = sorted({grid[i] for i in np.linspace(0, len(grid) - 1, _PENALTIES).round().astype(int)})
    belief = np.zeros((count, len(material.layers) * len(penalties) + 1))  # log weights of the mixture
    for start, stop in pairwise(cuts):
        material.alive()
        known = np.flatnonzero((place < start) & material.present)
        block = np.flatnonzero((place >= start) & (place < stop) & material.present)
        if not len(known) or not len(block):
            continue
        logs = _mixture(material, labels, sizes, known, block, penalties)  # [F, E, n]
        for f in range(count):
            sent = labels[f, block] >= 0
            if not sent.any():
                continue
            group = material.groups[block[sent]]
            here = np.unique(group)
            log = logs[f][:, sent]
            mixed = np.logaddexp.reduce(belief[f][:, None] + log, axis=0) - np.logaddexp.reduce(belief[f])
            for row, values in ((0, mixed), (1, log[-1])):
                cost[row, f, here] = -by_group(values, group, signs)[here] / np.log(2)
            belief[f] += by_group(log.T, group, signs)[here].sum(0)
    return cost


def _mixture(
    material: Material,
    labels: np.ndarray,
    sizes: Sequence[int],
    known: np.ndarray,
    block: np.ndarray,
    penalties: Sequence[float],
) -> np.ndarray:
    """Log-probability of the block's labels under each member `[F, E, n]`; the last knows label frequencies only."""
    count = len(labels)
    result = np.zeros((count, len(material.layers) * len(penalties) + 1, len(block)))
    names = [np.unique(row[row >= 0]) for row in labels]
    seen = []
    for f in range(count):
        sent = known[labels[f, known] >= 0]
        group, at = np.unique(material.groups[sent], return_index=True)
        seen.append(len(group))
        tally = np.array([(labels[f, sent[at]] == label).sum() for label in names[f]], dtype=float)
        share = (tally + _PRIOR_COUNT) / (len(group) + _PRIOR_COUNT * max(len(names[f]), 1))
        truth = np.searchsorted(names[f], labels[f, block]).clip(0, max(len(names[f]) - 1, 0))
        if sizes[f] > 1:
            result[f, -1] = np.log(share[truth])
    for layer, features in enumerate(material.layers):
        x = standardise(features, known)
        probes = LinearProbes(x[known], labels[:, known], max_rank=material.max_rank, device=material.device)
        rotated = probes.project(x[block])
        for number, fit in enumerate(probes.path(penalties)):
            for f in range(count):
                if sizes[f] < 2:
                    continue
                log = probes.log_probabilities(fit, rotated, f)  # [n, classes seen]
                learnt = probes.classes[f]
                share = np.zeros(len(block))
                if len(learnt):
                    column = np.searchsorted(learnt, labels[f, block]).clip(0, len(learnt) - 1)
                    hit = learnt[column] == labels[f, block]
                    share = np.where(hit, np.exp(log[np.arange(len(block)), column]), 0.0)
                both = (seen[f] * share + _PRIOR_COUNT) / (seen[f] + _PRIOR_COUNT * sizes[f])
                result[f, layer * len(penalties) + number] = np.log(both)
    return result
