"""Clips that are the same pictures under two names; no such pair may join a selection set to a test set."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from islr.data.manifest import OK, Clip, Manifest
from islr.errors import UserError
from islr.files import file_sha256

_MOST_NAMED = 10


def same_content(*manifests: Manifest) -> list[list[Clip]]:
    """Groups of present clips that show the very same pictures: equal bytes, and time ranges that overlap."""
    by_size: dict[int, list[tuple[Manifest, Clip]]] = defaultdict(list)
    for manifest in manifests:
        for clip in manifest:
            if clip.status == OK and manifest.path_of(clip).is_file():
                by_size[manifest.path_of(clip).stat().st_size].append((manifest, clip))
    groups: list[list[Clip]] = []
    for pairs in by_size.values():
        files = {manifest.path_of(clip) for manifest, clip in pairs}
        if len(pairs) < 2:
            continue
        hashes = {path: file_sha256(path) if len(files) > 1 else "" for path in files}
        by_hash: dict[str, list[Clip]] = defaultdict(list)
        for manifest, clip in pairs:
            by_hash[hashes[manifest.path_of(clip)]].append(clip)
        for clips in by_hash.values():
            groups += _overlapping(clips)
    return groups


def shared_clips(selection: Manifest, test: Manifest) -> list[tuple[str, str]]:
    """Pairs (clip id in selection, clip id in test) that are one clip or the same pictures."""
    tested = {clip.clip_id for clip in test}
    pairs = [(clip.clip_id, clip.clip_id) for clip in selection if clip.clip_id in tested]
    mine, theirs = {clip.clip_id for clip in selection} - tested, tested
    for group in same_content(selection, test):
        names = [clip.clip_id for clip in group]
        pairs += itertools.product([n for n in names if n in mine], [n for n in names if n in theirs])
    return sorted(set(pairs))


def check_disjoint(selection: Manifest, test: Manifest) -> None:
    """Refuse a selection set that has a clip of the test set, by its id or by its pictures.

    Raises:
        UserError: It does; the message names the pairs.
    """
    pairs = shared_clips(selection, test)
    if pairs:
        shown = ", ".join(f"{a} = {b}" for a, b in pairs[:_MOST_NAMED])
        more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
        raise UserError(
            f"selection and test share {len(pairs)} clips ({shown}{more}); leave them out of the selection with "
            "shared_with_test=drop, or select on other clips"
        )


def without_shared(selection: Manifest, test: Manifest) -> tuple[Manifest, list[str]]:
    """The selection set without the clips that the test set also has, and their ids."""
    dropped = {mine for mine, _ in shared_clips(selection, test)}
    return selection.replace(clip for clip in selection if clip.clip_id not in dropped), sorted(dropped)


def _overlapping(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Clips of one file, cut into groups whose time ranges overlap."""
    if len(clips) < 2:
        return []
    ordered = sorted(clips, key=lambda clip: (clip.start or 0.0, clip.clip_id))
    groups = [[ordered[0]]]
    reach = ordered[0].end if ordered[0].end is not None else np.inf
    for clip in ordered[1:]:
        if (clip.start or 0.0) < reach:
            groups[-1].append(clip)
        else:
            groups.append([clip])
            reach = -np.inf
        reach = max(reach, clip.end if clip.end is not None else np.inf)
    return [group for group in groups if len(group) > 1]
