"""Training and evaluation batches of a store's clips.

There is no loader state to save. The order of an epoch is a function of (seed, epoch); the randomness of a sample is a
function of (seed, epoch, row, view), drawn from a counter-based generator. So the batches of a step are the same
whatever the number of workers, and after any number of interruptions."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from islr.data.loading.loader import Batch, Key, Sample, load
from islr.data.loading.mixing import corpora_of
from islr.data.loading.order import STREAM, Balanced, Mix
from islr.data.loading.store import ClipStore
from islr.data.video.decode import DecodeError
from islr.data.views.views import View
from islr.errors import UserError


def sample_rng(seed: int, epoch: int, index: int, view: int = 0) -> np.random.Generator:
    """Return the generator of one sample in one epoch; streams of different arguments never overlap."""
    return np.random.Generator(np.random.Philox(key=[seed, STREAM], counter=[0, view, index, epoch]))


def check_cut(batch_size: int, world: int, accumulate: int) -> None:
    """Refuse a batch that cannot be cut into equal parts for ranks and micro-batches.

    Raises:
        UserError: Names the three numbers.
    """
    if batch_size % (world * accumulate):
        raise UserError(
            f"optim.batch_size {batch_size} is not a multiple of {world} processes x optim.accumulate {accumulate}"
        )


class _Views:
    """A function from (epoch, row) to the view's dict, or to the reason why there is none."""

    def __init__(self, store: ClipStore, view: View, seed: int) -> None:
        self.store, self.view, self.seed = store, view, seed
        self.lost = store.lost

    def __call__(self, key: Key) -> Sample:
        epoch, index = key
        source = self.store.source(index)
        try:
            sample = self.view(source, sample_rng(self.seed, epoch, index))
        except DecodeError as error:
            return self.failure(key, error.kind)
        label = source.clip.label
        return {**sample, "index": index, "label": -1 if label is None else label}

    def failure(self, key: Key, kind: str) -> Sample:
        return {"failed": (key[1], f"{kind}: {self.store.manifest.clips[key[1]].path}")}


class TrainBatches:
    """The batches of a training run from any step on, for one rank.

    An epoch is as long as all corpora together; `data.balance` sets the share of each. A step's global batch holds
    `batch_size` clips and is cut into `world * accumulate` equal parts, so the clips of a step do not depend on the
    world size. The last incomplete batch of an epoch is dropped; every epoch has another order, so no clip is always
    the one that is dropped.

    Args:
        store: The clips.
        view: Makes a sample from a clip.
        batch_size: Clips per optimiser step, over all ranks.
        seed: Seed of the run.
        accumulate: Micro-batches of a rank per step.
        rank, world: This process and the number of processes.
        balanced: Class-balanced sampling (`order.Balanced`) instead of every clip once an epoch.
        times: How often an epoch takes each row of the store, for clips of several windows; default once.

    Raises:
        UserError: The batch is larger than the corpus, or cannot be cut evenly.
    """

    def __init__(
        self,
        store: ClipStore,
        view: View,
        *,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        balanced: bool = False,
        times: Sequence[int] | None = None,
    ) -> None:
        if batch_size > len(store):
            raise UserError(
                f"optim.batch_size is {batch_size} and the training clips are {len(store)}; use a smaller batch"
            )
        check_cut(batch_size, world, accumulate)
        self.store, self.view, self.batch_size, self.seed = store, view, batch_size, seed
        self.corpora, numbers = corpora_of(store)
        if balanced and store.config.balance:
            raise UserError(
                "data.balance mixes corpora and class_balance: sampling mixes classes; a run has one of them"
            )
        labels = [-1 if clip.label is None else clip.label for clip in store.manifest]
        self.order = Balanced(labels, seed) if balanced else Mix(numbers, store.config.balance, seed, times)
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.steps_per_epoch = (len(store) if times is None else sum(times)) // batch_size
        self.part_size = batch_size // (world * accumulate)

    def rows(self, step: int, part: int) -> list[tuple[int, int]]:
        """Return (pass, row) of the clips of one micro-batch of this rank; `order.Mix` defines a pass."""
        epoch, place = divmod(step, self.steps_per_epoch)
        batch = self.order.keys(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        size = self.part_size
        start = (part * self.world + self.rank) * size
        return [(int(number), int(row)) for number, row in batch[start : start + size]]

    def corpus_shares(self) -> str:
        """Describe how many clips of an epoch come from each corpus; "" for one corpus."""
        if len(self.corpora) < 2 or not isinstance(self.order, Mix):
            return ""
        parts = zip(self.corpora, self.order.quotas, self.order.parts, strict=True)
        return "an epoch holds " + ", ".join(f"{quota} clips of {name} ({len(own)})" for name, quota, own in parts)

    def iterate(self, first_step: int, last_step: int) -> Iterator[list[Batch]]:
        """Yield the `accumulate` micro-batches of each step in `[first_step, last_step)`."""
        parts = self.accumulate
        plan = Plan(parts * (last_step - first_step), lambda n: self.rows(first_step + n // parts, n % parts))
        batches = _loader(self.store, self.view, self.seed, plan)
        for _ in range(first_step, last_step):
            yield [next(batches) for _ in range(self.accumulate)]

    def fixed(self, clips: int, without: Collection[int] = ()) -> Iterator[Batch]:
        """Yield one batch of the first `clips` rows but some, with the training view, always the same."""
        rows = (row for row in range(len(self.store)) if row not in without)
        yield from _loader(self.store, self.view, self.seed, [[(0, row) for row in islice(rows, clips)]])


def eval_batches(store: ClipStore, view: View, *, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Yield every clip of the store exactly once over all ranks, in manifest order within a rank.

    Ranks share out whole batches, so neither a batch nor the model's outputs for it depend on the number of ranks.
    """
    rows = [(0, row) for row in range(len(store))]
    plan = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    yield from _loader(store, view, 0, plan[rank::world])


class Plan(Sequence[list[Key]]):
    """The keys of each batch of a run, worked out when they are asked for: all epochs at once are gigabytes.

    Args:
        length: Number of batches.
        keys: The keys of a batch, by its number.
    """

    def __init__(self, length: int, keys: Callable[[int], list[Key]]) -> None:
        self._length, self._keys = length, keys

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self._length:
            raise IndexError(number)
        return self._keys(number)


def _loader(store: ClipStore, view: View, seed: int, plan: Sequence[Sequence[Key]]) -> Iterator[Batch]:
    config = store.config
    return load(_Views(store, view, seed), plan, workers=config.workers, deadline_s=config.deadline_s)
