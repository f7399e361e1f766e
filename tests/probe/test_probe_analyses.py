"""Every analysis: planted features are found, sign identity and permuted labels are at chance, test clips unseen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.probe_signs import (
    CLASSES,
    FEW_CHOICES,
    SHORT,
    SIGNERS,
    SIGNS,
    TRAINED,
    context_of,
    corpus,
    planted,
    point,
    result,
    tokens_of,
    value,
)

from probe.analyses import ANALYSES
from probe.features.tokens import Tokens
from probe.statistics.bootstrap import BootstrapDraws

HEADLINES = {
    "mdl": [],
    "knn": [{"setting": f"k={k}"} for k in (1, 5, 20)],
    "attentive": [{}],
    "weighted_sum": [{}],
    "few_shot": [{"setting": "5 signs per class"}],
}


@pytest.mark.parametrize("analysis", [name for name, wanted in HEADLINES.items() if wanted])
def test_a_planted_linear_feature_is_read_on_unseen_signs(analysis: str) -> None:
    for wanted in HEADLINES[analysis]:
        for feature in CLASSES:
            found = value(result(analysis, "planted"), "balanced_accuracy", feature, **wanted)
            assert found.values[0] >= 0.95, (wanted, feature)
            assert (found.clips, found.signs) == (SIGNS * SIGNERS, SIGNS)


@pytest.mark.parametrize("analysis", [name for name, wanted in HEADLINES.items() if wanted])
def test_sign_identity_is_chance_on_unseen_signs(analysis: str) -> None:
    """One corpus of 48 signs varies by 0.08 around chance; what is asserted is the mean over corpora."""
    for wanted in HEADLINES[analysis]:
        values = [point(result(analysis, "identity", seed), "balanced_accuracy", **wanted) for seed in range(3)]
        error = max(np.std(values, ddof=1) / np.sqrt(3), 0.03)
        assert abs(np.mean(values) - 1 / 3) <= 3 * error, (wanted, values)
        assert max(values) < 0.6


@pytest.mark.parametrize("analysis", list(ANALYSES))
def test_permuted_labels_find_nothing(analysis: str) -> None:
    """The planted features with the labels of other signs."""
    rng = np.random.default_rng(5)
    targets, other = corpus(), rng.permutation(SIGNS)
    sign = np.unique(targets.signs, return_inverse=True)[1]
    first = np.arange(SIGNS) * SIGNERS
    wrong = replace(targets, features={n: labels[first][other][sign] for n, labels in targets.features.items()})
    found = ANALYSES[analysis](context_of(planted(targets), wrong))
    for wanted in HEADLINES.get(analysis, []):
        assert point(found, "balanced_accuracy", **wanted) < 0.55
    if analysis == "mdl":
        assert point(found, "compression") < 1.1
    if analysis == "rsa":
        assert abs(point(found, "rho", "all features")) < 0.15
        assert point(found, "p_mantel", "all features") > 0.02
    if analysis == "retrieval":
        chance = point(found, "recall_at_1_chance")
        assert abs(point(found, "recall_at_1") - chance) < 0.2
    if analysis == "minimal_pairs":
        # Signs that only differ in a permuted label are told apart no better than any two.
        assert abs(point(found, "auc", "handshape") - point(found, "auc", "location")) < 0.15
    if analysis == "erasure":
        assert abs(point(found, "erasure_change", "MajorLocation", setting="erased Handshape")) < 0.2


@pytest.mark.parametrize("analysis", list(ANALYSES))
def test_findings_have_intervals_that_hold_them_and_say_what_they_count(analysis: str) -> None:
    found = result(analysis, "planted")
    assert found
    assert len({f.key for f in found}) == len(found)
    for f in found:
        assert f.analysis == analysis
        assert np.isfinite(f.values[0]), f.key
        assert 0 < f.signs <= SIGNS < f.clips <= SIGNS * SIGNERS
        assert bool(f.method) == (len(f.values) > 1)
        # Only scores of probes that signs train for each other are widened; the rest must not say so.
        plain = analysis in ("mdl", "minimal_pairs", "rsa", "retrieval") or f.metric == "layer_weight"
        assert ("widened" in f.method) == (bool(f.method) and not plain), f.key
        if len(f.values) > 1:
            low, high = np.nanpercentile(f.values[1:], [0.1, 99.9])
            # Draws of a perfect score are those of its exact bound, just below it.
            assert low - 1e-3 <= f.values[0] <= high + 1e-3, f.key


@pytest.mark.parametrize("analysis", list(ANALYSES))
def test_absent_clips_are_read_nowhere(analysis: str) -> None:
    targets = corpus()
    present = np.random.default_rng(6).random(len(targets)) > 0.15
    clean = planted(targets)
    spoilt = np.where(present[:, None], clean, 1e6).astype(np.float32)
    fit = FEW_CHOICES.model_copy(update={"inverse_penalties": FEW_CHOICES.inverse_penalties[:1]})
    quick: dict[str, Any] = {"present": present, "config": SHORT, "fit": fit}
    one = ANALYSES[analysis](replace(context_of(clean, **quick), tokens=lambda: tokens_of(clean)))
    made = context_of(spoilt, **quick)
    layers = [np.where(present[:, None], made.layers[0], -1e6).astype(np.float32), spoilt]

    def spoilt_tokens() -> Tokens:
        values = tokens_of(clean).values.copy()
        values[~present] = 6e4
        return replace(tokens_of(clean), values=values)

    two = ANALYSES[analysis](replace(made, layers=layers, tokens=spoilt_tokens))
    assert [f.key for f in one] == [f.key for f in two]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        assert a.clips <= present.sum()


@pytest.mark.parametrize("analysis", TRAINED)
def test_choices_and_fits_never_see_the_test_clips(analysis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels on the test signs of a fold leave the predictions for them as they were."""
    targets = corpus()
    base = context_of(planted(targets, noise=2.0), targets, config=SHORT, fit=FEW_CHOICES)
    seen: list[np.ndarray] = []
    score = BootstrapDraws.series

    def spy(bootstrap: BootstrapDraws, truth: np.ndarray, predicted: np.ndarray) -> Any:
        seen.append(predicted)
        return score(bootstrap, truth, predicted)

    monkeypatch.setattr(BootstrapDraws, "series", spy)
    test = base.split.folds[0].test
    changed = {name: labels.copy() for name, labels in targets.features.items()}
    for name, k in CLASSES.items():
        changed[name][test] = (changed[name][test] + 1) % k
    ANALYSES[analysis](base)
    count = len(seen)
    assert count
    ANALYSES[analysis](replace(base, targets=replace(targets, features=changed)))
    for a, b in zip(seen[:count], seen[count:], strict=True):
        np.testing.assert_array_equal(a[:, test], b[:, test])
        assert (a[:, test] >= 0).all()
