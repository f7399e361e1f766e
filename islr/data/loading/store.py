"""The readable clips of a manifest as a store of frames and poses, with an optional cache in memory."""

from collections.abc import Callable, Iterable

import numpy as np

from islr.data.loading.config import DataConfig
from islr.data.loading.loader import METHOD
from islr.data.manifest import Clip, Manifest
from islr.data.packs.format import is_packed
from islr.data.packs.reader import PackReader, check_short_side, clip_pose
from islr.data.poses.pose import Pose
from islr.data.video.decode import DecodeError, decode, probe_video
from islr.errors import UserError
from islr.processes.pool import in_workers


class StoredClip:
    """One clip of a store, in the form that views read (`ClipSource`)."""

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
        self.lost: dict[int, str] = {}  # row -> kind of error of the clips that cost a worker
        if not len(self.manifest):
            raise UserError(f"manifest {manifest.name} has no readable clip ({len(manifest)} rows)")
        check_short_side(self.manifest, config.short_side)

    def __len__(self) -> int:
        return len(self.manifest)

    def source(self, index: int) -> StoredClip:
        """Return the clip in row `index` of `self.manifest`."""
        return StoredClip(self, index)

    def length(self, index: int) -> int:
        """Return the number of frames in the clip's range."""
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
        """Decode every clip into memory if `cache: memory`; an unreadable clip fails again when it is used.

        With `workers`, a decoder that hangs costs one worker process and its clip.
        """
        if self.config.cache != "memory":
            return
        workers = min(self.config.workers, len(self))
        rows = range(len(self))
        results: Iterable[tuple[int, np.ndarray | str | None]] = (
            in_workers(self._whole, rows, workers, seconds=self._seconds, lost=str, method=METHOD)
            if workers
            else ((row, self._whole(row)) for row in rows)
        )
        for done, (row, frames) in enumerate(results, start=1):
            if isinstance(frames, str):
                self.lost[row] = frames
            elif frames is not None:
                self._frames[row] = frames
            if progress is not None:
                progress(done, len(self))

    @property
    def cached_bytes(self) -> int:
        """Bytes of the decoded frames in memory."""
        return sum(frames.nbytes for frames in self._frames.values())

    def _whole(self, index: int) -> np.ndarray | None:
        try:
            return self._decode(index, None)
        except DecodeError:
            return None

    def _seconds(self, _: int) -> float:
        return self.config.deadline_s
