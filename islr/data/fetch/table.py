"""The table of fetched clips, `fetch.csv`: one outcome per clip, continued by the next run.

New rows are appended to a journal and merged into the csv now and then, so that a killed run loses no row and a table
of twenty thousand rows is not rewritten for each of them.
"""

import csv
import dataclasses
import io
import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import parse_json

TABLE = "fetch.csv"

OK, DEAD, BLOCKED, WRONG_TYPE, TOO_SHORT = "ok", "dead", "blocked", "wrong type", "too short"
TOO_LARGE, DAMAGED, BAD_LINK, TRUNCATED = "too large", "damaged", "bad link", "truncated"
TIMEOUT, UNREACHABLE, SERVER_ERROR, NEEDS_YTDLP = "timeout", "unreachable", "server error", "needs yt-dlp"

# Every outcome and its meaning.
OUTCOMES = {
    OK: "the file is there, decodes from its first frame to its last, and has the recorded sha256",
    DEAD: "the address holds no video any more (404, 410, removed, private)",
    WRONG_TYPE: "the host sent something else than a video, such as a web page",
    TOO_SHORT: "the video ends before the clip does, or is shorter than any sign",
    TOO_LARGE: "the file exceeds the cap on bytes",
    DAMAGED: "the file is complete and does not decode",
    BAD_LINK: "not an http(s) address, or one that leads into a private network",
    BLOCKED: "the host refuses the request (401, 403, 429, sign in)",
    TRUNCATED: "the transfer broke off, in every attempt",
    TIMEOUT: "the host sent nothing, or too little, for too long",
    UNREACHABLE: "no connection to the host",
    SERVER_ERROR: "the host failed (5xx)",
    NEEDS_YTDLP: "a YouTube video, and yt-dlp is not installed",
}
# Outcomes that another run would meet again; they are retried only on request (--retry-dead).
FINAL = frozenset((DEAD, WRONG_TYPE, TOO_SHORT, TOO_LARGE, DAMAGED, BAD_LINK))


@dataclass(frozen=True)
class FetchedClip:
    """One clip: its outcome, and the measurements of its file if it has one.

    `file` is relative to the table's folder; `trimmed` is "yes" if the file is just the clip's time range, "no" if it
    is the whole video, and empty if that is unknown, because the file is older than the table.
    """

    video_id: str
    outcome: str
    detail: str = ""
    source: str = ""
    url: str = ""
    file: str = ""
    trimmed: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    bytes: int = 0
    sha256: str = ""
    attempts: int = 0
    at: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(FetchedClip))
_NUMBERS: dict[str, type] = {
    "frames": int,
    "fps": float,
    "width": int,
    "height": int,
    "bytes": int,
    "attempts": int,
}


class FetchTable:
    """The rows of a folder; safe to use from several threads.

    Args:
        folder: The folder of `fetch.csv`.
        journal: The file of rows that are not in the csv yet.
        order: Clip ids in the order of the table's rows.

    Raises:
        UserError: `fetch.csv` exists and is another kind of table.
    """

    def __init__(self, folder: Path, journal: Path, order: Sequence[str]) -> None:
        self.path = folder / TABLE
        self._order = {video_id: place for place, video_id in enumerate(order)}
        self._lock = threading.Lock()
        self._rows = {row.video_id: row for row in read_table(self.path)} if self.path.is_file() else {}
        self._rows |= {row.video_id: row for row in _read_journal(journal)}
        self._journal = journal.open("a", encoding="utf-8")

    def get(self, video_id: str) -> FetchedClip | None:
        """Return the clip's row, or None."""
        with self._lock:
            return self._rows.get(video_id)

    def put(self, row: FetchedClip) -> None:
        """Set a clip's row, in the journal too, so that it survives a kill."""
        with self._lock:
            self._rows[row.video_id] = row
            self._journal.write(json.dumps(dataclasses.asdict(row)) + "\n")
            self._journal.flush()

    def rows(self, ids: Iterable[str]) -> list[FetchedClip]:
        """Return the rows of those clips that have one."""
        with self._lock:
            return [self._rows[video_id] for video_id in ids if video_id in self._rows]

    def save(self) -> None:
        """Write the csv and empty the journal."""
        with self._lock:
            last = len(self._order)
            rows = sorted(self._rows.values(), key=lambda row: (self._order.get(row.video_id, last), row.video_id))
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: "" if v == 0 else v for k, v in dataclasses.asdict(row).items()} for row in rows)
            write_atomic(self.path, text.getvalue())
            self._journal.truncate(0)

    def close(self) -> None:
        """Save the table and close the journal."""
        self.save()
        self._journal.close()


def read_table(path: str | Path) -> list[FetchedClip]:
    """Read the rows of a `fetch.csv`.

    Raises:
        UserError: The file is missing or not such a table.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a table of fetched clips ({error})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path}: is not a table that `islr data fetch` wrote; fetch into another folder")
    try:
        return [_row(cells) for cells in reader]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} line {reader.line_num}: {error}; correct the line or delete it") from error


def trimmed_ids(folder: Path) -> set[str]:
    """Return the ids of a folder's clips that were fetched and cut to their time range.

    A file of another size than the table says is not among them: the user has replaced it.
    """
    if not (folder / TABLE).is_file():
        return set()
    rows = [row for row in read_table(folder / TABLE) if row.outcome == OK and row.trimmed == "yes"]
    paths = [(row, folder / row.file) for row in rows]
    return {row.video_id for row, path in paths if path.is_file() and path.stat().st_size == row.bytes}


def summarise(rows: Sequence[FetchedClip]) -> str:
    """Render a text table: a row per source, a column per outcome, and the meaning of each outcome below."""
    used = [outcome for outcome in OUTCOMES if any(row.outcome == outcome for row in rows)]
    lines = [("source", "clips", *used)]
    for source in [*sorted({row.source for row in rows}), None]:
        counts = Counter(row.outcome for row in rows if source in (None, row.source))
        name = "all" if source is None else source or "(none)"
        lines.append((name, str(counts.total()), *(str(counts[outcome] or "-") for outcome in used)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    again = "next run tries again", "only --retry-dead tries again"
    meanings = [
        f"{outcome}: {OUTCOMES[outcome]}" + ("" if outcome == OK else f"; {again[outcome in FINAL]}")
        for outcome in used
    ]
    return "\n".join([*text, "", *meanings])


def _row(cells: Mapping[str | None, Any]) -> FetchedClip:
    values: dict[str, Any] = {str(name): text for name, text in cells.items()}
    if None in cells or None in values.values():
        raise ValueError("the number of cells differs from the header's")
    for name, kind in _NUMBERS.items():
        values[name] = kind(values[name] or 0)
    if values["outcome"] not in OUTCOMES:
        raise ValueError(f"unknown outcome '{values['outcome']}'")
    return FetchedClip(**values)


def _read_journal(path: Path) -> list[FetchedClip]:
    """Read the rows of a journal, but for a last line that a kill has cut short."""
    rows: list[FetchedClip] = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                rows.append(parse_json(FetchedClip, line, str(path)))
            except UserError:
                break
    return rows
