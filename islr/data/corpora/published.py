"""Converters of corpora that are published as lists of clips, often time ranges inside long videos.

Each list becomes rows; `assemble` finds and measures their files and makes the manifest. A clip whose file is absent
is marked as missing. Time ranges are decoded in place, so no video has to be cut. A row that cannot be a clip is left
out and named.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from islr.data.corpora.assemble import assemble
from islr.data.corpora.layout import read_json
from islr.data.corpora.rows import (
    ListedClip,
    Listing,
    RowError,
    box_of,
    known,
    list_splits,
    seconds,
    split_of,
    whole,
)
from islr.data.corpora.tables import read_lines
from islr.data.corpora.youtube import youtube_id
from islr.data.manifest import Manifest
from islr.data.video.scan import find_videos
from islr.errors import UserError

Paths = str | Path | Sequence[str | Path]
_MSASL_CLASSES = 1000


def from_openasl(tsv: str | Path, videos: str | Path, *, boxes: str | Path | None = None, **options: Any) -> Manifest:
    """Convert OpenASL: a tsv with vid, yid, start, end (and split); `<yid>.mp4` are whole videos; boxes by vid."""
    boxes_of = read_json(boxes, dict) if boxes is not None else {}
    listing = Listing()
    for where, cells in listing.table(tsv, ("vid", "yid", "start", "end")):
        with listing.row(where):
            clip = ListedClip(
                clip_id=cells["vid"],
                stem=cells["yid"],
                split=split_of(cells.get("split", "none"), where),
                start=seconds(cells["start"]),
                end=seconds(cells["end"]),
                box=box_of(boxes_of.get(cells["vid"])),
            )
            listing.add(where, clip)
    sources = [tsv, *([boxes] if boxes is not None else [])]
    return assemble(listing, videos, name="openasl", sources=sources, **options)


def from_kinetics(lists: Paths, videos: str | Path, **options: Any) -> Manifest:
    """Convert Kinetics: csv files with label, youtube_id, time_start, time_end, split; clips are cut already."""
    files = _paths(lists)
    listing = Listing()
    for path in files:
        for where, cells in listing.table(path, ("youtube_id", "time_start", "time_end", "split")):
            with listing.row(where):
                first, last = (round(seconds(cells[key])) for key in ("time_start", "time_end"))
                if not 0 <= first < last:
                    raise RowError(f"{first} to {last} s is no range")
                stem = f"{cells['youtube_id']}_{first:06d}_{last:06d}"
                listing.add(where, ListedClip(stem, stem, cells.get("label", ""), split_of(cells["split"], where)))
    return assemble(listing, videos, name="kinetics", sources=files, **options)


def from_asl_citizen(
    lists: Paths, videos: str | Path, *, splits: Sequence[str] | None = None, **options: Any
) -> Manifest:
    """Convert ASL Citizen: train.csv, val.csv and test.csv with participant, video file, gloss and ASL-LEX code."""
    files = _paths(lists)
    listing = Listing()
    for path, split in zip(files, list_splits(files, [path.stem for path in files], splits), strict=True):
        for where, cells in listing.table(path, ("Participant ID", "Video file", "Gloss")):
            with listing.row(where):
                stem = Path(cells["Video file"]).stem
                signer, code = known(cells["Participant ID"]), known(cells.get("ASL-LEX Code"))
                listing.add(where, ListedClip(stem, stem, cells["Gloss"], split, signer, code=code))
    return assemble(listing, videos, name="asl-citizen", sources=files, **options)


def from_msasl(
    lists: Paths,
    videos: str | Path,
    *,
    subset: int | None = None,
    class_names: str | Path | None = None,
    synonyms: str | Path | None = None,
    splits: Sequence[str] | None = None,
    **options: Any,
) -> Manifest:
    """Convert MS-ASL: MSASL_train/val/test.json; `<youtube id>.mp4` are whole videos, times are in seconds.

    `subset` keeps the classes below it (MS-ASL100 is subset 100). Rows spell one class in several ways; `class_names`
    (MSASL_classes.json) says its name, else the first of its synonyms (MSASL_synonym.json), else the most frequent
    spelling.
    """
    files = _paths(lists)
    names = _class_names(class_names) if class_names is not None else None
    same = _synonyms(synonyms) if synonyms is not None else {}
    listing, texts = Listing(), dict[int, Counter[str]]()
    label_of: dict[str, int] = {}
    guesses = [path.stem.split("_")[-1].split(".")[0] for path in files]
    for path, split in zip(files, list_splits(files, guesses, splits), strict=True):
        for number, item in enumerate(read_json(path, list)):
            where = f"{path} entry {number}"
            with listing.row(where):
                label, text, clip = _msasl_clip(item, split, number)
                if not 0 <= label < (_MSASL_CLASSES if names is None else len(names)):
                    raise RowError(
                        f"label {label} is none of {_MSASL_CLASSES if names is None else len(names)} classes"
                    )
                if subset is not None and label >= subset:
                    continue
                listing.add(where, clip)
                label_of[clip.clip_id] = label
                texts.setdefault(label, Counter())[text] += 1
    listing.check("msasl")
    found = {label: _usual(counts, same) for label, counts in texts.items()}
    classes = _numbered(found if names is None else dict(enumerate(names[:subset])))
    listing.rename({clip_id: classes[label] for clip_id, label in label_of.items()})
    notes = _spellings(texts, classes, same)
    sources = [*files, *(path for path in (class_names, synonyms) if path is not None)]
    return assemble(listing, videos, name="msasl", sources=sources, classes=classes, notes=notes, **options)


def _msasl_clip(item: Any, split: str, number: int) -> tuple[int, str, ListedClip]:
    """Return the label, the spelling and the clip of one entry."""
    try:
        label, text, url, start, end = (item[key] for key in ("label", "clean_text", "url", "start_time", "end_time"))
        corners = item.get("box")
        y0, x0, y1, x1 = corners if corners is not None else (None,) * 4
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RowError(f"not of the MS-ASL schema ({error!r})") from error
    video = youtube_id(str(url))
    if video is None:
        raise RowError(f"no YouTube id in '{url}'")
    box = None if corners is None else box_of([x0, y0, x1, y1])
    clip_id = f"{split}_{number:05d}_{video}"
    signer = known(item.get("signer_id"))
    clip = ListedClip(clip_id, video, str(text), split, signer, seconds(start), seconds(end), box)
    return whole(label, "label"), str(text), clip


def _class_names(path: str | Path) -> list[str]:
    names = read_json(path, list)
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: is no list of class names")
    return names


def _synonyms(path: str | Path) -> dict[str, str]:
    """Return the first of each group of synonyms, by each of the group."""
    groups = read_json(path, list)
    if not all(isinstance(group, list) and group and all(isinstance(text, str) for text in group) for group in groups):
        raise UserError(f"{path}: is no list of lists of synonyms")
    return {text.lower(): group[0] for group in reversed(groups) for text in group}


def _usual(counts: Counter[str], same: Mapping[str, str]) -> str:
    """Return a class's name, whatever the order of the lists."""
    text = min(counts, key=lambda text: (-counts[text], text))
    return same.get(text.lower(), text)


def _numbered(names: Mapping[int, str]) -> list[str]:
    """Return a name for each label up to the highest; a label without one, or with another's, has its number."""
    classes: list[str] = []
    for label in range(max(names, default=-1) + 1):
        name = names.get(label, str(label))
        classes.append(name if name not in classes else f"{name} ({label})")
    return classes


def _spellings(texts: Mapping[int, Counter[str]], classes: Sequence[str], same: Mapping[str, str]) -> dict[str, Any]:
    """Return a note of the classes with rows that spell neither their name nor a synonym of it."""

    def of_class(text: str, label: int) -> bool:
        name = classes[label]
        return text.lower() in (name.lower(), str(label)) or same.get(text.lower(), text) == same.get(
            name.lower(), name
        )

    other = {label: [text for text in counts if not of_class(text, label)] for label, counts in texts.items()}
    lines = [f"{label} {classes[label]}: {', '.join(sorted(found))}" for label, found in sorted(other.items()) if found]
    return {"classes_spelt_otherwise_by_rows": lines} if lines else {}


def from_autsl(
    lists: Paths, videos: str | Path, *, signs: str | Path, splits: Sequence[str] | None = None, **options: Any
) -> Manifest:
    """Convert AUTSL: train/validation/test_labels.csv of `signerX_sampleY,class`; `signs` has ClassId, TR, EN."""
    files = _paths(lists)
    names: dict[int, str] = {}
    unnamed = Listing()
    for where, cells in unnamed.table(signs, ("ClassId", "TR")):
        with unnamed.row(where):
            names[whole(cells["ClassId"], "ClassId")] = cells["TR"]
    if unnamed.left_out:
        raise UserError(unnamed.left_out[0])
    listing = Listing()
    for path, split in zip(files, list_splits(files, [path.stem.split("_")[0] for path in files], splits), strict=True):
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            with listing.row(f"{path} line {number}"):
                clip, _, label = line.strip().partition(",")
                if not clip or not label.strip().isdecimal() or int(label) not in names:
                    raise RowError(f"'{line}' is not `signerX_sampleY,class` with a class of {signs}")
                signer = clip.split("_")[0].removeprefix("signer")
                row = ListedClip(clip, f"{clip}_color", names[int(label)], split, signer)
                listing.add(f"{path} line {number}", row)
    classes = [names[label] for label in sorted(names)]
    return assemble(listing, videos, name="autsl", sources=[*files, signs], classes=classes, **options)


def from_lsa64(
    videos: str | Path,
    *,
    signs: str | Path | None = None,
    val_signers: Sequence[int] = (9,),
    test_signers: Sequence[int] = (10,),
    **options: Any,
) -> Manifest:
    """Convert LSA64: files `SSS_PPP_RRR.mp4` (sign, person, repetition); split by person, the last two held out.

    `signs` is the published list `01|Opaque|R|`; without it classes are the sign numbers.
    """
    names: dict[int, str] = {}
    if signs is not None:
        named = [line.split("|") for line in read_lines(signs) if "|" in line]
        names = {int(cells[0]): cells[1].strip() for cells in named if cells[0].strip().isdecimal()}
    listing = Listing()
    for path in find_videos(videos):
        with listing.row(str(path)):
            match = re.fullmatch(r"([0-9]{3})_([0-9]{3})_([0-9]{3})", path.stem)
            if match is None:
                raise RowError("LSA64 files are named SSS_PPP_RRR.mp4")
            sign, person = int(match[1]), int(match[2])
            split = "test" if person in test_signers else "val" if person in val_signers else "train"
            gloss = names.get(sign, f"{sign:03d}")
            listing.add(str(path), ListedClip(path.stem, path.stem, gloss, split, str(person)))
    sources = [signs] if signs is not None else []
    return assemble(listing, videos, name="lsa64", sources=sources, **options)


def from_slovo(annotations: str | Path, videos: str | Path, **options: Any) -> Manifest:
    """Convert Slovo: annotations.csv with attachment_id, user_id, text, train, begin, end.

    begin and end are frames of the untrimmed file; for a shorter file, which is trimmed already, they are ignored.
    """
    listing = Listing()
    for where, cells in listing.table(annotations, ("attachment_id", "user_id", "text", "train", "begin", "end")):
        with listing.row(where):
            span = (round(seconds(cells["begin"])), round(seconds(cells["end"])))
            if cells["train"].lower() not in _TRUTH:
                raise RowError(f"train is '{cells['train']}', neither True nor False")
            split = "train" if _TRUTH[cells["train"].lower()] else "test"
            stem, signer = cells["attachment_id"], known(cells["user_id"])
            listing.add(where, ListedClip(stem, stem, cells["text"], split, signer, frame_range=span))
    return assemble(listing, videos, name="slovo", sources=[annotations], **options)


_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def from_id_list(ids: str | Path, videos: str | Path, *, name: str = "youtube-asl", **options: Any) -> Manifest:
    """Convert a list of video ids, one a line (YouTube-ASL): whole unlabelled videos."""
    listing = Listing()
    for number, line in enumerate(read_lines(ids), start=1):
        if line.strip():
            with listing.row(f"{ids} line {number}"):
                listing.add(f"{ids} line {number}", ListedClip(line.strip(), line.strip()))
    return assemble(listing, videos, name=name, sources=[ids], **options)


PUBLISHED: dict[str, Callable[..., Manifest]] = {
    "openasl": from_openasl,
    "kinetics": from_kinetics,
    "asl-citizen": from_asl_citizen,
    "msasl": from_msasl,
    "autsl": from_autsl,
    "lsa64": from_lsa64,
    "slovo": from_slovo,
    "youtube-asl": from_id_list,
}


def _paths(lists: Paths) -> list[Path]:
    return [Path(lists)] if isinstance(lists, str | Path) else [Path(path) for path in lists]
