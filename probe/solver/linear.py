"""L2 multinomial logistic regression for many targets at once, on one feature matrix.

All targets (features, and their permuted-label controls) share every matrix product with the features. For
target t with labels on n_t rows (label -1 = missing: the row is masked, never a class) and inverse penalty
C_t, minimise

    f_t(W, b) = mean over labelled rows of cross-entropy + ||W||^2 / (2 C_t n_t)

which is scikit-learn's LogisticRegression objective divided by C_t n_t. As there, the bias is not penalised
and a target with two classes has one weight row.

Method: features are centred and rotated once into the eigenbasis of their covariance. L-BFGS is preconditioned
by the Hessian that would hold if probabilities and features were independent: (class covariance of the
predictions) x (eigenvalues) + penalty, diagonal in the two eigenbases. Logits are cached, so a line search
costs no matrix product and an iteration costs two. Each target has its own step, history and stop rule, and
its rows leave the products once it has converged. Each fit starts from the one at the next stronger penalty,
extrapolated where that lowers the objective. Products are in the features' dtype (float32); every sum over
rows and every inner product is in float64.

Shapes: N samples, D features, r rank, T targets, K_t classes, P rows of all targets' weights together (1 for
two classes, else K_t). Weights are `[P, r + 1]`, the last column is the bias; logits are `[P, N]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe.solver.blocks import Blocks, product_nt, row_counts
from probe.solver.descent import Descent

GRADIENT_TOLERANCE = 1e-4  # scikit-learn's default: largest |gradient| of the mean objective
# Estimated gap to the optimum, relative to the objective. Ten times looser saves an eighth of the time and moves the
# accuracy of single fits on 2,500 clips by up to 0.12 points from the optimum's, instead of 0.05.
DECREMENT_TOLERANCE = 2e-6
MAX_ITERATIONS = 1000
RANK_TOLERANCE = 1e-10  # covariance eigenvalues below this part of the largest are directions without data
EXACT_RANK_TOLERANCE = 1e-24  # the same of float64 features, whose directions come from their singular values
# Columns whose variances differ by more than this are fitted in float64: in float32 the rounding of the large ones
# would drown the small ones.
SCALE_LIMIT = 1e8
CONSTANT = 1e-13  # a variance below this part of the squared mean is rounding of float32 values


@dataclass(frozen=True)
class Fit:
    """Fitted weights of all targets, each at one penalty.

    Attributes:
        weights: `[P, r + 1]` in the rotated basis.
        change: Difference of `weights` from the fit it started from, or None.
        objective: Mean objective, `[T]`; 0 for a target with fewer than two classes.
        gradient: Largest |gradient| in the centred features' coordinates, `[T]`.
        iterations: L-BFGS iterations, `[T]`.
        converged: Whether the stop rule was met, `[T]`; true for a target with fewer than two classes.
    """

    weights: Tensor
    change: Tensor | None
    objective: np.ndarray
    gradient: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray


class LinearProbes:
    """Logistic regressions of several targets on one feature matrix.

    Args:
        features: `[N, D]`, finite; standardise before if the penalty should treat columns alike. float32, unless
            they are float64 or their scales differ too much for float32.
        labels: `[T, N]` integers; -1 = missing.
        device: Where to compute.
        gradient_tolerance: Stop rule, largest |gradient| of the mean objective.
        decrement_tolerance: Stop rule, estimated gap to the optimum relative to the objective; both must
            hold.
        max_iterations: A target still not converged then is marked so.
        max_rank: Use this many principal directions of the features at most.

    Attributes:
        classes: Sorted classes present for each target; fewer than two need no fit.
    """

    def __init__(
        self,
        features: np.ndarray | Tensor,
        labels: np.ndarray,
        *,
        device: str | torch.device = "cpu",
        gradient_tolerance: float = GRADIENT_TOLERANCE,
        decrement_tolerance: float = DECREMENT_TOLERANCE,
        max_iterations: int = MAX_ITERATIONS,
        max_rank: int | None = None,
    ) -> None:
        self.limits = (gradient_tolerance, decrement_tolerance, max_iterations)
        x = torch.as_tensor(features, device=device)
        x = x if x.dtype == torch.float64 else x.float()
        if _badly_scaled(x):
            x = x.double()
        labels = np.asarray(labels)
        assert labels.shape == (len(labels), len(x)), f"labels {labels.shape} for {len(x)} samples"
        assert bool(torch.isfinite(x).all()), "features must be finite"
        self.dtype = x.dtype
        self.center = x.mean(0, dtype=torch.float64).to(x.dtype)
        variance, self.basis = eigenbasis(x - self.center, max_rank)
        self.variance = torch.cat([variance, torch.ones(1, dtype=torch.float64, device=x.device)])  # bias: 1
        self.rotated = self.project(x)
        self.classes, codes = class_codes(labels)
        self.labels = torch.as_tensor(codes, dtype=torch.int64, device=x.device)
        counts = [len(present) for present in self.classes]
        self.sizes = row_counts(counts, len(x))
        self.fitted = [target for target, count in enumerate(counts) if count > 1]
        self._layout = (self.sizes, counts, self.labels, self.dtype)
        self.rows: dict[int, slice] = {}  # of the classes; padding rows follow and stay zero
        row = 0
        for target in Blocks(self.fitted, *self._layout).targets:
            self.rows[target] = slice(row, row + min(self.sizes[target], counts[target]))
            row += self.sizes[target]
        self.total_rows = row

    def project(self, features: np.ndarray | Tensor) -> Tensor:
        """Project features onto the rotated basis and append a column of ones, `[N, r + 1]`."""
        x = torch.as_tensor(features, device=self.center.device).to(self.dtype) - self.center
        return torch.cat([x @ self.basis, torch.ones(len(x), 1, dtype=x.dtype, device=x.device)], 1).contiguous()

    def _prior(self) -> Tensor:
        """Return the optimum under an infinite penalty: zero weights, log class frequencies as biases."""
        weights = torch.zeros(self.total_rows, self.rotated.shape[1], dtype=self.dtype, device=self.rotated.device)
        for target, rows in self.rows.items():
            known = self.labels[target][self.labels[target] >= 0]
            log = torch.bincount(known, minlength=len(self.classes[target])).double().log()
            bias = (log[1] - log[0])[None] if self.sizes[target] == 1 else log - log.mean()
            weights[rows, -1] = bias.to(self.dtype)
        return weights

    def fit(
        self, inverse_penalty: float | np.ndarray, start: Fit | None = None, only: Sequence[int] | None = None
    ) -> Fit:
        """Fit targets at one penalty each.

        Args:
            inverse_penalty: scikit-learn's C, one for all or `[T]`.
            start: A fit to start from, ideally at a somewhat stronger penalty.
            only: Targets to fit (default all); the others keep the weights of `start` and are marked not converged.
        """
        count = len(self.classes)
        c = np.broadcast_to(np.asarray(inverse_penalty, dtype=np.float64), (count,)).copy()
        base = self._prior() if start is None else start.weights
        weights = base.clone()
        trivial = np.array([len(present) < 2 for present in self.classes], dtype=bool)
        objective, gradient = np.zeros(count), np.zeros(count)
        iterations, converged = np.zeros(count, dtype=np.int64), trivial.copy()
        requested = [target for target in self.fitted if only is None or target in set(only)]
        if requested:
            blocks = Blocks(requested, *self._layout)
            first = [self.rows[target].start for target in blocks.targets]
            rows = torch.cat([torch.arange(f, f + self.sizes[t]) for f, t in zip(first, blocks.targets, strict=True)])
            penalty = 1 / (torch.as_tensor(c[blocks.targets], device=blocks.count.device) * blocks.count)
            descent = Descent(self.rotated, self.variance, self.basis, blocks, penalty, self.limits)
            change = start.change[rows] if start is not None and start.change is not None else None
            optimum = descent.minimise(base[rows], change)
            weights[rows] = torch.as_tensor(optimum["weights"])
            objective[blocks.targets], gradient[blocks.targets] = optimum["objective"], optimum["gradient"]
            iterations[blocks.targets], converged[blocks.targets] = optimum["iterations"], optimum["converged"]
        change = None if start is None else weights - base
        return Fit(weights, change, objective, gradient, iterations, converged)

    def path(self, inverse_penalties: Sequence[float]) -> list[Fit]:
        """Fit along increasing C, each fit started from the one before."""
        fits: list[Fit] = []
        for c in inverse_penalties:
            fits.append(self.fit(c, fits[-1] if fits else None))
        return fits

    def log_probabilities(self, fit: Fit, rotated: Tensor, target: int) -> np.ndarray:
        """Return log-probabilities of `classes[target]` for `project`ed features, float64 `[N, K]`."""
        if len(self.classes[target]) < 2:
            return np.zeros((len(rotated), len(self.classes[target])))
        z = product_nt(rotated, fit.weights[self.rows[target]].contiguous()).double()
        if z.shape[1] == 1:
            z = torch.cat([torch.zeros_like(z), z], 1)
        return torch.log_softmax(z, 1).cpu().numpy()

    def predict(self, fit: Fit, rotated: Tensor) -> np.ndarray:
        """Predict labels `[T, N]` from `project`ed features; -1 for a target without any label."""
        predicted = np.full((len(self.classes), len(rotated)), -1, dtype=np.int64)
        logits = product_nt(fit.weights, rotated) if self.total_rows else None
        for target, present in enumerate(self.classes):
            if len(present) == 1:
                predicted[target] = present[0]
            elif len(present) > 1:
                assert logits is not None
                z = logits[self.rows[target]]
                choice = (z[0] > 0).long() if len(present) == 2 else z.argmax(0)
                predicted[target] = present[choice.cpu().numpy()]
        return predicted

    def coefficients(self, fit: Fit, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weights `[K or 1, D]` and biases `[K or 1]` in the given features' coordinates, float64."""
        rows = fit.weights[self.rows[target]].double()
        weights = rows[:, :-1] @ self.basis.double().T
        return weights.cpu().numpy(), (rows[:, -1] - weights @ self.center.double()).cpu().numpy()


def class_codes(labels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the sorted classes of each target, and labels `[T, N]` as positions in them, -1 = missing."""
    classes = [np.unique(row[row >= 0]) for row in labels]
    codes = np.full(labels.shape, -1)
    for target, present in enumerate(classes):
        known = labels[target] >= 0
        codes[target, known] = np.searchsorted(present, labels[target, known])
    return classes, codes


def decoded(classes: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Return positions `[T, N]` as the labels at them; -1 for a target without any label."""
    rows = [own[row] if len(own) else np.full(len(row), -1) for own, row in zip(classes, codes, strict=True)]
    return np.stack(rows)


def _badly_scaled(x: Tensor) -> bool:
    """Return whether the columns' variances differ by more than `SCALE_LIMIT`; constant columns do not count."""
    variance, mean = torch.var_mean(x.double(), 0, correction=0)
    variance = variance[variance > CONSTANT * mean.square()]
    return bool(len(variance) and variance.max() > SCALE_LIMIT * variance.min())


def eigenbasis(centred: Tensor, max_rank: int | None) -> tuple[Tensor, Tensor]:
    """Return variances (float64 `[r]`, largest first) and principal directions `[D, r]` of centred features.

    float32 features are decomposed through their covariance, which is cheaper; it squares the differences of scale,
    so float64 features are decomposed directly.
    """
    n, d = centred.shape
    if centred.dtype == torch.float64:
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        values = singular.square() / max(n, 1)
        kept = values > EXACT_RANK_TOLERANCE * values[:1].clamp(min=torch.finfo(torch.float64).tiny)
        if max_rank is not None:
            kept[max_rank:] = False
        return values[kept], directions[kept].T.contiguous()
    x = centred.double()
    gram = (x.T @ x if d <= n else x @ x.T) / max(n, 1)
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    kept = values > RANK_TOLERANCE * values[:1].clamp(min=torch.finfo(torch.float64).tiny)
    if max_rank is not None:
        kept[max_rank:] = False
    values, vectors = values[kept], vectors[:, kept]
    if d > n:
        vectors = (x.T @ vectors) / (values * n).sqrt()
    return values, vectors.to(centred.dtype)
