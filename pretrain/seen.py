"""What a pre-training run may see: chosen splits of its manifests, and nothing that will judge its encoder."""

import json
from collections.abc import Sequence
from dataclasses import replace

from islr.data.duplicates import shared_clips
from islr.data.manifest import Manifest
from islr.data.module import load_manifests
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
    for judge in (Manifest.load(path) for path in downstream):
        judged = judge.replace(clip for clip in judge if clip.split in JUDGED)
        for source in (Manifest.load(path) for path in paths):
            seen = source.replace(clip for clip in source if clip.split in splits)
            if source.name != judge.name:  # equal ids of unlike corpora are a coincidence
                seen = _with_own_ids(seen)
            pairs = shared_clips(seen, judged)
            if pairs:
                named = ", ".join(clip_id for _, clip_id in pairs[:_MOST_NAMED])
                more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
                raise UserError(
                    f"{len(pairs)} val or test clips of {judge.name} are among the clips of {source.name} that "
                    f"pre-training would see ({named}{more}); leave them out, or declare it with transductive=true"
                )


def _with_own_ids(manifest: Manifest) -> Manifest:
    return manifest.replace(replace(clip, clip_id=f"{manifest.name}/{clip.clip_id}") for clip in manifest)


def seen_facts(paths: Sequence[str], splits: Sequence[str]) -> str:
    """JSON of {manifest: {split: fingerprint}} for every split that was seen."""
    parts = [Manifest.load(path) for path in paths]
    return json.dumps({part.name: {split: part.fingerprint(split) for split in splits} for part in parts})
