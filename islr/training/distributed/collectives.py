"""Collectives over the ranks of a run, so that many ranks compute what one rank would with the same batch.

DDP averages gradients over ranks. A loss that is a mean over items (masked tokens, visible points, clips) then becomes
a mean of means, which equals the mean over all items only where every rank holds as many. A recipe therefore weighs
its mean by `share`, or divides its sum by an `average` count. Whatever depends on other clips of the batch (negatives,
codebooks, batch normalisation) gathers them from all ranks.

With one rank each function is the identity, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the common base of BatchNorm1d-3d and SyncBatchNorm


def processes() -> int:
    """Return how many ranks are connected."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@torch.no_grad()
def total(value: Tensor) -> Tensor:
    """Return the sum of a value over ranks, without a gradient."""
    if processes() == 1:
        return value
    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(value)
    return value


def average(value: Tensor) -> Tensor:
    """Return the mean of a value over ranks, without a gradient.

    A sum of errors divided by the average count, averaged over ranks, is the mean over all items.
    """
    return value if processes() == 1 else total(value) / processes()


def share(count: int) -> Tensor | float:
    """Return the weight of a mean over `count` items, with which its average over ranks is the mean over all items."""
    if processes() == 1:
        return 1.0
    counts = torch.tensor(float(count), device=_device())
    return counts / average(counts)


def of_first(value: Tensor) -> Tensor:
    """Return the value of rank 0, on every rank."""
    if processes() == 1:
        return value
    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.broadcast(value, 0)
    return value


def joined(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows `[n, ...]` of all ranks, in rank order, and the index of this rank's first row.

    Gradients flow to the rows of every rank.
    """
    if processes() == 1:
        return rows, 0
    begin, count = _place(rows)
    table = rows.new_zeros(count, *rows.shape[1:])
    return _Sum.apply(torch.cat([table[:begin], rows, table[begin + len(rows) :]])), begin


def picked(rows: Tensor, places: Tensor) -> Tensor:
    """Return the rows at `places` among the joined rows of all ranks, moving only those; without a gradient.

    Args:
        rows: Rows of this rank, `[n, d]`.
        places: int64 `[k]`, the same on every rank.
    """
    if processes() == 1:
        return rows[places]
    inside = places - _place(rows)[0]
    mine = (inside >= 0) & (inside < len(rows))
    return total(torch.where(mine[:, None], rows[inside.clamp(0, len(rows) - 1)], 0.0))


def count_of_all(rows: Tensor) -> int:
    """Return how many rows all ranks hold together."""
    return len(rows) if processes() == 1 else _place(rows)[1]


def _place(rows: Tensor) -> tuple[int, int]:
    """Return the index of this rank's first row among those of all ranks, and the number of all rows."""
    counts = torch.zeros(processes(), dtype=torch.int64, device=rows.device)
    rank = distributed.get_rank()
    counts[rank] = len(rows)
    counts = total(counts)
    return int(counts[:rank].sum()), int(counts.sum())


def _device() -> torch.device:
    """Return the device from which collectives of this run take their tensors."""
    on_gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


class _Sum(torch.autograd.Function):
    """Sum over ranks; its gradient is that of the losses of all ranks together, as DDP averages them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


class SyncBatchNorm(BatchNorm):
    """`nn.SyncBatchNorm` for a CPU, where torch has no kernels for it; parameters and buffers are `BatchNorm*d`'s."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `[N, C, ...]`, in training by the mean and variance over all ranks."""
        if not self.training:
            return super().forward(input)
        places = [place for place in range(input.ndim) if place != 1]
        shape = [-1 if place == 1 else 1 for place in range(input.ndim)]
        count = float(total(torch.tensor(float(input.numel() // input.shape[1]))))
        mean = _Sum.apply(input.sum(places)) / count  # [C]
        apart = input - mean.view(shape)
        variance = _Sum.apply(apart.square().sum(places)) / count  # [C]
        if self.running_mean is not None and self.running_var is not None:
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        value = apart * (variance + self.eps).rsqrt().view(shape)
        return value * self.weight.view(shape) + self.bias.view(shape) if self.affine else value


def synchronise_batch_norms(module: nn.Module, device: torch.device) -> None:
    """Make every batch norm in `module` use the batches of all ranks; parameters and buffers stay the same."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for parent in list(module.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, BatchNorm):
                synced = SyncBatchNorm(
                    norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
                )
                synced._parameters, synced._buffers = norm._parameters, norm._buffers
                setattr(parent, name, synced.train(norm.training))
