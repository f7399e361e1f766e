"""Numbers over all processes of a run, so that many processes compute what one would with the same batch.

DDP averages gradients over processes. A loss that is a mean over items (hidden tokens, visible points, clips) is then a
mean of means, which is the mean over all items only where every process holds as many. A recipe therefore weighs its
mean by `share`, or divides its sum by an `average` count. What looks at other clips of the batch (negatives, codebooks,
batch normalisation) takes them from all processes.

With one process all of this is the identity, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the common base of BatchNorm1d-3d and SyncBatchNorm


def processes() -> int:
    """How many processes are connected."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@torch.no_grad()
def total(value: Tensor) -> Tensor:
    """The sum of a value over processes; no gradient flows through it."""
    if processes() == 1:
        return value
    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(value)
    return value


def average(value: Tensor) -> Tensor:
    """The mean of a value over processes; no gradient flows through it.

    A sum of errors divided by the average count, averaged over processes, is the mean over all items.
    """
    return value if processes() == 1 else total(value) / processes()


def share(count: int) -> Tensor | float:
    """What a mean over `count` items is to be multiplied by: its average over processes is the mean over all items."""
    if processes() == 1:
        return 1.0
    counts = torch.tensor(float(count), device=_device())
    return counts / average(counts)


def of_first(value: Tensor) -> Tensor:
    """The first process's value, on every process."""
    if processes() == 1:
        return value
    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.broadcast(value, 0)
    return value


def joined(rows: Tensor) -> tuple[Tensor, int]:
    """The rows `[n, ...]` of all processes, in their order, and where this process's begin.

    Gradients flow to the rows of every process.
    """
    if processes() == 1:
        return rows, 0
    begin, count = _place(rows)
    table = rows.new_zeros(count, *rows.shape[1:])
    return _Sum.apply(torch.cat([table[:begin], rows, table[begin + len(rows) :]])), begin


def picked(rows: Tensor, places: Tensor) -> Tensor:
    """The rows at `places` of the rows of all processes joined, without moving the others; no gradient.

    Args:
        rows: This process's, `[n, d]`.
        places: int64 `[k]`, the same on every process.
    """
    if processes() == 1:
        return rows[places]
    inside = places - _place(rows)[0]
    mine = (inside >= 0) & (inside < len(rows))
    return total(torch.where(mine[:, None], rows[inside.clamp(0, len(rows) - 1)], 0.0))


def count_of_all(rows: Tensor) -> int:
    """How many rows all processes hold together."""
    return len(rows) if processes() == 1 else _place(rows)[1]


def _place(rows: Tensor) -> tuple[int, int]:
    """Where this process's rows begin among those of all, and how many there are."""
    counts = torch.zeros(processes(), dtype=torch.int64, device=rows.device)
    rank = distributed.get_rank()
    counts[rank] = len(rows)
    counts = total(counts)
    return int(counts[:rank].sum()), int(counts.sum())


def _device() -> torch.device:
    """Where collectives of this run take their tensors from."""
    on_gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


class _Sum(torch.autograd.Function):
    """Sum over processes; a gradient is that of the losses of all processes together, as DDP averages them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


class SyncBatchNorm(BatchNorm):
    """What `nn.SyncBatchNorm` computes, which has no kernels for a CPU; parameters and buffers are `BatchNorm*d`'s."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """`[N, C, ...]`, normalised by the mean and variance over all processes in training."""
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
    """Let every batch norm inside `module` see the batches of all processes; parameters and buffers stay the same."""
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
