"""Lexicons in ASL-LEX 2.0 columns: one row per sign, read, written and checked against what can be rendered."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from islr.data.synth.body import LOCATIONS
from islr.data.synth.hand import FLEXION, HANDSHAPES
from islr.errors import UserError

MOVEMENTS = ("None", "Straight", "Curved", "Circular", "BackAndForth", "Z-shaped", "X-shaped", "Other")
SIGN_TYPES = (
    "OneHanded",
    "SymmetricalOrAlternating",
    "AsymmetricalDifferentHandshape",
    "AsymmetricalSameHandshape",
    "DominanceViolation",
    "SymmetryViolation",
)
SELECTED_FINGERS = ("imrp", "i", "im", "t", "m", "p", "ip", "mrp", "mr", "imr", "imp", "r")
# Values of NonDominantHandshape.2.0 that name no handshape; each is drawn with the stand-in of
# `Sign.other_handshape`.
_VIOLATIONS = ("DominanceConditionViolation", "SymmetryViolation")
_FLAG = ("0", "1")
_MINOR = tuple(dict.fromkeys(minor for minors in LOCATIONS.values() for minor in minors))

# Field of Sign -> ASL-LEX 2.0 column, in the order they are written.
COLUMNS: dict[str, str] = {
    "entry_id": "EntryID",
    "lemma_id": "LemmaID",
    "code": "Code",
    "handshape": "Handshape.2.0",
    "selected_fingers": "SelectedFingers.2.0",
    "flexion": "Flexion.2.0",
    "flexion_change": "FlexionChange.2.0",
    "spread": "Spread.2.0",
    "spread_change": "SpreadChange.2.0",
    "thumb_position": "ThumbPosition.2.0",
    "thumb_contact": "ThumbContact.2.0",
    "sign_type": "SignType.2.0",
    "movement": "Movement.2.0",
    "repeated_movement": "RepeatedMovement.2.0",
    "major_location": "MajorLocation.2.0",
    "minor_location": "MinorLocation.2.0",
    "second_minor_location": "SecondMinorLocation.2.0",
    "contact": "Contact.2.0",
    "nondominant_handshape": "NonDominantHandshape.2.0",
    "ulnar_rotation": "UlnarRotation.2.0",
}
IDENTITY = ("entry_id", "lemma_id", "code")
PHONOLOGY = tuple(field for field in COLUMNS if field not in IDENTITY)
BUNDLES: dict[str, tuple[str, ...]] = {
    "handshape": (
        *("handshape", "selected_fingers", "flexion", "flexion_change", "spread", "spread_change"),
        *("thumb_position", "thumb_contact", "nondominant_handshape"),
    ),
    "location": ("major_location", "minor_location", "second_minor_location"),
    "movement": ("movement", "repeated_movement", "ulnar_rotation", "second_minor_location"),
}
# What each column may hold. "NA" is ASL-LEX's own word for "does not apply"; an empty cell reads as NA and is
# a fallback.
VALUES: dict[str, tuple[str, ...]] = {
    "handshape": tuple(name for name in HANDSHAPES if name not in ("A", "B", "C", "O", "S", "Lax")),
    "selected_fingers": SELECTED_FINGERS,
    "flexion": (*FLEXION, "NA"),
    "flexion_change": (*_FLAG, "NA"),
    "spread": (*_FLAG, "NA"),
    "spread_change": (*_FLAG, "NA"),
    "thumb_position": ("Open", "Closed"),
    "thumb_contact": (*_FLAG, "NA"),
    "sign_type": SIGN_TYPES,
    "movement": MOVEMENTS,
    "repeated_movement": _FLAG,
    "major_location": (*LOCATIONS, "Other"),
    "minor_location": (*_MINOR, "Other"),
    "second_minor_location": (*_MINOR, "Other", "OtherAway", "NA"),
    "contact": _FLAG,
    "nondominant_handshape": (*HANDSHAPES, *_VIOLATIONS, "NA"),
    "ulnar_rotation": _FLAG,
}
_ENCODINGS = ("utf-8-sig", "latin-1")  # ASL-LEX's exports come in either; latin-1 reads any bytes


@dataclass(frozen=True, slots=True)
class Sign:
    """One row of a lexicon; every field holds the column's own text."""

    entry_id: str
    lemma_id: str
    code: str
    handshape: str
    selected_fingers: str
    flexion: str
    flexion_change: str
    spread: str
    spread_change: str
    thumb_position: str
    thumb_contact: str
    sign_type: str
    movement: str
    repeated_movement: str
    major_location: str
    minor_location: str
    second_minor_location: str
    contact: str
    nondominant_handshape: str
    ulnar_rotation: str

    def phonology(self) -> tuple[str, ...]:
        """The phonological vector: two signs with the same one are homophones."""
        return tuple(getattr(self, field) for field in PHONOLOGY)

    def other_handshape(self) -> str | None:
        """Handshape name of the other hand; None when it has none or copies the dominant hand."""
        name = self.nondominant_handshape
        if (
            name == "DominanceConditionViolation"
        ):  # a marked handshape unlike the dominant one, which the table does not name
            return "l" if self.handshape == "v" else "v"
        if name in ("NA", "", "SymmetryViolation"):
            return None
        return name

    def second_region(self) -> str | None:
        """Major location that holds the second minor location: the sign's own where it can be; None without a
        second place.
        """
        second = self.second_minor_location
        for region in (self.major_location, *LOCATIONS):
            if second in LOCATIONS.get(region, ()):
                return region
        return None


def fallbacks(sign: Sign) -> tuple[str, ...]:
    """What of this row is drawn by a documented stand-in; empty when every column is rendered as coded."""
    reasons = []
    empty = [COLUMNS[field] for field in PHONOLOGY if getattr(sign, field) == ""]
    reasons += [f"{column} is empty: read as NA" for column in empty]
    shape = HANDSHAPES[sign.handshape]
    if (shape.selected, shape.flexion) != (sign.selected_fingers, sign.flexion):
        reasons.append("handshape features differ from the named handshape: fingers follow the features")
    if sign.movement == "Other":
        reasons.append("Movement.2.0 Other: drawn as a wave")
    if sign.major_location == "Other":
        reasons.append("MajorLocation.2.0 Other: drawn in neutral space")
    elif sign.minor_location not in LOCATIONS[sign.major_location]:
        reasons.append("MinorLocation.2.0 outside its major location: drawn at the major location's middle")
    elif sign.minor_location == "Other":
        reasons.append("MinorLocation.2.0 Other: drawn at a set place of the major location")
    if sign.second_minor_location in ("Other", "OtherAway"):
        reasons.append("SecondMinorLocation.2.0 Other: the path stays at the first place")
    elif sign.second_region() in ("Hand", "Arm") and sign.sign_type == "OneHanded" and sign.major_location != "Arm":
        reasons.append("SecondMinorLocation.2.0 on a hand that does not take part: the path stays at the first place")
    if sign.nondominant_handshape in _VIOLATIONS:
        reasons.append(f"NonDominantHandshape.2.0 {sign.nondominant_handshape} names no handshape: a stand-in is drawn")
    elif sign.nondominant_handshape == "NA" and sign.sign_type.startswith(("Asymmetrical", "Dominance")):
        reasons.append("NonDominantHandshape.2.0 NA in a sign of two different hands: the other hand is relaxed")
    if sign.sign_type in ("SymmetricalOrAlternating", "SymmetryViolation") and sign.major_location in (
        "Hand",
        "Arm",
    ):
        reasons.append("both hands move, yet one is the place: drawn touching in neutral space")
    if sign.sign_type == "OneHanded" and sign.major_location == "Hand":
        reasons.append("one-handed, yet the other hand is the place: it is held relaxed")
    return tuple(reasons)


@dataclass(frozen=True)
class Coverage:
    """How much of a lexicon is rendered as coded: rows in full, rows with a stand-in, and the reasons with
    their counts.
    """

    full: int
    fallback: int
    reasons: dict[str, int]


def coverage(signs: Iterable[Sign]) -> Coverage:
    """Count fully rendered and fallback rows of a lexicon."""
    counts: Counter[str] = Counter()
    full = fallback = 0
    for sign in signs:
        found = fallbacks(sign)
        counts.update(found)
        full, fallback = (full + 1, fallback) if not found else (full, fallback + 1)
    return Coverage(full, fallback, dict(counts.most_common()))


def read_lexicon(path: str | Path) -> list[Sign]:
    """Read a csv with ASL-LEX 2.0 columns (utf-8 or latin-1; extra columns are ignored).

    Names are stripped of blanks around them; a name that occurs again gets its Code appended, so that every
    entry is unique.

    Raises:
        UserError: The file is missing, has no rows, lacks a column, or holds a value that cannot be
            rendered (named with row and column).
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the lexicon cannot be read ({error.strerror})") from None
    reader = csv.DictReader(io.StringIO(_decoded(raw), newline=""))
    missing = [column for column in COLUMNS.values() if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}: the lexicon has no column {missing[0]!r}; it needs ASL-LEX 2.0's columns")
    signs, seen = [], set()
    for number, row in enumerate(reader, start=2):
        values = {field: (row[column] or "").strip() for field, column in COLUMNS.items()}
        _check(values, f"{path}, row {number}")
        if values["entry_id"] in seen:
            values["entry_id"] = f"{values['entry_id']}_{values['code']}"
        seen.add(values["entry_id"])
        signs.append(Sign(**values))
    if not signs:
        raise UserError(f"{path}: the lexicon has no signs")
    return signs


def _decoded(raw: bytes) -> str:
    for encoding in _ENCODINGS:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes any bytes")


def _check(values: dict[str, str], where: str) -> None:
    if not values["entry_id"]:
        raise UserError(f"{where}: EntryID is empty; every sign needs a name")
    for field, allowed in VALUES.items():
        value = values[field]
        if value == "" and "NA" in allowed:
            continue
        if value not in allowed:
            raise UserError(f"{where}: {COLUMNS[field]} is {value!r}; it can be one of {', '.join(allowed)}")
    if values["selected_fingers"] != "t" and values["flexion"] in ("NA", ""):
        raise UserError(f"{where}: Flexion.2.0 is NA, which only SelectedFingers.2.0 't' (the thumb alone) allows")


def write_lexicon(path: str | Path, signs: Sequence[Sign]) -> None:
    """Write signs as a csv that `read_lexicon` and readers of ASL-LEX 2.0 understand."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS.values())
        writer.writerows(dataclasses.astuple(sign) for sign in signs)
    os.replace(partial, path)
