"""Records by sign form: present exactly where forms say more than labels, and right by hand."""

from pathlib import Path

import numpy as np
import pytest
from support.report_runs import provenance

from islr.data.manifest import Clip, Manifest
from islr.evaluation.forms import form_results
from islr.evaluation.predictions import rank_scores

CLASSES = ("mom", "mother", "dry", "desert", "book", "read")


def corpus(*rows: tuple[str, str, str]) -> Manifest:
    """Clips from (split, gloss, form)."""
    clips = [
        Clip(f"c{i}", "x", gloss=gloss, form=form, label=CLASSES.index(gloss), split=split)
        for i, (split, gloss, form) in enumerate(rows)
    ]
    return Manifest("mini", tuple(clips), Path(), CLASSES)


TRAIN = (("train", "mom", "MOM"), ("train", "mother", "MOM"), ("train", "mother", "MOM"), ("train", "book", "BOOK"))
TEST = (("test", "mom", "MOM"), ("test", "mother", "MOM"), ("test", "book", "BOOK"), ("test", "read", ""))


def predict(manifest: Manifest, *answers: str) -> dict[str, tuple[float, int]]:
    test = manifest.select("test")
    scores = np.array([[2.0 if name == answer else 1.0 for name in CLASSES] for answer in answers])
    labels = np.array([clip.label for clip in test])
    predictions = rank_scores(scores, labels, CLASSES, [clip.clip_id for clip in test])
    found = form_results(predictions, "row", manifest, "test", provenance("maskfeat"))
    return {result.metric: (result.value, result.n) for result in found}


def test_a_word_for_the_same_form_is_right_by_form() -> None:
    found = predict(corpus(*TRAIN, *TEST), "mother", "mother", "dry", "book")
    assert found["original_top1"] == (pytest.approx(1 / 3), 3)
    assert found["same_form_top1"] == (pytest.approx(2 / 3), 3)
    assert found["revised_top1"] == (pytest.approx(2 / 3), 3)
    # of one form with two words, the more frequent is named: mom is always missed
    assert found["label_ceiling_top1"] == (pytest.approx(2 / 3), 3)
    assert found["label_ceiling_top5"] == (1.0, 3)


def test_intervals_by_form_draw_what_the_record_says() -> None:
    manifest = corpus(*TRAIN, *TEST, *TEST)
    test = manifest.select("test")
    labels = np.array([clip.label for clip in test])
    scores = np.eye(len(CLASSES))[np.where(np.arange(len(labels)) % 2, labels, 2)]
    signers = [f"s{i % 3}" for i in range(len(labels))]
    made = rank_scores(scores, labels, CLASSES, [clip.clip_id for clip in test], signers)
    found = form_results(made, "row", manifest, "test", provenance("maskfeat", cluster="signer"))
    methods = {r.ci_method.partition("; ")[0] for r in found if r.ci_low is not None and "alike" not in r.ci_method}
    assert methods == {"95 % Student interval with the standard error of a bootstrap over 3 whole signers, 2000 draws"}


def test_clips_that_could_not_be_scored_are_not_in_the_ceiling() -> None:
    manifest = corpus(*TRAIN, ("test", "mother", "MOM"))
    assert predict(manifest, "mom")["label_ceiling_top1"] == (1.0, 1)


@pytest.mark.parametrize(
    "rows",
    [
        (("train", "mom", ""), ("train", "book", ""), *TEST),  # nothing ties words to forms
        (("train", "mom", "MOM"), ("train", "book", "BOOK"), *TEST),  # forms are the labels by another name
        (*TRAIN, ("test", "mom", ""), ("test", "book", "")),  # no scored clip has a form
    ],
)
def test_no_record_where_forms_say_nothing(rows: tuple[tuple[str, str, str], ...]) -> None:
    manifest = corpus(*rows)
    assert predict(manifest, *["mom"] * len(manifest.select("test"))) == {}
