"""Late fusion of probabilities: how tables of several models are pooled, and the choice of their weights."""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from islr.errors import UserError

Pooling = Literal["probabilities", "logits"]


_LEAST = 1e-12  # a probability below counts as this, so that one stream cannot forbid a class


_STEPS = {2: 20, 3: 20}  # the weights of a search are multiples of one over this; of more runs, over _COARSE


_COARSE = 10


_MOST_SEARCHED = 5  # runs; 1001 combinations


def pool_scores(tables: Sequence[NDArray[np.float64]], weights: Sequence[float], pool: Pooling) -> NDArray[np.float64]:
    """Return fused probabilities `[N, K]` of several tables `[N, K]` of probabilities over the same clips and classes.

    `probabilities` is the weighted mean; `logits` the softmax of the weighted mean of log-probabilities, which is
    that of the logits themselves for single views (softmax does not see what is added to all classes).
    Weights are scaled to sum to one.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    if pool == "probabilities":
        return np.asarray(sum(share * table for share, table in zip(shares, tables, strict=True)))
    logs = sum(share * np.log(np.maximum(table, _LEAST)) for share, table in zip(shares, tables, strict=True))
    powers = np.exp(logs - np.max(logs, axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def choose_weights(
    tables: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], pool: Pooling
) -> tuple[float, ...]:
    """Return the weights of highest top-1 on held-out clips; ties go to the lower loss, as for the choice of an epoch.

    All multiples of 1/20 that sum to one are tried (1/10 for four or five runs); zero is among them.

    Raises:
        UserError: More runs than can be searched.
    """
    count = len(tables)
    if count > _MOST_SEARCHED:
        raise UserError(f"weights can be chosen for at most {_MOST_SEARCHED} runs: give numbers, or use 'equal'")
    steps = _STEPS.get(count, _COARSE)
    rows = np.arange(len(labels))
    best: tuple[float, float] | None = None
    chosen: tuple[float, ...] = ()
    for parts in product(range(steps + 1), repeat=count):
        if sum(parts) != steps:
            continue
        weights = tuple(part / steps for part in parts)
        fused = pool_scores(tables, weights, pool)
        true = fused[rows, labels]
        # As for predictions, a tie counts against the model.
        right = ((fused >= true[:, None]).sum(axis=1) == 1).mean()
        score = (float(right), float(np.log(np.maximum(true, _LEAST)).mean()))
        if best is None or score > best:
            best, chosen = score, weights
    return chosen


def parse_weights(text: str, count: int) -> tuple[float, ...]:
    """Parse weights and scale them to sum to one: `2,1` -> (2/3, 1/3).

    Raises:
        UserError: Not one number for each run, one is negative, or all are zero.
    """
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"weights '{text}' are not 'equal', 'val' or numbers with commas such as 2,1") from None
    if len(weights) != count:
        raise UserError(f"{len(weights)} weights for {count} runs; give one for each, such as 2,1")
    if not np.isfinite(weights).all() or min(weights) < 0 or sum(weights) == 0:
        raise UserError(f"weights '{text}' must not be negative, and not all zero")
    return tuple(weight / sum(weights) for weight in weights)
