"""The converter of a folder of videos, with or without folders for splits and classes.

What the folders mean is said, never guessed silently: where some top folders are splits and others are not, or some
videos lie in class folders and others do not, the converter names the option that decides.
"""

import csv
import fnmatch
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from islr.data.corpora.layout import SPLIT_NAMES, check_links, corpus_folders, data_root, pose_path, pose_programs
from islr.data.corpora.rows import shown
from islr.data.manifest import OK, SPLITS, Clip, Manifest, fault_of
from islr.data.video.scan import Progress, ScanJob, cache_beside, is_video, scan
from islr.errors import UserError
from islr.files import walk, write_atomic

_MOST_NAMED = 5
_SPLIT_FOLDER = re.compile(r"[ _-]*(set|split|data|videos|clips)$")  # train_set, test-videos


@dataclass(frozen=True)
class FolderLayout:
    """What the folders of a corpus mean, where their names do not say it.

    Attributes:
        labelled: Whether the first folder below the split is a clip's class; None = it is if every video is in one.
        splits: Top folder -> split, or None = top folders are no splits. Empty = by their names.
        ignore: Patterns of paths or names that are left out.
    """

    labelled: bool | None = None
    splits: Mapping[str, str] | None = field(default_factory=dict)
    ignore: Sequence[str] = ()


def from_folder(
    videos: str | Path,
    *,
    poses: str | Path | None = None,
    mixed_poses: bool = False,
    layout: FolderLayout | None = None,
    name: str | None = None,
    root: str | Path | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the manifest of a folder of videos.

    Top folders `train/`, `val/` and `test/` (or `dev`, `validation`, ...) are splits; without them every clip has split
    "none". Below that, the first folder's name is a clip's class if the corpus is labelled. A clip's id is its path
    without suffix. `<out>.outcomes.csv` says of every file below the folder what became of it.

    Args:
        videos: The folder.
        poses: A folder with the same layout, holding `<clip>.npz`.
        mixed_poses: Accept poses that several programs made.
        layout: What the folders mean where their names do not say it.
        name: The corpus's name; None = the folder's.
        root: The data root; None = the folder that holds both videos and poses.
        out: The path that the manifest will be saved to; the scan's cache and the outcomes lie beside it.
        workers, progress: See `islr.data.video.scan.scan`.

    Raises:
        UserError: A folder is missing or empty, or what its folders mean is not clear.
    """
    folder, pose_folder = corpus_folders(videos, poses)
    base = data_root((folder, pose_folder), root)
    layout = layout or FolderLayout()
    outcomes: dict[str, str] = {}
    places = _places(folder, layout.ignore, outcomes)
    splits = _splits(places, layout.splits, folder)
    glosses = _glosses(places, splits, layout.labelled, folder, outcomes)
    places = [place for place in places if place.as_posix() not in outcomes]
    if not places:
        raise UserError(f"{folder}: holds no video that can be a clip; {next(iter(outcomes.values()), 'it is empty')}")
    paths = [folder / place for place in places]
    pose_of = {place: pose_path(pose_folder, place.with_suffix("").as_posix(), base) for place in places}
    notes = check_links(paths, base) | pose_programs(pose_of.values(), base, mixed_poses)
    classes = tuple(sorted({glosses[place] for place in places} - {""}))
    index = {gloss: label for label, gloss in enumerate(classes)}
    results = scan([ScanJob(path) for path in paths], base, workers=workers, cache=cache_beside(out), progress=progress)
    clips = []
    for place, found in zip(places, results, strict=True):
        gloss = glosses[place]
        clip = Clip(
            clip_id=place.with_suffix("").as_posix(),
            path=(folder / place).relative_to(base).as_posix(),
            gloss=gloss,
            label=index.get(gloss),
            split=splits.get(place.parts[0], "none"),
            source=folder.name,
            status=found.status,
            pose=pose_of[place],
        )
        if found.status == OK:
            fps = round(found.fps, 4) or None
            clip = replace(clip, frames=found.frames, fps=fps, width=found.width, height=found.height)
        outcomes[place.as_posix()] = f"clip, {found.status}"
        clips.append(clip)
    if out is not None:
        _write(Path(out).with_suffix(".outcomes.csv"), outcomes)
    notes = {"recognised": _recognised(classes, splits, outcomes), **notes}
    return Manifest(name or folder.name, tuple(clips), base, classes, notes=notes)


def _places(folder: Path, ignore: Sequence[str], outcomes: dict[str, str]) -> list[PurePosixPath]:
    """Return the videos below a folder, relative to it; other files get their outcome."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of videos")
    places: list[PurePosixPath] = []
    clip_ids: dict[str, PurePosixPath] = {}
    for parent, folders, names in walk(folder):
        above = PurePosixPath(parent.relative_to(folder).as_posix())
        for name in sorted(set(os.listdir(parent)) - set(folders) - set(names)):
            outcomes[shown((above / name).as_posix()) + "/"] = "ignored: a hidden folder, or one that a system wrote"
        for name in [name for name in folders if _matches(above / name, ignore)]:
            folders.remove(name)
            outcomes[shown((above / name).as_posix()) + "/"] = "ignored: as asked"
        for name in names:
            place = above / name
            clip_id = place.with_suffix("").as_posix()
            fault = fault_of(Clip(clip_id, place.as_posix()))
            if _matches(place, ignore):
                outcomes[shown(place.as_posix())] = "ignored: as asked"
            elif not is_video(name):
                outcomes[shown(place.as_posix())] = (
                    "ignored: hidden" if name[0] == "." else "ignored: no video's suffix"
                )
            elif fault:
                outcomes[shown(place.as_posix())] = f"left out: {fault}"
            elif clip_ids.setdefault(clip_id, place) != place:
                raise UserError(
                    f"{folder}: {clip_ids[clip_id]} and {place} differ only in their suffix; rename one, or --ignore it"
                )
            else:
                places.append(place)
    if not places:
        raise UserError(f"{folder}: holds no video file (of {len(outcomes)} files)")
    return sorted(places)


def _matches(place: PurePosixPath, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(place.as_posix(), p) or fnmatch.fnmatch(place.name, p) for p in patterns)


def _splits(places: Sequence[PurePosixPath], given: Mapping[str, str] | None, folder: Path) -> dict[str, str]:
    """Return the split of each top folder; empty if top folders are no splits."""
    tops = Counter(place.parts[0] if len(place.parts) > 1 else "" for place in places)
    if given is None:
        return {}
    for top, split in given.items():
        if top not in tops or split not in SPLITS:
            raise UserError(f"--split {top}={split}: it is a folder in {folder} and one of {', '.join(SPLITS)}")
    splits = {top: SPLIT_NAMES[_SPLIT_FOLDER.sub("", top.lower())] for top in tops if _is_split(top)} | dict(given)
    others = [top or next(place.name for place in places if len(place.parts) == 1) for top in tops if top not in splits]
    if splits and others:
        raise UserError(
            f"{folder}: {_named(sorted(splits))} would be splits, but not {_named(others)}; say with"
            f" --split {others[0]}=test (or train, val, none) what it is, leave it out with --ignore '{others[0]}',"
            " or give --no-splits if the folders are classes"
        )
    return splits


def _is_split(top: str) -> bool:
    return _SPLIT_FOLDER.sub("", top.lower()) in SPLIT_NAMES


def _glosses(
    places: Sequence[PurePosixPath],
    splits: Mapping[str, str],
    labelled: bool | None,
    folder: Path,
    outcomes: dict[str, str],
) -> dict[PurePosixPath, str]:
    """Return the gloss of each video, "" where it has none."""
    below = {place: place.parts[1:-1] if splits else place.parts[:-1] for place in places}
    bare = [place for place, parts in below.items() if not parts]
    if labelled is None and bare and len(bare) < len(places):
        classes = sorted({parts[0] for parts in below.values() if parts})
        raise UserError(
            f"{folder}: {len(places) - len(bare)} videos lie in folders ({_named(classes)}) and {len(bare)} in none"
            f" ({_named([place.as_posix() for place in bare])}); give --labelled if folders are classes, which leaves"
            " the others out, or --unlabelled if they are not"
        )
    if labelled is None:
        labelled = not bare
    if labelled:
        outcomes |= {place.as_posix(): "left out: in no class folder" for place in bare}
    return {
        place: unicodedata.normalize("NFC", parts[0]) if labelled and parts else "" for place, parts in below.items()
    }


def _recognised(classes: Sequence[str], splits: Mapping[str, str], outcomes: Mapping[str, str]) -> str:
    """Return what was recognised, in one line."""
    counts = Counter("clips" if what.startswith("clip,") else what for what in outcomes.values())
    others = "; ".join(f"{n} {what}" for what, n in sorted(counts.items()) if what != "clips")
    found = [
        f"{len(classes)} classes ({_named(classes)})" if classes else "no classes",
        f"splits {', '.join(f'{top} = {split}' for top, split in sorted(splits.items()))}" if splits else "no splits",
        f"{counts['clips']} clips",
    ]
    return ", ".join(found) + (f"; {others}" if others else "")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return shown(", ".join(names[:_MOST_NAMED])) + more


def _write(path: Path, outcomes: Mapping[str, str]) -> None:
    """Write one row per file: what became of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "outcome"))
    writer.writerows(sorted(outcomes.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())
