"""The probe solver against scikit-learn on the same objective, and on data that breaks naive solvers."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probe.evidence.solver_benchmark import compare
from probe.solver.blocks import row_counts
from probe.solver.linear import LinearProbes

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def problem(
    samples: int = 500, width: int = 24, sizes: tuple[int, ...] = (2, 3, 7, 12), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features and labels of several sizes, some of them missing."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.arange(1, width + 1) ** -0.7
    features = rng.normal(size=(samples, width))
    labels = []
    for size in sizes:
        scores = features @ rng.normal(size=(width, size)) * 0.5 + rng.gumbel(size=(samples, size))
        label = scores.argmax(1)
        label[rng.random(samples) < 0.1] = -1
        labels.append(label)
    x = features @ mixing.T
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), np.array(labels)


def objective(x: np.ndarray, y: np.ndarray, model: LogisticRegression, c: float) -> float:
    """scikit-learn's objective at its solution, divided by C n."""
    known = y >= 0
    log = model.predict_log_proba(x[known].astype(np.float64))
    column = np.searchsorted(model.classes_, y[known])
    return -log[np.arange(known.sum()), column].mean() + (model.coef_**2).sum() / (2 * c * known.sum())


def test_agrees_with_scikit_learn() -> None:
    x, labels = problem()
    fresh, _ = problem(seed=1)
    probes = LinearProbes(x, labels)
    for c, fit in zip(PENALTIES, probes.path(PENALTIES), strict=True):
        assert fit.converged.all()
        assert (fit.gradient <= 1e-4).all()
        predicted = probes.predict(fit, probes.project(fresh))
        for target, y in enumerate(labels):
            known = y >= 0
            model = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x[known].astype(np.float64), y[known])
            assert fit.objective[target] == pytest.approx(objective(x, y, model, c), rel=2e-4)
            assert (predicted[target] != model.predict(fresh)).mean() <= 0.01
            mine = probes.log_probabilities(fit, probes.project(fresh), target)
            np.testing.assert_allclose(np.exp(mine), model.predict_proba(fresh), atol=0.01)
            assert (mine.argmax(1) == np.searchsorted(model.classes_, predicted[target])).all()


def test_coefficients_in_float64_are_scikit_learns() -> None:
    x, labels = problem(300, 8, (2, 4))
    wide = x.astype(np.float64) * np.array([1, 3, 0.2, 1, 1, 1, 1, 1]) + 5  # neither scaled nor centred
    probes = LinearProbes(wide, labels, gradient_tolerance=1e-7, decrement_tolerance=1e-9)
    fit = probes.fit(0.5)
    for target, y in enumerate(labels):
        model = LogisticRegression(C=0.5, tol=1e-10, max_iter=10000).fit(wide[y >= 0], y[y >= 0])
        weights, bias = probes.coefficients(fit, target)
        np.testing.assert_allclose(weights, model.coef_, atol=1e-4)
        # Only differences of biases matter for three and more classes.
        centred = (
            (bias, model.intercept_)
            if len(bias) == 1
            else (bias - bias.mean(), model.intercept_ - model.intercept_.mean())
        )
        np.testing.assert_allclose(*centred, atol=1e-3)


def test_targets_do_not_influence_each_other() -> None:
    x, labels = problem()
    c = np.array([0.01, 1.0, 0.1, 10.0])
    together = LinearProbes(x, labels).fit(c)
    for target in range(len(labels)):
        alone = LinearProbes(x, labels[target : target + 1]).fit(c[target])
        assert together.objective[target] == pytest.approx(alone.objective[0], rel=1e-4)


def test_missing_labels_are_masked_not_learnt() -> None:
    x, labels = problem()
    y = labels[2]
    whole = LinearProbes(x, y[None]).fit(0.1)
    only = LinearProbes(x[y >= 0], y[None, y >= 0]).fit(0.1)
    assert whole.objective[0] == pytest.approx(only.objective[0], rel=1e-4)


def test_a_start_changes_the_way_and_not_the_end() -> None:
    x, labels = problem()
    probes = LinearProbes(x, labels)
    cold = probes.fit(1.0)
    warm = probes.path((0.01, 0.1, 1.0))[-1]
    np.testing.assert_allclose(warm.objective, cold.objective, rtol=2e-4)
    assert warm.iterations.sum() <= cold.iterations.sum() + 4
    partial = probes.fit(1.0, probes.fit(0.1), only=[1])
    assert partial.converged.tolist() == [False, True, False, False]
    assert partial.objective[1] == pytest.approx(cold.objective[1], rel=2e-4)


def test_row_order_changes_no_prediction() -> None:
    x, labels = problem()
    fresh, _ = problem(seed=3)
    order = np.random.default_rng(0).permutation(len(x))
    one, other = LinearProbes(x, labels), LinearProbes(x[order], labels[:, order])
    a, b = one.fit(0.1), other.fit(0.1)
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-5)
    same = one.predict(a, one.project(fresh)) == other.predict(b, other.project(fresh))
    assert same.mean() > 0.995


def test_rows_to_spare_are_inert() -> None:
    assert row_counts([0, 1, 2, 5, 8, 40], 600) == [0, 0, 1, 8, 8, 40]
    assert row_counts([5, 8, 40], 1_000_000) == [5, 8, 40]
    x, labels = problem(200, 6, (5, 7, 8))
    padded = LinearProbes(x, labels)
    assert padded.sizes == [8, 8, 8]
    fit = padded.fit(0.1)
    for target in range(3):
        alone = LinearProbes(x, labels[target : target + 1])
        assert alone.fit(0.1).objective[0] == pytest.approx(fit.objective[target], rel=1e-4)
    assert (padded.predict(fit, padded.project(x)).max(1) <= [4, 6, 7]).all()


def test_separable_data_at_weak_penalty() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = (np.eye(3)[y] * 4 + rng.normal(size=(200, 3)) * 0.1).astype(np.float32)
    fit = (probes := LinearProbes(x, y[None])).fit(100.0)
    assert fit.converged.all()
    model = LogisticRegression(C=100.0, tol=1e-9, max_iter=5000).fit(x.astype(np.float64), y)
    assert fit.objective[0] == pytest.approx(objective(x, y, model, 100.0), rel=1e-3)
    assert (probes.predict(fit, probes.project(x))[0] == y).all()


def test_degenerate_columns_and_targets() -> None:
    x, labels = problem(120, 5, (3,))
    y = labels[0]
    one = np.where(np.arange(120) % 2, 7, -1)
    none = np.full(120, -1)
    rare = np.where(np.arange(120) == 0, 1, 0)
    constant = np.hstack([x, np.full((120, 1), 3.0), x[:, :1], np.zeros((120, 1))]).astype(np.float32)
    probes = LinearProbes(constant, np.stack([y, one, none, rare]))
    fit = probes.fit(1.0)
    assert fit.converged.all()
    assert np.isfinite(fit.weights.numpy()).all()
    predicted = probes.predict(fit, probes.project(constant))
    assert (predicted[1] == 7).all()
    assert (predicted[2] == -1).all()
    assert probes.log_probabilities(fit, probes.project(constant), 1).shape == (120, 1)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(constant[y >= 0], y[y >= 0])
    assert fit.objective[0] == pytest.approx(objective(constant, y, model, 1.0), rel=1e-3)


def test_no_informative_feature_gives_class_frequencies() -> None:
    y = np.array([0] * 30 + [1] * 50 + [2] * 20)
    probes = LinearProbes(np.full((100, 4), 2.0, np.float32), y[None])
    log = probes.log_probabilities(probes.fit(1.0), probes.project(np.full((1, 4), 2.0, np.float32)), 0)
    np.testing.assert_allclose(np.exp(log[0]), [0.3, 0.5, 0.2], atol=1e-4)


def test_duplicated_rows_count_twice() -> None:
    x, labels = problem(150, 6, (4,))
    twice = LinearProbes(np.vstack([x, x]), np.hstack([labels, labels])).fit(0.5)
    once = LinearProbes(x, labels).fit(1.0)
    assert twice.objective[0] == pytest.approx(once.objective[0], rel=1e-4)


@pytest.mark.parametrize("samples", [40, 400])
def test_badly_scaled_columns(samples: int) -> None:
    x, labels = problem(samples, 30, (3,))
    scaled = x * np.logspace(-3, 3, 30).astype(np.float32)
    fit = LinearProbes(scaled, labels).fit(0.1)
    assert fit.converged.all()
    y = labels[0]
    model = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-8, max_iter=500)
    model.fit(scaled[y >= 0].astype(np.float64), y[y >= 0])
    assert fit.objective[0] == pytest.approx(objective(scaled, y, model, 0.1), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("samples", [40, 400])
def test_a_column_a_million_times_larger(samples: int) -> None:
    x, labels = problem(samples, 30, (3,))
    x[:, 4] *= 1e6
    y = labels[0]
    probes = LinearProbes(x, labels)
    fit = probes.fit(0.1)
    assert fit.converged.all()
    wide = x.astype(np.float64)
    model = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-8, max_iter=500).fit(wide[y >= 0], y[y >= 0])
    assert fit.objective[0] == pytest.approx(objective(x, y, model, 0.1), rel=1e-3)
    mine = np.exp(probes.log_probabilities(fit, probes.project(x), 0))
    np.testing.assert_allclose(mine, model.predict_proba(wide), atol=0.01)


def test_more_columns_than_rows() -> None:
    x, labels = problem(60, 300, (2, 5))
    probes = LinearProbes(x, labels)
    assert probes.basis.shape[1] <= 60
    fit = probes.fit(0.05)
    for target, y in enumerate(labels):
        model = LogisticRegression(C=0.05, tol=1e-8, max_iter=5000).fit(x[y >= 0].astype(np.float64), y[y >= 0])
        assert fit.objective[target] == pytest.approx(objective(x, y, model, 0.05), rel=1e-3)


def test_a_fit_that_ran_out_of_iterations_says_so() -> None:
    x, labels = problem()
    fit = LinearProbes(x, labels, max_iterations=1).fit(10.0)
    assert not fit.converged.any()
    assert (fit.gradient > 1e-4).all()


def test_limited_rank_is_a_principal_component_regression() -> None:
    x, labels = problem(300, 10, (3,))
    centred = x.astype(np.float64) - x.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    reduced = centred @ directions[:4].T
    y = labels[0]
    model = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(reduced[y >= 0], y[y >= 0])
    fit = LinearProbes(x, labels, max_rank=4).fit(0.1)
    assert fit.objective[0] == pytest.approx(objective(reduced, y, model, 0.1), rel=1e-3)


def test_the_benchmark_compares_like_with_like() -> None:
    found = compare(samples=400, width=32, targets=3, penalties=(1e-2, 1e-1))
    assert found.fits == 6
    assert found.converged
    assert found.objective_gap < 1e-3
    assert found.ratio == found.theirs / found.ours > 0
    assert "ratio" in str(found)
    assert found.ours_to_optimum <= 0.02
    assert found.theirs_to_optimum <= 0.02
    assert len(found.targets) == 3
    assert found.theirs == pytest.approx(sum(row.theirs for row in found.targets))
    assert found.table().count("\n") == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_finds_the_same_optimum() -> None:
    x, labels = problem()
    cpu, gpu = LinearProbes(x, labels).fit(0.1), LinearProbes(x, labels, device="cuda").fit(0.1)
    np.testing.assert_allclose(gpu.objective, cpu.objective, rtol=1e-4)
