"""Readers of poses in tables: Holistic landmarks of Kaggle (parquet, npy) and Sem-Lex (npy) and SPOTER's csv."""

import ast
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.poses.pose import BODY, LEFT_HAND, POINTS, RIGHT_HAND, Pose, VideoFacts, canonical, frame_rows
from islr.errors import UserError, one_line

Read = Callable[[VideoFacts], Pose]

# SPOTER's column names by canonical point; its neck has no counterpart.
SPOTER_BODY = {"nose": 0, "leftEye": 2, "rightEye": 5, "leftEar": 7, "rightEar": 8, "leftShoulder": 11}
SPOTER_BODY |= {"rightShoulder": 12, "leftElbow": 13, "rightElbow": 14, "leftWrist": 15, "rightWrist": 16}
_FINGERS = {"thumb": ("CMC", "MP", "IP", "Tip")}
_FINGERS |= dict.fromkeys(("index", "middle", "ring", "little"), ("MCP", "PIP", "DIP", "Tip"))
SPOTER_HAND = ("wrist", *(finger + joint for finger, joints in _FINGERS.items() for joint in joints))

# Holistic landmarks as one list, by its length: where each part lies. Kaggle's "asl-signs" has face, left hand, body
# and right hand; Sem-Lex has a face of 478 points, body, left and right hand.
KAGGLE_POINTS, SEMLEX_POINTS = 543, 553
_LAYOUTS = {
    KAGGLE_POINTS: {"pose": slice(489, 522), "left_hand": slice(468, 489), "right_hand": slice(522, 543)},
    SEMLEX_POINTS: {"pose": slice(478, 511), "left_hand": slice(511, 532), "right_hand": slice(532, 553)},
}
_PARTS = {"pose": BODY, "left_hand": LEFT_HAND, "right_hand": RIGHT_HAND}
# Layouts that people hold and that do not say all we need.
_REFUSED = {
    21: "one hand, without saying which",
    27: "the 27 points of SAM-SLR, without its body",
    42: "two hands, without saying which comes first",
    54: "SPOTER's points; give its csv",
    55: "Pose-TGCN's points; give OpenPose's json",
    75: "body and hands; give them as npz, with confidences",
    118: "a selection of lips, eyes and hands, without its body",
    133: "COCO-WholeBody, whose body has no counterpart here",
}


# Kaggle: 543 Holistic landmarks, NaN where missing


def read_kaggle(path: Path, facts: VideoFacts) -> Pose:
    """Read `.parquet` with a row per landmark, or `.npy` `[T, 543 or 553, 3]`; shares of the picture, y down."""
    if path.suffix.lower() == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read as an array ({one_line(error)})") from None
        count = values.shape[1] if values.ndim == 3 else 0
        if count not in _LAYOUTS or values.shape[2] != 3 or values.dtype.kind != "f":
            why = f": {_REFUSED[count]}" if count in _REFUSED else ""
            raise UserError(
                f"{path}: {count or list(values.shape)} points of {values.shape[-1]} {values.dtype} are no layout we"
                f" read{why}; known are {KAGGLE_POINTS} (Kaggle) and {SEMLEX_POINTS} (Sem-Lex) points of 3 floats"
            )
        points = np.full((len(values), POINTS, 3), np.nan, np.float32)
        for name, columns_of in _LAYOUTS[count].items():
            points[:, _PARTS[name]] = values[:, columns_of]
    else:
        points = _kaggle_table(path)
    return canonical(points, np.ones(points.shape[:2], np.float32), facts, path, bare=True)  # missing points are NaN


def _kaggle_table(path: Path) -> np.ndarray:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: .parquet files need the pyarrow package: pip install 'islr-bench[pose-io]'") from None
    columns = ["frame", "type", "landmark_index", "x", "y", "z"]
    try:
        table = parquet.read_table(path, columns=columns).to_pydict()
        missing = [name for name in columns if name not in table]
        if missing:
            raise ValueError(f"there is no column {missing[0]}")
        frame, index = (np.asarray(table[name], np.int64) for name in ("frame", "landmark_index"))
        values = np.array([table[name] for name in "xyz"], np.float32).T  # [rows, 3]; None becomes NaN
    except (OSError, ValueError, TypeError, OverflowError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a table of landmarks ({one_line(error)})") from None
    kinds = np.asarray(table["type"], str)
    if not len(frame):
        raise UserError(f"{path}: the pose has no frames")
    rows = frame_rows(frame.tolist(), path)
    points = np.full((int(rows.max()) + 1, POINTS, 3), np.nan, np.float32)
    for kind, part in _PARTS.items():
        mine = kinds == kind
        if mine.any() and not 0 <= index[mine].min() <= index[mine].max() < part.stop - part.start:
            raise UserError(f"{path}: a landmark_index of '{kind}' is not in 0..{part.stop - part.start - 1}")
        points[rows[mine], part.start + index[mine]] = values[mine]
    return points


def accepts_kaggle(path: Path) -> bool:
    if path.suffix.lower() == ".parquet":
        return path.is_file()
    if path.suffix.lower() != ".npy" or not path.is_file():
        return False
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return False
    return len(shape) in (3, 4) and 2 <= shape[-1] <= 4  # other layouts are refused by name


# SPOTER csv


def accepts_spoter(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        header = next(csv.reader([file.readline()]), [])
    return {"labels", "nose_X", "nose_Y"} <= set(header)


def spoter_clips(path: Path) -> Iterator[tuple[str, str, Read]]:
    """Yield a clip per row, named by its number in the file, since rows have no names."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True)):
                yield f"{number:05d}", row.get("labels") or "", _spoter_row(row, path, number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as csv ({one_line(error)})") from None


def _spoter_row(row: Mapping[str, Any], path: Path, number: int) -> Read:
    columns = {point: (f"{name}_X", f"{name}_Y") for name, point in SPOTER_BODY.items()}
    for part, names in ((LEFT_HAND, ("left", "0")), (RIGHT_HAND, ("right", "1"))):
        side = next((name for name in names if f"wrist_{name}_X" in row), names[0])
        for index, name in enumerate(SPOTER_HAND):
            columns[part.start + index] = (f"{name}_{side}_X", f"{name}_{side}_Y")

    def read(facts: VideoFacts) -> Pose:
        where = f"{path} row {number}"
        xy = {point: [_numbers(row, name, where) for name in names] for point, names in columns.items()}
        lengths = {len(values) for pair in xy.values() for values in pair}
        if len(lengths) != 1:
            raise UserError(f"{where}: its points have between {min(lengths)} and {max(lengths)} frames")
        points = np.zeros((lengths.pop(), POINTS, 2), np.float32)
        for point, pair in xy.items():
            points[:, point] = np.stack(pair, axis=1)
        # A missing point is 0, 0; y points up.
        detected = (points != 0).any(axis=2)
        points[:, :, 1] = 1.0 - points[:, :, 1]
        return canonical(points, detected.astype(np.float32), facts, path)

    return read


def _numbers(row: Mapping[str, Any], name: str, where: str) -> np.ndarray:
    """Parse one column's list of numbers, one per frame."""
    text = row.get(name)
    if not text:
        raise UserError(f"{where}: there is no column {name}, or it is empty")
    try:
        values = np.asarray(ast.literal_eval(text), np.float32)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        values = None
    if values is None or values.ndim != 1:
        raise UserError(f"{where}: {name} is not a list of numbers")
    return values
