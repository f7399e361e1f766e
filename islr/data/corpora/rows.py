"""The rows of a published list: what each says of its clip, and which cannot be clips, named with their line."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from islr.data.corpora.layout import SPLIT_NAMES
from islr.data.corpora.tables import read_table
from islr.data.manifest import Box, Clip, fault_of
from islr.errors import UserError

# What exports write where a signer is not known.
_UNKNOWN = frozenset(("", "none", "null", "nan", "na", "n/a", "-1", "unknown"))


class RowError(UserError):
    """A row of a list that cannot be a clip, and why."""


@dataclass(frozen=True)
class ListedClip:
    """One clip of a published list; `stem` is its file's name without suffix, `box` is relative (0..1)."""

    clip_id: str
    stem: str
    gloss: str = ""
    split: str = "none"
    signer: str = ""
    start: float | None = None
    end: float | None = None
    box: Box | None = None
    frame_range: tuple[int, int] | None = None
    code: str = ""


class Listing:
    """The clips of a list, and a line for each row that is left out.

    Attributes:
        rows: The clips, in the list's order.
        left_out: Where and why of each row that cannot be a clip.
        respelt: How many glosses were composed of other code points than the same gloss elsewhere may be.
    """

    def __init__(self) -> None:
        self.rows: list[ListedClip] = []
        self.left_out: list[str] = []
        self.respelt = 0
        self._seen: dict[str, tuple[str, ListedClip]] = {}

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Leave the row out, with its reason, if the block raises RowError."""
        try:
            yield
        except RowError as error:
            self.left_out.append(shown(f"{where}: {error}"))

    def add(self, where: str, row: ListedClip) -> None:
        """Add a clip.

        Raises:
            RowError: It cannot be a clip, or repeats one.
            UserError: Another clip of its id is listed.
        """
        if not row.stem.strip():
            raise RowError("names no video")
        if "/" in row.stem or "\0" in row.stem or ".." in PurePosixPath(row.clip_id).parts or row.clip_id[:1] == "/":
            raise RowError(f"'{row.clip_id}' leads out of its folder")
        if fault := fault_of(_bare(row)):
            raise RowError(fault)
        if row.frame_range is not None and not 0 <= row.frame_range[0] < row.frame_range[1]:
            raise RowError(f"frames {row.frame_range[0]} to {row.frame_range[1]} are no range")
        gloss = unicodedata.normalize("NFC", row.gloss)
        self.respelt += gloss != row.gloss
        row = replace(row, gloss=gloss)
        first, other = self._seen.setdefault(row.clip_id, (where, row))
        if other != row:
            raise UserError(f"clip '{row.clip_id}' is listed twice, and differently: {first} and {where}")
        if first != where:
            raise RowError(f"repeats {first}")
        self.rows.append(row)

    def table(self, path: str | Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (where, cells) of each row of a csv or tsv that has the required columns; others are left out."""
        for line, cells in read_table(path, required):
            where = f"{path} line {line}"
            if isinstance(cells, str):
                self.left_out.append(f"{where}: {cells}")
            else:
                yield where, cells

    def notes(self) -> dict[str, Any]:
        """Return what the manifest says about rows that were left out or changed."""
        notes: dict[str, Any] = {}
        if self.left_out:
            notes["rows_left_out"] = self.left_out
        if self.respelt:
            notes["glosses_respelt_with_composed_letters"] = self.respelt
        return notes

    def rename(self, gloss_of: dict[str, str]) -> None:
        """Give clips other glosses, by clip id."""
        self.rows = [replace(row, gloss=gloss_of[row.clip_id]) for row in self.rows]

    def check(self, name: str) -> None:
        """Refuse a list of which nothing is left."""
        if not self.rows and not self.left_out:
            raise UserError(f"{name}: lists no clips")
        if not self.rows:
            raise UserError(f"{name}: none of {len(self.left_out)} rows can be a clip; {self.left_out[0]}")


def _bare(row: ListedClip) -> Clip:
    """Return the row as a manifest's rules see it, before its file is known."""
    return Clip(
        row.clip_id,
        row.stem,
        row.gloss,
        split=row.split,
        start=row.start,
        end=row.end,
        signer=row.signer,
        code=row.code,
    )


def shown(text: str) -> str:
    """Return a text that any terminal and any UTF-8 file can hold."""
    text = "".join(character if character >= " " else repr(character)[1:-1] for character in text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def known(value: Any) -> str:
    """Return a signer's or source's name; "" for what exports write where it is not known."""
    text = "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()
    return "" if text.lower() in _UNKNOWN else text


def split_of(text: str, where: str) -> str:
    """Return the split that a list names; "none" where it names none.

    Raises:
        UserError: The name is none that we know.
    """
    if text.lower() in ("", "none"):
        return "none"
    if text.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: unknown split '{text}'; known are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.lower()]


def list_splits(files: Sequence[Path], names: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """Return the split of each list file, by the part of its name that says it, or as given.

    Raises:
        UserError: A name says nothing and no split is given, or the given ones do not fit the lists.
    """
    given = list(given or ())
    if len(given) not in (0, 1, len(files)):
        raise UserError(
            f"--split: {len(given)} splits for {len(files)} lists; give one for all, or one for each in order"
        )
    splits = []
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        if given:
            splits.append(split_of(given[number if len(given) > 1 else 0], "--split"))
        elif name.lower() in SPLIT_NAMES:
            splits.append(SPLIT_NAMES[name.lower()])
        else:
            raise UserError(
                f"{file}: its name tells no split ('{name}' is not one of {', '.join(SPLIT_NAMES)});"
                " say with --split which it is"
            )
    return splits


def seconds(text: Any) -> float:
    """Parse `12.5` or `00:01:02.5` as seconds.

    Raises:
        RowError: It is neither, or not finite.
    """
    try:
        total = 0.0
        for part in str(text).split(":"):
            total = 60 * total + float(part)
    except ValueError:
        raise RowError(f"'{text}' is neither seconds nor hours:minutes:seconds") from None
    if not math.isfinite(total):
        raise RowError(f"'{text}' is no time")
    return total


def whole(value: Any, what: str) -> int:
    """Return a whole number, from 38, "38" or 38.0.

    Raises:
        RowError: It is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise RowError(f"{what} '{value}' is not a whole number")
    return int(number)


def box_of(corners: Any) -> Box | None:
    """Return a box of four finite numbers; None where there is none.

    Raises:
        RowError: It is something else.
    """
    if corners is None:
        return None
    try:
        x0, y0, x1, y1 = (float(value) for value in corners)
    except (TypeError, ValueError):
        raise RowError(f"a box has four numbers, not {corners!r}") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise RowError(f"a box has four numbers, not {corners!r}")
    return x0, y0, x1, y1
