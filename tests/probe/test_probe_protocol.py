"""The probing protocol: it recovers what is there and not what is not, and its intervals mean what they say."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from islr.config import validate
from islr.data.manifest import Clip, Manifest
from islr.errors import Interrupted, UserError
from islr.evaluation.results import Result
from islr.training.run_config import RunConfig
from probe import controls
from probe.config import FitConfig, ProbeConfig
from probe.fitting import ProbePredictions, permuted_labels, run_split, scored_labels, standardise
from probe.run import run_probe
from probe.solver.linear import LinearProbes
from probe.splits import SPLITS, seen_sign, unseen_sign
from probe.statistics.scores import METRICS, Counts, Estimate, calibration_error, draw_weights
from probe.tables import render
from probe.targets import Targets, make_targets

SIGNS, SIGNERS = 60, 6
FIT = FitConfig(inverse_penalties=(1e-3, 1e-2, 1e-1, 1.0), min_train_signs=3, min_test_signs=1, permutations=2)


def corpus(seed: int = 0, signs: int = SIGNS) -> Targets:
    """Every sign by every signer; two features at random over signs; the last signer is the official test."""
    rng = np.random.default_rng(seed)
    sign, signer = np.repeat(np.arange(signs), SIGNERS), np.tile(np.arange(SIGNERS), signs)
    features = {"Movement": rng.integers(0, 3, signs)[sign], "Contact": rng.integers(0, 2, signs)[sign]}
    features["Contact"][sign < 6] = -1
    return make_targets(
        clip_ids=[f"c{i:04d}" for i in range(len(sign))],
        features=features,
        classes={"Movement": ["a", "b", "c"], "Contact": ["no", "yes"]},
        signs=[f"s{i:03d}" for i in sign],
        signers=[f"p{i}" for i in signer],
        official=np.where(signer == SIGNERS - 1, "test", "train").tolist(),
    )


def sign_number(targets: Targets) -> np.ndarray:
    return np.unique(targets.signs, return_inverse=True)[1]


def linear_features(targets: Targets, seed: int = 0) -> np.ndarray:
    """Each label along a direction of its own, under noise of signs, signers and clips."""
    rng = np.random.default_rng(seed)
    planted = [rng.normal(size=(3, 48))[labels] for labels in targets.features.values()]
    noise = rng.normal(size=(SIGNS, 48))[sign_number(targets)] + rng.normal(size=(len(targets), 48))
    return (np.sum(planted, axis=0) + 0.15 * noise).astype(np.float32)


def identity_features(targets: Targets, seed: int = 0) -> np.ndarray:
    """A direction for each sign, related to no label."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(SIGNS, 64))[sign_number(targets)]
    return (vectors + 0.3 * rng.normal(size=vectors.shape)).astype(np.float32)


def probe_one(features: np.ndarray, targets: Targets, split: str, **options: Any) -> ProbePredictions:
    folds = SPLITS[split](targets, 5, 0.2, 0)
    return run_split([features], np.ones(len(targets), bool), targets, folds, FIT, **options)


def score(truth: np.ndarray, predicted: np.ndarray, targets: Targets, feature: int = 0) -> Estimate:
    cluster = np.unique(targets.groups, return_inverse=True)[1]
    counts = Counts.of(truth[feature], predicted[feature], np.zeros(len(targets)), cluster, cluster.max() + 1, 3)
    weights = draw_weights(np.zeros(cluster.max() + 1, int), 1000, 0)
    return Estimate.of(counts.scores(weights)["balanced_accuracy"])


# ---- what probes find


def test_a_planted_linear_feature_is_recovered() -> None:
    targets = corpus()
    outcome = probe_one(linear_features(targets), targets, "unseen_sign")
    assert all(score(outcome.truth, outcome.predicted, targets, f).value >= 0.99 for f in range(2))
    assert all(record["converged"] for record in outcome.details)


def test_sign_identity_is_chance_on_unseen_signs_and_high_on_seen_ones() -> None:
    # One corpus of 60 signs varies by 0.07 around chance; what is asserted is the mean over corpora.
    unseen = []
    for seed in range(6):
        targets = corpus(seed)
        split = unseen_sign(targets, 5, 0.2, 0)
        config = FIT.model_copy(update={"permutations": 0})
        features = identity_features(targets, seed)
        outcome = run_split([features], np.ones(len(targets), bool), targets, split, config)
        unseen.append(score(outcome.truth, outcome.predicted, targets).value)
    assert abs(np.mean(unseen) - 1 / 3) <= 3 * np.std(unseen, ddof=1) / np.sqrt(len(unseen))
    assert max(unseen) < 0.6
    seen = probe_one(features, targets, "seen_sign")
    assert score(seen.truth, seen.predicted, targets).value >= 0.9
    # The control tells the two apart: it follows identity where signs are seen, and only there.
    assert score(seen.control_truth[0], seen.control_predicted[0], targets).value >= 0.8


def test_permuted_labels_on_unseen_signs_are_within_two_errors_of_majority() -> None:
    targets = corpus()
    split = unseen_sign(targets, 5, 0.2, 0)
    config = FIT.model_copy(update={"permutations": 5})
    outcome = run_split([linear_features(targets)], np.ones(len(targets), bool), targets, split, config)
    parts = [score(t, p, targets) for t, p in zip(outcome.control_truth, outcome.control_predicted, strict=True)]
    assert abs(np.mean([part.value for part in parts]) - 1 / 3) <= 2 * np.mean([part.draws.std() for part in parts])


def test_missing_labels_are_neither_learnt_nor_scored() -> None:
    targets = corpus()
    outcome = probe_one(linear_features(targets), targets, "unseen_sign")
    missing = targets.features["Contact"] < 0
    assert (outcome.truth[1][missing] == -1).all()
    assert (outcome.predicted[1][missing] == -1).all()
    assert (outcome.predicted[1][~missing] >= 0).all()


def test_the_informative_layer_is_chosen_and_the_curve_shows_it() -> None:
    targets = corpus()
    noise = np.random.default_rng(0).normal(size=(len(targets), 8)).astype(np.float32)
    split = unseen_sign(targets, 5, 0.2, 0)
    outcome = run_split([noise, linear_features(targets)], np.ones(len(targets), bool), targets, split, FIT)
    assert {record["layer"] for record in outcome.details} == {1}
    assert score(outcome.truth, outcome.by_layer[0], targets).value < 0.5
    assert (outcome.by_layer[1][outcome.truth >= 0] == outcome.predicted[outcome.truth >= 0]).all()


def test_choices_and_fits_never_see_the_test_clips() -> None:
    targets = corpus()
    split = unseen_sign(targets, 5, 0.2, 0)
    features = linear_features(targets) + np.random.default_rng(1).normal(size=(len(targets), 48)).astype(np.float32)
    first = split.folds[0]
    spoilt = features.copy()
    spoilt[first.test] = 1e3
    everyone = np.ones(len(targets), bool)
    for a, b in zip(
        run_split([features], everyone, targets, split, FIT).details[:2],
        run_split([spoilt], everyone, targets, split, FIT).details[:2],
        strict=True,
    ):
        assert a == b


def test_absent_clips_are_left_out_and_read_nowhere() -> None:
    targets = corpus()
    features = linear_features(targets)
    present = np.random.default_rng(0).random(len(targets)) > 0.2
    split = unseen_sign(targets, 5, 0.2, 0)
    one = run_split([features], present, targets, split, FIT)
    other = run_split([np.where(present[:, None], features, 0)], present, targets, split, FIT)
    assert (one.predicted == other.predicted).all()
    assert (one.predicted[:, ~present] == -1).all()


def test_rare_classes_are_dropped_in_their_fold_and_listed() -> None:
    targets = corpus()
    labels = targets.features["Movement"].copy()
    labels[targets.signs == "s000"] = 2
    labels[(targets.signs != "s000") & (labels == 2)] = 1
    rare = make_targets(
        clip_ids=targets.clip_ids.tolist(),
        features={"Movement": labels},
        classes={"Movement": ["a", "b", "c"]},
        signs=targets.signs.tolist(),
    )
    split = unseen_sign(rare, 5, 0.2, 0)
    for fold in split.folds:
        kept, (note,) = scored_labels(rare, fold, FIT)
        assert not (kept == 2).any()
        tested = int("s000" in rare.signs[fold.test])
        assert note["dropped"] == [{"class": "c", "train_signs": 1 - tested, "test_signs": tested}]
        _, (strict,) = scored_labels(rare, fold, FIT.model_copy(update={"min_train_signs": 1000}))
        assert not strict["scored"]


def test_permuted_labels_stay_whole_within_signs() -> None:
    targets = corpus()
    for shuffled in permuted_labels(targets, 3, 0):
        for row, (original, feature) in enumerate(zip(targets.labels, targets.features, strict=True)):
            assert ((shuffled[row] < 0) == (original < 0)).all(), feature
            per_sign = [np.unique(shuffled[row][targets.signs == sign]) for sign in np.unique(targets.signs)]
            assert all(len(values) == 1 for values in per_sign)
            assert np.bincount(shuffled[row] + 1).tolist() == np.bincount(original + 1).tolist()
        assert (shuffled[0] != targets.labels[0]).any()


def test_standardising_uses_training_rows_only_and_flattens_constants() -> None:
    x = np.array([[1.0, 5, 0.1], [3, 5, 0.1], [100, 6, 0.2]], np.float32)
    z = standardise(x, np.array([0, 1]))
    assert z[:2, 0].tolist() == [-1, 1]
    assert (z[:, 1:] == 0).all()


def test_label_only_knows_other_bundles_and_not_its_own() -> None:
    targets = corpus()
    x = controls.other_labels(targets, ("Movement",))
    assert x.shape[1] == 3  # Contact: missing, no, yes
    assert (x.sum(1) == 1).all()
    assert np.unique(x[targets.features["Contact"] < 0], axis=0).tolist() == [[1, 0, 0]]


def test_majority_guesses_the_commonest_training_class() -> None:
    targets = corpus()
    split = seen_sign(targets, 5, 0.2, 0)
    outcome = controls.majority(targets, split, FIT)
    (fold,) = split.folds
    train = targets.features["Movement"][fold.train]
    assert set(outcome.predicted[0, fold.test]) == {np.bincount(train).argmax()}
    share = np.bincount(train) / len(train)
    np.testing.assert_allclose(
        outcome.log_loss[0, fold.test], -np.log(share[targets.features["Movement"][fold.test]]), rtol=1e-5
    )


def test_looking_the_sign_up_is_the_ceiling_of_seen_signs_and_chance_on_unseen_ones() -> None:
    targets = corpus()
    seen = controls.sign_identity(targets, seen_sign(targets, 5, 0.2, 0), FIT)
    assert score(seen.truth, seen.predicted, targets).value == 1
    known = seen.truth[0] >= 0
    assert np.abs(seen.log_loss[0][known]).max() < 1e-6
    split = unseen_sign(targets, 5, 0.2, 0)
    unseen, guess = controls.sign_identity(targets, split, FIT), controls.majority(targets, split, FIT)
    assert (unseen.predicted == guess.predicted).all()
    assert np.array_equal(unseen.log_loss, guess.log_loss)


# ---- scores and intervals


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, 300), rng.integers(0, 5, 300)
    cluster = rng.integers(0, 30, 300)
    loss = rng.random(300)
    counts = Counts.of(y, p, loss, cluster, 30, 5)
    weights = np.vstack([np.ones(30), rng.integers(0, 3, 30)])
    found = counts.scores(weights)
    for row, weight in enumerate(weights):
        sample = np.repeat(np.arange(300), weight[cluster].astype(int))
        a, b = y[sample], p[sample]
        share = np.bincount(a) / len(a)
        expected = {
            "balanced_accuracy": reference.balanced_accuracy_score(a, b),
            "macro_f1": reference.f1_score(a, b, average="macro"),
            "mcc": reference.matthews_corrcoef(a, b),
            "accuracy": reference.accuracy_score(a, b),
            "bits": -(share * np.log2(share)).sum() - loss[sample].mean() / np.log(2),
            "log_loss": loss[sample].mean(),
        }
        assert set(expected) == set(METRICS)
        for metric, value in expected.items():
            assert found[metric][row] == pytest.approx(value), metric


def test_draws_keep_the_number_of_groups_in_each_fold() -> None:
    stratum = np.array([0] * 7 + [1] * 5)
    weights = draw_weights(stratum, 50, 0)
    assert (weights[0] == 1).all()
    np.testing.assert_allclose(weights[:, :7].sum(1), 7)
    np.testing.assert_allclose(weights[:, 7:].sum(1), 5)
    assert (weights == draw_weights(stratum, 50, 0)).all()


def test_calibration_error() -> None:
    assert calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == 0
    assert calibration_error(np.array([False, False]), np.array([1.0, 1.0])) == 1


# ---- the run


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """A manifest, a lexicon and three files of features; no video is needed."""
    rng = np.random.default_rng(0)
    shape, place = rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    header = "EntryID,LemmaID," + ",".join(f"{name}.2.0" for name in _ASL_LEX)
    lines = [header]
    for i in range(40):
        levels = dict.fromkeys(_ASL_LEX, "NA") | {
            "Handshape": f"h{shape[i]}",
            "MajorLocation": f"l{place[i]}",
        }
        # Signs that only differ in a feature that is not probed keep apart.
        levels["Movement"] = f"m{i}"
        lines.append(f"w{i},w{i}," + ",".join(levels.values()))
    (tmp_path / "lexicon.csv").write_text("\n".join(lines) + "\n")
    clips = [
        Clip(
            f"c{i:02d}-{j}",
            f"{i}-{j}.mp4",
            gloss=f"w{i}",
            label=i,
            signer=str(j),
            split="test" if j == 3 else "train",
        )
        for i in range(40)
        for j in range(4)
    ]
    Manifest("m", tuple(clips), tmp_path, tuple(f"w{i}" for i in range(40))).save(tmp_path / "manifest.csv")
    sign = np.repeat(np.arange(40), 4)
    good = np.eye(3)[shape[sign]] + 0.1 * rng.normal(size=(160, 3))
    ids = np.array([clip.clip_id for clip in clips])
    layers = {"layer.0": rng.normal(size=(160, 3)), "layer.1": np.hstack([good, rng.normal(size=(160, 4))])}
    np.savez(tmp_path / "good.npz", clip_ids=ids, **layers)
    np.savez(tmp_path / "noise.npz", clip_ids=ids[:150], features=rng.normal(size=(150, 6)))
    shuffled = rng.permutation(160)
    np.savez(tmp_path / "mixed.npz", clip_ids=ids[shuffled], **{k: v[shuffled] for k, v in layers.items()})
    return {
        "encoders": [str(tmp_path / "good.npz"), str(tmp_path / "noise.npz")],
        "data": {"manifest": str(tmp_path / "manifest.csv")},
        "lexicon": str(tmp_path / "lexicon.csv"),
        "features": ["Handshape", "MajorLocation"],
        "folds": 3,
        "probes": {
            "inverse_penalties": [0.01, 0.1],
            "min_train_signs": 2,
            "min_test_signs": 1,
            "permutations": 1,
        },
        "controls": ["majority", "label-only", "sign-identity"],
        "draws": 100,
        "run": {"out": str(tmp_path / "run")},
    }


_ASL_LEX = (
    *("Handshape", "SelectedFingers", "Flexion", "FlexionChange", "Spread", "SpreadChange", "ThumbPosition"),
    *("ThumbContact", "SignType", "Movement", "RepeatedMovement", "MajorLocation", "MinorLocation"),
    *("SecondMinorLocation", "Contact", "NonDominantHandshape", "UlnarRotation"),
)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def numbers(results: list[Result]) -> dict[tuple[Any, ...], tuple[float, float | None]]:
    return {(r.name, r.metric, *r.group.values()): (r.value, r.ci_low) for r in results}


def find(results: list[Result], name: str, metric: str = "balanced_accuracy", **group: str) -> Result:
    wanted = {"feature": "Handshape", "split": "unseen_sign", "layer": "chosen", "control": "", **group}
    (found,) = [r for r in results if r.name == name and r.metric == metric and wanted.items() <= r.group.items()]
    return found


def test_run_scores_files_of_features(study: dict[str, Any]) -> None:
    config = validate(ProbeConfig, study, "study")
    results = run_probe(config, quiet)
    assert find(results, "good").value > 0.98
    assert find(results, "good", layer="0").value < 0.6
    assert find(results, "good", layer="1").value > 0.98
    assert find(results, "good", control="permuted").value < 0.6
    assert find(results, "good", "selectivity").value > 0.4
    assert find(results, "majority", control="majority").value == pytest.approx(1 / 3, abs=0.03)
    assert find(results, "label only", control="label-only").value < 0.6
    assert find(results, "sign identity", control="sign-identity", split="seen_sign").value == 1
    assert find(results, "sign identity", control="sign-identity").value == pytest.approx(1 / 3, abs=0.03)
    assert find(results, "good", "log_loss").higher_is_better is False
    assert find(results, "good", "p_permutation:noise").value < 0.05
    assert find(results, "good").group["sign_groups"] == "40"
    assert find(results, "good").group["classes"] == "3"
    difference = find(results, "good", "difference_to:noise")
    assert difference.ci_low is not None
    assert difference.ci_low > 0
    assert difference.n == 150  # the clips that both have
    assert find(results, "good", "p_holm:noise").value < 0.05
    assert find(results, "noise").provenance.clips_present == 150
    assert find(results, "noise").provenance.clips_expected == 160
    bundles = find(results, "good", feature="mean:bundles").value
    assert bundles == pytest.approx(
        np.mean([find(results, "good", feature=f).value for f in ("Handshape", "MajorLocation")])
    )
    assert {r.provenance.protocol for r in results} == {"probe/1"}
    folder = Path(config.run.out)
    for name in (
        "config.yaml",
        "result.json",
        "details.json",
        "splits/unseen_sign.json",
        "splits/seen_sign.json",
    ):
        assert (folder / name).is_file(), name
    text = render(results)
    assert "unseen_sign" in text
    assert "160 of 160 clips" in text
    assert run_probe(config, quiet) == results


def test_a_probe_short_of_its_optimum_is_marked(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.fitting.LinearProbes", partial(LinearProbes, max_iterations=1))
    results = run_probe(validate(ProbeConfig, study, "study"), quiet)
    assert "NOT CONVERGED" in find(results, "good").ci_method
    assert "NOT CONVERGED" not in find(results, "majority", control="majority").ci_method
    assert "!" in render(results)


def test_row_order_changes_nothing(study: dict[str, Any], tmp_path: Path) -> None:
    tables = []
    for name in ("good", "mixed"):
        changes = {
            "encoders": [str(tmp_path / f"{name}.npz")],
            "run": {"out": str(tmp_path / name)},
            "controls": [],
        }
        results = run_probe(validate(ProbeConfig, study | changes, "study"), quiet)
        tables.append({key[1:]: value for key, value in numbers(results).items() if key[0] == name})
    assert tables[0] == tables[1]


def test_an_interrupted_run_continues_to_the_same_numbers(study: dict[str, Any], tmp_path: Path) -> None:
    whole = run_probe(validate(ProbeConfig, study, "study"), quiet)
    config = validate(ProbeConfig, study | {"run": {"out": str(tmp_path / "cut")}}, "study")
    with pytest.raises(Interrupted):
        run_probe(config, lambda done, total: os.kill(os.getpid(), signal.SIGTERM) if done == 1 else None)
    assert not (tmp_path / "cut" / "result.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut" / "predictions").iterdir()}
    assert kept
    assert numbers(run_probe(config, quiet)) == numbers(whole)
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())


def test_a_folder_of_another_configuration_is_refused(study: dict[str, Any]) -> None:
    run_probe(validate(ProbeConfig, study, "study"), quiet)
    with pytest.raises(UserError, match="another configuration"):
        run_probe(validate(ProbeConfig, study | {"draws": 150}, "study"), quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ["nowhere"]}, "no such run folder"),
        ({"encoders": ["{tmp}"]}, "holds no encoder.safetensors"),
        ({"encoders": ["{tmp}/good.npz", "{tmp}/other/good.npz"]}, "two encoders are called 'good'"),
        ({"features": ["Colour"]}, "unknown feature 'Colour'"),
        ({"folds": 30}, "40 sign groups are too few for 30 folds"),
        ({"lexicon": "nowhere.csv"}, "no such lexicon"),
        ({"splits": []}, "name at least one split"),
        ({"probes": {"inverse_penalties": [0.0]}}, "every C must be positive"),
        ({"controls": ["luck"]}, "controls"),
    ],
)
def test_wrong_input_is_one_clear_line(
    study: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "good.npz").write_bytes((tmp_path / "good.npz").read_bytes())
    if "encoders" in changes:
        changes = {"encoders": [text.format(tmp=tmp_path) for text in changes["encoders"]]}
    with pytest.raises(UserError, match=message) as caught:
        run_probe(validate(ProbeConfig, study | changes, "study"), quiet)
    assert "\n" not in str(caught.value)


def test_features_of_other_clips_are_refused(study: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "strange.npz", clip_ids=np.array(["x", "y"]), features=np.zeros((2, 3)))
    with pytest.raises(UserError, match="none of its clip ids"):
        run_probe(validate(ProbeConfig, study | {"encoders": [str(tmp_path / "strange.npz")]}, "study"), quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"out": "o", "precision": "bf16"}}, "run: precision is an option of training"),
        ({"run": {"out": "o", "log_every": 5}}, "run: log_every is an option of training"),
        ({"data": {"manifest": ["a.csv", "b.csv"], "balance": 0.5}}, r"data\.balance is an option of training"),
        ({"splits": "unseen_sign", "shared_with_test": "drop"}, "shared_with_test has no effect without seen_sign"),
        ({"analyses": {"run": "knn", "shots": [2]}}, "shots has no effect without few_shot"),
    ],
)
def test_an_option_that_cannot_act_is_refused(study: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(ProbeConfig, study | changes, "study")


def test_defaults_of_training_written_by_older_runs_are_accepted(study: dict[str, Any]) -> None:
    run = RunConfig(out="o").model_dump()
    assert validate(ProbeConfig, study | {"run": run}, "study").run.out == "o"
