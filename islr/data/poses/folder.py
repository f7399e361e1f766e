"""A folder of canonical pose files with a table of each clip's outcome.

`outcomes.csv` has one row per clip that was ever tried. Interrupted work continues where it stopped: good files stay
unless they are to be replaced, and only a good pose replaces one.
"""

import csv
import io
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from islr.data.poses.pose import Pose, read_pose, write_pose
from islr.errors import UserError
from islr.files import write_atomic

TABLE = "outcomes.csv"
_SAVE_EVERY_S = 10.0

Status = Literal["ok", "kept", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class PoseOutcome:
    """The outcome of one clip.

    `status` is ok (a good file), kept (an earlier good file, whose source cannot be read any more) or failed (no file);
    `made_by` is the source's format or the program that estimated the pose; `label` is the class that some formats
    carry; `detail` is the reason of a status other than ok, or what the reader of a good file had to decide.
    """

    clip_id: str
    status: Status
    frames: int = 0
    source: str = ""
    made_by: str = ""
    label: str = ""
    detail: str = ""


class PoseFolder:
    """The folder and its table.

    Raises:
        UserError: The folder's table is of another kind.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.rglob(".*.partial"):  # left by a run that was killed
            partial.unlink(missing_ok=True)
        self.rows = _read(self.folder / TABLE)
        self._saved = time.monotonic()

    def path_of(self, clip_id: str) -> Path:
        """Return the path of a clip's pose file.

        Raises:
            UserError: The clip's name would lead out of the folder.
        """
        path = self.folder / f"{clip_id}.npz"
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"clip '{clip_id}' would be written outside {self.folder}")
        return path

    def has(self, clip_id: str) -> bool:
        """Return whether a good pose file exists; add its row if the table lacks it."""
        try:
            pose = read_pose(self.path_of(clip_id))
        except UserError:
            return False
        if not pose.has_points:
            return False
        frames = len(pose)
        known = self.rows.get(clip_id)
        if known is None or known.status == "failed":
            self.rows[clip_id] = PoseOutcome(clip_id, "ok", frames)
        return True

    def put(self, clip_id: str, pose: Pose, *, source: str, made_by: str, label: str = "") -> None:
        """Write a pose and its row.

        Raises:
            UserError: No point is known in any of its frames.
        """
        if not pose.has_points:
            raise UserError(f"no point in any of its {len(pose)} frames" + "".join(f"; {r}" for r in pose.remarks))
        path = self.path_of(clip_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pose(path, pose)
        self._add(PoseOutcome(clip_id, "ok", len(pose), source, made_by, label, "; ".join(pose.remarks)))

    def fail(self, clip_id: str, detail: str, *, source: str, made_by: str, label: str = "") -> None:
        """Record that a clip has no pose; an earlier good file stays."""
        detail = " ".join(detail.split())
        try:
            frames = len(read_pose(self.path_of(clip_id)))
        except UserError:
            self._add(PoseOutcome(clip_id, "failed", 0, source, made_by, label, detail))
        else:
            self._add(PoseOutcome(clip_id, "kept", frames, source, made_by, label, detail))

    def counts(self) -> dict[str, int]:
        """Count the rows by status."""
        return dict(Counter(row.status for row in self.rows.values()))

    def save(self) -> None:
        """Write the table, sorted by clip."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(PoseOutcome)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(self.rows[clip_id]) for clip_id in sorted(self.rows))
        write_atomic(self.folder / TABLE, text.getvalue())
        self._saved = time.monotonic()

    def _add(self, outcome: PoseOutcome) -> None:
        self.rows[outcome.clip_id] = outcome
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self.save()


def _read(path: Path) -> dict[str, PoseOutcome]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [_outcome(row) for row in csv.DictReader(file, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error, TypeError, KeyError, ValueError, StopIteration) as error:
        raise UserError(f"{path}: not a table of pose outcomes ({error}); move it away") from None
    return {row.clip_id: row for row in rows}


def _outcome(row: dict[str, str]) -> PoseOutcome:
    status = next(known for known in STATUSES if known == row["status"])
    about = (row[name] for name in ("source", "made_by", "label", "detail"))
    return PoseOutcome(row["clip_id"], status, int(row["frames"]), *about)
