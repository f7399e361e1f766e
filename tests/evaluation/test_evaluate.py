"""Scoring again: other views and manifests, fused runs, predictions of others; and everything that is refused."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import top_k_accuracy_score
from support.fine_tuned import VIDEO, other_corpus, probabilities, top1, write_model

from islr.cli import run
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.views.sampling import SamplingConfig
from islr.data.views.views import multi_view
from islr.errors import UserError
from islr.evaluation.classifier import CLASSIFIER, trained_signers, training_facts
from islr.evaluation.metrics import SEEN_KEY
from islr.evaluation.requests.rescore import FinishedRun, evaluate_run
from islr.evaluation.results import load_results
from islr.models import InputSpec

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
