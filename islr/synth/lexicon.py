"""Lexicons in ASL-LEX 2.0 columns: one row per sign, read, written and checked against what can be rendered.

A compound has further columns for each further morpheme, `HandshapeM2.2.0` for `Handshape.2.0` and so on up to M6.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from islr.errors import UserError
from islr.files import write_atomic
from islr.synth.kinematics.hand import FLEXION
from islr.synth.kinematics.handshapes import HANDSHAPES
from islr.synth.kinematics.places import LOCATIONS

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
VIOLATIONS = ("DominanceConditionViolation", "SymmetryViolation")
_FLAG = ("0", "1")
AWAY = (*(f"{region}Away" for region in ("Head", "Body", "Hand", "Arm")), "Away")  # near a place, not on it
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
    "second_minor_location": (*_MINOR, "Other", "OtherAway", "Away", "NA"),
    "contact": _FLAG,
    "nondominant_handshape": (*HANDSHAPES, *VIOLATIONS, "NA"),
    "ulnar_rotation": _FLAG,
}
MORPHEMES = (2, 3, 4, 5, 6)  # numbers of the further morphemes the table has columns for
_ONCE = {"repeated_movement": "0"}  # NA of a further morpheme that has a plain reading: it moves once
_ENCODINGS = ("utf-8-sig", "latin-1")  # ASL-LEX's exports come in either; latin-1 reads any bytes


@dataclass(frozen=True, slots=True)
class Sign:
    """One row of a lexicon; every field holds the column's own text.

    `morphemes` are the further morphemes of a compound. What their columns leave open (NA where a value is needed) is
    taken over from the morpheme before and listed in `taken_over`.
    """

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
    morphemes: tuple[Sign, ...] = ()
    taken_over: tuple[str, ...] = ()

    def phonology(self) -> tuple[str, ...]:
        """Return the phonological vector of the whole sign: two signs with the same one are homophones."""
        own = tuple(getattr(self, field) for field in PHONOLOGY)
        return sum((further.phonology() for further in self.morphemes), own)

    def other_handshape(self) -> str | None:
        """Return the handshape name of the other hand; None when it has none or copies the dominant hand."""
        name = self.nondominant_handshape
        if (
            name == "DominanceConditionViolation"
        ):  # a marked handshape unlike the dominant one, which the table does not name
            return "l" if self.handshape == "v" else "v"
        if name in ("NA", "", "SymmetryViolation"):
            return None
        return name

    def second_region(self) -> str | None:
        """Return the major location that holds the second minor location: its own if possible, else None."""
        second = self.second_minor_location
        for region in (self.major_location, *LOCATIONS):
            if second in LOCATIONS.get(region, ()):
                return region
        return None


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
        sign = _sign(values)
        signs.append(replace(sign, morphemes=_further_morphemes(row, sign, f"{path}, row {number}")))
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


def _sign(values: Mapping[str, str], taken_over: tuple[str, ...] = ()) -> Sign:
    cells: dict[str, Any] = {field: values[field] for field in COLUMNS}
    return Sign(**cells, taken_over=taken_over)


def _further_morphemes(row: Mapping[str, str | None], first: Sign, where: str) -> tuple[Sign, ...]:
    """Return the morphemes after the first that a row codes."""
    morphemes: list[Sign] = []
    for number in MORPHEMES:
        cells = {field: (row.get(morpheme_column(field, number)) or "NA").strip() or "NA" for field in PHONOLOGY}
        if set(cells.values()) == {"NA"}:
            continue
        before = morphemes[-1] if morphemes else first
        values, taken_over = dict(cells), list[str]()
        for field, cell in cells.items():
            if cell != "NA":
                continue
            if field in _ONCE:
                values[field] = _ONCE[field]
            elif "NA" not in VALUES[field] or (field == "flexion" and values["selected_fingers"] != "t"):
                values[field] = getattr(before, field)
                taken_over.append(field)
        names = {field: getattr(first, field) for field in IDENTITY}
        _check(names | values, f"{where}, morpheme {number}")
        morphemes.append(_sign(names | values, tuple(taken_over)))
    return tuple(morphemes)


def morpheme_column(field: str, number: int) -> str:
    """Return the column of a phonological field of the morpheme with this number, from 2 on."""
    return f"{COLUMNS[field].removesuffix('.2.0')}M{number}.2.0"


def write_lexicon(path: str | Path, signs: Sequence[Sign]) -> None:
    """Write signs as a csv that `read_lexicon` and readers of ASL-LEX 2.0 understand; compounds get the columns of
    their further morphemes.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    further = MORPHEMES[: max((len(sign.morphemes) for sign in signs), default=0)]
    names = [morpheme_column(field, number) for number in further for field in PHONOLOGY]
    writer.writerow([*COLUMNS.values(), *names])
    for sign in signs:
        cells = [getattr(sign, field) for field in COLUMNS]
        for morpheme in sign.morphemes:
            cells += ["NA" if field in morpheme.taken_over else getattr(morpheme, field) for field in PHONOLOGY]
        writer.writerow(cells + ["NA"] * (len(COLUMNS) + len(names) - len(cells)))
    write_atomic(Path(path), text.getvalue())
