"""What a pre-training run may see: chosen splits of its manifests, and nothing that will judge its encoder."""

import json
from collections.abc import Iterator, Sequence

from islr.data.audit.duplicates import shared_clips, with_own_ids
from islr.data.loading.mixing import load_manifests
from islr.data.manifest import Manifest
from islr.errors import UserError

JUDGED = ("val", "test")  # splits of a downstream corpus that choose or score models
_MOST_NAMED = 5


def seen_manifest(paths: Sequence[str], splits: Sequence[str]) -> Manifest:
    """The clips a run sees: the chosen splits of all its manifests.

    Raises:
        UserError: Nothing readable is left.
    """
    whole = load_manifests(paths)
    manifest = whole.replace(clip for clip in whole if clip.split in splits)
    if not len(manifest.select()):
        raise UserError(f"manifest {whole.name}: no readable clip in splits {', '.join(splits)}")
    return manifest


def check_unseen(paths: Sequence[str], splits: Sequence[str], downstream: Sequence[str]) -> None:
    """Refuse to pre-train on clips that a downstream corpus chooses or scores models with.

    A clip is the same when its file and time range are, or when it has the same id in a manifest of the same name.

    Args:
        paths: Manifests that are seen.
        splits: Splits of them that are seen.
        downstream: Manifests whose val and test clips must stay unseen.

    Raises:
        UserError: Names the first clips that would be seen.
    """
    for source, judge, pairs in _shared(paths, splits, downstream):
        named = ", ".join(theirs for _, theirs in pairs[:_MOST_NAMED])
        more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
        raise UserError(
            f"{len(pairs)} val or test clips of {judge} are among the clips of {source} that pre-training would see "
            f"({named}{more}); leave them out with shared_with_downstream=drop, or declare it with transductive=true"
        )


def without_judged(
    manifest: Manifest, paths: Sequence[str], splits: Sequence[str], downstream: Sequence[str]
) -> tuple[Manifest, list[str]]:
    """What a run sees without the clips that `check_unseen` would refuse, and their ids.

    Args:
        manifest: Of `seen_manifest` for the same paths and splits.
        paths, splits, downstream: As for `check_unseen`.

    Raises:
        UserError: Nothing readable is left.
    """
    dropped = {
        f"{source}/{mine}" if len(paths) > 1 else mine  # as `load_manifests` names clips
        for source, _, pairs in _shared(paths, splits, downstream)
        for mine, _ in pairs
    }
    kept = manifest.replace(clip for clip in manifest if clip.clip_id not in dropped)
    if not len(kept.select()):
        raise UserError(f"manifest {manifest.name}: every readable clip is a val or test clip of a downstream corpus")
    return kept, sorted(dropped)


def _shared(
    paths: Sequence[str], splits: Sequence[str], downstream: Sequence[str]
) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(name of a seen corpus, name of a judging one, pairs of their ids of one clip) where there are such pairs."""
    for judge in (Manifest.load(path) for path in downstream):
        judged = judge.replace(clip for clip in judge if clip.split in JUDGED)
        for source in (Manifest.load(path) for path in paths):
            seen = source.replace(clip for clip in source if clip.split in splits)
            prefix = ""
            if source.name != judge.name:
                seen, prefix = with_own_ids(seen), f"{source.name}/"
            pairs = [(mine.removeprefix(prefix), theirs) for mine, theirs in shared_clips(seen, judged)]
            if pairs:
                yield source.name, judge.name, pairs


def seen_facts(paths: Sequence[str], splits: Sequence[str]) -> str:
    """JSON of {manifest: {split: fingerprint}} for every split that was seen."""
    parts = [Manifest.load(path) for path in paths]
    return json.dumps({part.name: {split: part.fingerprint(split) for split in splits} for part in parts})
