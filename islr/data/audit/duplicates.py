"""Duplicates: clips with the same pictures under two names, which must not link a selection set to a test set."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from islr.data.manifest import OK, Clip, Manifest
from islr.data.packs.format import is_packed
from islr.data.packs.reader import origin_of
from islr.errors import UserError
from islr.files import file_sha256

_MOST_NAMED = 10


def same_content(*manifests: Manifest) -> list[list[Clip]]:
    """Group present clips that show the same pictures: equal bytes, and time ranges that overlap.

    A packed clip counts as the file and range it was packed from.
    """
    by_size: dict[int, list[tuple[Path | str, Clip, Clip]]] = defaultdict(list)  # file or hash, in the file, as listed
    for manifest in manifests:
        for clip in manifest:
            path = manifest.path_of(clip)
            if clip.status == OK and is_packed(path):
                origin = origin_of(path)
                by_size[origin.bytes].append(
                    (origin.sha256, dataclasses.replace(clip, start=origin.start, end=origin.end), clip)
                )
            elif clip.status == OK and path.is_file():
                by_size[path.stat().st_size].append((path, clip, clip))
    groups: list[list[Clip]] = []
    for entries in by_size.values():
        if len(entries) < 2:
            continue
        files = {file for file, _, _ in entries}
        hashes = {file: _content(file) if len(files) > 1 else "" for file in files}
        by_hash: dict[str, list[tuple[Clip, Clip]]] = defaultdict(list)
        for file, inside, listed in entries:
            by_hash[hashes[file]].append((inside, listed))
        for pairs in by_hash.values():
            groups += _overlapping(pairs)
    return groups


def _content(file: Path | str) -> str:
    return file if isinstance(file, str) else file_sha256(file)


def shared_clips(selection: Manifest, test: Manifest) -> list[tuple[str, str]]:
    """Return pairs (clip id in selection, clip id in test) that are one clip or show the same pictures."""
    tested = {clip.clip_id for clip in test}
    pairs = [(clip.clip_id, clip.clip_id) for clip in selection if clip.clip_id in tested]
    mine, theirs = {clip.clip_id for clip in selection} - tested, tested
    for group in same_content(selection, test):
        names = [clip.clip_id for clip in group]
        pairs += itertools.product([n for n in names if n in mine], [n for n in names if n in theirs])
    return sorted(set(pairs))


def check_disjoint(selection: Manifest, test: Manifest) -> None:
    """Refuse a selection set that shares clips with the test set, by id or by pictures.

    Raises:
        UserError: It shares clips; the message names the pairs.
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
    """Return the selection set without the clips that it shares with the test set, and their ids."""
    dropped = {mine for mine, _ in shared_clips(selection, test)}
    return selection.replace(clip for clip in selection if clip.clip_id not in dropped), sorted(dropped)


def with_own_ids(manifest: Manifest) -> Manifest:
    """Return a corpus with its name in its clip ids, since equal ids in two corpora are a coincidence."""
    return manifest.replace(dataclasses.replace(clip, clip_id=f"{manifest.name}/{clip.clip_id}") for clip in manifest)


def _overlapping(pairs: Sequence[tuple[Clip, Clip]]) -> list[list[Clip]]:
    """Group clips of one file, given as (range in the file, row), by overlapping time ranges."""
    if len(pairs) < 2:
        return []
    ordered = sorted(pairs, key=lambda pair: (pair[0].start or 0.0, pair[0].clip_id))
    groups: list[list[Clip]] = []
    reach = -np.inf
    for inside, listed in ordered:
        if groups and (inside.start or 0.0) < reach:
            groups[-1].append(listed)
        else:
            groups.append([listed])
            reach = -np.inf
        reach = max(reach, inside.end if inside.end is not None else np.inf)
    return [group for group in groups if len(group) > 1]
