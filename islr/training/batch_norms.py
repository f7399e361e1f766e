"""Batch norms in a batch part that has shrunk to one clip."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the common base of BatchNorm1d-3d and SyncBatchNorm


@contextmanager
def running_statistics(module: nn.Module, use: bool) -> Iterator[None]:
    """Let batch norms normalise by their running statistics within, where `use` says so: one clip is no batch."""
    norms = [
        norm
        for norm in (module.modules() if use else ())
        if isinstance(norm, BatchNorm) and norm.training and norm.track_running_stats
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
