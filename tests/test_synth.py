"""The embedded corpus: lexicon, kinematics, pixels, files."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from islr.data.manifest import Manifest
from islr.data.pose import read_pose
from islr.data.synth import (
    SynthOptions,
    built_in_lexicon,
    coverage,
    fallbacks,
    read_lexicon,
    write_corpus,
    write_lexicon,
)
from islr.data.synth import hand as hands
from islr.data.synth.body import MIRROR, fixed_place
from islr.data.synth.clip import Take, film, pose_of_shot
from islr.data.synth.lexicon import BUNDLES, PHONOLOGY, Sign
from islr.data.synth.motion import Performance, Style, alternates, perform
from islr.data.synth.signer import generator, make_signer
from islr.errors import UserError

LEXICON = built_in_lexicon(48)
STILL = Style()  # no noise: what is coded is what is done


def _perform(sign: Sign, style: Style = STILL, signer: int = 0) -> Performance:
    return perform(sign, make_signer(0, signer).body, style, 25.0, generator(7))


def _changed(one: Sign, two: Sign) -> set[str]:
    return {field for field in PHONOLOGY if getattr(one, field) != getattr(two, field)}


# ---- lexicon ---------------------------------------------------------------------------------------------------------


def test_built_in_lexicon_is_deterministic_and_longer_ones_extend_it() -> None:
    assert built_in_lexicon(30) == LEXICON[:30]
    assert built_in_lexicon(24, seed=1) != LEXICON[:24]
    assert len({sign.entry_id for sign in LEXICON}) == len({sign.code for sign in LEXICON}) == 48
    assert all(sign.entry_id.isalpha() and sign.entry_id.islower() for sign in LEXICON)


def test_variants_share_no_sign_and_no_name() -> None:
    a, b = built_in_lexicon(60), built_in_lexicon(60, seed=1, variant="b")
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
        "Movement.2.0",
        "MinorLocation.2.0",
    ]
    counted = coverage([sign, odd])
    assert (counted.full, counted.fallback) == (1, 1)
    assert sum(counted.reasons.values()) == 3


@pytest.mark.real
def test_the_real_table_is_rendered(shared: Path) -> None:
    path = shared / "data" / "asl_lex" / "signdata_updated11-18.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    signs = read_lexicon(path)
    counted = coverage(signs)
    assert counted.full + counted.fallback == len(signs) == len({sign.entry_id for sign in signs}) == 2723
    assert counted.full > 0.85 * len(signs)
    body = make_signer(0, 0).body
    for sign in signs[::9]:
        performance = perform(sign, body, STILL, 24.0, generator(1))
        assert np.isfinite(performance.hands).all(), sign
        reach = np.linalg.norm(performance.hands[:, :, 0] - performance.elbows, axis=-1)
        np.testing.assert_allclose(reach, body.forearm, atol=1e-9, err_msg=str(sign))


# ---- kinematics ------------------------------------------------------------------------------------------------------


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


def test_arm_bones_keep_their_lengths_and_hands_stay_before_the_body() -> None:
    body = make_signer(0, 2).body
    for sign in LEXICON:
        performance = _perform(sign, signer=2)
        shoulders = np.stack([body.shoulder_right, body.shoulder_right * MIRROR])[:, None]
        upper = np.linalg.norm(performance.elbows - shoulders, axis=-1)
        lower = np.linalg.norm(performance.hands[:, :, 0] - performance.elbows, axis=-1)
        np.testing.assert_allclose(upper, body.upper_arm, atol=1e-9)
        np.testing.assert_allclose(lower, body.forearm, atol=1e-9)
        before_torso = np.abs(performance.hands[..., 0]) < 0.8 * body.shoulder
        assert performance.hands[..., 2][before_torso].min() > 0.0, sign


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


@pytest.mark.parametrize("region", ["Head", "Body"])
def test_contact_reaches_its_place_and_no_contact_stays_off(region: str) -> None:
    body = make_signer(0, 0).body
    held = dataclasses.replace(next(s for s in LEXICON if s.major_location == region and s.sign_type == "OneHanded"))
    minors = {"Head": ("Forehead", "Eye", "Mouth", "Chin"), "Body": ("Clavicle", "Shoulder", "TorsoTop", "TorsoMid")}
    for minor in minors[region]:
        for contact in ("1", "0"):
            sign = dataclasses.replace(
                held, minor_location=minor, movement="None", second_minor_location="NA", contact=contact,
                flexion_change="0", ulnar_rotation="0", repeated_movement="0",
            )  # fmt: skip
            performance = _perform(sign)
            hand = performance.hands[0, performance.stroke[1]]
            touch = hands.contact_point(hand, sign.selected_fingers, sign.flexion)
            distance = float(np.linalg.norm(touch - fixed_place(body, region, minor, False).point))
            assert distance < 0.012 if contact == "1" else 0.03 < distance < 0.08, (minor, contact, distance)


def test_hand_places_are_touched_on_the_other_hand() -> None:
    touching = [s for s in LEXICON if s.major_location in ("Hand", "Arm") and s.contact == "1"]
    for sign in touching:
        still = dataclasses.replace(sign, movement="None", second_minor_location="NA", flexion_change="0")
        performance = _perform(still)
        right, left = performance.hands[:, performance.stroke[1]]
        touch = hands.contact_point(right, sign.selected_fingers, sign.flexion)
        arm = np.concatenate([left, np.linspace(performance.elbows[1, performance.stroke[1]], left[0], 9)])
        assert np.linalg.norm(arm - touch, axis=-1).min() < 0.075, sign


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


# ---- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [0, 1, 4])
def test_hands_are_drawn_where_the_pose_says(signer: int) -> None:
    """Pixels at hand joints have the signer's skin chromaticity in every frame; elbows of covered arms do not."""
    look = make_signer(0, signer).look
    lit = np.array(look.gain)
    tones = [np.array(color) * lit for color in (look.skin, look.palm)]
    hues = np.stack([tone / tone.sum() for tone in tones])
    for sign in (0, 12, 30):
        take = Take(sign, signer, 0)
        shot, pictures, fps = film(LEXICON[sign], take, 0, 128)
        pose = pose_of_shot(shot, float(fps))
        assert pose.confidences[:, :25].min() == pose.confidences[:, 33:].min() == 1
        assert pose.confidences[:, 25:33].max() == 0
        seen = 0
        for points, picture in zip(pose.keypoints, pictures, strict=True):
            joints = points[[33, 38, 42, 46, 50, 54, 59, 63, 67, 71], :2] * 128 - 0.5
            inside = joints[(joints > 1).all(axis=1) & (joints < 126).all(axis=1)]
            for x, y in np.round(inside).astype(int):
                colors = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(float)
                hue = colors / np.maximum(colors.sum(axis=1, keepdims=True), 1)
                assert np.abs(hue[:, None] - hues).max(axis=-1).min() < 0.04, (sign, x, y)
                seen += 1
        assert seen > 5 * len(pose.keypoints)


def test_pictures_follow_the_seed_alone() -> None:
    one, two, other = (np.stack(list(film(LEXICON[5], Take(5, 1, rep), 0, 64)[1])[:4]) for rep in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one.astype(int) - other).mean() > 1


# ---- files -----------------------------------------------------------------------------------------------------------

SMALL = SynthOptions(signs=3, signers=4, reps=1, size=64, val_signers=1, test_signers=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    calls: list[tuple[int, int]] = []
    write_corpus(folder, SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 12) for done in range(1, 13)]
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_corpus_files_agree_with_each_other(corpus: Path) -> None:
    manifest = Manifest.load(corpus)
    assert len(manifest) == 12
    index = json.loads((corpus / "wlasl.json").read_text())
    lexicon = read_lexicon(corpus / "lexicon.csv")
    assert [entry["gloss"] for entry in index] == [sign.entry_id for sign in lexicon] == list(manifest.classes)
    instances = {item["video_id"]: item for entry in index for item in entry["instances"]}
    signers: dict[str, set[str]] = {}
    for clip in manifest:
        with av.open(str(manifest.path_of(clip))) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            decoded = sum(1 for _ in container.decode(stream))
        pose_file = manifest.pose_of(clip)
        assert pose_file is not None
        pose = read_pose(pose_file)
        item = instances[clip.clip_id]
        assert decoded == clip.frames == len(pose.keypoints)
        assert clip.fps == pytest.approx(pose.fps, rel=1e-3)
        assert 0.9 < decoded / pose.fps < 2.1
        assert (item["split"], str(item["signer_id"])) == (clip.split, clip.signer)
        x0, y0, x1, y1 = item["bbox"]
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 64
        signers.setdefault(clip.split, set()).add(clip.signer)
    assert {split: len(ids) for split, ids in signers.items()} == {"train": 2, "val": 1, "test": 1}
    assert len(set().union(*signers.values())) == 4


def test_a_stopped_run_continues_to_the_same_bytes_with_any_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    expected = _contents(corpus)
    videos = sorted(path for path in expected if path.endswith(".mp4"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "poses").mkdir()
    for name, data in expected.items():  # half-way: no manifest yet, some clips missing, one cut short
        if name.startswith(("videos/", "poses/")) and name not in videos[:2]:
            (tmp_path / name).write_bytes(data)
    (tmp_path / videos[3]).write_bytes(expected[videos[3]][:700])
    (tmp_path / "videos" / ".a0-0000-00-00.mp4.1.partial").write_bytes(b"killed here")
    write_corpus(tmp_path, dataclasses.replace(SMALL, workers=2))
    assert _contents(tmp_path) == expected


def test_a_folder_of_another_corpus_is_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="made with seed 0, not 1"):
        write_corpus(corpus, dataclasses.replace(SMALL, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 65}, "size is 65"),
        ({"signs": 0}, "signs is 0"),
        ({"val_signers": 3}, "leave none"),
        ({"fps": (31.0, 60.0)}, "fps 31 to 60"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_options_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]
