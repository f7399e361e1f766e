"""Preconditioned L-BFGS that minimises many penalised multinomial objectives at once, with shared matrix products.

Names and shapes as in `probe/solver/linear.py`, which states the objective and the reasons for this method.
"""

import numpy as np
import torch
from torch import Tensor

from probe.solver.blocks import Blocks, Preconditioner, product_nt

HISTORY = 10
REFRESH = 5  # iterations between two computations of the preconditioner
ARMIJO = 1e-4
ROUNDING = 1e-7  # relative error of a float32 objective: smaller differences are not an increase
MAX_BACKTRACKS = 12
COMPACT_BELOW = 0.75  # drop converged targets' rows when this part of the rows or less is still active
EXTRAPOLATIONS = (0.5, 1.0)


class History:
    """Steps and gradient changes of the last iterations, and L-BFGS products with them, target by target.

    The two-loop recursion is done in coefficients (compact form, Byrd et al. 1994): with R_ij = s_i.y_j for j
    >= i, alpha solves R alpha = S g, and after preconditioning q = g - Y alpha to r, delta solves R' delta =
    D alpha - Y r; the direction is -(r + S delta). The preconditioned q is scaled by s.y / y.(preconditioned
    y) of the last pair (Nocedal and Wright, section 7.2). Row products are in the features' dtype, sums over
    rows in float64.
    """

    def __init__(self, blocks: Blocks, weights: Tensor) -> None:
        shape = (len(weights), HISTORY, weights.shape[1])
        self.steps, self.changes = weights.new_zeros(shape), weights.new_zeros(shape)  # [P, m, r + 1]
        targets = len(blocks.targets)
        self.products = torch.zeros(targets, HISTORY, HISTORY, dtype=torch.float64, device=weights.device)
        self.valid = torch.zeros(targets, HISTORY, dtype=torch.bool, device=weights.device)
        self.order: list[int] = []  # slots, oldest first

    def _dot(self, blocks: Blocks, stack: Tensor, vector: Tensor) -> Tensor:
        """Return the products of every stored vector with `[P, r + 1]`, by target, `[T, m]`."""
        rows = torch.bmm(stack, vector[:, :, None])[:, :, 0].double()
        total = torch.zeros(len(blocks.targets), stack.shape[1], dtype=torch.float64, device=rows.device)
        return total.index_add_(0, blocks.owner, rows)

    def _combine(self, blocks: Blocks, stack: Tensor, coefficients: Tensor) -> Tensor:
        """Return the sum of stored vectors with coefficients `[T, m]`, `[P, r + 1]`."""
        rows = coefficients.to(stack.dtype)[blocks.owner]
        return torch.bmm(rows[:, None], stack)[:, 0]

    def add(self, blocks: Blocks, step: Tensor, change: Tensor) -> None:
        """Store a pair; it counts only for the targets whose curvature along it is positive."""
        slot = len(self.order) if len(self.order) < HISTORY else self.order.pop(0)
        self.order.append(slot)
        self.steps[:, slot], self.changes[:, slot] = step, change
        self.products[:, :, slot] = self._dot(blocks, self.steps, change)
        self.products[:, slot] = self._dot(blocks, self.changes, step)
        self.valid[:, slot] = self.products[:, slot, slot] > 0

    def direction(self, blocks: Blocks, preconditioner: Preconditioner, gradient: Tensor) -> Tensor:
        """Return the L-BFGS direction `[P, r + 1]`."""
        if not self.order:
            return -preconditioner.apply(blocks, gradient)
        valid = self.valid[:, self.order]  # [T, h], oldest first
        pairs = valid[:, :, None] & valid[:, None]
        upper = torch.where(pairs, self.products[:, self.order][:, :, self.order], 0.0).triu()
        diagonal = torch.where(valid, upper.diagonal(dim1=1, dim2=2), 1.0)
        upper.diagonal(dim1=1, dim2=2).copy_(diagonal)
        steps, changes = self.steps[:, self.order], self.changes[:, self.order]
        right = torch.where(valid, self._dot(blocks, steps, gradient), 0.0)
        alpha = torch.linalg.solve_triangular(upper, right[:, :, None], upper=True)[:, :, 0]
        last = self.changes[:, self.order[-1]]
        size = blocks.dot(last, preconditioner.apply(blocks, last))
        scale = torch.where(valid[:, -1] & (size > 0), diagonal[:, -1] / size, 1.0)
        r = preconditioner.apply(blocks, gradient - self._combine(blocks, changes, alpha))
        r *= blocks.rowwise(scale, r.dtype)
        right = torch.where(valid, diagonal * alpha - self._dot(blocks, changes, r), 0.0)
        delta = torch.linalg.solve_triangular(upper.mT, right[:, :, None], upper=False)[:, :, 0]
        return -(r + self._combine(blocks, steps, delta))

    def keep(self, rows: Tensor, kept: Tensor) -> None:
        """Drop all but the given rows and positions."""
        self.steps, self.changes = self.steps[rows], self.changes[rows]
        self.products, self.valid = self.products[kept], self.valid[kept]


class Descent:
    """Minimisation of the objectives of some targets, each at its own penalty.

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
        self.rows = torch.arange(blocks.rows, device=rotated.device)  # where the active rows are in the result

    def penalties(self) -> Tensor:
        """Return the penalty of every weight, `[P, r + 1]`; the bias has none."""
        column = self.blocks.rowwise(self.penalty, self.rotated.dtype).expand(-1, self.rotated.shape[1]).clone()
        column[:, -1] = 0
        return column

    def value(self, weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return objectives `[T]` and the cross-entropy's derivative by the logits."""
        loss, residual = self.blocks.loss(logits)
        squares = self.blocks.per_target(weights[:, :-1].square().sum(1, dtype=torch.float64))
        return loss + self.penalty * squares / 2, residual

    def slope(self, weights: Tensor, residual: Tensor) -> Tensor:
        """Return the gradient `[P, r + 1]`."""
        return residual @ self.rotated + self.penalties() * weights

    def precondition(self) -> Preconditioner:
        """Compute the preconditioner at the current point."""
        penalty = self.penalty[:, None].expand(-1, len(self.variance)).clone()
        penalty[:, -1] = 0
        return Preconditioner(self.blocks, self.logits, self.variance, penalty)

    def begin(self, weights: Tensor, change: Tensor | None) -> None:
        """Start at `weights`, extrapolated along `change` for the targets whose objective that lowers."""
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
        self.history = History(self.blocks, self.weights)
        self.stalled = torch.zeros_like(self.objective)

    def largest_gradient(self) -> Tensor:
        """Return the largest |gradient| of each target in the centred features' coordinates, `[T]`."""
        g = torch.cat([self.gradient[:, :-1] @ self.basis.T, self.gradient[:, -1:]], 1).abs().amax(1)
        largest = torch.zeros(len(self.blocks.targets), dtype=g.dtype, device=g.device)
        return largest.scatter_reduce_(0, self.blocks.owner, g, "amax")

    def decrement(self) -> Tensor:
        """Return half the Newton decrement, an estimate of how far each objective is above its minimum, `[T]`."""
        return self.blocks.dot(self.gradient, self.preconditioner.apply(self.blocks, self.gradient)) / 2

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
            met = (largest <= self.gradient_tolerance) & ~finished
            if met.any():
                met &= self.decrement() <= self.decrement_tolerance * self.objective
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

    def advance(self, finished: Tensor) -> None:
        """Run one iteration of every unfinished target: direction, line search on cached logits, new gradient."""
        blocks, dtype = self.blocks, self.weights.dtype
        direction = self.history.direction(blocks, self.preconditioner, self.gradient)
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
            # No step lowers these targets' objectives: drop their history; the second time, stop them.
            step = torch.where(short, 0.0, step)
            self.stalled += short
            self.history.valid[short] = False
            rowwise = blocks.rowwise(step, dtype)
            weights, logits = self.weights + rowwise * direction, self.logits + rowwise * ahead
            objective, residual = self.value(weights, logits)
            self.preconditioner = self.precondition()
        gradient = self.slope(weights, residual)
        self.history.add(blocks, weights - self.weights, gradient - self.gradient)
        self.weights, self.logits, self.objective, self.gradient = weights, logits, objective, gradient

    def compact(self, kept: Tensor) -> None:
        """Continue with the `kept` positions only."""
        rows = kept[self.blocks.owner]
        self.preconditioner.keep(self.blocks, kept)
        self.blocks = self.blocks.keep(kept)
        self.rows, self.weights, self.gradient = self.rows[rows], self.weights[rows], self.gradient[rows]
        self.logits = self.logits[rows]
        self.history.keep(rows, kept)
        self.objective, self.penalty, self.stalled = (
            self.objective[kept],
            self.penalty[kept],
            self.stalled[kept],
        )
