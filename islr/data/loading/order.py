"""The order of clips in each epoch, and how often each corpus or class occurs in it.

The order is a function of (seed, epoch): there is no sampler state to save, and the number of processes or workers does
not matter.
"""

from collections.abc import Sequence

import numpy as np

STREAM = 0x15A1  # keeps our generators apart from any other use of Philox with the same seed
_TURN = 2**32  # more than any run has epochs: a clip's repeats within an epoch get passes that no other epoch has


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation of `length` clips used in `epoch`."""
    return np.random.Generator(np.random.Philox(key=[seed, STREAM + 1], counter=[0, 0, 0, epoch])).permutation(length)


def quotas(sizes: Sequence[int], balance: float) -> list[int]:
    """Return the clips that each corpus gives to an epoch, which is as long as all corpora together.

    Args:
        sizes: Clips of each corpus.
        balance: 0 = in proportion to corpus size, 1 = equal shares; between, in proportion to size ** (1 - balance),
            the temperature sampling of multilingual training (arXiv 1907.05019 section 4.2).
    """
    weights = np.asarray(sizes, dtype=np.float64) ** (1 - balance)
    exact = weights / weights.sum() * sum(sizes)
    given = np.floor(exact + 1e-9).astype(int)
    for corpus in np.argsort(given - exact, kind="stable")[: sum(sizes) - given.sum()]:
        given[corpus] += 1
    return [int(quota) for quota in given]


class Mix:
    """The clips of each epoch, in order, sampled from the corpora by their quotas.

    Each corpus is traversed pass after pass, every pass in its own random order, and an epoch continues where the last
    one stopped. So the clips of a corpus differ by at most one in how often they have occurred.

    Args:
        corpora: The corpus that each row belongs to, numbered from 0.
        balance: As in `quotas`.
        seed: Of the run.
        times: How often an epoch takes each row, for clips of several windows; default once.
    """

    def __init__(self, corpora: Sequence[int], balance: float, seed: int, times: Sequence[int] | None = None) -> None:
        counts = np.ones(len(corpora), np.int64) if times is None else np.asarray(times, np.int64)
        self._rows = np.repeat(np.arange(len(corpora)), counts)  # sample -> row
        self._turns = np.arange(len(self._rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = np.asarray(corpora)[self._rows]
        self.parts = [np.flatnonzero(numbers == corpus) for corpus in range(numbers.max(initial=-1) + 1)]
        self.quotas = quotas([len(part) for part in self.parts], balance)
        self.seed, self._plain = seed, balance == 0
        self._cached: tuple[int, np.ndarray] = (-1, np.empty((0, 2), dtype=np.int64))

    def keys(self, epoch: int) -> np.ndarray:
        """Return (pass through its corpus, row) of each clip, int64 `[clips, 2]`; without balance pass = epoch.

        A row never has the same pass twice.
        """
        if self._cached[0] != epoch:
            passes, samples = self._keys(epoch).T
            keys = np.stack([passes + self._turns[samples] * _TURN, self._rows[samples]], axis=1)
            self._cached = (epoch, keys)
        return self._cached[1]

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
    """Class-balanced sampling: every class as often as any other, in place of `Mix`.

    Args:
        labels: int `[N]`, the class of every row.
        seed: Of the run.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        self.labels, self.seed = np.asarray(labels, np.int64), seed
        self._cached: tuple[int, np.ndarray] = (-1, np.empty((0, 2), dtype=np.int64))

    def keys(self, epoch: int) -> np.ndarray:
        """Return (pass, row) of each clip of an epoch, int64 `[clips, 2]`; a row never has the same pass twice."""
        if self._cached[0] != epoch:
            rows, turns = balanced_order(self.labels, self.seed, epoch)
            self._cached = (epoch, np.stack([epoch + turns * _TURN, rows], axis=1))
        return self._cached[1]


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many clips as there are, from every class equally often (to within one).

    Every round draws each class once, in a new random order. A class uses all its clips, in an order that is new in
    every epoch, before it repeats one; of a class with more clips than rounds, an epoch leaves some out.

    Args:
        labels: int `[N]`, the class of every row.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        Rows `[N]`, and how often each row has been drawn before in this epoch, `[N]`.
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
