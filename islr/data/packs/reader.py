"""Frames and poses of packed clips, and what a manifest's packs say about their making."""

import contextlib
import importlib.metadata
import os
import zlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from islr.data.manifest import OK, Clip, Manifest
from islr.data.packs.format import SHARD_MAGIC, Origin, Record, index_of, is_packed, locate, read_about, read_index
from islr.data.poses.matching import pose_of_clip
from islr.data.poses.pose import MAX_POSE_BYTES, POINTS, Pose, read_pose
from islr.data.video.backends import BACKEND_PACKAGES
from islr.data.video.decode import shrink
from islr.data.video.guard import MAX_FRAME_PIXELS, DecodeError, check_output, check_path
from islr.errors import UserError

_NUMBERS_PER_POINT = 4  # x, y, depth and confidence
_OPEN_SHARDS = 32  # file handles kept per process


class PackReader:
    """A reader of packed clips below a data root; a few shards stay open, and a pickled copy opens its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._shards: OrderedDict[Path, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_shards": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._shards.values():
            os.close(descriptor)

    def length(self, path: Path, clip_id: str) -> int:
        """Return the number of frames of a clip.

        Raises:
            DecodeError: The clip cannot be read.
        """
        return len(self._record(path, clip_id).table)

    def frames(
        self, path: Path, clip_id: str, indices: np.ndarray | None = None, short_side: int | None = None
    ) -> np.ndarray:
        """Read frames of a clip: those of `islr.data.video.decode.decode`, but for the loss of JPEG.

        Args:
            path: The clip, as `Manifest.path_of` gives it.
            clip_id: The clip's id, which the record must carry.
            indices: Frame numbers, in any order, with repeats; None = all.
            short_side: Shrink frames to this shorter side, in pixels.

        Returns:
            uint8 `[n, H, W, 3]`, RGB, upright.

        Raises:
            DecodeError: The clip, or one of these frames, cannot be read.
        """
        record = self._record(path, clip_id)
        count = len(record.table)
        requested = np.arange(count) if indices is None else np.asarray(indices, dtype=np.int64)
        if len(requested) == 0:
            raise DecodeError("index", path, "no frame is requested")
        outside = requested[(requested < 0) | (requested >= count)]
        if len(outside):
            raise DecodeError("index", path, f"frame {outside[0]} of {count}")
        width, height = record.facts["width"], record.facts["height"]
        if width * height > MAX_FRAME_PIXELS:
            raise DecodeError("too large", path, f"{width}x{height} pixels")
        frames = np.empty(0, np.uint8)
        done: dict[int, int] = {}
        for place, index in enumerate(requested.tolist()):
            if index in done:
                frames[place] = frames[done[index]]
                continue
            picture = cv2.imdecode(np.frombuffer(record.picture(index), np.uint8), cv2.IMREAD_COLOR)
            if picture is None or picture.shape != (height, width, 3):
                raise DecodeError("damaged", path, f"frame {index} of clip {clip_id} is not the picture it should be")
            picture = shrink(picture, short_side)
            if not done:
                check_output(path, len(requested) * picture.nbytes)
                frames = np.empty((len(requested), *picture.shape), np.uint8)
            # Convert into the output, so that no second copy of the clip is made.
            cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=frames[place])
            done[index] = place
        return frames

    def pose(self, path: Path, clip_id: str) -> Pose:
        """Read the clip's keypoints over the clip's range, exactly as they were packed.

        Raises:
            DecodeError: The clip has no pose, or it cannot be read.
        """
        record = self._record(path, clip_id)
        block, facts = record.pose_block(), record.facts["pose"]
        expected = facts["frames"] * POINTS * _NUMBERS_PER_POINT * 4
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(block, min(expected, MAX_POSE_BYTES) + 1)
        except zlib.error as error:
            raise DecodeError("damaged", path, f"the pose of clip {clip_id} does not inflate ({error})") from error
        if len(content) != expected:
            raise DecodeError("damaged", path, f"the pose of clip {clip_id} is not of {facts['frames']} frames")
        values = np.frombuffer(content, "<f4").astype(np.float32)
        keypoints, confidences = np.split(values, [facts["frames"] * POINTS * 3])
        shape = (facts["frames"], POINTS)
        return Pose(
            keypoints.reshape(*shape, 3), confidences.reshape(shape), facts["fps"], facts["width"], facts["height"]
        )

    def _record(self, path: Path, clip_id: str) -> Record:
        shard, offset, length = locate(path)
        record = Record(self._descriptor(shard), offset, length, f"{path} (clip {clip_id})")
        # In a mixed corpus the corpus's name precedes the id.
        if clip_id != record.facts["id"] and not clip_id.endswith("/" + record.facts["id"]):
            raise DecodeError("damaged", path, f"clip {record.facts['id']} lies there, not {clip_id}")
        return record

    def _descriptor(self, shard: Path) -> int:
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        descriptor = os.open(check_path(shard, self._root), os.O_RDONLY)
        if os.pread(descriptor, len(SHARD_MAGIC), 0) != SHARD_MAGIC:
            os.close(descriptor)
            raise DecodeError("damaged", shard, "not a shard of a pack")
        self._shards[shard] = descriptor
        if len(self._shards) > _OPEN_SHARDS:
            os.close(self._shards.popitem(last=False)[1])
        return descriptor


def clip_pose(manifest: Manifest, clip: Clip, packs: PackReader | None = None) -> Pose:
    """Read a clip's keypoints over its range, from a file or a pack.

    Raises:
        DecodeError: The clip has no pose, or it cannot be read.
    """
    path = manifest.pose_of(clip)
    if path is None:
        raise DecodeError("pose", clip.clip_id, "it has no pose file")
    if is_packed(path):
        return (packs or PackReader(manifest.root)).pose(path, clip.clip_id)
    try:
        pose = read_pose(check_path(path, manifest.root))
    except (OSError, ValueError) as error:
        raise DecodeError("pose", str(path), str(error)) from error
    pose = pose_of_clip(pose, clip)
    if not len(pose):
        raise DecodeError("pose", str(path), "it has no frame in the clip's range")
    return pose


def _packs_of(manifest: Manifest) -> tuple[list[dict[str, Any]], bool]:
    """Return the descriptions of a manifest's packs, and whether some of its clips are loose files."""
    paths = [clip.path for clip in manifest if clip.status == OK]
    shards = {path.partition("#")[0] for path in paths if is_packed(path)}
    folders = sorted({(manifest.root / shard).parent for shard in shards})
    return [read_about(folder) for folder in folders], not all(map(is_packed, paths))


def check_short_side(manifest: Manifest, short_side: int | None) -> None:
    """Refuse frames that are larger than those packed.

    Raises:
        UserError: `short_side` exceeds that of a pack.
    """
    for about in _packs_of(manifest)[0]:
        if short_side is not None and short_side > about["short_side"]:
            raise UserError(
                f"data.short_side is {short_side} and {manifest.name} was packed at {about['short_side']};"
                " lower it, or pack the originals again with --short-side"
            )


def decoder_name(manifest: Manifest, backend: str) -> str:
    """Return the decoder of a manifest's clips with its version, and how packed clips were encoded."""
    abouts, loose = _packs_of(manifest)
    names = [
        f"{about['decoder']}, packed at {about['short_side']} px as {about['codec']} {about['quality']}"
        for about in abouts
    ]
    if loose or not names:
        names.append(f"{backend} {backend_version(backend)}".strip())
    return "; ".join(sorted(set(names)))


def backend_version(backend: str) -> str:
    """Return the version of the package behind a decoding backend; "" if it is not installed."""
    for package in BACKEND_PACKAGES[backend]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return ""


@lru_cache(maxsize=256)
def _origins(shard: Path) -> dict[int, Origin]:
    return {
        entry["offset"]: Origin(**entry["facts"]["origin"])
        for entry in read_index(shard)["records"]
        if "origin" in entry["facts"]
    }


def origin_of(path: Path) -> Origin:
    """Return the original of a packed clip.

    Raises:
        UserError: The shard's index is absent, cannot be read, or does not know the clip.
    """
    shard, offset, _ = locate(path)
    try:
        return _origins(shard)[offset]
    except KeyError:
        raise UserError(f"{index_of(shard)}: no clip at byte {offset}; the manifest is of another pack") from None
