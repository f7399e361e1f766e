"""The probing protocol: it recovers what is there and not what is not."""

from typing import Any

import numpy as np

from probe import controls
from probe.config import FitConfig
from probe.fitting import ProbePredictions, permuted_labels, run_split, scored_labels, standardise
from probe.splits import SPLITS, seen_sign, unseen_sign
from probe.statistics.scores import Counts, Estimate, draw_weights
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


def test_a_planted_linear_feature_is_recovered() -> None:
    targets = corpus()
    outcome = probe_one(linear_features(targets), targets, "unseen_sign")
    assert all(score(outcome.truth, outcome.predicted, targets, f).value >= 0.99 for f in range(2))
    assert all(record["converged"] for record in outcome.details)


def test_sign_identity_is_chance_on_unseen_signs_and_high_on_seen_ones() -> None:
    # One corpus of 60 signs varies by 0.07 around chance; what is asserted is the mean over corpora.
    unseen = []
    for seed in range(4):
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
