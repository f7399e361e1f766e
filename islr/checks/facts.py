"""The data check: readable clips, classes, and clip lengths against what the configuration expects."""

import time
from collections import Counter
from typing import Any

from islr.checks.subject import CheckLimits, CheckOutcome, Subject, evenly
from islr.data.loading.batches import eval_batches
from islr.data.loading.store import ClipStore
from islr.data.manifest import OK, Clip

TRIED = 64  # clips that are decoded
_PART = 4  # clips decoded between two readings of the clock
MOST_SHORT = 0.5  # share of clips shorter than a sample's span above which the window does not suit the corpus


def facts(subject: Subject, limits: CheckLimits) -> CheckOutcome:
    """Count the clips and decode some of them.

    Fails if more clips than `data.max_bad` allows cannot be read, if most clips are shorter than a sample spans, or if
    a scored class has no training clip.
    """
    rows = list(subject.train)
    present = [clip for clip in rows if clip.status == OK]
    kinds = Counter(clip.status for clip in rows if clip.status != OK)
    tried, failed = _try(subject, present, limits)
    short = [clip for clip in present if (_length(clip) or float("inf")) < subject.span(clip)]
    sizes = Counter(clip.label for clip in present if clip.label is not None)
    untrained = {clip.label for clip in subject.scored or ()} - set(sizes)
    allowed = subject.data.max_bad
    problems = []
    if len(failed) > allowed * tried:
        problems.append(f"more than data.max_bad {allowed:g} cannot be read, such as {failed[0]}")
    if len(short) > MOST_SHORT * len(present):
        problems.append("most clips are shorter than a sample spans")
    if untrained:
        problems.append(f"{len(untrained)} scored classes have no training clip")
    listed = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})" if kinds else ""
    counts = [f"{len(present)} of {len(rows)} clips are present{listed}, {tried - len(failed)} of {tried} tried decode"]
    if sizes:
        counts.append(f"{len(sizes)} classes, {sum(size == 1 for size in sizes.values())} of one clip")
    spans = {round(subject.span(clip)) for clip in present}
    span = str(spans.pop()) if len(spans) == 1 else f"{min(spans)} to {max(spans)}"
    counts.append(f"{len(short)} shorter than the {span} frames that a sample spans")
    values: dict[str, Any] = {
        "clips": len(rows),
        "present": len(present),
        "status": dict(kinds),
        "tried": tried,
        "unreadable": failed,
        "classes": len(sizes),
        "classes_of_one_clip": sum(size == 1 for size in sizes.values()),
        "classes_without_training_clip": len(untrained),
        "shorter_than_window": len(short),
    }
    return CheckOutcome.of("data", not problems, "; ".join([*problems, *counts]), values)


def _try(subject: Subject, present: list[Clip], limits: CheckLimits) -> tuple[int, list[str]]:
    """Decode some clips; return how many, and those that failed with the reason."""
    store = ClipStore(subject.train.replace(evenly(present, TRIED)), subject.data)
    began, tried = time.monotonic(), 0
    failed: list[str] = []
    for batch in eval_batches(store, subject.view, batch_size=_PART):
        failed += [f"{store.manifest.clips[row].clip_id} ({reason})" for row, reason in batch["failed"]]
        tried += len(batch["index"]) + len(batch["failed"])
        if time.monotonic() - began > limits.seconds:
            break
    return tried, failed


def _length(clip: Clip) -> float | None:
    """Return the frames in a clip's range; None where the manifest does not say."""
    if clip.start is None and clip.end is None:
        return clip.frames
    if clip.fps is None or (clip.end is None and clip.frames is None):
        return None
    end = clip.end if clip.end is not None else (clip.frames or 0) / clip.fps
    return (end - (clip.start or 0.0)) * clip.fps
