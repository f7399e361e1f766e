"""The embedded corpus's lexicons: the built-in one, tables in ASL-LEX columns, and what is rendered as coded."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from islr.errors import UserError
from islr.synth import built_in_lexicon, coverage, fallbacks, read_lexicon, summary, write_lexicon
from islr.synth.difficulty import DIFFICULTIES
from islr.synth.kinematics.motion import perform
from islr.synth.kinematics.solid import TOUCH, depth_inside, hand_flesh
from islr.synth.kinematics.strokes import Style
from islr.synth.lexicon import BUNDLES, PHONOLOGY, Sign, morpheme_column
from islr.synth.signer import generator, make_signer

LEXICON = built_in_lexicon(48)


def _changed(one: Sign, two: Sign) -> set[str]:
    return {field for field in PHONOLOGY if getattr(one, field) != getattr(two, field)}


def test_built_in_lexicon_is_deterministic_and_longer_ones_extend_it() -> None:
    assert built_in_lexicon(30) == LEXICON[:30]
    assert built_in_lexicon(24, seed=1) != LEXICON[:24]
    assert len({sign.entry_id for sign in LEXICON}) == len({sign.code for sign in LEXICON}) == 48
    assert all(sign.entry_id.isalpha() and sign.entry_id.islower() for sign in LEXICON)


def test_variants_share_no_sign_and_no_name() -> None:
    a, b = LEXICON, built_in_lexicon(24, seed=1, variant="b")
    assert not {sign.phonology() for sign in a} & {sign.phonology() for sign in b}
    assert not {sign.entry_id for sign in a} & {sign.entry_id for sign in b}
    with pytest.raises(UserError, match="variant"):
        built_in_lexicon(5, variant="c")


@pytest.mark.parametrize("variant", ["a", "b"])
@pytest.mark.parametrize(
    "feature",
    [
        *("handshape", "selected_fingers", "flexion", "thumb_position", "thumb_contact", "movement"),
        *("repeated_movement", "major_location", "minor_location", "contact", "flexion_change", "ulnar_rotation"),
    ],
)
def test_every_level_of_a_main_feature_is_carried_by_five_signs(variant: str, feature: str) -> None:
    levels = Counter(getattr(sign, feature) for sign in built_in_lexicon(48, variant=variant))
    assert len(levels) >= 2
    assert min(levels.values()) >= 5, levels


def test_sign_types_are_balanced_and_structure_is_kept() -> None:
    kinds = Counter(sign.sign_type.removesuffix("DifferentHandshape").removesuffix("SameHandshape") for sign in LEXICON)
    assert set(kinds) == {"OneHanded", "SymmetricalOrAlternating", "Asymmetrical"}
    assert min(kinds.values()) >= 8
    for sign in LEXICON:
        assert (sign.major_location == "Hand") == sign.sign_type.startswith("Asymmetrical")
        assert (sign.nondominant_handshape == "NA") == (sign.sign_type == "OneHanded")
        assert fallbacks(sign) == ()


def test_the_first_24_signs_are_minimal_pairs_in_each_bundle() -> None:
    for base in range(0, 24, 4):
        for offset, bundle in enumerate(("handshape", "location", "movement"), start=1):
            changed = _changed(LEXICON[base], LEXICON[base + offset])
            assert changed
            assert changed <= set(BUNDLES[bundle]), (base, bundle, changed)


def test_lexicon_round_trip(tmp_path: Path) -> None:
    write_lexicon(tmp_path / "lexicon.csv", LEXICON)
    assert read_lexicon(tmp_path / "lexicon.csv") == LEXICON


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",Circular,", ",Spiral,", "Movement.2.0 is 'Spiral'"),
        ("Movement.2.0", "Path", "no column 'Movement.2.0'"),
        (",Forehead,", ",Knee,", "MinorLocation.2.0 is 'Knee'"),
        (",FullyOpen,", ",NA,", "Flexion.2.0 is NA"),
    ],
)
def test_a_lexicon_that_cannot_be_rendered_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "lexicon.csv"
    write_lexicon(path, LEXICON)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_lexicon(path)


def test_fallbacks_are_named_and_counted() -> None:
    sign = LEXICON[0]
    odd = dataclasses.replace(sign, movement="Other", handshape="y", major_location="Head", minor_location="Palm")
    assert [text.split(":")[0].split(" ")[0] for text in fallbacks(odd)] == [
        "handshape",
        "MinorLocation.2.0",
        "Movement.2.0",
    ]
    counted = coverage([sign, odd])
    assert (counted.full, counted.fallback) == (1, 1)
    assert sum(counted.reasons.values()) == 3


@pytest.mark.real
def test_the_real_table_is_rendered(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "asl_lex" / "signdata_updated11-18.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    signs = read_lexicon(path)
    counted = coverage(signs)
    assert counted.full + counted.fallback == len(signs) == len({sign.entry_id for sign in signs}) == 2723
    assert counted.full > 0.85 * len(signs)
    further = Counter(len(sign.morphemes) for sign in signs)
    assert sum(further.values()) - further[0] == 263
    write_lexicon(tmp_path / "again.csv", signs)
    assert read_lexicon(tmp_path / "again.csv") == signs
    body = make_signer(0, 0).body
    for sign in signs[::60] + [sign for sign in signs if len(sign.morphemes) > 2]:
        performance = perform(sign, body, Style(), 24.0, generator(1))
        assert np.isfinite(performance.hands).all(), sign
        reach = np.linalg.norm(performance.hands[:, :, 0] - performance.elbows, axis=-1)
        np.testing.assert_allclose(reach, body.forearm, atol=1e-9, err_msg=str(sign))


@pytest.mark.real
@pytest.mark.parametrize("difficulty", sorted(DIFFICULTIES))
def test_hands_and_arms_of_the_real_table_stay_out_of_the_body(shared: Path, difficulty: str) -> None:
    path = shared / "data" / "asl_lex" / "signdata_updated11-18.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    first = sorted(DIFFICULTIES).index(difficulty)
    for number, sign in enumerate(read_lexicon(path)[40 * first :: 120]):
        person = make_signer(0, number % 10, difficulty=DIFFICULTIES[difficulty])
        performance = perform(sign, person.body, person.style, 24.0, generator(1))
        wrists = performance.hands[:, :, 0]
        forearm = performance.elbows + np.linspace(0, 1, 7)[:, None, None, None] * (wrists - performance.elbows)
        assert depth_inside(person.body, forearm).max() < 0.0, sign
        assert depth_inside(person.body, performance.hands, hand_flesh(person.body)).max() <= TOUCH, sign


# Changes of one column that show in the performance or are named as a fallback: none may vanish silently. What does
# not apply to a sign (a second place in a sign without path, a non-dominant hand in a one-handed one) is no change.
_CHANGES = {
    "handshape": ("f", "y"), "selected_fingers": ("i", "imrp", "t"), "flexion": ("Bent", "Curved", "FullyOpen"),
    "flexion_change": ("1",), "spread": ("1", "0"), "spread_change": ("1",), "thumb_position": ("Closed", "Open"),
    "thumb_contact": ("1", "0"), "sign_type": ("OneHanded", "SymmetricalOrAlternating"),
    "movement": ("None", "Straight", "Curved", "Circular", "BackAndForth", "Z-shaped", "X-shaped", "Other"),
    "repeated_movement": ("1", "0"), "major_location": ("Head", "Neutral"), "minor_location": ("Mouth", "Eye"),
    "second_minor_location": ("HeadAway", "Forehead", "Palm"), "contact": ("1", "0"),
    "nondominant_handshape": ("S", "5"), "ulnar_rotation": ("1", "0"),
}  # fmt: skip


def _bases(field: str) -> list[Sign]:
    path = {"movement": "Straight", "second_minor_location": "Chin", "repeated_movement": "0"}
    head = dataclasses.replace(
        next(sign for sign in LEXICON if sign.sign_type == "OneHanded" and sign.handshape == "open_b"),
        major_location="Head", minor_location="Chin", contact="1", flexion_change="0", ulnar_rotation="0", **path,
    )  # fmt: skip
    if field != "nondominant_handshape":
        return [head]
    return [sign for sign in LEXICON if sign.sign_type == "AsymmetricalDifferentHandshape"][:2]


@pytest.mark.parametrize("field", PHONOLOGY)
def test_no_column_is_ignored_silently(field: str) -> None:
    body, checked = make_signer(0, 0).body, 0
    for base in _bases(field):
        before = perform(base, body, Style(), 15.0, generator(7)).hands
        for value in _CHANGES[field]:
            changed = dataclasses.replace(base, **{field: value})
            after = perform(changed, body, Style(), 15.0, generator(7)).hands
            if getattr(base, field) == value:
                assert np.array_equal(before, after)
                continue
            shown = before.shape != after.shape or float(np.abs(before - after).max()) > 0.005
            if not shown:  # what is not shown has to be named
                assert set(fallbacks(changed)) - set(fallbacks(base)), value
            checked += 1
    assert checked


def _compound(tmp_path: Path, **cells: str) -> Sign:
    """The first sign with a second morpheme whose columns hold what is given, and NA."""
    write_lexicon(tmp_path / "one.csv", LEXICON[:2])
    header, first, second = (tmp_path / "one.csv").read_text().splitlines()
    names = [morpheme_column(field, 2) for field in PHONOLOGY]
    row = [cells.get(field, "NA") for field in PHONOLOGY]
    text = "\n".join([",".join([header, *names]), ",".join([first, *row]), ",".join([second, *["NA"] * len(row)])])
    (tmp_path / "compound.csv").write_text(text + "\n")
    compound, plain = read_lexicon(tmp_path / "compound.csv")
    assert plain == LEXICON[1]
    write_lexicon(tmp_path / "again.csv", [compound, plain])
    assert read_lexicon(tmp_path / "again.csv") == [compound, plain]
    return compound


def test_further_morphemes_are_performed_and_what_they_leave_open_is_counted(tmp_path: Path) -> None:
    whole = {field: getattr(LEXICON[5], field) for field in PHONOLOGY}
    coded = _compound(tmp_path, **whole)
    assert [m.phonology() for m in coded.morphemes] == [LEXICON[5].phonology()]
    assert coded.phonology() != LEXICON[0].phonology()
    assert fallbacks(coded) == ()
    partial = _compound(tmp_path, handshape="5", selected_fingers="imrp", flexion="FullyOpen")
    assert "taken over from the morpheme before" in fallbacks(partial)[0]
    assert partial.morphemes[0].major_location == LEXICON[0].major_location
    body = make_signer(0, 0).body
    alone, both = (perform(sign, body, Style(), 25.0, generator(7)) for sign in (LEXICON[0], coded))
    assert both.hands.shape[1] > 1.2 * alone.hands.shape[1]
    with pytest.raises(UserError, match=r"morpheme 2: Movement\.2\.0 is 'Spiral'"):
        _compound(tmp_path, **{**whole, "movement": "Spiral"})


def test_the_coverage_of_a_lexicon_is_told_in_lines() -> None:
    odd = dataclasses.replace(LEXICON[0], movement="Other")
    assert summary(coverage([*LEXICON[:3], odd])) == [
        "4 signs: 3 rendered in full, 1 with a documented fallback",
        "     1  Movement.2.0 Other: drawn as a wave",
    ]
