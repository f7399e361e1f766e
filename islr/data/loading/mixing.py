"""Several manifests joined into one mixed corpus."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.errors import UserError

logger = logging.getLogger(__name__)


def load_manifests(paths: Sequence[str]) -> Manifest:
    """Load one manifest, or join several into a mixed corpus, see `join_manifests`.

    Raises:
        UserError: A manifest cannot be read, two have the same name, or a name contains a slash.
    """
    return join_manifests([Manifest.load(path) for path in paths])


def join_manifests(parts: Sequence[Manifest]) -> Manifest:
    """Return the one manifest, or several joined into a mixed corpus.

    A mixed corpus keeps labels only when all its manifests name the same classes; clip ids get the manifest's name as a
    prefix.

    Raises:
        UserError: Two manifests have the same name, or a name contains a slash.
    """
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
    made = sum((Counter(part.notes.get("poses_made_by", {})) for part in parts), Counter[str]())
    if len(made) > 1:
        counts = ", ".join(f"{program} ({count} clips)" for program, count in made.most_common())
        logger.warning("the poses of %s were made by several programs: %s", " and ".join(names), counts)
    notes = {"poses_made_by": dict(made.most_common())} if made else {}
    return Manifest("+".join(names), tuple(clips), root, parts[0].classes if same else (), sources, notes)


def corpora_of(store: ClipStore) -> tuple[list[str], list[int]]:
    """Return the names of a store's corpora, and the index of each row's corpus."""
    if len(store.config.manifest) == 1:
        return [store.manifest.name], [0] * len(store)
    names = [clip.clip_id.partition("/")[0] for clip in store.manifest]  # as `load_manifests` writes them
    known = list(dict.fromkeys(names))
    return known, [known.index(name) for name in names]
