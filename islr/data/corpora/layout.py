"""Where a corpus lies on disk: its data root, its pose files, links, the names of its splits, its json files."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from islr.data.corpora.tables import read_lines
from islr.data.poses.pose import program_of
from islr.errors import UserError

# What published lists and folders call the three splits.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def corpus_folders(videos: str | Path, poses: str | Path | None) -> tuple[Path, Path | None]:
    """Return the absolute folders of videos and of poses.

    Raises:
        UserError: The folder of poses does not exist.
    """
    if poses is not None and not Path(poses).is_dir():
        raise UserError(f"{poses}: no such folder of poses")
    return Path(videos).resolve(), None if poses is None else Path(poses).resolve()


def data_root(folders: Sequence[Path | None], root: str | Path | None) -> Path:
    """Return the data root: the one given, else the folder that holds all `folders`.

    Raises:
        UserError: A folder is not inside the given root.
    """
    present = [folder for folder in folders if folder is not None]
    base = Path(root).resolve() if root is not None else Path(os.path.commonpath(present))
    for folder in present:
        if not folder.is_relative_to(base):
            raise UserError(f"{folder} is not inside the data root {base}")
    return base


def check_links(paths: Iterable[Path], base: Path) -> dict[str, Any]:
    """Return a note of the files that are links out of the data root, which no command would open.

    Raises:
        UserError: All of them are; the message names the root that would hold them.
    """
    paths = list(paths)
    targets = {path: target for path in paths if not (target := path.resolve()).is_relative_to(base)}
    if not targets:
        return {}
    wider = os.path.commonpath([base, *targets.values()])
    path, target = next(iter(targets.items()))
    advice = f"{path} is a link to {target}, outside the data root {base}; give --root {wider}"
    if len(targets) == len(paths):
        raise UserError(advice)
    return {"links_out_of_the_data_root": [f"{len(targets)} files: {advice}"]}


def pose_path(poses: Path | None, clip_id: str, base: Path) -> str:
    """Return a clip's pose file relative to the data root; "" if there is none."""
    path = poses / f"{clip_id}.npz" if poses is not None else None
    return path.relative_to(base).as_posix() if path is not None and path.is_file() else ""


def pose_programs(poses: Iterable[str], base: Path, mixed: bool) -> dict[str, Any]:
    """Return a note of the programs that made pose files, given relative to `base`.

    Raises:
        UserError: Several programs did, and `mixed` does not accept that: their points differ in meaning.
    """
    made = Counter(program_of(base / pose) or "not recorded" for pose in poses if pose)
    if len(made) > 1 and not mixed:
        named = ", ".join(f"{program} ({count} clips)" for program, count in made.most_common())
        raise UserError(f"its poses were made by several programs: {named}; convert them again, or give --mixed-poses")
    return {"poses_made_by": dict(made.most_common())} if made else {}


def read_json(path: str | Path, kind: type) -> Any:
    """Read a json file that holds a list or a mapping.

    Raises:
        UserError: It is missing, not json, or holds something else.
    """
    try:
        # Control characters and bytes that are not UTF-8 cost the row that holds them, not the file.
        content = json.loads("\n".join(read_lines(path)), strict=False)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not valid json ({error})") from error
    if not isinstance(content, kind):
        raise UserError(f"{path}: holds no {'list' if kind is list else 'mapping'}")
    return content
