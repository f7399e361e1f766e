"""Is the corpus what the configuration takes it for? Clips that can be read, classes, lengths."""

import time
from collections import Counter
from typing import Any

from islr.checks.subject import CheckLimits, CheckOutcome, Subject, evenly
from islr.data.loading.batches import eval_batches
from islr.data.loading.store import ClipStore
from islr.data.manifest import OK, Clip

TRIED = 64  # clips that are read
_PART = 4  # clips read between two looks at the clock
MOST_SHORT = 0.5  # share of clips shorter than a sample's span above which the window is not made for this corpus


def facts(subject: Subject, limits: CheckLimits) -> CheckOutcome:
    """Count, and read some.

    Fails where more clips than `data.max_bad` allows cannot be read, where most clips are shorter than what a sample
    spans, and where a class is to be told that no training clip shows.
    """
    rows = list(subject.train)
    there = [clip for clip in rows if clip.status == OK]
    kinds = Counter(clip.status for clip in rows if clip.status != OK)
    tried, failed = _try(subject, there, limits)
    short = [clip for clip in there if (_length(clip) or float("inf")) < subject.span(clip)]
    sizes = Counter(clip.label for clip in there if clip.label is not None)
    untaught = {clip.label for clip in subject.scored or ()} - set(sizes)
    allowed = subject.data.max_bad
    problems = []
    if len(failed) > allowed * tried:
        problems.append(f"more than data.max_bad {allowed:g} cannot be read, such as {failed[0]}")
    if len(short) > MOST_SHORT * len(there):
        problems.append("most clips are shorter than a sample spans")
    if untaught:
        problems.append(f"{len(untaught)} classes that are to be told have no training clip")
    listed = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})" if kinds else ""
    words = [f"{len(there)} of {len(rows)} clips are there{listed}, {tried - len(failed)} of {tried} tried can be read"]
    if sizes:
        words.append(f"{len(sizes)} classes, {sum(size == 1 for size in sizes.values())} of one clip")
    spans = {round(subject.span(clip)) for clip in there}
    wanted = str(spans.pop()) if len(spans) == 1 else f"{min(spans)} to {max(spans)}"
    words.append(f"{len(short)} shorter than the {wanted} frames that a sample spans")
    values: dict[str, Any] = {
        "clips": len(rows),
        "there": len(there),
        "status": dict(kinds),
        "tried": tried,
        "unreadable": failed,
        "classes": len(sizes),
        "classes_of_one_clip": sum(size == 1 for size in sizes.values()),
        "classes_untaught": len(untaught),
        "shorter_than_window": len(short),
    }
    return CheckOutcome.of("data", not problems, "; ".join([*problems, *words]), values)


def _try(subject: Subject, there: list[Clip], limits: CheckLimits) -> tuple[int, list[str]]:
    """How many clips were tried, and which of them, with the reason, gave no sample."""
    store = ClipStore(subject.train.replace(evenly(there, TRIED)), subject.data)
    began, tried = time.monotonic(), 0
    failed: list[str] = []
    for batch in eval_batches(store, subject.view, batch_size=_PART):
        failed += [f"{store.manifest.clips[row].clip_id} ({reason})" for row, reason in batch["failed"]]
        tried += len(batch["index"]) + len(batch["failed"])
        if time.monotonic() - began > limits.seconds:
            break
    return tried, failed


def _length(clip: Clip) -> float | None:
    """Frames in a clip's range, as far as the manifest tells."""
    if clip.start is None and clip.end is None:
        return clip.frames
    if clip.fps is None or (clip.end is None and clip.frames is None):
        return None
    end = clip.end if clip.end is not None else (clip.frames or 0) / clip.fps
    return (end - (clip.start or 0.0)) * clip.fps
