"""Where a corpus lies on disk: its data root, its pose files, the names of its splits, its list files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def pose_path(poses: Path | None, clip_id: str, base: Path) -> str:
    """Return a clip's pose file relative to the data root; "" if there is none."""
    path = poses / f"{clip_id}.npz" if poses is not None else None
    return path.relative_to(base).as_posix() if path is not None and path.is_file() else ""


def read_text(path: str | Path) -> str:
    """Read a text file, with or without a byte order mark.

    Raises:
        UserError: It is missing or not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error


def read_json(path: str | Path, kind: type) -> Any:
    """Read a json file that holds a list or a mapping.

    Raises:
        UserError: It is missing, not json, or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid json ({error})") from error
    if not isinstance(content, kind):
        raise UserError(f"{path}: holds no {'list' if kind is list else 'mapping'}")
    return content
