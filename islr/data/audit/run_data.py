"""The clips and labels that a run is bound to: noted when it begins, compared whenever it goes on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from islr.config import Config
from islr.data.manifest import Clip, Manifest
from islr.data.packs.format import is_packed
from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import read_json

DATA = "data.json"  # in the run folder
_MOST_NAMED = 3


class BoundClips(Config):
    """The clips that a run uses in one way: to train, to choose its epoch, to score.

    Attributes:
        corpus: Name of the manifest.
        classes: Names of the classes, in order; none where labels are not used.
        clips: Clip id -> its label (-1 = none) and a hash of its range, measurements and file size.
    """

    corpus: str
    classes: tuple[str, ...]
    clips: dict[str, tuple[int, str]]


def describe_clips(manifest: Manifest, labels: bool) -> BoundClips:
    """Return the description of a manifest's clips; `labels` = they matter to the run."""
    return BoundClips(
        corpus=manifest.name,
        classes=manifest.classes if labels else (),
        clips={
            clip.clip_id: (clip.label if labels and clip.label is not None else -1, _digest(manifest, clip))
            for clip in manifest
        },
    )


def _digest(manifest: Manifest, clip: Clip) -> str:
    facts: list[object] = [clip.start, clip.end, clip.box, clip.frames, clip.fps, clip.width, clip.height]
    facts += [_extent(clip.path, manifest.path_of(clip)), _extent(clip.pose, manifest.pose_of(clip))]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _extent(name: str, path: Path | None) -> int | str:
    """Return the bytes of a file, or where a packed clip lies in its shard; -1 = no such file."""
    if path is None or not name or is_packed(name):
        return name.rpartition("#")[2]
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def bind_data(folder: Path, uses: Mapping[str, BoundClips], begun: bool) -> str:
    """Bind a run to its clips and labels, at its first launch, or compare them with those that it is bound to.

    Args:
        folder: The run folder.
        uses: What they are used for ("train") -> clips.
        begun: Whether the folder holds a checkpoint or a result.

    Returns:
        The hash of the clips and labels, for the run's checkpoints.

    Raises:
        UserError: The run has begun with other clips or labels; the message says what changed.
    """
    text = json.dumps({use: clips.model_dump(mode="json") for use, clips in uses.items()}, ensure_ascii=False)
    path = folder / DATA
    if begun and path.exists():
        before: dict[str, BoundClips] = read_json(dict[str, BoundClips], path)
        changes = [change for use in uses for change in _changes(use, before.get(use), uses[use])]
        if changes:
            raise UserError(
                f"the run in {folder} was begun with other data: {'; '.join(changes)}; restore the manifest, or choose "
                "another run folder"
            )
    elif not begun:
        write_atomic(path, text + "\n")
    return hashlib.sha256(text.encode()).hexdigest()


def _changes(use: str, before: BoundClips | None, now: BoundClips) -> list[str]:
    """Describe how the clips of one use differ."""
    if before is None:
        return [f"no clips to {use}"]
    old, new = before.clips, now.clips
    both = [clip_id for clip_id in new if clip_id in old]
    found = [
        _named("gone", [clip_id for clip_id in old if clip_id not in new]),
        _named("new", [clip_id for clip_id in new if clip_id not in old]),
        _named("with another label", [clip_id for clip_id in both if old[clip_id][0] != new[clip_id][0]]),
        _named("with another file or range", [clip_id for clip_id in both if old[clip_id][1] != new[clip_id][1]]),
    ]
    if before.corpus != now.corpus:
        found.insert(0, f"corpus {now.corpus} instead of {before.corpus}")
    if before.classes != now.classes:
        found.append(_class_change(before.classes, now.classes))
    found = [change for change in found if change]
    if not found and list(old) != list(new):
        found = ["the same clips in another order"]
    return [f"{use}: {', '.join(found)}"] if found else []


def _named(what: str, clip_ids: Sequence[str]) -> str:
    if not clip_ids:
        return ""
    more = ", ..." if len(clip_ids) > _MOST_NAMED else ""
    return f"{len(clip_ids)} clips {what} ({', '.join(clip_ids[:_MOST_NAMED])}{more})"


def _class_change(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    if len(before) != len(now):
        return f"{len(now)} classes instead of {len(before)}"
    place = next(place for place, name in enumerate(before) if name != now[place])
    return f"class {place} is '{now[place]}', was '{before[place]}'"
