"""The manifest: one row per clip with its labels, its measurements and the status of its file.

A manifest is `manifest.csv` (the rows) beside `manifest.json` (corpus name, class names, data root, hashes of its
source files). Clips whose files are missing or broken stay in it with their status, so that the size of a split does
not depend on the files of a machine.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import Facts, check_facts, read_json, refuse_special

SPLITS = ("train", "val", "test", "none")
OK, MISSING, CORRUPT = "ok", "missing", "corrupt:"

COLUMNS = (
    *("clip_id", "path", "start", "end", "box", "gloss", "form", "label", "variation", "signer", "source"),
    *("split", "frames", "fps", "width", "height", "status", "pose", "code", "first_frame", "file_frames"),
)
# Characters that the csv cannot hold: controls, which end or hide parts of a line, and bytes that were not UTF-8.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_TEXTS = ("clip_id", "path", "gloss", "form", "variation", "signer", "source", "status", "pose", "code")
_FLOATS = ("start", "end", "fps")
_INTS = ("label", "frames", "width", "height", "first_frame", "file_frames")
VERSION = 1

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a corpus.

    `path` and `pose` are relative to the manifest's root, and equal in a corpus without videos. `start` and `end` are
    seconds in the file (None = the file's own start or end); `box` is x0, y0, x1, y1 in pixels of the upright file;
    `frames` counts the decoded frames of the time range, and `frames`, `fps`, `width` and `height`
    are measured by decoding. `first_frame` is the number of the range's first frame in its file, and `file_frames`
    counts the file's frames (None = the clip is the whole file). `code` is the clip's entry in a published lexicon.
    """

    clip_id: str
    path: str
    gloss: str = ""
    form: str = ""
    label: int | None = None
    split: str = "none"
    start: float | None = None
    end: float | None = None
    box: Box | None = None
    variation: str = ""
    signer: str = ""
    source: str = ""
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    status: str = OK
    pose: str = ""
    code: str = ""
    first_frame: int | None = None
    file_frames: int | None = None

    @property
    def has_video(self) -> bool:
        """Whether the clip has pictures, and not a pose alone."""
        return not self.path.endswith(".npz")


@dataclass(frozen=True)
class Manifest:
    """An immutable list of clips.

    Attributes:
        name: The corpus's name.
        clips: The rows.
        root: The folder that `path` and `pose` of the rows are relative to; nothing outside it is opened.
        classes: Class name of each label index.
        sources: File name -> sha256 of the files the manifest was made from.
        notes: The converter's counts and decisions, stored in manifest.json and shown by the audit.
    """

    name: str
    clips: tuple[Clip, ...]
    root: Path
    classes: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    @classmethod
    def load(cls, path: str | Path) -> "Manifest":
        """Read `manifest.csv` and, where present, the `.json` beside it.

        Raises:
            UserError: The file is missing, empty, not a manifest, or does not agree with its json.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "manifest.csv"
        if path.suffix.lower() != ".csv":
            raise UserError(f"{path}: a manifest is a .csv file")
        try:
            refuse_special(path)
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"{path}: no such manifest; `islr data` makes one") from None
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a manifest ({error})") from error
        clips = _parse(text, path)
        about = _read_about(path.with_suffix(".json"))
        if about is None:
            classes = _classes_from(clips, path)
            _check_labels(clips, classes, path)
            return cls(path.parent.name or path.stem, clips, path.parent, classes)
        manifest = cls(
            name=about["name"],
            clips=clips,
            root=Path(os.path.normpath(path.parent / about["root"])),
            classes=tuple(about["classes"]),
            sources=about["sources"],
            notes=about.get("notes", {}),
        )
        if manifest.fingerprint() != about["fingerprints"]["all"]:
            raise UserError(
                f"{path}: its clips or labels are not those recorded in {path.with_suffix('.json').name};"
                " make the manifest again, or delete the json if the csv was edited on purpose"
            )
        _check_labels(manifest.clips, manifest.classes, path)
        return manifest

    def save(self, path: str | Path) -> None:
        """Write `<path>.csv` and the `.json` beside it, each atomically.

        Raises:
            UserError: `load` would refuse the rows.
        """
        path = Path(path)
        if path.suffix.lower() != ".csv":
            raise UserError(f"{path}: a manifest is saved as a .csv file")
        self._check(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        folder, root = path.parent.resolve(), self.root.resolve()
        fingerprints = {"all": self.fingerprint()}
        used = {clip.split for clip in self}
        fingerprints |= {split: self.fingerprint(split) for split in SPLITS if split in used}
        about = {
            "version": VERSION,
            "name": self.name,
            "root": root.relative_to(folder).as_posix() if root.is_relative_to(folder) else root.as_posix(),
            "clips": len(self),
            "fingerprints": fingerprints,
            "sources": self.sources,
            "notes": self.notes,
            "classes": list(self.classes),
        }
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(clip, column)) for column in COLUMNS] for clip in self)
        # Remove the json first and write it last, so that a crash cannot pair an old json with new rows.
        path.with_suffix(".json").unlink(missing_ok=True)
        write_atomic(path, rows.getvalue())
        write_atomic(path.with_suffix(".json"), json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def _check(self, path: Path) -> None:
        """Refuse what `load` refuses."""
        seen: set[str] = set()
        for number, clip in enumerate(self.clips, start=1):
            if fault := "occurs twice" if clip.clip_id in seen else fault_of(clip):
                raise UserError(f"{path}: row {number}, clip {clip.clip_id!a}: {fault}")
            seen.add(clip.clip_id)
        if not self.clips:
            raise UserError(f"{path}: the manifest has no clips")
        _check_labels(self.clips, self.classes, path)

    def fingerprint(self, split: str | None = None) -> str:
        """Return the sha256 over the sorted (clip_id, label) of every clip of a split, its file present or not."""
        pairs = sorted((clip.clip_id, _cell(clip.label)) for clip in self if split in (None, clip.split))
        lines = "".join(f"{clip_id}\t{label}\n" for clip_id, label in pairs)
        return hashlib.sha256(lines.encode()).hexdigest()

    def select(self, split: str | None = None, status: str | None = OK) -> "Manifest":
        """Return the clips of a split (None = all) with a status (None = any)."""
        if split is not None and split not in SPLITS:
            raise UserError(f"unknown split '{split}'; splits are {', '.join(SPLITS)}")
        return self.replace(clip for clip in self if split in (None, clip.split) and status in (None, clip.status))

    def replace(self, clips: Iterable[Clip]) -> "Manifest":
        """Return the same corpus with other rows."""
        return dataclasses.replace(self, clips=tuple(clips))

    def hold_out(self, every: int) -> tuple["Manifest", "Manifest"]:
        """Split off every n-th clip of each class, in manifest order: no randomness, and every class stays."""
        counts: Counter[int | None] = Counter()
        rest: list[Clip] = []
        held: list[Clip] = []
        for clip in self:
            counts[clip.label] += 1
            (rest if counts[clip.label] % every else held).append(clip)
        return self.replace(rest), self.replace(held)

    def path_of(self, clip: Clip) -> Path:
        """Return the clip's video file, or its pose in a corpus without videos."""
        return self.root / clip.path

    def pose_of(self, clip: Clip) -> Path | None:
        """Return the clip's pose file, or None when it has none."""
        return self.root / clip.pose if clip.pose else None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(_cell(item) for item in value)
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(float(value))
    return str(value)


def _parse(text: str, path: Path) -> tuple[Clip, ...]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    header = reader.fieldnames or []
    if "clip_id" not in header or "path" not in header:
        raise UserError(f"{path}: the first line of a manifest names its columns, at least clip_id and path")
    if len(set(header)) < len(header):
        raise UserError(
            f"{path}: column '{next(n for n in header if header.count(n) > 1)}' occurs twice; keep one of them"
        )
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise UserError(f"{path}: unknown column '{unknown[0]}'; columns are {', '.join(COLUMNS)}")
    clips: list[Clip] = []
    seen: set[str] = set()
    try:
        for row in reader:
            clip = _row(row, f"{path} line {reader.line_num}")
            if clip.clip_id in seen:
                raise UserError(f"{path} line {reader.line_num}: clip_id '{clip.clip_id}' occurs twice")
            seen.add(clip.clip_id)
            clips.append(clip)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not valid csv ({error})") from error
    if not clips:
        raise UserError(f"{path}: the manifest has no clips")
    return tuple(clips)


def _row(row: Mapping[str | None, Any], where: str) -> Clip:
    if None in row or None in row.values():
        raise UserError(f"{where}: the number of cells differs from the header's")
    values: dict[str, Any] = {str(name): text for name, text in row.items() if text != ""}
    for name, kind in [*((name, float) for name in _FLOATS), *((name, int) for name in _INTS)]:
        if name in values:
            values[name] = _number(kind, values[name], f"{where}: '{name}'")
    if "box" in values:
        values["box"] = tuple(_number(float, part, f"{where}: 'box'") for part in values["box"].split(","))
    clip = Clip(**{"clip_id": "", "path": "", **values})
    if fault := fault_of(clip):
        raise UserError(f"{where}: {fault}")
    return clip


def fault_of(clip: Clip) -> str:
    """Return why a clip cannot be a row of a manifest, such as "'end' is not after 'start'"; "" if it can be one.

    `Manifest.load` and `Manifest.save` apply it to every row, and converters to every row of a list.
    """
    if not clip.clip_id.strip():
        return "'clip_id' is empty"
    if not clip.path.strip():
        return "'path' is empty"
    if _UNWRITABLE.search("".join([getattr(clip, name) for name in _TEXTS])):
        name = next(name for name in _TEXTS if _UNWRITABLE.search(getattr(clip, name)))
        surrogate = any("\ud800" <= character <= "\udfff" for character in getattr(clip, name))
        return f"'{name}' {'is not UTF-8' if surrogate else 'holds a control character'}"
    for name in _FLOATS:
        if getattr(clip, name) is not None and not math.isfinite(getattr(clip, name)):
            return f"'{name}' is not a number: '{getattr(clip, name)}'"
    box = clip.box
    if box is not None and not (len(box) == 4 and box[0] < box[2] and box[1] < box[3] and all(map(math.isfinite, box))):
        return f"'box' is x0,y0,x1,y1 with x0 < x1 and y0 < y1, not '{_cell(box)}'"
    if clip.split not in SPLITS:
        return f"unknown split '{clip.split}'; splits are {', '.join(SPLITS)}"
    if clip.status not in (OK, MISSING) and not clip.status.startswith(CORRUPT):
        return f"unknown status '{clip.status}'; it is ok, missing or corrupt:<kind>"
    if clip.label is not None and clip.label < 0:
        return "'label' is negative; leave it empty for a clip without a label"
    if clip.end is not None and clip.end <= max(clip.start or 0.0, 0.0):
        return "'end' is not after 'start'"
    return ""


def _number(kind: type, text: str, where: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} is not {'a whole number' if kind is int else 'a number'}: '{text}'")
    return value


def _read_about(path: Path) -> dict[str, Any] | None:
    try:
        about: dict[str, Any] = read_json(Facts, path)
        if about.get("version") != VERSION:
            raise UserError(f"{path}: not the json of a manifest of version {VERSION}")
        return check_facts(_About, about, str(path))
    except FileNotFoundError:
        return None
    except UserError as error:
        raise UserError(f"{error}; make the manifest again, or delete the json if the csv is right") from error


class _About(pydantic.BaseModel, extra="allow"):
    """What is used of a manifest's json."""

    name: str = pydantic.Field(min_length=1)
    root: str
    classes: list[str]
    sources: dict[str, str]
    notes: dict[str, Any] = {}
    fingerprints: dict[str, str] = pydantic.Field(min_length=1)

    @pydantic.field_validator("fingerprints")
    @classmethod
    def _of_all(cls, value: dict[str, str]) -> dict[str, str]:
        if "all" not in value:
            raise ValueError("there is no fingerprint of all clips")
        return value


def _classes_from(clips: tuple[Clip, ...], path: Path) -> tuple[str, ...]:
    """Derive class names from rows without a json: the gloss of each label, or the label's number."""
    names: dict[int, str] = {}
    for clip in clips:
        if clip.label is not None:
            names.setdefault(clip.label, clip.gloss or str(clip.label))
    count = max(names, default=-1) + 1
    if count > 10 * len(names) + 1000:  # a typing error in a label must not create millions of classes
        raise UserError(f"{path}: label {count - 1} is far beyond the {len(names)} in use; count from 0")
    return tuple(names.get(index, str(index)) for index in range(count))


def _check_labels(clips: tuple[Clip, ...], classes: tuple[str, ...], path: Path) -> None:
    """Refuse labels beyond the classes, and two labels of one name, which no table could tell apart."""
    label_of: dict[str, int] = {}
    for label, name in enumerate(classes):
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{path}: labels {label_of[name]} and {label} are both called '{name}'; each needs its own")
    for clip in clips:
        if clip.label is not None and clip.label >= len(classes):
            raise UserError(f"{path}: clip '{clip.clip_id}' has label {clip.label} of only {len(classes)} classes")
