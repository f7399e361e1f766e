"""Layout of many targets' logits and weights, their losses, and their preconditioner.

Names and shapes as in `probe/solver/linear.py`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CURVATURE_FLOOR = 1e-5  # of the class covariance's eigenvalues: a class that is never predicted has a finite step
PADDING_ELEMENTS = 1 << 14  # padding logits that cost less than the operations on one more size of target


def _onednn_product() -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return oneDNN's `left @ right.T` where it exists and agrees with `@`: on AMD it is 1.5 times as fast as MKL."""
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


def row_counts(classes: Sequence[int], samples: int) -> list[int]:
    """Return the weight rows of each target: none below two classes, one for two, else at least one per class.

    Targets of nearly equal size are padded to one size where that saves more work (a dozen small operations per size)
    than it adds, so that overhead does not dominate on few samples.
    """
    result = [0 if count < 2 else 1 if count == 2 else count for count in classes]
    size, spent = 0, 0
    for count in sorted({count for count in result if count > 1}, reverse=True):
        members = [target for target, own in enumerate(classes) if own == count]
        extra = (size - count) * len(members) * samples
        if size and spent + extra <= PADDING_ELEMENTS:
            spent += extra
            for target in members:
                result[target] = size
        else:
            size, spent = count, 0
    return result


class Blocks:
    """Weight rows of some targets, ordered so that targets of equal size form one `[n, K, N]` view.

    Attributes:
        targets: Target of each position.
        spans: (K, first row, first position, number of targets) of each view; K = 1 for two classes.
        absent: For each span, which rows `[n, K, 1]` are padding, or None.
        owner: Position of each row, `[P]`.

    Args:
        targets: Which targets.
        sizes: K of every target, by `row_counts`.
        classes: Number of classes of every target.
        labels: `[all targets, N]`, -1 = missing.
        dtype: Of the logits.
    """

    def __init__(
        self,
        targets: Sequence[int],
        sizes: Sequence[int],
        classes: Sequence[int],
        labels: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self.targets = sorted(targets, key=lambda target: (sizes[target], target))
        self._source = (sizes, classes, labels, dtype)
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
        self.absent: list[Tensor | None] = []
        for size, _, start, count in self.spans:
            real = torch.tensor([classes[t] for t in self.targets[start : start + count]], device=labels.device)
            empty = torch.arange(size, device=labels.device) >= real[:, None]  # [n, K]
            self.absent.append(empty[:, :, None] if size > 1 and bool(empty.any()) else None)

    def keep(self, kept: Tensor) -> "Blocks":
        """Return the blocks of the `kept` positions only."""
        return Blocks([t for t, keep in zip(self.targets, kept.tolist(), strict=True) if keep], *self._source)

    def per_target(self, row_values: Tensor) -> Tensor:
        """Sum float64 row values `[P]` within targets, `[T]`."""
        total = torch.zeros(len(self.targets), dtype=torch.float64, device=row_values.device)
        return total.index_add_(0, self.owner, row_values)

    def dot(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the inner products of the targets' weights, `[T]`."""
        return self.per_target((left * right).sum(1, dtype=torch.float64))

    def rowwise(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Expand a value per target `[T]` to a column over rows `[P, 1]`."""
        return values.to(dtype)[self.owner, None]

    def loss(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean cross-entropies `[T]` and their derivative by the logits `[P, N]`."""
        losses = []
        residual = torch.empty_like(logits)
        for (size, first, start, count), absent in zip(self.spans, self.absent, strict=True):
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
            z = z if absent is None else z.masked_fill(absent, -torch.inf)
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
        """Return for each span the mean over samples of diag(p) - p p', `[n, K, K]` (p(1-p) for two classes)."""
        result = []
        for (size, first, start, count), absent in zip(self.spans, self.absent, strict=True):
            weight = self.weight[start : start + count]
            z = logits[first : first + size * count]
            if size == 1:
                p = torch.sigmoid(z)
                result.append((p * (1 - p) * weight).sum(1)[:, None, None])
                continue
            z = z.view(count, size, -1)
            p = torch.softmax(z if absent is None else z.masked_fill(absent, -torch.inf), 1)
            weighted = p * weight[:, None]
            result.append(torch.diag_embed(weighted.sum(2)) - weighted @ p.transpose(1, 2))
        return result


class Preconditioner:
    """Inverse of (class covariance) x (feature variance) + penalty; one eigenbasis and diagonal per span."""

    def __init__(self, blocks: Blocks, logits: Tensor, variance: Tensor, penalty: Tensor) -> None:
        self.parts = []
        for (_, _, start, count), covariance in zip(blocks.spans, blocks.class_covariance(logits), strict=True):
            values, basis = torch.linalg.eigh(covariance.double())
            values = values.clamp(min=CURVATURE_FLOOR)[:, :, None]
            diagonal = values * variance + penalty[start : start + count, None]
            self.parts.append((basis.to(logits.dtype), (1 / diagonal).to(logits.dtype)))

    def keep(self, blocks: Blocks, kept: Tensor) -> None:
        """Drop the positions of `blocks` that are not `kept`."""
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
