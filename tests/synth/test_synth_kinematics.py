"""The embedded corpus's kinematics: bones, limits, places, contact, symmetry, signs in a row."""

import dataclasses
import itertools

import numpy as np
import pytest

from islr.synth import built_in_lexicon
from islr.synth.difficulty import DIFFICULTIES
from islr.synth.kinematics import hand as hands
from islr.synth.kinematics.arm import ELBOW_POLE, Track, follow, resting
from islr.synth.kinematics.body import MIRROR, Body, solve_arm
from islr.synth.kinematics.motion import Performance, perform, perform_sequence
from islr.synth.kinematics.path import clip_timeline
from islr.synth.kinematics.places import LOCATIONS, fixed_place, place_on_other_arm
from islr.synth.kinematics.solid import TOUCH, depth_inside, hand_flesh
from islr.synth.kinematics.strokes import REST, Style, alternates
from islr.synth.lexicon import Sign
from islr.synth.signer import generator, make_signer

LEXICON = built_in_lexicon(48)
STILL = Style()  # no noise: what is coded is what is done


def _perform(sign: Sign, style: Style = STILL, signer: int = 0) -> Performance:
    return perform(sign, make_signer(0, signer).body, style, 25.0, generator(7))


def test_finger_bones_keep_their_lengths_and_never_bend_backwards() -> None:
    start = hands.named_posture("5").perturbed(generator(3), 6.0)
    for name in hands.HANDSHAPES:
        config = start.blend(hands.named_posture(name), np.linspace(0, 1, 9))
        joints = hands.joints(config)[:, 1:].reshape(9, 5, 4, 3)
        bones = np.linalg.norm(np.diff(joints, axis=2), axis=-1)
        thumb_reach = bones[:, 0, 1:].sum(axis=-1)
        np.testing.assert_allclose(bones[:, 1:], np.broadcast_to(bones[:1, 1:], bones[:, 1:].shape), atol=1e-9)
        np.testing.assert_allclose(thumb_reach, thumb_reach[0], atol=1e-9)
        assert config.flexion.min() >= -8
        assert config.flexion[:, :, 1:].min() >= 0


def test_arm_bones_keep_their_lengths() -> None:
    body = make_signer(0, 2).body
    for sign in LEXICON[::2]:
        performance = _perform(sign, signer=2)
        shoulders = np.stack([body.shoulder_right, body.shoulder_right * MIRROR])[:, None]
        upper = np.linalg.norm(performance.elbows - shoulders, axis=-1)
        lower = np.linalg.norm(performance.hands[:, :, 0] - performance.elbows, axis=-1)
        np.testing.assert_allclose(upper, body.upper_arm, atol=1e-9)
        np.testing.assert_allclose(lower, body.forearm, atol=1e-9)


def test_symmetrical_signs_mirror_and_alternating_ones_do_not() -> None:
    both = [sign for sign in LEXICON if sign.sign_type == "SymmetricalOrAlternating"]
    assert {alternates(sign) for sign in both} == {False, True}
    for sign in both:
        right, left = _perform(sign).hands
        apart = np.abs(left - right * MIRROR).max()
        assert apart > 0.05 if alternates(sign) else apart < 1e-9, sign


def test_a_left_handed_signer_mirrors_a_right_handed_one() -> None:
    for sign in LEXICON[:8]:
        right, left = _perform(sign), _perform(sign, dataclasses.replace(STILL, left_handed=True))
        np.testing.assert_allclose(left.hands[::-1] * MIRROR, right.hands, atol=1e-12)


def _at(region: str, minor: str, contact: str, handshape: str) -> Sign:
    """A one-handed sign that is held still at a place."""
    shape = hands.HANDSHAPES[handshape]
    return dataclasses.replace(
        LEXICON[0], sign_type="OneHanded", nondominant_handshape="NA", major_location=region, minor_location=minor,
        movement="None", second_minor_location="NA", contact=contact, flexion_change="0", ulnar_rotation="0",
        repeated_movement="0", handshape=handshape, selected_fingers=shape.selected, flexion=shape.flexion,
        spread=shape.spread, thumb_position=shape.thumb_position, thumb_contact=shape.thumb_contact,
    )  # fmt: skip


@pytest.mark.parametrize("handshape", ["1", "5", "s", "bent_v", "flat_o", "y"])
def test_contact_reaches_its_place_and_no_contact_stays_off(handshape: str) -> None:
    """The part that touches is at its place and rests on the skin; without contact all of the hand is well off."""
    body = make_signer(0, 0).body
    places = [("Head", minor) for minor in ("Forehead", "Eye", "Mouth", "Chin")]
    places += [("Body", minor) for minor in ("Clavicle", "Shoulder", "TorsoTop", "TorsoMid")]
    for region, minor in places:
        off = []
        for contact in ("1", "0"):
            sign = _at(region, minor, contact, handshape)
            performance = _perform(sign)
            hand = performance.hands[0, performance.stroke[1]]
            touch = hands.contact_point(hand, sign.selected_fingers, sign.flexion)
            distance = float(np.linalg.norm(touch - fixed_place(body, region, minor, False).point))
            assert distance < 0.012 if contact == "1" else 0.08 < distance < 0.11, (minor, contact, distance)
            off.append(-float(depth_inside(body, hand, hand_flesh(body)).max()))
        assert off[1] > off[0] + 0.04, minor


def test_places_are_on_the_skin_and_the_face_is_on_the_head() -> None:
    body = Body()
    for region, besides in (("Head", ("HeadAway", "HeadTop", "Other")), ("Body", ("BodyAway", "Shoulder"))):
        for minor in set(LOCATIONS[region]) - set(besides):  # the top, the ear and the far shoulder have no front
            assert 0.0 < -depth_inside(body, fixed_place(body, region, minor, False).point) < 0.045, minor
    assert depth_inside(body, body.head_center) > 0.06
    assert depth_inside(body, body.head_center + np.array([0.2, 0.0, 0.0])) < -0.1


@pytest.mark.parametrize("minor", ["Palm", "PalmBack"])
def test_the_other_hand_is_touched_on_the_coded_side(minor: str) -> None:
    signs = [sign for sign in LEXICON if (sign.major_location, sign.minor_location) == ("Hand", minor)]
    assert {sign.contact for sign in signs} == {"0", "1"}
    side = 1.0 if minor == "Palm" else -1.0
    for sign in signs:
        still = dataclasses.replace(
            sign, movement="None", second_minor_location="NA", flexion_change="0", ulnar_rotation="0"
        )
        performance = _perform(still)
        frame = performance.stroke[1]
        right, left = performance.hands[:, frame]
        place = place_on_other_arm(minor, left, performance.elbows[1, frame], np.zeros(3))
        assert place.normal @ (side * performance.palms[1, frame]) > 0.9, sign
        touch = hands.contact_point(right, sign.selected_fingers, sign.flexion)
        height = float((touch - place.point) @ place.normal)
        assert abs(height) < 0.02 if sign.contact == "1" else height > 0.07, sign


def test_hands_that_touch_each_other_meet_and_others_stay_apart() -> None:
    both = [
        sign for sign in LEXICON
        if (sign.sign_type, sign.major_location) == ("SymmetricalOrAlternating", "Neutral") and not alternates(sign)
    ]  # fmt: skip
    assert {sign.contact for sign in both} == {"0", "1"}
    for sign in both:
        performance = _perform(sign)
        right, left = performance.hands[:, slice(*performance.stroke)]
        gap = (left[..., 0].min(axis=1) - right[..., 0].max(axis=1)).min()
        assert 0.01 < gap < 0.03 if sign.contact == "1" else gap > 0.08, sign


def test_a_hand_that_touches_dwells() -> None:
    still, dwelling = (clip_timeline("Straight", False, touches, 1.0, 100.0, generator(2)) for touches in (False, True))
    assert len(dwelling.phase) - len(still.phase) == pytest.approx(13, abs=1)
    waits = [int(np.sum((timeline.phase == 0) & (timeline.envelope > 0.999))) for timeline in (still, dwelling)]
    assert waits[1] - waits[0] == pytest.approx(10, abs=1)


def test_flat_fingers_are_turned_out_of_the_line_of_sight() -> None:
    """Seen from the front, flat index fingers keep most of their length; without the turn they keep a fifth."""
    for region, minor in (("Neutral", "Neutral"), ("Body", "TorsoTop")):
        for handshape in ("flat_1", "flat_h", "flat_m", "flat_o"):
            performance = _perform(_at(region, minor, "0", handshape))
            index = performance.hands[0, performance.stroke[1], [5, 8]]
            across = np.linalg.norm((index[1] - index[0])[:2]) / np.linalg.norm(index[1] - index[0])
            assert across > 0.6, (minor, handshape, across)
    straight = _perform(_at("Neutral", "Neutral", "0", "open_b"))
    assert straight.palms[0, straight.stroke[1]] @ np.array([0.0, 0.0, 1.0]) > 0.85  # nothing is turned


def test_signs_of_a_minimal_pair_look_different_and_repeat_exactly() -> None:
    base = _perform(LEXICON[0])
    np.testing.assert_array_equal(base.hands, _perform(LEXICON[0]).hands)
    for partner in LEXICON[1:4]:
        other = _perform(partner)
        count = min(base.hands.shape[1], other.hands.shape[1])
        moved = np.abs(base.hands[:, :count] - other.hands[:, :count]).max()
        assert moved > 0.04, (LEXICON[0], partner)


def test_one_signer_in_ten_is_left_handed_and_signers_differ() -> None:
    signers = [make_signer(5, index) for index in range(20)]
    assert [signer.index for signer in signers if signer.style.left_handed] == [3, 13]
    assert len({signer.look for signer in signers}) == 20
    assert make_signer(5, 4) == signers[4] != make_signer(6, 4)


def _limb_samples(performance: Performance, shoulder: np.ndarray) -> np.ndarray:
    """Points along the bones of upper arms and forearms [n, 2, T, 3]."""
    shoulders = np.stack([shoulder, shoulder * MIRROR])[:, None]
    shares = np.linspace(0.3, 1.0, 6)[:, None, None, None]  # the arm's upper end is part of the trunk
    upper = shoulders + shares * (performance.elbows - shoulders)
    lower = performance.elbows + np.linspace(0, 1, 8)[:, None, None, None] * (
        performance.hands[:, :, 0] - performance.elbows
    )
    return np.concatenate([upper, lower])


@pytest.mark.parametrize("difficulty", sorted(DIFFICULTIES))
def test_no_limb_goes_through_torso_or_head(difficulty: str) -> None:
    """Arms stay outside; of a hand with its flesh, what touches sinks in by at most half a centimetre."""
    assert TOUCH <= 0.005
    first = sorted(DIFFICULTIES).index(difficulty)
    for number, sign in enumerate(LEXICON[first::3]):
        person = make_signer(0, (0, 3, 5)[number % 3], difficulty=DIFFICULTIES[difficulty])
        performance = _perform(sign, person.style, person.index)
        assert depth_inside(person.body, _limb_samples(performance, person.body.shoulder_right)).max() < 0.0, sign
        assert depth_inside(person.body, performance.hands, hand_flesh(person.body)).max() <= TOUCH, sign


def test_an_arm_makes_way_where_it_would_cross_the_torso() -> None:
    body = make_signer(0, 0).body
    wrist = np.linspace([-0.20, -0.30, 0.15], [0.17, -0.20, 0.09], 30)  # across the chest, close to it
    still = resting(REST["low"]).config
    track = Track(wrist, np.tile(np.eye(3), (30, 1, 1)), still.blend(still, np.zeros(30)))
    arm = follow(body, track)
    elbow, reached = solve_arm(body, wrist, ELBOW_POLE)
    shares = np.linspace(0, 1, 9)[:, None, None]
    assert depth_inside(body, elbow + shares * (reached - elbow)).max() > 0.01
    assert depth_inside(body, arm.elbow + shares * (arm.hand[:, 0] - arm.elbow)).max() < 0.0
    assert depth_inside(body, arm.hand, hand_flesh(body)).max() <= TOUCH
    assert np.linalg.norm(np.diff(arm.elbow, axis=0), axis=1).max() < 0.08
    assert np.linalg.norm(np.diff(arm.hand[:, 0], axis=0), axis=1).max() < 0.04


def _smallest_bend(joints: np.ndarray, pads: np.ndarray) -> float:
    """Smallest bend of PIP and DIP joints in degrees, from joints [..., 21, 3] and palmar normals [..., 4, 3, 3]."""
    bones = np.diff(joints[..., 5:, :].reshape(*joints.shape[:-2], 4, 4, 3), axis=-2)  # [..., 4 fingers, 3, 3]
    bones = bones / np.linalg.norm(bones, axis=-1, keepdims=True)
    ahead = np.sum(bones[..., :-1, :] * bones[..., 1:, :], axis=-1)
    inward = np.sum(pads[..., :-1, :] * bones[..., 1:, :], axis=-1)  # to the palmar side of the bone before
    return float(np.degrees(np.arctan2(inward, ahead)).min())


def test_no_finger_bends_backwards_in_noisy_signing_and_on_the_way_between_signs() -> None:
    sloppy = dataclasses.replace(make_signer(0, 1).style, handshape_noise=12.0)
    body = make_signer(0, 1).body
    one_by_one = [perform(sign, body, sloppy, 25.0, generator(9)) for sign in LEXICON[:16]]
    in_a_row, _ = perform_sequence(LEXICON[16:40], body, sloppy, 25.0, generator(9))
    for performance in (*one_by_one, in_a_row):
        assert _smallest_bend(performance.hands, performance.pads) > -1e-6
    bent = one_by_one[0].hands.copy()
    bent[:, :, 8] = bent[:, :, 7] - 0.02 * one_by_one[0].pads[:, :, 0, 1]
    assert _smallest_bend(bent, one_by_one[0].pads) < -20  # the check sees it


def test_signs_in_a_row_run_into_each_other() -> None:
    body = make_signer(0, 0).body
    signs = LEXICON[:8]
    performance, spans = perform_sequence(signs, body, STILL, 25.0, generator(3))
    assert len(spans) == len(signs)
    assert all(first <= last for first, last in spans)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(spans))
    alone = sum(_perform(sign).hands.shape[1] for sign in signs)
    assert performance.hands.shape[1] < 0.9 * alone
    wrist = performance.hands[0, :, 0]
    rest = wrist[0]
    between = [np.linalg.norm(wrist[one[1] : two[0]] - rest, axis=1).min() for one, two in itertools.pairwise(spans)]
    assert max(between) > 0.15  # not by way of rest
    assert np.linalg.norm(wrist[-1] - rest) < 0.02

    def speed(hands_in_time: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(hands_in_time, axis=1), axis=-1).max())

    assert speed(performance.hands) < 1.1 * max(speed(_perform(sign).hands) for sign in signs)  # nothing jumps


def test_a_sequence_ends_before_its_limit_with_whole_signs() -> None:
    body = make_signer(0, 0).body
    performance, spans = perform_sequence(LEXICON[:20], body, STILL, 25.0, generator(3), longest=200.0)
    assert 150 < performance.hands.shape[1] <= 200
    assert 0 < len(spans) < 20
    assert spans[-1][1] < performance.hands.shape[1]


def test_a_hand_that_is_needed_again_soon_does_not_rest_in_between() -> None:
    body = make_signer(0, 0).body
    two = next(sign for sign in LEXICON if sign.sign_type == "SymmetricalOrAlternating")
    quick = dataclasses.replace(next(s for s in LEXICON if s.sign_type == "OneHanded"), movement="None")
    slow = dataclasses.replace(quick, movement="Z-shaped", repeated_movement="1")

    def lowest(between: Sign) -> float:
        performance, spans = perform_sequence((two, between, two), body, STILL, 25.0, generator(3))
        other = performance.hands[1, :, 0]
        rest = other[-1]
        return float(np.linalg.norm(other[spans[0][1] : spans[2][0]] - rest, axis=1).min())

    assert lowest(slow) < 0.02 < lowest(quick)
