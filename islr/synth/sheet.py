"""The sample sheet of a corpus: pictures of some of its clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from islr.data.poses.pose import read_pose
from islr.data.video.decode import decode

SHEET_ROWS = 8
_CELL_SIDE = 160  # pixels


SHEET_COLUMNS = 6


@dataclass(frozen=True)
class SheetCell:
    """One picture of the sample sheet: a clip, how far into it (0..1), and a caption."""

    name: str
    share: float
    caption: str = ""


def sample_sheet(out: Path, cells: list[list[SheetCell]]) -> bytes:
    """Return the rows of pictures from the encoded videos, as png bytes."""
    rows = []
    for row in cells:
        pictures = []
        for cell in row:
            frames = len(read_pose(out / "poses" / f"{cell.name}.npz").keypoints)
            index = np.array([min(int(cell.share * frames), frames - 1)])
            picture = decode(out / "videos" / f"{cell.name}.mp4", index)[0]
            small = cv2.resize(picture, (_CELL_SIDE, _CELL_SIDE), interpolation=cv2.INTER_AREA)
            pictures.append(_captioned(small, cell.caption))
        rows.append(np.concatenate(pictures, axis=1))
    done, data = cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _captioned(cell: np.ndarray, text: str) -> np.ndarray:
    cell = np.ascontiguousarray(cell)
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(cell, text, (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, width, cv2.LINE_AA)
    return cell
