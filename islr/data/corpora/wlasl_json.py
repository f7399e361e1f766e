"""The reader of the WLASL v0.3 json: glosses and their instances, each with URL, frame range and box."""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from islr.data.corpora.layout import read_json
from islr.data.corpora.rows import ListedClip, Listing, RowError, box_of, known, whole
from islr.data.manifest import Box
from islr.data.video.scan import Range
from islr.errors import UserError

JSON_FPS = 25.0  # the rate that frame_start and frame_end count in, whatever the file's own rate


@dataclass(frozen=True)
class Instance:
    """One instance of the json, its frame range turned into seconds."""

    video_id: str
    gloss: str
    label: int
    split: str
    signer: str
    source: str
    variation: str
    url: str
    span: Range
    box: Box | None


def read_instances(path: str | Path) -> tuple[list[Instance], list[str], list[str]]:
    """Read the instances and glosses of a WLASL json, in its order, and why instances were left out.

    Raises:
        UserError: The file is missing, not json, not of the WLASL schema, or no instance can be a clip.
    """
    entries = read_json(path, list)
    if not entries:
        raise UserError(f"{path}: a WLASL json is a list of glosses with their instances")
    instances: list[Instance] = []
    glosses: list[str] = []
    listing = Listing()
    for label, entry in enumerate(entries):
        try:
            gloss, items = unicodedata.normalize("NFC", entry["gloss"]), list(entry["instances"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: entry {label} is not of the WLASL schema ({error!r})") from error
        glosses.append(gloss)
        for number, item in enumerate(items):
            where = f"{path} entry {label} ({gloss}) instance {number}"
            with listing.row(where):
                instance = _instance(item, gloss, label)
                start, end = instance.span
                row = ListedClip(
                    instance.video_id, instance.video_id, gloss, instance.split, instance.signer, start, end
                )
                listing.add(where, row)
                instances.append(instance)
    repeated = [value for value, number in Counter(glosses).items() if number > 1]
    if repeated:
        raise UserError(f"{path}: gloss '{repeated[0]}' occurs twice")
    listing.check(str(path))
    return instances, glosses, listing.left_out


def span_of(frame_start: int, frame_end: int) -> Range:
    """Convert a frame range to seconds; it is 1-based, inclusive, at 25 frames a second, and -1 means to the end."""
    start = None if frame_start <= 1 else (frame_start - 1) / JSON_FPS
    return start, (None if frame_end <= 0 else frame_end / JSON_FPS)


def _instance(item: Mapping[str, Any], gloss: str, label: int) -> Instance:
    """Return one instance; what the json gives as null is unknown, as if it were absent.

    Raises:
        RowError: It cannot be a clip.
    """
    if not isinstance(item, Mapping) or item.get("video_id") is None:
        raise RowError("has no video_id")
    split = item.get("split")
    if split not in ("train", "val", "test", None):
        raise RowError(f"split '{split}'")
    box = box_of(item.get("bbox") or None)
    start, end = item.get("frame_start"), item.get("frame_end")
    return Instance(
        video_id=str(item["video_id"]),
        gloss=gloss,
        label=label,
        split=split or "none",
        signer=known(item.get("signer_id")),
        source=known(item.get("source")),
        variation=known(item.get("variation_id")),
        url=known(item.get("url")),
        span=span_of(
            1 if start is None else whole(start, "frame_start"), -1 if end is None else whole(end, "frame_end")
        ),
        box=box,
    )
