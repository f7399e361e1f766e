"""Minimises many penalised multinomial objectives at once: preconditioned L-BFGS with one matrix product
shared.

Names and shapes as in `probe/linear.py`, which says what is minimised and why this way.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

HISTORY = 10
REFRESH = 5  # iterations between two computations of the preconditioner
CURVATURE_FLOOR = (
    1e-5  # of the class covariance's eigenvalues, so that a class nobody predicts has a finite step
)
ARMIJO = 1e-4
ROUNDING = 1e-7  # relative error of a float32 objective: differences below it are no increase
MAX_BACKTRACKS = 12
COMPACT_BELOW = 0.75  # drop converged targets' rows when this part of the rows or less is still active
EXTRAPOLATIONS = (0.5, 1.0)


def _onednn_product() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's `left @ right.T` (MKL loses a third of the speed on AMD), only where it exists and agrees
    with `@`.
    """
    sample = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        if not torch.equal(operator(sample, sample, None, "none", [], ""), sample @ sample.T):
            return None
    except (AttributeError, RuntimeError, TypeError):
        return None
    return lambda left, right: operator(left, right, None, "none", [], "")


_ONEDNN = _onednn_product()


def product_nt(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`."""
    if _ONEDNN is not None and left.dtype == torch.float32 and left.device.type == "cpu":
        return _ONEDNN(left, right)
    return left @ right.T


class Blocks:
    """Some targets' rows, ordered so that targets with equally many classes form one `[n, K, N]` view.

    Attributes:
        targets: Target of each position.
        spans: (K, first row, first position, number of targets) of each view; K = 1 for two classes.
        owner: Position of each row, `[P]`.
    """

    def __init__(
        self, targets: Sequence[int], sizes: Sequence[int], labels: Tensor, dtype: torch.dtype
    ) -> None:
        self.targets = sorted(targets, key=lambda target: (sizes[target], target))
        self._source = (sizes, labels, dtype)
        self.spans: list[tuple[int, int, int, int]] = []
        row = 0
        for position, target in enumerate(self.targets):
            size = sizes[target]
            if self.spans and self.spans[-1][0] == size:
                _, first, start, count = self.spans[-1]
                self.spans[-1] = (size, first, start, count + 1)
            else:
                self.spans.append((size, row, position, 1))
            row += size
        self.rows = row
        owner = [position for position, target in enumerate(self.targets) for _ in range(sizes[target])]
        self.owner = torch.tensor(owner, dtype=torch.int64, device=labels.device)
        chosen = labels[self.targets]
        self.count = (chosen >= 0).sum(1).double()  # [T] n_t
        self.weight = ((chosen >= 0) / self.count[:, None]).to(dtype)  # [T, N] 1/n_t on labelled samples
        self.label = chosen.clamp(min=0)

    def keep(self, kept: Tensor) -> "Blocks":
        """The positions that are `kept`."""
        return Blocks([t for t, keep in zip(self.targets, kept.tolist(), strict=True) if keep], *self._source)

    def per_target(self, row_values: Tensor) -> Tensor:
        """Sum float64 row values `[P]` within targets, `[T]`."""
        total = torch.zeros(len(self.targets), dtype=torch.float64, device=row_values.device)
        return total.index_add_(0, self.owner, row_values)

    def dot(self, left: Tensor, right: Tensor) -> Tensor:
        """Inner products of the targets' weights, `[T]`."""
        return self.per_target((left * right).sum(1, dtype=torch.float64))

    def rowwise(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """A value per target `[T]` as a column over rows `[P, 1]`."""
        return values.to(dtype)[self.owner, None]

    def loss(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropies `[T]` and their derivative by the logits `[P, N]`."""
        losses = []
        residual = torch.empty_like(logits)
        for size, first, start, count in self.spans:
            rows = slice(first, first + size * count)
            weight, label = self.weight[start : start + count], self.label[start : start + count]
            z = logits[rows]
            if size == 1:
                positive = label.to(z.dtype)
                entropy = torch.nn.functional.softplus(z) - z * positive
                losses.append((entropy * weight).sum(1, dtype=torch.float64))
                torch.mul(torch.sigmoid(z) - positive, weight, out=residual[rows])
                continue
            z = z.view(count, size, -1)  # [n, K, N]
            peak = z.amax(1, keepdim=True)
            p = torch.exp(z - peak)
            total = p.sum(1, keepdim=True)
            entropy = total.log() - (z.gather(1, label[:, None]) - peak)  # [n, 1, N]
            losses.append((entropy[:, 0] * weight).sum(1, dtype=torch.float64))
            p *= weight[:, None] / total
            p.scatter_add_(1, label[:, None], -weight[:, None])
            residual[rows] = p.flatten(0, 1)
        return torch.cat(losses), residual

    def class_covariance(self, logits: Tensor) -> list[Tensor]:
        """For each span, mean over samples of diag(p) - p p', `[n, K, K]` (p(1-p) for two classes)."""
        result = []
        for size, first, start, count in self.spans:
            weight = self.weight[start : start + count]
            z = logits[first : first + size * count]
            if size == 1:
                p = torch.sigmoid(z)
                result.append((p * (1 - p) * weight).sum(1)[:, None, None])
                continue
            p = torch.softmax(z.view(count, size, -1), 1)
            weighted = p * weight[:, None]
            result.append(torch.diag_embed(weighted.sum(2)) - weighted @ p.transpose(1, 2))
        return result


class Preconditioner:
    """(class covariance) x (feature variance) + penalty, inverted; one eigenbasis and diagonal per span."""

    def __init__(self, blocks: Blocks, logits: Tensor, variance: Tensor, penalty: Tensor) -> None:
        self.parts = []
        for (_, _, start, count), covariance in zip(
            blocks.spans, blocks.class_covariance(logits), strict=True
        ):
            values, basis = torch.linalg.eigh(covariance.double())
            values = values.clamp(min=CURVATURE_FLOOR)[:, :, None]
            diagonal = values * variance + penalty[start : start + count, None]
            self.parts.append((basis.to(logits.dtype), (1 / diagonal).to(logits.dtype)))

    def keep(self, blocks: Blocks, kept: Tensor) -> None:
        """Forget the positions of `blocks` that are not `kept`."""
        spans = [kept[start : start + count] for _, _, start, count in blocks.spans]
        self.parts = [
            (basis[chosen], inverse[chosen])
            for (basis, inverse), chosen in zip(self.parts, spans, strict=True)
            if chosen.any()
        ]

    def apply(self, blocks: Blocks, vector: Tensor) -> Tensor:
        """Multiply weights-shaped `[P, r + 1]` values by the inverse."""
        out = torch.empty_like(vector)
        for (size, first, _, count), (basis, inverse) in zip(blocks.spans, self.parts, strict=True):
            rows = slice(first, first + size * count)
            part = vector[rows].view(count, size, -1)
            out[rows] = (basis @ (inverse * (basis.transpose(1, 2) @ part))).flatten(0, 1)
        return out


class Descent:
    """One call of `minimise` fits the wanted targets, each at its own penalty.

    Args:
        rotated: Features with a column of ones, `[N, r + 1]`.
        variance: Mean square of those columns, float64.
        basis: Rotation `[D, r]`, to measure gradients in the features' own coordinates.
        blocks: The targets to fit.
        penalty: 1 / (C_t n_t) of each, in `blocks` order, float64.
        limits: Gradient tolerance, decrement tolerance, iterations.
    """

    def __init__(
        self,
        rotated: Tensor,
        variance: Tensor,
        basis: Tensor,
        blocks: Blocks,
        penalty: Tensor,
        limits: tuple[float, float, int],
    ) -> None:
        self.rotated, self.variance, self.basis, self.blocks = rotated, variance, basis, blocks
        self.gradient_tolerance, self.decrement_tolerance, self.max_iterations = limits
        self.penalty = penalty
        self.rows = torch.arange(
            blocks.rows, device=rotated.device
        )  # where the active rows are in the result

    def penalties(self) -> Tensor:
        """Penalty of every weight, `[P, r + 1]`; none on the bias."""
        column = (
            self.blocks.rowwise(self.penalty, self.rotated.dtype).expand(-1, self.rotated.shape[1]).clone()
        )
        column[:, -1] = 0
        return column

    def value(self, weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Objectives `[T]` and the cross-entropy's derivative by the logits."""
        loss, residual = self.blocks.loss(logits)
        squares = self.blocks.per_target(weights[:, :-1].square().sum(1, dtype=torch.float64))
        return loss + self.penalty * squares / 2, residual

    def slope(self, weights: Tensor, residual: Tensor) -> Tensor:
        """Gradient `[P, r + 1]`."""
        return residual @ self.rotated + self.penalties() * weights

    def precondition(self) -> Preconditioner:
        """The preconditioner at the current point."""
        penalty = self.penalty[:, None].expand(-1, len(self.variance)).clone()
        penalty[:, -1] = 0
        return Preconditioner(self.blocks, self.logits, self.variance, penalty)

    def begin(self, weights: Tensor, change: Tensor | None) -> None:
        """Start at `weights`, moved on along `change` for the targets whose objective that lowers."""
        self.weights, self.logits = weights, product_nt(weights, self.rotated)
        self.objective, residual = self.value(self.weights, self.logits)
        if change is not None:
            ahead = product_nt(change, self.rotated)
            best = torch.zeros_like(self.objective)
            for part in EXTRAPOLATIONS:
                objective, _ = self.value(weights + part * change, self.logits + part * ahead)
                better = objective < self.objective
                best = torch.where(better, part, best)
                self.objective = torch.where(better, objective, self.objective)
            step = self.blocks.rowwise(best, weights.dtype)
            self.weights, self.logits = weights + step * change, self.logits + step * ahead
            self.objective, residual = self.value(self.weights, self.logits)
        self.gradient = self.slope(self.weights, residual)
        self.preconditioner = self.precondition()
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of gradient, 1 / their product
        self.stalled = torch.zeros_like(self.objective)

    def largest_gradient(self) -> Tensor:
        """Largest |gradient| of each target in the centred features' coordinates, `[T]`."""
        g = torch.cat([self.gradient[:, :-1] @ self.basis.T, self.gradient[:, -1:]], 1).abs().amax(1)
        largest = torch.zeros(len(self.blocks.targets), dtype=g.dtype, device=g.device)
        return largest.scatter_reduce_(0, self.blocks.owner, g, "amax")

    def minimise(self, weights: Tensor, change: Tensor | None) -> dict[str, np.ndarray | Tensor]:
        """Minimise from `weights`, `[P, r + 1]` in `blocks` order.

        Returns:
            `weights`, and by target in `blocks` order: `objective`, `gradient`, `iterations`, `converged`.
        """
        count = len(self.blocks.targets)
        place = torch.arange(count, device=weights.device)  # of the active positions
        result = {
            "weights": weights.clone(),
            "objective": torch.zeros(count, dtype=torch.float64),
            "gradient": torch.zeros(count, dtype=torch.float64),
            "iterations": torch.zeros(count, dtype=torch.int64),
            "converged": torch.zeros(count, dtype=torch.bool),
        }
        self.begin(weights, change)
        finished = torch.zeros(count, dtype=torch.bool, device=weights.device)
        for iteration in range(self.max_iterations + 1):
            largest = self.largest_gradient()
            decrement = (
                self.blocks.dot(self.gradient, self.preconditioner.apply(self.blocks, self.gradient)) / 2
            )
            met = (largest <= self.gradient_tolerance) & (
                decrement <= self.decrement_tolerance * self.objective
            )
            ending = (met | (self.stalled > 1)) & ~finished
            if iteration == self.max_iterations:
                ending = ~finished
            if ending.any():
                ended = place[ending].cpu()
                rows = ending[self.blocks.owner]
                result["weights"][self.rows[rows]] = self.weights[rows]
                result["objective"][ended] = self.objective[ending].cpu()
                result["gradient"][ended] = largest[ending].double().cpu()
                result["converged"][ended] = met[ending].cpu()
                result["iterations"][ended] = iteration
                finished = finished | ending
            if finished.all():
                break
            if (~finished)[self.blocks.owner].sum() <= COMPACT_BELOW * self.blocks.rows:
                self.compact(~finished)
                place, finished = place[~finished], finished[~finished]
            if iteration and iteration % REFRESH == 0:
                self.preconditioner = self.precondition()
            self.advance(finished)
        return {name: value if name == "weights" else value.numpy() for name, value in result.items()}

    def direction(self) -> Tensor:
        """The L-BFGS direction `[P, r + 1]` (two-loop recursion, every product within targets)."""
        blocks, dtype = self.blocks, self.weights.dtype
        q = self.gradient.clone()
        alphas = []
        for step, change, inverse in reversed(self.history):
            alpha = inverse * blocks.dot(step, q)
            q -= change * blocks.rowwise(alpha, dtype)
            alphas.append(alpha)
        q = self.preconditioner.apply(blocks, q)
        if self.history:
            _, change, inverse = self.history[-1]
            curvature = inverse * blocks.dot(change, self.preconditioner.apply(blocks, change))
            q *= blocks.rowwise(torch.where(curvature > 0, 1 / curvature, 1.0), dtype)
        for (step, change, inverse), alpha in zip(self.history, reversed(alphas), strict=True):
            q += step * blocks.rowwise(alpha - inverse * blocks.dot(change, q), dtype)
        return -q

    def advance(self, finished: Tensor) -> None:
        """One iteration of every target that has not finished: direction, step by cached logits, new
        gradient.
        """
        blocks, dtype = self.blocks, self.weights.dtype
        direction = self.direction()
        descent = blocks.dot(self.gradient, direction)
        ahead = product_nt(direction, self.rotated)
        step = (~finished).double()
        for _ in range(MAX_BACKTRACKS):
            rowwise = blocks.rowwise(step, dtype)
            weights = self.weights + rowwise * direction
            logits = self.logits + rowwise * ahead
            objective, residual = self.value(weights, logits)
            bound = self.objective + ARMIJO * step * descent + ROUNDING * self.objective.abs()
            short = (objective > bound) | ~torch.isfinite(objective)
            if not short.any():
                break
            step = torch.where(short, step / 2, step)
        else:
            # No step lowers these targets' objectives: forget their history, and give up on the second time.
            step = torch.where(short, 0.0, step)
            self.stalled += short
            self.history = [(s, y, torch.where(short, 0.0, inverse)) for s, y, inverse in self.history]
            rowwise = blocks.rowwise(step, dtype)
            weights, logits = self.weights + rowwise * direction, self.logits + rowwise * ahead
            objective, residual = self.value(weights, logits)
            self.preconditioner = self.precondition()
        gradient = self.slope(weights, residual)
        moved, change = weights - self.weights, gradient - self.gradient
        product = blocks.dot(moved, change)
        inverse = torch.where(product > 0, 1 / product, 0.0)
        self.history = [*self.history, (moved, change, inverse)][-HISTORY:]
        self.weights, self.logits, self.objective, self.gradient = weights, logits, objective, gradient

    def compact(self, kept: Tensor) -> None:
        """Go on with the `kept` positions only."""
        rows = kept[self.blocks.owner]
        self.preconditioner.keep(self.blocks, kept)
        self.blocks = self.blocks.keep(kept)
        self.rows, self.weights, self.gradient = self.rows[rows], self.weights[rows], self.gradient[rows]
        self.logits = self.logits[rows]
        self.history = [(s[rows], y[rows], inverse[kept]) for s, y, inverse in self.history]
        self.objective, self.penalty, self.stalled = (
            self.objective[kept],
            self.penalty[kept],
            self.stalled[kept],
        )
