"""Scoring again: other views and manifests, fused runs, predictions of others; and everything that is refused."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import top_k_accuracy_score
from support.tiny_runs import FINETUNE, write_config

from islr.cli import run
from islr.config import dump_yaml, load_config
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.views.sampling import SamplingConfig
from islr.data.views.views import multi_view
from islr.errors import UserError
from islr.evaluation.classifier import CLASSIFIER, save_classifier, trained_signers, training_facts
from islr.evaluation.finetune import FinetuneConfig
from islr.evaluation.metrics import SEEN_KEY
from islr.evaluation.predictions import read_predictions
from islr.evaluation.requests.foreign import evaluate_predictions, read_foreign
from islr.evaluation.requests.fusion import fuse_runs
from islr.evaluation.requests.pooling import choose_weights, parse_weights, pool_scores
from islr.evaluation.requests.rescore import FinishedRun, evaluate_run
from islr.evaluation.results import Result, load_results
from islr.models import Classifier, InputSpec, create_model
from islr.reporting import build_report

VIDEO = {"name": "mvit_tiny", "arguments": {"frames": 4, "size": 32}}
POSE = {"name": "pose_transformer_tiny"}


def write_model(folder: Path, manifest: Path, encoder: dict[str, Any], seed: int, **changes: Any) -> Path:
    """The folder of a fine-tuning run that was never trained: all that scoring it needs."""
    folder.mkdir(parents=True)
    path = write_config(FINETUNE, folder / "asked.yaml", manifest, folder, encoder=encoder, name=folder.name, **changes)
    config = load_config(FinetuneConfig, path)
    (folder / "config.yaml").write_text(dump_yaml(config))
    corpus = Manifest.load(manifest)
    torch.manual_seed(seed)
    built = create_model(encoder["name"], **encoder.get("arguments", {}))
    facts = {"classes": list(corpus.classes), "pretraining": "[]", "training": training_facts(corpus.select("train"))}
    classifier = Classifier(built, len(corpus.classes))
    torch.nn.init.normal_(classifier.head.weight)  # a fresh head answers every clip alike
    save_classifier(folder / CLASSIFIER, classifier, facts)
    return folder


@pytest.fixture(scope="module")
def runs(mini_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_model(root / "video", mini_corpus / "manifest.csv", VIDEO, seed=0)
    write_model(root / "pose", mini_corpus / "manifest.csv", POSE, seed=1)
    return root


def probabilities(run_folder: Path, split: str = "test", views: str = "1x1") -> tuple[list[str], np.ndarray]:
    """Ids and probabilities of a split, from a run's weights."""
    model = FinishedRun.load(run_folder)
    from islr.training.distributed.world import World

    rows = Manifest.load(model.config.data.manifest[0]).select(split)
    scores, manifest = model.score(rows, model.data(None), model.views(views), World("cpu"), allow_partial=False)
    return [manifest.clips[row].clip_id for row in scores.rows], scores.probabilities


def top1(results: list[Result]) -> Result:
    return next(r for r in results if r.metric == "top1" and not r.group)


# Views


def test_three_crops_are_the_left_the_centre_and_the_right_of_the_longer_side(mini_corpus: Path) -> None:
    path = str(mini_corpus / "manifest.csv")
    store = ClipStore(Manifest.load(path).select("test"), DataConfig(manifest=(path,)))
    source = store.source(0)
    for shape in ((24, 60), (60, 24)):
        ramp = np.arange(60, dtype=np.uint8)
        picture = np.broadcast_to(ramp if shape[1] == 60 else ramp[:, None], shape)
        frames = np.ascontiguousarray(np.broadcast_to(picture[None, ..., None], (40, *shape, 3)))
        store._frames[0] = frames
        spec = InputSpec(4, 24, (0.5,) * 3, (0.5,) * 3, "video")
        views = multi_view(spec, 1, 3)(source, np.random.default_rng(0))["clip"]  # [3, C, T, H, W]
        starts = [int(view.min()) for view in views]
        assert starts == [0, 18, 36]
        assert [int(view.max()) for view in views] == [23, 41, 59]
        (single,) = multi_view(spec, 1, 1)(source, np.random.default_rng(0))["clip"]
        assert torch.equal(single, views[1])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 48 frames, 4 wanted: segments of 12, places 1/6, 3/6 and 5/6 inside each of them
        ("whole", [[2, 14, 26, 38], [6, 18, 30, 42], [10, 22, 34, 46]]),
        # a window of 4 x 4 frames has 32 to spare: at the start, in the middle, at the end
        ("window", [[0, 4, 8, 12], [16, 20, 24, 28], [32, 36, 40, 44]]),
    ],
)
def test_temporal_views_are_spread_evenly(mini_corpus: Path, kind: str, expected: list[list[int]]) -> None:
    path = str(mini_corpus / "manifest.csv")
    store = ClipStore(Manifest.load(path).select("test"), DataConfig(manifest=(path,)))
    store._frames[0] = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None, None, None], (48, 24, 24, 3)).copy()
    source = store.source(0)
    source.fps = 30.0
    sampling = SamplingConfig.model_validate({"kind": kind})
    spec = InputSpec(4, 24, (0.5,) * 3, (0.5,) * 3, "video")
    views = multi_view(spec, 3, 1, sampling)(source, np.random.default_rng(0))["clip"]
    assert views[:, 0, :, 0, 0].tolist() == expected


def test_views_are_averaged_as_probabilities(runs: Path) -> None:
    from islr.data.loading.batches import eval_batches
    from islr.models import to_input

    model = FinishedRun.load(runs / "video")
    ids, found = probabilities(runs / "video", views="2x3")
    store = ClipStore(Manifest.load(model.config.data.manifest[0]).select("test"), model.data(None))
    view = multi_view(model.classifier.encoder.input_spec, 2, 3, model.config.video.sampling)
    (batch,) = eval_batches(store, view, batch_size=len(store))
    with torch.inference_mode():
        slow = [
            torch.stack(
                [model.classifier(to_input(v[None], model.classifier.encoder.input_spec))[0].softmax(0) for v in c]
            )
            .double()
            .mean(0)
            for c in batch["clip"]
        ]
    assert found == pytest.approx(torch.stack(slow).numpy(), abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(1)
    assert len(set(ids)) == len(store)


def test_poses_have_no_spatial_crops(runs: Path) -> None:
    results = evaluate_run(runs / "pose", views="2x3")
    assert top1(results).provenance.views == "2x1 whole"
    assert (runs / "pose" / "evaluation_test_2x1" / "result.json").is_file()


# One run again


def test_scoring_again_agrees_with_scikit_learn_and_names_unseen_signers(runs: Path, mini_corpus: Path) -> None:
    results = evaluate_run(runs / "video", split="test")
    ids, table = probabilities(runs / "video")
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    labels = {clip.clip_id: clip.label for clip in manifest}
    truth = [labels[name] for name in ids]
    by = {r.metric: r for r in results if not r.group}
    for k in (1, 5):
        assert by[f"top{k}"].value == pytest.approx(top_k_accuracy_score(truth, table, k=k, labels=range(6)))
    assert by["nll"].value == pytest.approx(-np.log(table[np.arange(len(ids)), truth]).mean(), rel=1e-6)
    sides = {r.group[SEEN_KEY]: r.n for r in results if SEEN_KEY in r.group}
    assert sides == {"no": len(ids)}
    assert load_results(runs / "video" / "evaluation_test_1x1" / "result.json") == results


def test_signers_are_those_of_the_training_clips_of_this_corpus_only(runs: Path, mini_corpus: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    expected = {clip.signer for clip in manifest.select("train")}
    assert trained_signers(runs / "video" / CLASSIFIER, manifest) == expected
    assert trained_signers(runs / "video" / CLASSIFIER, dataclasses.replace(manifest, name="other")) is None
    nameless = manifest.replace(dataclasses.replace(clip, signer="") for clip in manifest)
    assert json.loads(training_facts(nameless))["signers"] == []


def other_corpus(source: Path, folder: Path, name: str = "", **changes: Any) -> Path:
    """The same files in a folder of their own, its manifest changed."""
    shutil.copytree(source, folder)
    manifest = dataclasses.replace(Manifest.load(source / "manifest.csv"), root=folder)
    manifest = dataclasses.replace(manifest, name=name or manifest.name, **changes)
    manifest.save(folder / "manifest.csv")
    return folder / "manifest.csv"


def test_classes_in_another_order_are_found_by_name(runs: Path, mini_corpus: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    turned = tuple(reversed(manifest.classes))
    clips = tuple(dataclasses.replace(c, label=turned.index(manifest.classes[c.label or 0])) for c in manifest)
    other = other_corpus(mini_corpus, tmp_path / "turned", clips=clips, classes=turned)
    here, there = evaluate_run(runs / "video"), evaluate_run(runs / "video", manifest_path=str(other))
    assert {r.metric: r.value for r in here if not r.group} == {r.metric: r.value for r in there if not r.group}
    assert top1(there).provenance.label_fingerprint != top1(here).provenance.label_fingerprint
    renamed = (*turned[:-1], "SOMETHING ELSE")
    bad = other_corpus(mini_corpus, tmp_path / "renamed", clips=clips, classes=renamed)
    with pytest.raises(UserError, match="has no class 'SOMETHING ELSE'"):
        evaluate_run(runs / "video", manifest_path=str(bad))


def test_training_clips_are_no_test(runs: Path, mini_corpus: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    swap = {"train": "test", "test": "train", "val": "val"}
    clips = tuple(dataclasses.replace(c, split=swap[c.split]) for c in manifest)
    count = len(manifest.select("train"))
    same_name = other_corpus(mini_corpus, tmp_path / "same", clips=clips)
    with pytest.raises(UserError, match=rf"was trained on {count} clips of the test split of .*such as"):
        evaluate_run(runs / "video", manifest_path=str(same_name))
    own_ids = tuple(dataclasses.replace(c, clip_id=f"x{c.clip_id}") for c in clips)
    same_pictures = other_corpus(mini_corpus, tmp_path / "pictures", name="unlike", clips=own_ids)
    with pytest.raises(UserError, match=rf"was trained on {count} clips of the test split of unlike"):
        evaluate_run(runs / "video", manifest_path=str(same_pictures))


def test_the_temperature_is_fitted_on_the_selection_set_and_changes_no_choice(runs: Path) -> None:
    plain, scaled = evaluate_run(runs / "video"), evaluate_run(runs / "video", temperature=True)
    assert top1(scaled).value == top1(plain).value
    record = top1(scaled).provenance
    fitted = next(r for r in scaled if r.metric == "temperature")
    assert re.fullmatch(
        rf"val; temperature {fitted.value:.3f} fitted on {fitted.n} of the same clips", record.selection_set
    )
    ids, table = probabilities(runs / "video", "val")
    manifest = Manifest.load(FinishedRun.load(runs / "video").config.data.manifest[0])
    labels = {clip.clip_id: clip.label for clip in manifest}

    def loss(t: float) -> float:
        powers = table ** (1 / t)
        chosen = (powers / powers.sum(axis=1, keepdims=True))[np.arange(len(ids)), [labels[name] for name in ids]]
        return float(-np.log(chosen).mean())

    assert loss(fitted.value) <= min(loss(t) for t in np.geomspace(0.06, 19, 60)) + 1e-6
    with pytest.raises(UserError, match="judged on test only"):
        evaluate_run(runs / "video", split="val", temperature=True)


# Fusion


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


# Predictions of others


@pytest.fixture
def foreign(mini_corpus: Path, tmp_path: Path) -> tuple[Manifest, Path]:
    """The corpus without a single file on this machine, and a folder to write predictions to."""
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    absent = manifest.replace(dataclasses.replace(c, status="missing") for c in manifest)
    dataclasses.replace(absent, root=tmp_path).save(tmp_path / "m.csv")
    return manifest, tmp_path


def table_of(manifest: Manifest, seed: int = 0) -> tuple[list[str], np.ndarray]:
    ids = [clip.clip_id for clip in manifest.select("test")]
    return ids, np.random.default_rng(seed).dirichlet(np.ones(len(manifest.classes)), len(ids))


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_three_layouts_of_the_same_answers_give_the_same_numbers(foreign: tuple[Manifest, Path]) -> None:
    manifest, folder = foreign
    ids, table = table_of(manifest)
    order = np.random.default_rng(1).permutation(len(ids))
    columns = np.random.default_rng(2).permutation(len(manifest.classes))
    names = [manifest.classes[i] for i in columns]
    shuffled = [ids[i] for i in order]
    wide = write_csv(
        folder / "wide.csv",
        ["clip_id", *names],
        [[ids[i], *map(repr, table[i, columns].tolist())] for i in order],
    )
    ranks = np.argsort(-table, axis=1)
    labels = {clip.clip_id: clip.label for clip in manifest}
    ranked = write_csv(
        folder / "ranked.csv",
        ["clip_id", *(f"rank{k}" for k in range(1, 7)), *(f"score{k}" for k in range(1, 7)), "true_probability"],
        [
            [
                ids[i],
                *(manifest.classes[j] for j in ranks[i]),
                *(repr(float(table[i, j])) for j in ranks[i]),
                repr(float(table[i, labels[ids[i]]])),
            ]
            for i in order
        ],
    )
    arrays = {"clip_ids": np.array(shuffled), "classes": np.array(names)}
    np.savez(folder / "p.npz", **arrays, probabilities=table[order][:, columns])
    np.savez(folder / "l.npz", **arrays, logits=np.log(table[order][:, columns]) + 7)
    found = {
        path.name: {
            (r.metric, *r.group.items()): r.value
            for r in evaluate_predictions(path, folder / "m.csv", name="theirs", out=folder / f"out-{path.stem}")
        }
        for path in (wide, ranked, folder / "p.npz", folder / "l.npz")
    }
    first = found["wide.csv"]
    assert {"top1", "top5", "nll", "ece"} <= {key[0] for key in first}
    for other in found.values():
        assert other.keys() == first.keys()
        assert list(other.values()) == pytest.approx(list(first.values()))
    truth = [labels[name] for name in ids]
    assert first["top1",] == pytest.approx(top_k_accuracy_score(truth, table, k=1, labels=range(6)))
    assert first["top5",] == pytest.approx(top_k_accuracy_score(truth, table, k=5, labels=range(6)))


def test_a_foreign_row_stands_in_the_table_of_our_runs(
    foreign: tuple[Manifest, Path], runs: Path, mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = foreign
    ids, _ = table_of(manifest)
    path = write_csv(folder / "theirs.csv", ["clip_id", "rank1"], [[name, manifest.classes[0]] for name in ids])
    (tmp_path / "all").mkdir()
    command = f"evaluate --predictions {path} --manifest {folder / 'm.csv'} --name Theirs --out {tmp_path}/all/theirs"
    assert run(command.split()) == 0
    assert "gives no rank beyond 1: mrr and dcg are unknown" in capsys.readouterr().err
    results = load_results(tmp_path / "all" / "theirs" / "result.json")
    assert {r.metric for r in results if not r.group} == {"top1", "top1_per_class", "chance_top1", "classes_absent"}
    assert top1(results).value == pytest.approx(1 / 6)
    assert top1(results).provenance.complete
    evaluate_run(runs / "video")
    shutil.copytree(runs / "video" / "evaluation_test_1x1", tmp_path / "all" / "ours")
    fuse_runs([runs / "video", runs / "pose"], out=tmp_path / "all" / "fused")
    ours = load_results(tmp_path / "all" / "ours" / "result.json")[0].provenance
    theirs = top1(results).provenance
    assert (theirs.split_fingerprint, theirs.label_fingerprint) == (ours.split_fingerprint, ours.label_fingerprint)
    page = build_report([tmp_path / "all"], tmp_path / "report.md").read_text()
    table = page.partition("Accuracy on")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert len(re.findall(r"^\| (?:\[)?(?:Theirs|video|video \+ pose)\b", table, flags=re.M)) == 3
    assert "not stated" in table
    assert "its encoder is not stated" in page


def bad_files(manifest: Manifest, folder: Path) -> dict[str, tuple[Path, str]]:
    ids, table = table_of(manifest)
    classes = list(manifest.classes)
    train = manifest.select("train").clips[0].clip_id
    plain = [[name, classes[0]] for name in ids]
    wide = [[name, *row] for name, row in zip(ids, table.tolist(), strict=True)]

    def made(name: str, header: list[str], rows: list[list[object]], words: str) -> None:
        found[name] = (write_csv(folder / f"{name}.csv", header, rows), words)

    def saved(name: str, words: str, **arrays: Any) -> None:
        np.savez(folder / f"{name}.npz", **arrays)
        found[name] = (folder / f"{name}.npz", words)

    found: dict[str, tuple[Path, str]] = {}
    made("missing", ["clip_id", "rank1"], plain[1:], f"5 of the 6 clips .*1 are missing, such as {ids[0]}")
    made("unknown", ["clip_id", "rank1"], [*plain, ["nobody", classes[0]]], "line 8: clip 'nobody' is not a labelled")
    made("train", ["clip_id", "rank1"], [*plain, [train, classes[0]]], f"line 8: clip '{train}' is not a labelled")
    made("twice", ["clip_id", "rank1"], [*plain, plain[0]], f"clip {ids[0]} occurs more than once")
    made("label", ["clip_id", "rank1"], [*plain[:-1], [ids[-1], "CUPP"]], "line 7: 'CUPP' is not one of the 6 classes")
    made("index", ["clip_id", "rank1"], [[name, 0] for name in ids], "line 2: '0' is not one of the 6 classes")
    made("columns", ["clip", "label"], plain, "a csv with columns clip_id, rank1")
    made("classes", ["clip_id", *classes[1:]], [row[:-1] for row in wide], f"this file has no '{classes[0]}'")
    made("more", ["clip_id", *classes, "ZZZ"], [[*row, 0] for row in wide], "the manifest has no 'ZZZ'")
    made("sum", ["clip_id", *classes], [[row[0], *(2 * float(v) for v in row[1:])] for row in wide], "sum to 1")
    made("text", ["clip_id", *classes], [[*wide[0][:-1], "high"], *wide[1:]], "line 2: could not convert")
    made("short", ["clip_id", *classes], [wide[0], wide[1][:-1]], "line 3: 6 cells and 7 columns")
    made("wide twice", ["clip_id", *classes], [*wide, wide[0]], f"clip {ids[0]} occurs more than once")
    made("wide unknown", ["clip_id", *classes], [*wide, ["nobody", *table[0]]], "such as 'nobody'")
    made("empty", ["clip_id", *classes], [], "no predictions in it")
    arrays = {"clip_ids": np.array(ids), "classes": np.array(classes)}
    saved("no table", "exactly one of 'probabilities' and 'logits'; it holds clip_ids, classes", **arrays)
    saved("no ids", "needs 'clip_ids'", classes=arrays["classes"], probabilities=table)
    saved("shape", r"not floating point \[6 clips, 6 classes\]", **arrays, probabilities=table[:, 1:])
    saved("nan", f"clip {ids[0]} has no probabilities", **arrays, logits=np.where(table == table[0, 0], np.nan, table))
    saved("bytes", "'clip_ids' must be a list of texts", **arrays | {"clip_ids": np.arange(6)}, probabilities=table)
    saved("objects", "not an npz of plain arrays", **arrays | {"clip_ids": np.array(ids, object)}, probabilities=table)
    (folder / "cut.npz").write_bytes((folder / "shape.npz").read_bytes()[:200])
    found["cut"] = (folder / "cut.npz", "not an npz of plain arrays")
    found["absent"] = (folder / "absent.csv", "cannot be read as CSV")
    return found


def test_what_is_wrong_with_a_file_of_predictions_is_said_in_one_line(
    foreign: tuple[Manifest, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = foreign
    for name, (path, words) in bad_files(manifest, folder).items():
        out = folder / "out"
        command = ["evaluate", "--predictions", str(path), "--manifest", str(folder / "m.csv"), "--out", str(out)]
        assert run(command) == 2, name
        said = capsys.readouterr().err.strip()
        assert "\n" not in said, name
        assert re.search(words, said), (name, said)
        assert not out.exists(), name


def test_part_of_a_test_set_is_scored_only_on_request(
    foreign: tuple[Manifest, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = foreign
    path, _ = bad_files(manifest, folder)["missing"]
    command = ["evaluate", "--predictions", str(path), "--manifest", str(folder / "m.csv"), "--allow-partial"]
    assert run(command) == 0
    assert "on 5 of 6 expected clips" in capsys.readouterr().out
    record = load_results(folder / "missing_test" / "result.json")[0].provenance
    assert (record.clips_present, record.clips_expected) == (5, 6)


def test_half_precision_probabilities_are_taken(foreign: tuple[Manifest, Path]) -> None:
    manifest, folder = foreign
    ids, table = table_of(manifest)
    arrays = {"clip_ids": np.array(ids), "classes": np.array(manifest.classes)}
    np.savez(folder / "half.npz", **arrays, probabilities=table.astype(np.float16))
    read = read_foreign(folder / "half.npz", manifest.select("test"))
    assert read.true_probabilities == pytest.approx(
        [table[i, clip.label or 0] for i, clip in enumerate(manifest.select("test"))], abs=1e-3
    )


# The command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "give one RUN, --fuse with several, or --predictions"),
        ("{0}/video {0}/pose", "give one RUN, --fuse with several"),
        ("{0}/video --weights val", "--weights does not go with one run"),
        ("{0}/video --name x", "--name does not go with one run"),
        ("--predictions x.csv", "--predictions needs --manifest"),
        ("{0}/video --predictions x.csv --manifest m.csv", "either RUN or --predictions"),
        ("--predictions x.csv --manifest m.csv --views 1x3", "--views does not go with --predictions"),
        ("--fuse {0}/video", "two or more different runs"),
        ("--fuse {0}/video {0}/video", "two or more different runs"),
        ("--fuse {0}/video {0}/nowhere", "nowhere is not a finished fine-tuning run"),
        ("--fuse {0}/video {0}/pose --temperature", "--temperature does not go with --fuse"),
        ("--fuse {0}/video {0}/pose --weights 1", "1 weights for 2 runs"),
        ("--fuse {0}/video {0}/pose --weights 1,-1", "must not be negative"),
        ("--fuse {0}/video {0}/pose --weights 0,0", "not all zero"),
        ("--fuse {0}/video {0}/pose --weights best", "are not 'equal', 'val' or numbers"),
        ("--fuse {0}/video {0}/pose --views 3", "views '3' is not CxS"),
        ("{0}/video --views 0x3", "views '0x3' is not CxS"),
    ],
)
def test_options_that_do_not_belong_together(
    runs: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    assert run(["evaluate", *options.format(runs).split()]) == 2
    assert words in capsys.readouterr().err


def test_weights_are_scaled_to_sum_to_one() -> None:
    assert parse_weights("2,1,1", 3) == (0.5, 0.25, 0.25)
    assert parse_weights("0,3", 2) == (0.0, 1.0)


def test_intervals_over_one_signer_are_doubted_aloud(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(runs / "video"), "--cluster", "signer", "--split", "val"]) == 0
    captured = capsys.readouterr()
    assert "[" not in captured.out
    assert "one signer" in captured.err


def test_the_configuration_can_ask_for_signers(runs: Path, mini_corpus: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "run", mini_corpus / "manifest.csv", VIDEO, 0, cluster="signer")
    assert yaml.safe_load((folder / "config.yaml").read_text())["cluster"] == "signer"
    assert top1(evaluate_run(folder)).provenance.cluster == "signer"
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    nameless = tuple(dataclasses.replace(c, signer="") for c in manifest)
    path = other_corpus(mini_corpus, tmp_path / "nameless", clips=nameless)
    with pytest.raises(UserError, match="needs the signer of every clip"):
        evaluate_run(folder, manifest_path=str(path))
