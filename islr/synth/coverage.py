"""How much of a lexicon is rendered as coded, and every stand-in that is drawn where it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from islr.synth.kinematics.handshapes import HANDSHAPES
from islr.synth.kinematics.places import LOCATIONS
from islr.synth.lexicon import AWAY, COLUMNS, PHONOLOGY, VIOLATIONS, Sign

MOVING_BOTH = ("SymmetricalOrAlternating", "SymmetryViolation")


def fallbacks(sign: Sign) -> tuple[str, ...]:
    """Return the columns of this row that a documented stand-in replaces; empty when all are rendered as coded."""
    reasons = _of_morpheme(sign)
    for further in sign.morphemes:
        if further.taken_over:
            reasons.append("further morpheme: columns that are NA are taken over from the morpheme before")
        reasons += [f"further morpheme: {reason}" for reason in _of_morpheme(further)]
    return tuple(dict.fromkeys(reasons))


def _of_morpheme(sign: Sign) -> list[str]:
    return [*_of_hands(sign), *_of_place(sign), *_of_path(sign)]


def _of_hands(sign: Sign) -> list[str]:
    reasons = []
    empty = [COLUMNS[field] for field in PHONOLOGY if getattr(sign, field) == ""]
    reasons += [f"{column} is empty: read as NA" for column in empty]
    shape = HANDSHAPES[sign.handshape]
    if (shape.selected, shape.flexion) != (sign.selected_fingers, sign.flexion):
        reasons.append("handshape features differ from the named handshape: fingers follow the features")
    if sign.nondominant_handshape in VIOLATIONS:
        reasons.append(f"NonDominantHandshape.2.0 {sign.nondominant_handshape} names no handshape: a stand-in is drawn")
    elif sign.nondominant_handshape == "NA" and sign.sign_type.startswith(("Asymmetrical", "Dominance")):
        reasons.append("NonDominantHandshape.2.0 NA in a sign of two different hands: the other hand is relaxed")
    return reasons


def _of_place(sign: Sign) -> list[str]:
    reasons = []
    if sign.major_location == "Other":
        reasons.append("MajorLocation.2.0 Other: drawn in neutral space")
    elif sign.minor_location not in LOCATIONS[sign.major_location]:
        reasons.append("MinorLocation.2.0 outside its major location: drawn at the major location's middle")
    elif sign.minor_location == "Other":
        reasons.append("MinorLocation.2.0 Other: drawn at a set place of the major location")
    if sign.sign_type in MOVING_BOTH and sign.major_location in ("Hand", "Arm"):
        reasons.append("both hands move, yet one is the place: drawn touching in neutral space")
    if sign.sign_type == "OneHanded" and sign.major_location == "Hand":
        reasons.append("one-handed, yet the other hand is the place: it is held relaxed")
    nothing_near = sign.second_region() is None or sign.second_minor_location in ("Neutral", *AWAY)
    in_space = sign.major_location == "Neutral" or sign.minor_location in AWAY
    touching_hands = sign.sign_type in MOVING_BOTH and sign.major_location == "Neutral"
    if sign.contact == "1" and in_space and nothing_near and not touching_hands:
        reasons.append("Contact.2.0 1 in free space: there is nothing to touch")
    return reasons


def _of_path(sign: Sign) -> list[str]:
    reasons = []
    second, region = sign.second_minor_location, sign.second_region()
    if sign.movement == "Other":
        reasons.append("Movement.2.0 Other: drawn as a wave")
    if second in ("Other", "OtherAway"):
        reasons.append("SecondMinorLocation.2.0 Other: the path stays at the first place")
    elif sign.movement == "None" and second not in ("NA", sign.minor_location):
        reasons.append("SecondMinorLocation.2.0 without a path: the hand stays at the first place")
    elif region in ("Hand", "Arm") and sign.sign_type in MOVING_BOTH and sign.major_location not in ("Hand", "Arm"):
        reasons.append("SecondMinorLocation.2.0 on a hand that moves itself: the path stays at the first place")
    elif region in ("Hand", "Arm") and sign.sign_type == "OneHanded" and sign.major_location != "Arm":
        reasons.append("SecondMinorLocation.2.0 on a hand that does not take part: the path stays at the first place")
    return reasons


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
        reasons = fallbacks(sign)
        counts.update(reasons)
        full, fallback = (full + 1, fallback) if not reasons else (full, fallback + 1)
    return Coverage(full, fallback, dict(counts.most_common()))


def summary(covered: Coverage) -> list[str]:
    """Describe the coverage in lines."""
    total = covered.full + covered.fallback
    lines = [f"{total} signs: {covered.full} rendered in full, {covered.fallback} with a documented fallback"]
    return lines + [f"{count:6d}  {reason}" for reason, count in covered.reasons.items()]
