"""The reader of the WLASL v0.3 json: glosses and their instances, each with URL, frame range and box."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from islr.data.corpora.layout import read_json
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


def read_instances(path: str | Path) -> tuple[list[Instance], list[str]]:
    """Read the instances and glosses of a WLASL json, in its order.

    Raises:
        UserError: The file is missing, not json, or not of the WLASL schema.
    """
    entries = read_json(path, list)
    if not entries:
        raise UserError(f"{path}: a WLASL json is a list of glosses with their instances")
    instances: list[Instance] = []
    glosses: list[str] = []
    for label, entry in enumerate(entries):
        try:
            gloss = entry["gloss"]
            glosses.append(gloss)
            instances += [_instance(item, gloss, label) for item in entry["instances"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: entry {label} is not of the WLASL schema ({error!r})") from error
    for what, values in (("gloss", glosses), ("video_id", [instance.video_id for instance in instances])):
        repeated = [value for value, number in Counter(values).items() if number > 1]
        if repeated:
            raise UserError(f"{path}: {what} '{repeated[0]}' occurs twice")
    if not instances:
        raise UserError(f"{path}: has no instances")
    return instances, glosses


def span_of(frame_start: int, frame_end: int) -> Range:
    """Convert a frame range to seconds; it is 1-based, inclusive, at 25 frames a second, and -1 means to the end."""
    start = None if frame_start <= 1 else (frame_start - 1) / JSON_FPS
    return start, (None if frame_end <= 0 else frame_end / JSON_FPS)


def _instance(item: Mapping[str, Any], gloss: str, label: int) -> Instance:
    split = item["split"]
    if split not in ("train", "val", "test"):
        raise ValueError(f"split '{split}'")
    box = tuple(float(value) for value in item["bbox"]) if item.get("bbox") else None
    if box is not None and (len(box) != 4 or not all(math.isfinite(value) for value in box)):
        raise ValueError(f"bbox {item['bbox']}")
    return Instance(
        video_id=str(item["video_id"]),
        gloss=gloss,
        label=label,
        split=split,
        signer=str(item.get("signer_id", "")),
        source=str(item.get("source", "")),
        variation=str(item.get("variation_id", "")),
        url=str(item.get("url", "")),
        span=span_of(int(item.get("frame_start", 1)), int(item.get("frame_end", -1))),
        box=box,
    )
