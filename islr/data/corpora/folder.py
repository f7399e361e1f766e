"""The converter of a folder of videos, with or without folders for splits and classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from islr.data.corpora.layout import SPLIT_NAMES, corpus_folders, data_root, pose_path
from islr.data.manifest import OK, Clip, Manifest
from islr.data.video.scan import Progress, ScanJob, cache_beside, find_videos, scan
from islr.errors import UserError


def from_folder(
    videos: str | Path,
    *,
    poses: str | Path | None = None,
    labelled: bool | None = None,
    name: str | None = None,
    root: str | Path | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the manifest of a folder of videos.

    Top folders `train/`, `val/` and `test/` (or `dev`, `validation`, ...) are splits; without them every clip has split
    "none". Below that, the first folder's name is a clip's class if the corpus is labelled. A clip's id is its path
    without suffix.

    Args:
        videos: The folder.
        poses: A folder with the same layout, holding `<clip>.npz`.
        labelled: Whether folders are classes; None = they are if every video is in one.
        name: The corpus's name; None = the folder's.
        root: The data root; None = the folder that holds both videos and poses.
        out: The path that the manifest will be saved to; the scan's cache lies beside it.
        workers, progress: See `islr.data.video.scan.scan`.

    Raises:
        UserError: A folder is missing or empty, two videos differ only in suffix, or a video has no class
            folder.
    """
    folder, pose_folder = corpus_folders(videos, poses)
    paths = find_videos(folder)
    base = data_root((folder, pose_folder), root)
    places = [PurePosixPath(path.relative_to(folder).as_posix()) for path in paths]
    _check_names(places, folder)
    splits, glosses = _splits_and_glosses(places, labelled, folder)
    classes = tuple(sorted(set(glosses) - {""}))
    index = {gloss: label for label, gloss in enumerate(classes)}
    results = scan([ScanJob(path) for path in paths], base, workers=workers, cache=cache_beside(out), progress=progress)
    clips = []
    for path, place, split, gloss, found in zip(paths, places, splits, glosses, results, strict=True):
        clip = Clip(
            clip_id=place.with_suffix("").as_posix(),
            path=path.relative_to(base).as_posix(),
            gloss=gloss,
            label=index.get(gloss),
            split=split,
            source=folder.name,
            status=found.status,
            pose=pose_path(pose_folder, place.with_suffix("").as_posix(), base),
        )
        if found.status == OK:
            clip = replace(clip, frames=found.frames, fps=round(found.fps, 4), width=found.width, height=found.height)
        clips.append(clip)
    return Manifest(name or folder.name, tuple(clips), base, classes)


def _check_names(places: Sequence[PurePosixPath], folder: Path) -> None:
    """Refuse two videos that would be one clip."""
    seen: dict[str, PurePosixPath] = {}
    for place in places:
        other = seen.setdefault(place.with_suffix("").as_posix(), place)
        if other != place:
            raise UserError(f"{folder}: {other} and {place} differ only in their suffix; rename one")


def _splits_and_glosses(
    places: Sequence[PurePosixPath], labelled: bool | None, folder: Path
) -> tuple[list[str], list[str]]:
    """Return the split of each video ("none" unless all are in a folder of a split) and its gloss ("" = unlabelled)."""
    splits = [SPLIT_NAMES.get(place.parts[0].lower(), "") if len(place.parts) > 1 else "" for place in places]
    have_splits = all(splits)
    below = [place.parts[1:-1] if have_splits else place.parts[:-1] for place in places]
    if labelled is None:
        labelled = all(below)
    elif labelled and not all(below):
        lost = places[[bool(parts) for parts in below].index(False)]
        raise UserError(f"{folder / lost}: is in no class folder, but the corpus is said to be labelled")
    glosses = [parts[0] if labelled else "" for parts in below]
    return (splits if have_splits else ["none"] * len(places)), glosses
