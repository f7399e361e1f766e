"""Converters from a corpus as it lies on disk to a manifest; `CORPORA` lists them by name."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from islr.data.corpora.published import PUBLISHED
from islr.data.corpora.wlasl import from_wlasl
from islr.data.manifest import OK, Clip, Manifest
from islr.data.video.scan import Job, Progress, cache_beside, find_videos, scan
from islr.errors import UserError

# What people call the folders of a split.
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


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

    `train/`, `val/` and `test/` at the top are splits (so are `dev`, `validation`, ...); without them every
    clip has split "none". Below that, the first folder's name is a clip's class if the corpus is labelled.
    A clip's id is its path without suffix.

    Args:
        videos: The folder.
        poses: A folder with the same layout, holding `<clip>.npz`.
        labelled: Whether folders are classes; None = they are if every video is in one.
        name: The corpus's name; None = the folder's.
        root: The data root; None = the folder that holds both videos and poses.
        out: Where the manifest is going to be saved; what the scan finds is kept beside it for the next time.
        workers, progress: See `islr.data.video.scan.scan`.

    Raises:
        UserError: A folder is missing or empty, two videos differ only in suffix, or a video has no class
            folder.
    """
    folder = Path(videos).resolve()
    paths = find_videos(folder)
    if poses is not None and not Path(poses).is_dir():
        raise UserError(f"{poses}: no such folder of poses")
    folders = [folder, *([Path(poses).resolve()] if poses is not None else [])]
    base = Path(root).resolve() if root is not None else Path(os.path.commonpath(folders))
    for inside in folders:
        if not inside.is_relative_to(base):
            raise UserError(f"{inside} is not inside the data root {base}")

    places = [PurePosixPath(path.relative_to(folder).as_posix()) for path in paths]
    splits = [_SPLIT_NAMES.get(place.parts[0].lower(), "") if len(place.parts) > 1 else "" for place in places]
    have_splits = all(splits)
    below = [place.parts[1:-1] if have_splits else place.parts[:-1] for place in places]
    if labelled is None:
        labelled = all(below)
    elif labelled and not all(below):
        lost = places[[bool(parts) for parts in below].index(False)]
        raise UserError(f"{folder / lost}: is in no class folder, but the corpus is said to be labelled")
    classes = tuple(sorted({parts[0] for parts in below})) if labelled else ()
    index = {gloss: label for label, gloss in enumerate(classes)}

    clips: list[Clip] = []
    seen: dict[str, PurePosixPath] = {}
    results = scan([Job(path) for path in paths], base, workers=workers, cache=cache_beside(out), progress=progress)
    for path, place, split, parts, found in zip(paths, places, splits, below, results, strict=True):
        clip_id = place.with_suffix("").as_posix()
        if clip_id in seen:
            raise UserError(f"{folder}: {seen[clip_id]} and {place} differ only in their suffix; rename one")
        seen[clip_id] = place
        present = found.status == OK
        pose = folders[-1] / f"{clip_id}.npz"
        clips.append(
            Clip(
                clip_id=clip_id,
                path=path.relative_to(base).as_posix(),
                gloss=parts[0] if labelled else "",
                label=index[parts[0]] if labelled else None,
                split=split if have_splits else "none",
                source=folder.name,
                frames=found.frames if present else None,
                fps=round(found.fps, 4) if present else None,
                width=found.width if present else None,
                height=found.height if present else None,
                status=found.status,
                pose=pose.relative_to(base).as_posix() if poses is not None and pose.is_file() else "",
            )
        )
    return Manifest(name or folder.name, tuple(clips), base, classes)


CORPORA: dict[str, Callable[..., Manifest]] = {"wlasl": from_wlasl, "folder": from_folder, **PUBLISHED}
