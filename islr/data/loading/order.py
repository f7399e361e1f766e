"""In which order a training run sees its clips, and how often those of each of its corpora.

Everything is a function of (seed, epoch), so there is no state to save, and nothing depends on processes or workers.
"""

from collections.abc import Sequence

import numpy as np

STREAM = 0x15A1  # keeps our generators apart from any other use of Philox with the same seed
_TURN = 2**32  # epochs are fewer: a clip's n-th turn in one epoch draws as if it were n times as many epochs later


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `length` clips used in `epoch`."""
    return np.random.Generator(np.random.Philox(key=[seed, STREAM + 1], counter=[0, 0, 0, epoch])).permutation(length)


def quotas(sizes: Sequence[int], balance: float) -> list[int]:
    """Clips that each corpus gives to an epoch, which is as long as all corpora together.

    Args:
        sizes: Clips of each corpus.
        balance: 0 = as many as it has, 1 = all alike; between, in proportion to size ** (1 - balance), the temperature
            sampling of multilingual training (arXiv 1907.05019 section 4.2).
    """
    weights = np.asarray(sizes, dtype=np.float64) ** (1 - balance)
    exact = weights / weights.sum() * sum(sizes)
    given = np.floor(exact + 1e-9).astype(int)
    for corpus in np.argsort(given - exact, kind="stable")[: sum(sizes) - given.sum()]:
        given[corpus] += 1
    return [int(quota) for quota in given]


class Mix:
    """Which clips each epoch holds, in order.

    A corpus is gone through again and again, each pass in an order of its own, and every epoch takes up where the last
    left it. So all clips of one corpus are seen equally often but for one pass, and none is seen twice in a pass.

    Args:
        corpora: The corpus that each row belongs to, numbered from 0.
        balance: As in `quotas`.
        seed: Of the run.
    """

    def __init__(self, corpora: Sequence[int], balance: float, seed: int) -> None:
        numbers = np.asarray(corpora)
        self.parts = [np.flatnonzero(numbers == corpus) for corpus in range(numbers.max(initial=-1) + 1)]
        self.quotas = quotas([len(part) for part in self.parts], balance)
        self.seed, self._plain = seed, balance == 0
        self._kept: tuple[int, np.ndarray] = (-1, np.empty((0, 2), dtype=np.int64))

    def keys(self, epoch: int) -> np.ndarray:
        """(pass through its corpus, row) of each clip of an epoch, int64 `[clips, 2]`; without balance pass = epoch."""
        if self._kept[0] != epoch:
            self._kept = (epoch, self._keys(epoch))
        return self._kept[1]

    def _keys(self, epoch: int) -> np.ndarray:
        length = sum(self.quotas)
        order = epoch_order(length, self.seed, epoch)
        if self._plain:
            return np.stack([np.full(length, epoch), order], axis=1)
        taken = []
        for corpus, (part, quota) in enumerate(zip(self.parts, self.quotas, strict=True)):
            places = epoch * quota + np.arange(quota)
            passes, inside = np.divmod(places, len(part))
            rows = np.empty(quota, dtype=np.int64)
            for number in np.unique(passes):
                now = passes == number
                rows[now] = part[self._pass_order(corpus, int(number))[inside[now]]]
            taken.append(np.stack([passes, rows], axis=1))
        return np.concatenate(taken)[order]

    def _pass_order(self, corpus: int, number: int) -> np.ndarray:
        philox = np.random.Philox(key=[self.seed, STREAM + 2], counter=[0, 0, corpus, number])
        return np.random.Generator(philox).permutation(len(self.parts[corpus]))


class Balanced:
    """Every class as often as any other; stands in place of `Mix`.

    Args:
        labels: int `[N]`, the class of every row.
        seed: Of the run.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        self.labels, self.seed = np.asarray(labels, np.int64), seed
        self._kept: tuple[int, np.ndarray] = (-1, np.empty((0, 2), dtype=np.int64))

    def keys(self, epoch: int) -> np.ndarray:
        """(pass, row) of each clip of an epoch, int64 `[clips, 2]`; no pass of a row comes twice in a run."""
        if self._kept[0] != epoch:
            rows, turns = balanced_order(self.labels, self.seed, epoch)
            self._kept = (epoch, np.stack([epoch + turns * _TURN, rows], axis=1))
        return self._kept[1]


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """As many draws as there are clips, from every class as often as from any other, give or take one.

    Classes come in rounds, each once in a round, in an order that is new in every round. A class goes through all its
    clips, in an order that is new in every epoch, before it begins again; of a class with more clips than rounds, an
    epoch leaves some out.

    Args:
        labels: int `[N]`, the class of every row.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        Rows `[N]`, and which turn it is for that row in this epoch, from 0.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, STREAM + 3], counter=[0, 0, 0, epoch]))
    present, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = rng.permutation(len(labels))
    grouped = shuffled[np.argsort(classes[shuffled], kind="stable")]  # class after class, each in a random order
    starts = np.cumsum(counts) - counts
    rounds = -(-len(labels) // len(present))
    drawn = np.concatenate([rng.permutation(len(present)) for _ in range(rounds)])[: len(labels)]
    turns, places = np.divmod(np.arange(len(labels)) // len(present), counts[drawn])
    return grouped[starts[drawn] + places], turns
