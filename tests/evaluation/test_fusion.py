"""Fused runs: pooled by hand, weights chosen on the selection set, what is not fused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fine_tuned import POSE, VIDEO, other_corpus, probabilities, top1, write_model

from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.metrics import SEEN_KEY
from islr.evaluation.predictions import read_predictions
from islr.evaluation.requests.fusion import fuse_runs
from islr.evaluation.requests.pooling import choose_weights, parse_weights, pool_scores
from islr.evaluation.requests.rescore import FinishedRun


def test_pooling_by_hand() -> None:
    a, b = np.array([[0.8, 0.2]]), np.array([[0.5, 0.5]])
    assert pool_scores([a, b], (1, 1), "probabilities") == pytest.approx(np.array([[0.65, 0.35]]))
    assert pool_scores([a, b], (3, 1), "probabilities") == pytest.approx(np.array([[0.725, 0.275]]))
    # square roots of .8 x .5 and .2 x .5 are 2 to 1
    assert pool_scores([a, b], (1, 1), "logits") == pytest.approx(np.array([[2 / 3, 1 / 3]]))
    logits = np.random.default_rng(0).normal(size=(2, 5, 7))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    mean = np.exp(logits.mean(axis=0))
    assert pool_scores(list(softmax), (1, 1), "logits") == pytest.approx(mean / mean.sum(axis=1, keepdims=True))
    assert np.isfinite(pool_scores([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], (1, 1), "logits")).all()


@pytest.mark.parametrize("pool", ["probabilities", "logits"])
def test_fusing_a_model_with_itself_or_in_another_order_changes_nothing(pool: Any) -> None:
    tables = list(np.random.default_rng(0).dirichlet(np.ones(6), (3, 20)))
    assert pool_scores([tables[0]] * 3, (1, 1, 1), pool) == pytest.approx(tables[0])
    one = pool_scores(tables, (1, 2, 3), pool)
    assert pool_scores(tables[::-1], (3, 2, 1), pool) == pytest.approx(one)
    assert one.sum(axis=1) == pytest.approx(1)


def test_weights_go_to_the_stream_that_is_right() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    noise = rng.dirichlet(np.ones(4), 200)
    good = 0.4 * np.eye(4)[labels] + 0.6 * rng.dirichlet(np.ones(4), 200)
    weights = choose_weights([noise, good], labels, "probabilities")
    assert weights[1] >= 0.8
    assert sum(weights) == pytest.approx(1)
    three = choose_weights([noise, good, rng.dirichlet(np.ones(4), 200)], labels, "probabilities")
    assert three[1] == max(three)
    # Every pair of weights names the right class: the lower loss decides, which is that of the surer stream.
    sure, unsure = 0.9 * np.eye(4)[labels] + 0.025, 0.2 * np.eye(4)[labels] + 0.2
    assert choose_weights([unsure, sure], labels, "probabilities") == (0.0, 1.0)
    with pytest.raises(UserError, match="at most 5 runs"):
        choose_weights([noise] * 6, labels, "probabilities")


def test_video_and_pose_are_fused(runs: Path, tmp_path: Path) -> None:
    results = fuse_runs([runs / "video", runs / "pose"], weights="3,1", views="2x3", out=tmp_path / "fused")
    ids, video = probabilities(runs / "video", views="2x3")
    others, pose = probabilities(runs / "pose", views="2x1")
    assert ids == others
    record = top1(results).provenance
    read = read_predictions(tmp_path / "fused" / "predictions.csv")
    assert read.clip_ids == tuple(ids)
    assert read.scores[:, 0] == pytest.approx((0.75 * video + 0.25 * pose).max(axis=1))
    assert [(p["name"], p["weight"], p["views"]) for p in record.parents] == [
        ("video", "0.75", "2x3 whole"),
        ("pose", "0.25", "2x1 whole"),
    ]
    assert record.encoder == "mvit_tiny + pose_transformer_tiny"
    assert {r.group[SEEN_KEY] for r in results if SEEN_KEY in r.group} == {"no"}
    assert top1(results).name == "video + pose"
    # The same request again is no conflict; another one in the same folder is.
    again = fuse_runs([runs / "video", runs / "pose"], weights="3,1", views="2x3", out=tmp_path / "fused")
    assert [r.value for r in again] == [r.value for r in results]
    with pytest.raises(UserError, match="another configuration"):
        fuse_runs([runs / "video", runs / "pose"], weights="1,3", views="2x3", out=tmp_path / "fused")


def test_fusion_weights_are_chosen_on_the_selection_set(runs: Path, tmp_path: Path) -> None:
    results = fuse_runs([runs / "video", runs / "pose"], weights="val", pool="logits", out=tmp_path / "fused")
    ids, video = probabilities(runs / "video", "val")
    _, pose = probabilities(runs / "pose", "val")
    manifest = Manifest.load(FinishedRun.load(runs / "video").config.data.manifest[0])
    labels = {clip.clip_id: clip.label for clip in manifest}
    expected = choose_weights([video, pose], np.array([labels[name] for name in ids]), "logits")
    record = top1(results).provenance
    assert [float(p["weight"]) for p in record.parents] == pytest.approx(expected)
    assert record.selection_set == f"val; weights chosen on {len(ids)} of the same clips"
    with pytest.raises(UserError, match="weights chosen on val cannot be judged"):
        fuse_runs([runs / "video", runs / "pose"], weights="val", split="val")


def test_only_clips_that_every_run_could_score_are_fused(runs: Path, mini_corpus: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    gone = manifest.select("test").clips[2]
    clips = tuple(dataclasses.replace(clip, pose="") if clip is gone else clip for clip in manifest)
    poseless = write_model(tmp_path / "pose", other_corpus(mini_corpus, tmp_path / "less", clips=clips), POSE, seed=1)
    with pytest.raises(UserError, match=rf"1 of 6 clips of .* could not be read, such as {gone.clip_id}"):
        fuse_runs([runs / "video", poseless], out=tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    record = top1(fuse_runs([runs / "video", poseless], allow_partial=True, out=tmp_path / "fused")).provenance
    assert (record.clips_present, record.clips_expected) == (5, 6)
    read = read_predictions(tmp_path / "fused" / "predictions.csv")
    ids, video = probabilities(runs / "video")
    _, pose = probabilities(runs / "pose")
    kept = [i for i, name in enumerate(ids) if name != gone.clip_id]
    assert read.clip_ids == tuple(ids[i] for i in kept)
    assert read.scores[:, 0] == pytest.approx((video + pose)[kept].max(axis=1) / 2)


def test_runs_that_answer_different_questions_are_not_fused(runs: Path, mini_corpus: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    renamed = other_corpus(mini_corpus, tmp_path / "renamed", classes=("NEW", *manifest.classes[1:]))
    write_model(tmp_path / "a", renamed, VIDEO, 0)
    with pytest.raises(UserError, match="have different classes"):
        fuse_runs([runs / "video", tmp_path / "a"])
    gone = manifest.select("test").clips[0]
    fewer = other_corpus(mini_corpus, tmp_path / "fewer", clips=tuple(c for c in manifest if c is not gone))
    write_model(tmp_path / "b", fewer, POSE, 0)
    with pytest.raises(UserError, match=r"different test clips or labels .*6 clips.*5"):
        fuse_runs([runs / "video", tmp_path / "b"])
    held = write_model(tmp_path / "c", mini_corpus / "manifest.csv", POSE, 0, select_on="train_held_out", held_out=0.4)
    with pytest.raises(UserError, match="different selection sets"):
        fuse_runs([runs / "video", held], weights="val")


def test_weights_are_scaled_to_sum_to_one() -> None:
    assert parse_weights("2,1,1", 3) == (0.5, 0.25, 0.25)
    assert parse_weights("0,3", 2) == (0.0, 1.0)
