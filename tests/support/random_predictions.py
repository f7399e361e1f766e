"""Predictions of a given skill, drawn at random."""

import numpy as np

from islr.evaluation.predictions import Predictions, rank_scores
from islr.evaluation.results import Result


def predictions(n: int = 60, k: int = 8, seed: int = 0, skill: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, k, n)
    scores = rng.random((n, k))
    scores[np.arange(n), labels] += skill * rng.random(n)
    scores /= scores.sum(axis=1, keepdims=True)
    names = [f"sign {chr(97 + i)}" for i in range(k)]
    ids = [f"clip{i:03d}" for i in range(n)]
    return rank_scores(scores, labels, names, ids, [f"s{i % 3}" for i in range(n)], [f"src{i % 2}" for i in range(n)])


def by_key(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(r.metric, "".join(r.group.values())): r for r in results}
