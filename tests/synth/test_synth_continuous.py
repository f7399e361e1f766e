"""Continuous signing: long unlabelled clips, OpenASL's lists, and hidden glosses that say what is signed when."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from support.undrawn import undrawn

from islr.data.corpora.published import from_openasl
from islr.data.manifest import Manifest
from islr.synth import SynthOptions, built_in_lexicon, write_corpus
from islr.synth.clip import Take
from islr.synth.kinds.continuous import SECONDS, ContinuousSigning

OPTIONS = SynthOptions(
    kind="continuous", signs=8, signers=3, reps=1, size=48, val_signers=1, test_signers=1, fps=(24.0, 25.0)
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    with undrawn("kinds.continuous"):
        return write_corpus(tmp_path_factory.mktemp("continuous"), OPTIONS)


def test_clips_are_long_and_carry_no_label(corpus: Manifest) -> None:
    assert [clip.split for clip in corpus] == ["train", "val", "test"]
    for clip in corpus:
        assert clip.frames is not None
        assert clip.fps is not None
        assert SECONDS[0] <= clip.frames / clip.fps <= SECONDS[1]
        assert (clip.gloss, clip.form, clip.label) == ("", "", None)
    assert corpus.classes == ()


def test_the_lists_read_as_openasl(corpus: Manifest) -> None:
    root = corpus.root
    read = from_openasl(
        root / "openasl.tsv", root / "videos", boxes=root / "boxes.json", poses=root / "poses", root=root, workers=1
    )
    for ours, theirs in zip(corpus, read, strict=True):
        assert (ours.clip_id, ours.path, ours.split, ours.frames, ours.pose) == (
            *(theirs.clip_id, theirs.path, theirs.split, theirs.frames),
            theirs.pose,
        )
        assert theirs.status == "ok"
        assert ours.box is not None
        assert theirs.box is not None
        np.testing.assert_allclose(ours.box, theirs.box, atol=0.1)


def test_hidden_glosses_are_in_order_inside_the_clip_and_of_the_lexicon(corpus: Manifest) -> None:
    glosses = json.loads((corpus.root / "glosses.json").read_text())
    names = {sign.entry_id for sign in built_in_lexicon(8)}
    assert set(glosses) == {clip.clip_id for clip in corpus}
    for clip in corpus:
        assert clip.frames is not None
        assert clip.fps is not None
        spans = glosses[clip.clip_id]
        assert len(spans) >= 8
        assert {span["gloss"] for span in spans} <= names
        assert all(span["start"] < span["end"] <= clip.frames / clip.fps for span in spans)
        for one, two in itertools.pairwise(spans):
            assert one["end"] <= two["start"] + 1e-3
            assert one["gloss"] != two["gloss"]


def test_what_is_signed_when_is_what_the_hands_do() -> None:
    """In the spans of one-handed signs without a path the hand stands still; on the way to them it does not."""
    change = {"movement": "None", "repeated_movement": "0", "ulnar_rotation": "0", "flexion_change": "0"}
    signs = (sign for sign in built_in_lexicon(48) if sign.sign_type == "OneHanded")
    held = tuple(dataclasses.replace(sign, second_minor_location="NA", **change) for sign in signs)
    footage = ContinuousSigning(OPTIONS, held).film(Take(0, 0, 0))
    assert next(footage.pictures).std() > 10
    wrist = footage.shot.points[:, 54] - footage.shot.points[:, 0]
    speed = np.linalg.norm(np.diff(wrist, axis=0), axis=1)
    inside = np.zeros(len(speed), dtype=bool)
    for _, first, last in footage.spans:
        inside[first:last] = True
    way = np.zeros_like(inside)
    for one, two in itertools.pairwise(footage.spans):
        way[one[2] + 1 : two[1] - 1] = True
    assert speed[inside].max() < 0.3
    assert np.median(speed[way]) > 1.0
