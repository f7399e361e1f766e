"""The shared data module: clips of a manifest, in a deterministic order, as batches of views.

There is no loader state to save. The order of an epoch is a function of (seed, epoch); the randomness of a
sample is a function of (seed, epoch, index, view) drawn from a counter-based generator. So the batches of step
s are the same whatever the number of workers, and after any number of interruptions.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from islr.config import Config
from islr.data.loading.loader import METHOD, Batch, Key, Sample, load
from islr.data.loading.order import STREAM, Balanced, Mix
from islr.data.manifest import Clip, Manifest
from islr.data.packs.reader import PackReader, check_short_side, clip_pose, is_packed
from islr.data.poses.pose import Pose
from islr.data.video.decode import DecodeError, decode, probe_video
from islr.data.views.transforms import View
from islr.errors import UserError
from islr.processes.pool import in_workers


class DataConfig(Config):
    """Where clips come from and how they are read."""

    manifest: tuple[str, ...] = Field(min_length=1, description="one manifest.csv, or several for a mixed corpus")
    balance: float = Field(
        0.0, ge=0, le=1, description="of several manifests in training: 0 = by their sizes, 1 = all equally often"
    )
    backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    workers: int = Field(0, ge=0, description="loader processes, one thread each; 0: none, and no deadline")
    deadline_s: float = Field(60.0, gt=0, description="seconds for one clip; then its loader process is killed")
    short_side: int | None = Field(None, ge=16, description="resize while reading; cached and fresh reads agree")
    cache: Literal["none", "memory"] = Field("none", description="memory: decode every clip once, at the start")
    max_bad: float = Field(0.01, ge=0, le=1, description="share of unreadable clips above which a run stops")

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_balance(self) -> "DataConfig":
        if self.balance and len(self.manifest) == 1:
            raise ValueError("balance is for several manifests, and one is given")
        return self


def load_manifests(paths: Sequence[str]) -> Manifest:
    """One manifest, or several joined into a mixed corpus.

    A joined corpus keeps labels only when all parts name the same classes; clip ids get the part's name in front.

    Raises:
        UserError: A manifest cannot be read, two parts have the same name, or one has a slash in it.
    """
    parts = [Manifest.load(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise UserError(f"manifests to be mixed need different names, these are {', '.join(names)}")
    if any("/" in name for name in names):
        raise UserError(f"manifests to be mixed need names without '/', these are {', '.join(names)}")
    root = Path(os.path.commonpath([part.root.resolve() for part in parts]))
    same = all(part.classes == parts[0].classes for part in parts)
    clips = []
    for part in parts:
        inside = part.root.resolve().relative_to(root)
        for clip in part:
            clips.append(
                replace(
                    clip,
                    clip_id=f"{part.name}/{clip.clip_id}",
                    path=(inside / clip.path).as_posix(),
                    pose=(inside / clip.pose).as_posix() if clip.pose else "",
                    label=clip.label if same else None,
                )
            )
    sources = {f"{part.name}/{name}": sha for part in parts for name, sha in part.sources.items()}
    return Manifest("+".join(names), tuple(clips), root, parts[0].classes if same else (), sources)


def sample_rng(seed: int, epoch: int, index: int, view: int = 0) -> np.random.Generator:
    """The generator of one sample in one epoch; streams of different arguments never overlap."""
    return np.random.Generator(np.random.Philox(key=[seed, STREAM], counter=[0, view, index, epoch]))


class StoredClip:
    """A clip of a store, as views read it (`ClipSource`)."""

    def __init__(self, store: "ClipStore", index: int) -> None:
        self._store, self._index = store, index
        self.clip: Clip = store.manifest.clips[index]
        self.fps = self.clip.fps or 25.0

    @property
    def length(self) -> int:
        return self._store.length(self._index)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self._store.read(self._index, indices)

    @property
    def has_pose(self) -> bool:
        return bool(self.clip.pose)

    def pose(self) -> Pose:
        return self._store.pose(self._index)


class ClipStore:
    """The readable clips of a manifest, in files or in packs, with an optional cache of decoded frames in memory.

    Raises:
        UserError: No clip is readable, or a pack is smaller than `short_side`.
    """

    def __init__(self, manifest: Manifest, config: DataConfig) -> None:
        self.manifest = manifest.select(status="ok")
        self.config = config
        self._frames: dict[int, np.ndarray] = {}
        self._poses: dict[int, Pose] = {}
        self._lengths: dict[int, int] = {}
        self._packs = PackReader(manifest.root)
        self.lost: dict[int, str] = {}  # row -> kind, the clips that cost a loader process
        if not len(self.manifest):
            raise UserError(f"manifest {manifest.name} has no readable clip ({len(manifest)} rows)")
        check_short_side(self.manifest, config.short_side)

    def __len__(self) -> int:
        return len(self.manifest)

    def source(self, index: int) -> StoredClip:
        """The clip in row `index` of `self.manifest`."""
        return StoredClip(self, index)

    def length(self, index: int) -> int:
        """Frames in the clip's range."""
        if index in self._frames:
            return len(self._frames[index])
        clip = self.manifest.clips[index]
        if clip.frames is not None and clip.start is None and clip.end is None:
            return clip.frames
        if index not in self._lengths:
            if is_packed(clip.path):
                self._lengths[index] = self._packs.length(self.manifest.path_of(clip), clip.clip_id)
            elif clip.start is None and clip.end is None:
                self._lengths[index] = probe_video(self.manifest.path_of(clip), root=self.manifest.root).frames
            else:
                self._lengths[index] = len(self._decode(index, None))
        return self._lengths[index]

    def read(self, index: int, indices: np.ndarray) -> np.ndarray:
        """See `ClipSource.read`."""
        if index in self._frames:
            return self._frames[index][indices]
        unique, places = np.unique(indices, return_inverse=True)
        return self._decode(index, unique)[places]

    def pose(self, index: int) -> Pose:
        """See `ClipSource.pose`."""
        if index not in self._poses:
            self._poses[index] = clip_pose(self.manifest, self.manifest.clips[index], self._packs)
        return self._poses[index]

    def _decode(self, index: int, indices: np.ndarray | None) -> np.ndarray:
        clip = self.manifest.clips[index]
        if is_packed(clip.path):
            return self._packs.frames(self.manifest.path_of(clip), clip.clip_id, indices, self.config.short_side)
        return decode(
            self.manifest.path_of(clip),
            indices,
            start=clip.start,
            end=clip.end,
            backend=self.config.backend,
            root=self.manifest.root,
            short_side=self.config.short_side,
        )

    def fill_cache(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every clip into memory when the config asks for it; unreadable ones fail again when they are used.

        Loader processes, where there are any, do it: a decoder that never returns costs one of them and its clip.
        """
        if self.config.cache != "memory":
            return
        workers = min(self.config.workers, len(self))
        rows = range(len(self))
        found: Iterable[tuple[int, np.ndarray | str | None]] = (
            in_workers(self._whole, rows, workers, seconds=self._seconds, lost=str, method=METHOD)
            if workers
            else ((row, self._whole(row)) for row in rows)
        )
        for done, (row, frames) in enumerate(found, start=1):
            if isinstance(frames, str):
                self.lost[row] = frames
            elif frames is not None:
                self._frames[row] = frames
            if progress is not None:
                progress(done, len(self))

    @property
    def cached_bytes(self) -> int:
        """Bytes of decoded frames that are kept in memory."""
        return sum(frames.nbytes for frames in self._frames.values())

    def _whole(self, index: int) -> np.ndarray | None:
        try:
            return self._decode(index, None)
        except DecodeError:
            return None

    def _seconds(self, _: int) -> float:
        return self.config.deadline_s


class _Views:
    """Maps (epoch, row) to the view's dict, or to the reason why there is none."""

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

    An epoch has as many clips as the corpora together; `data.balance` says how many of each. A step's global batch
    holds `batch_size` clips; it is cut into `world * accumulate` equal parts, so the clips of a step do not depend on
    the world size. The last incomplete batch of an epoch is dropped; the order differs in every epoch, so no clip is
    left out for good.

    Args:
        store: The clips.
        view: Makes a sample of a clip.
        batch_size: Clips per optimiser step, over all ranks.
        seed: Seed of the run.
        accumulate: Parts a rank's share of the step is cut into.
        rank, world: This process and the number of processes.
        balanced: Draw from all classes alike (`order.Balanced`), instead of every clip once an epoch.

    Raises:
        UserError: More clips in a batch than in the corpus, or a batch that cannot be cut evenly.
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
    ) -> None:
        if batch_size > len(store):
            raise UserError(
                f"optim.batch_size is {batch_size} and the training clips are {len(store)}; use a smaller batch"
            )
        if batch_size % (world * accumulate):
            raise UserError(
                f"optim.batch_size {batch_size} is not a multiple of {world} processes x optim.accumulate {accumulate}"
            )
        self.store, self.view, self.batch_size, self.seed = store, view, batch_size, seed
        self.corpora, numbers = _corpora(store)
        if balanced and store.config.balance:
            raise UserError(
                "data.balance mixes corpora and class_balance: sampling mixes classes; a run has one of them"
            )
        labels = [-1 if clip.label is None else clip.label for clip in store.manifest]
        self.order = Balanced(labels, seed) if balanced else Mix(numbers, store.config.balance, seed)
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.steps_per_epoch = len(store) // batch_size

    def rows(self, step: int, part: int) -> list[tuple[int, int]]:
        """(pass, row) of the clips of one part of one step, for this rank; `order.Mix` says what a pass is."""
        epoch, place = divmod(step, self.steps_per_epoch)
        batch = self.order.keys(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        size = self.batch_size // (self.world * self.accumulate)
        start = (part * self.world + self.rank) * size
        return [(int(number), int(row)) for number, row in batch[start : start + size]]

    def mix_words(self) -> str:
        """How many clips of an epoch come from each corpus; "" for one corpus."""
        if len(self.corpora) < 2 or not isinstance(self.order, Mix):
            return ""
        parts = zip(self.corpora, self.order.quotas, self.order.parts, strict=True)
        return "an epoch holds " + ", ".join(f"{quota} clips of {name} ({len(own)})" for name, quota, own in parts)

    def iterate(self, first_step: int, last_step: int) -> Iterator[list[Batch]]:
        """For each step in `[first_step, last_step)`, its `accumulate` batches."""
        plan = [self.rows(step, part) for step in range(first_step, last_step) for part in range(self.accumulate)]
        batches = _loader(self.store, self.view, self.seed, plan)
        for _ in range(first_step, last_step):
            yield [next(batches) for _ in range(self.accumulate)]

    def fixed(self, clips: int) -> Iterator[Batch]:
        """One batch of the first `clips` rows with the training view, always the same."""
        plan = [[(0, row) for row in range(min(clips, len(self.store)))]]
        yield from _loader(self.store, self.view, self.seed, plan)


def _corpora(store: ClipStore) -> tuple[list[str], list[int]]:
    """Names of the corpora that a store's clips come from, and the number of each row's."""
    if len(store.config.manifest) == 1:
        return [store.manifest.name], [0] * len(store)
    names = [clip.clip_id.partition("/")[0] for clip in store.manifest]  # as `load_manifests` writes them
    known = list(dict.fromkeys(names))
    return known, [known.index(name) for name in names]


def eval_batches(store: ClipStore, view: View, *, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Every clip of the store exactly once over all ranks, in manifest order within a rank.

    Whole batches are dealt out: a batch is the same whatever the number of ranks, and so is what a model says of it.
    """
    rows = [(0, row) for row in range(len(store))]
    plan = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    yield from _loader(store, view, 0, plan[rank::world])


def _loader(store: ClipStore, view: View, seed: int, plan: list[list[Key]]) -> Iterator[Batch]:
    config = store.config
    return load(_Views(store, view, seed), plan, workers=config.workers, deadline_s=config.deadline_s)
