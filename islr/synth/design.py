"""The built-in lexicon: signs of our own design, balanced over the phonology and made of minimal pairs first.

Signs are picked greedily from a pool of legal phonological vectors so that feature levels keep to their target
shares and pairs of features stay as independent as the structure allows (a sign on the other hand is never
one-handed, and so on). The first 24 signs are six groups of four: a base sign and its minimal pairs in handshape, in
location and in movement. A longer lexicon of the same seed and variant begins with the shorter one. Variants "a" and
"b" share the inventory and no sign.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from islr.errors import UserError
from islr.synth.kinematics.handshapes import HANDSHAPES
from islr.synth.lexicon import IDENTITY, Sign

VARIANTS = ("a", "b")
GROUPS = 6  # groups of four signs with minimal pairs, at the head of the lexicon

_HANDSHAPES = ("1", "5", "open_b", "s", "v", "bent_v", "y", "o")
_PLACES = (
    ("Neutral", "Neutral"),
    ("Head", "Forehead"),
    ("Head", "Chin"),
    ("Body", "TorsoTop"),
    ("Body", "Shoulder"),
    ("Hand", "Palm"),
    ("Hand", "PalmBack"),
    ("Arm", "ForearmBack"),
)
_MOVEMENTS = ("None", "Straight", "Curved", "Circular", "BackAndForth", "Z-shaped")
_POOL_SEED = 20_240_901
_PAIR_WEIGHT = 0.35  # how much independence of features counts beside balance of levels
_LEAST_DISTANCE = 2  # bundles in which a sign outside the minimal pairs differs from every other
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class _Choice:
    """The free choices behind one sign; every other column follows from them."""

    handshape: str
    place: tuple[str, str]
    movement: str
    hands: str  # one | both | other (the other hand is the place)
    repeated: bool
    contact: bool
    change: str  # "" | aperture | twist
    base: str  # handshape of a passive other hand, "" when it copies or there is none

    def bundles(self) -> tuple[object, ...]:
        """Return what a viewer tells signs apart by: handshape, place, movement, number of hands."""
        return (
            (self.handshape, self.change == "aperture"),
            self.place,
            (self.movement, self.repeated, self.change == "twist"),
            self.hands,
        )


def _sign_type(choice: _Choice) -> str:
    if choice.hands == "one":
        return "OneHanded"
    if choice.hands == "both":
        return "SymmetricalOrAlternating"
    return "AsymmetricalDifferentHandshape" if choice.base else "AsymmetricalSameHandshape"


def _second_place(choice: _Choice) -> str:
    """Return where the path ends: nowhere else without a path; away from the body after touching it; else at the
    same place.
    """
    if choice.movement == "None":
        return "NA"
    region, minor = choice.place
    leaves = choice.contact and region != "Neutral" and choice.movement in ("Straight", "Curved")
    return f"{region}Away" if leaves else minor


def _to_sign(choice: _Choice) -> Sign:
    shape = HANDSHAPES[choice.handshape]
    other = {"one": "NA", "both": choice.handshape, "other": choice.base or choice.handshape}[choice.hands]
    return Sign(
        entry_id="",
        lemma_id="",
        code="",
        handshape=choice.handshape,
        selected_fingers=shape.selected,
        flexion=shape.flexion,
        flexion_change="1" if choice.change == "aperture" else "0",
        spread=shape.spread,
        spread_change="NA" if shape.spread == "NA" else "0",
        thumb_position=shape.thumb_position,
        thumb_contact=shape.thumb_contact,
        sign_type=_sign_type(choice),
        movement=choice.movement,
        repeated_movement="1" if choice.repeated else "0",
        major_location=choice.place[0],
        minor_location=choice.place[1],
        second_minor_location=_second_place(choice),
        contact="1" if choice.contact else "0",
        nondominant_handshape=other,
        ulnar_rotation="1" if choice.change == "twist" else "0",
    )


def _legal(choice: _Choice) -> bool:
    region = choice.place[0]
    if (region == "Hand") != (choice.hands == "other"):
        return False
    if region == "Arm" and choice.hands != "one":
        return False
    if choice.base and HANDSHAPES[choice.base] == HANDSHAPES[choice.handshape]:
        return False
    if bool(choice.base) != (choice.hands == "other" and choice.place[1] == "Palm"):
        return False
    if region == "Neutral" and choice.hands == "one" and choice.contact:
        return False
    return not (choice.movement == "None" and choice.repeated and not choice.change)


def _variant_of(thing: object) -> str:
    """Return the variant of a vector or a name: a property of it alone, so that variants are disjoint at any size."""
    return VARIANTS[hashlib.sha256(repr(thing).encode()).digest()[0] & 1]


def _pool(variant: str) -> list[_Choice]:
    paths = itertools.product(_MOVEMENTS, (False, True), ("", "aperture", "twist"))
    looks = itertools.product(_HANDSHAPES, _PLACES, ("one", "both", "other"), ("", "B", "S"), (False, True))
    choices = (
        _Choice(shape, place, movement, hands, repeated, contact, change, base)
        for (shape, place, hands, base, contact), (movement, repeated, change) in itertools.product(looks, paths)
    )
    return [choice for choice in choices if _legal(choice) and _variant_of(choice) == variant]


_FEATURES = (
    *(
        "handshape",
        "selected_fingers",
        "flexion",
        "thumb_position",
        "sign_type",
        "movement",
        "repeated_movement",
    ),
    *("major_location", "minor_location", "contact", "flexion_change", "ulnar_rotation"),
)
# Target shares where an even split is not wanted.
_SHARES: dict[str, dict[str, float]] = {
    "sign_type": {
        "OneHanded": 0.48,
        "SymmetricalOrAlternating": 0.28,
        "AsymmetricalDifferentHandshape": 0.12,
        "AsymmetricalSameHandshape": 0.12,
    },
    "major_location": {"Neutral": 0.25, "Head": 0.22, "Body": 0.20, "Hand": 0.22, "Arm": 0.11},
    "minor_location": {
        **{"Neutral": 0.25, "Forehead": 0.11, "Chin": 0.11, "TorsoTop": 0.10, "Shoulder": 0.10},
        **{"Palm": 0.11, "PalmBack": 0.11, "ForearmBack": 0.11},
    },
    "flexion_change": {"0": 0.80, "1": 0.20},
    "ulnar_rotation": {"0": 0.82, "1": 0.18},
    "selected_fingers": {"imrp": 0.5, "im": 0.25, "i": 0.125, "p": 0.125},
    "flexion": {"FullyOpen": 0.625, "Bent": 0.125, "Curved": 0.125, "FullyClosed": 0.125},
    "contact": {"0": 0.45, "1": 0.55},
}


def _encode(signs: Sequence[Sign]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one-hot rows [N, F], target shares [F] and a mask [F, F] of level pairs that belong to different
    features.
    """
    columns, shares, owner = [], [], []
    for number, feature in enumerate(_FEATURES):
        values = np.array([getattr(sign, feature) for sign in signs])
        levels = sorted(set(values.tolist()))
        for level in levels:
            columns.append(values == level)
            shares.append(_SHARES.get(feature, {}).get(level, 1 / len(levels)))
            owner.append(number)
    of = np.array(owner)
    return np.stack(columns, axis=1).astype(float), np.array(shares), of[:, None] != of[None, :]


class _Picker:
    """Greedy choice from a pool: the candidate that leaves counts and co-occurrences nearest to their targets."""

    def __init__(self, pool: list[_Choice], rng: np.random.Generator) -> None:
        order = rng.permutation(len(pool))
        self.pool = [pool[index] for index in order]
        self.signs = [_to_sign(choice) for choice in self.pool]
        self.rows, self.shares, self.across = _encode(self.signs)
        self.bundles = [choice.bundles() for choice in self.pool]
        self.taken: list[int] = []
        self.index = {choice: number for number, choice in enumerate(self.pool)}

    def costs(self, candidates: np.ndarray) -> np.ndarray:
        """Return the cost of adding each candidate [M] on its own."""
        rows, taken = self.rows[candidates], self.rows[self.taken]
        size = len(self.taken) + 1
        lack = taken.sum(axis=0) - size * self.shares
        balance = 2 * rows @ lack + rows.sum(axis=1)
        joint = (taken.T @ taken - size * np.outer(self.shares, self.shares)) * self.across
        return balance + _PAIR_WEIGHT * np.einsum("nf,fg,ng->n", rows, joint, rows)

    def distance(self, one: int, two: int) -> int:
        return sum(a != b for a, b in zip(self.bundles[one], self.bundles[two], strict=True))

    def is_apart(self, candidate: int, least: int) -> bool:
        return all(self.distance(candidate, other) >= least for other in self.taken)

    def best(self, candidates: Sequence[int], least: int) -> int | None:
        """Return the cheapest candidate that differs from everything taken in at least `least` bundles."""
        numbers = np.array(candidates, dtype=int)
        if not len(numbers):
            return None
        for position in np.argsort(self.costs(numbers), kind="stable"):
            if self.is_apart(int(numbers[position]), least):
                return int(numbers[position])
        return None

    def partners(self, base: int) -> list[list[int]]:
        """Return the minimal pairs of a sign in the pool: in handshape, in place, in movement."""
        choice = self.pool[base]
        shapes = [replace(choice, handshape=name) for name in _HANDSHAPES if name != choice.handshape]
        places = [replace(choice, place=place) for place in _PLACES if place != choice.place]
        paths = [replace(choice, movement=path) for path in _MOVEMENTS if path != choice.movement]
        return [[self.index[c] for c in group if c in self.index] for group in (shapes, places, paths)]


def built_in_lexicon(signs: int = 48, seed: int = 0, variant: str = "a", homophones: int = 0) -> list[Sign]:
    """Return the first `signs` signs of the built-in lexicon.

    Args:
        signs: how many, from 1 on.
        seed: another seed is another selection from the same pool, with other names.
        variant: "a" or "b": two vocabularies with no phonological vector in common.
        homophones: how many of the signs, the last ones, repeat the form of the first ones under names of their own.

    Raises:
        UserError: more signs than can be told apart, or an unknown variant.
    """
    entries = _select(signs, seed, variant)
    names = entries[signs - homophones :]
    same = [
        replace(form, **{field: getattr(name, field) for field in IDENTITY})
        for form, name in zip(entries, names, strict=False)
    ]
    return [*entries[: signs - homophones], *same]


@functools.lru_cache(maxsize=8)
def _select(signs: int, seed: int, variant: str) -> tuple[Sign, ...]:
    if variant not in VARIANTS:
        raise UserError(f"variant is {variant!r}; it can be one of {', '.join(VARIANTS)}")
    if signs < 1:
        raise UserError(f"signs is {signs}; a lexicon has at least 1")
    picker = _Picker(_pool(variant), np.random.Generator(np.random.Philox([_POOL_SEED, seed, VARIANTS.index(variant)])))
    everything = range(len(picker.pool))
    for _ in range(GROUPS):
        _take_group(picker, everything)
    while len(picker.taken) < signs:
        found = picker.best(everything, _LEAST_DISTANCE)
        if found is None:
            raise UserError(
                f"signs is {signs}; the built-in lexicon has {len(picker.taken)} that differ enough: give --lexicon"
            )
        picker.taken.append(found)
    names = _names(seed, variant)
    chosen = [picker.signs[index] for index in picker.taken[:signs]]
    return tuple(
        replace(sign, entry_id=name, lemma_id=name, code=f"{variant.upper()}_{number // 100:02d}_{number % 100:03d}")
        for number, (sign, name) in enumerate(zip(chosen, names, strict=False), start=1)
    )


def _take_group(picker: _Picker, everything: Sequence[int]) -> None:
    """Take a base sign and one minimal pair of each bundle."""
    ranked = np.argsort(picker.costs(np.array(everything)), kind="stable")
    for base in ranked.tolist():
        if not picker.is_apart(base, _LEAST_DISTANCE):
            continue
        before = list(picker.taken)
        picker.taken.append(base)
        for group in picker.partners(base):
            # A partner differs from its base in one bundle; from the signs taken earlier it keeps the usual
            # distance.
            far = [one for one in group if all(picker.distance(one, other) >= _LEAST_DISTANCE for other in before)]
            found = picker.best(far, 1)
            if found is None:
                break
            picker.taken.append(found)
        if len(picker.taken) == len(before) + 4:
            return
        picker.taken[:] = before
    raise AssertionError("the pool holds no further group of minimal pairs")


def _names(seed: int, variant: str) -> list[str]:
    """Return made-up names of three syllables, in another order for every seed; each belongs to one variant."""
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    rng = np.random.Generator(np.random.Philox([_POOL_SEED, seed]))
    picks = rng.integers(0, len(syllables), (4000, 3)).tolist()
    words = dict.fromkeys("".join(syllables[index] for index in row) for row in picks if len(set(row)) == 3)
    return [word for word in words if _variant_of(word) == variant]
