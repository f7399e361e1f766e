"""A vector-quantisation codebook of unit vectors, updated by moving averages.

van den Oord et al. (arXiv 1711.00937, appendix A.1: moving averages instead of a loss for the codes), in the form of
BEiT v2's `NormEMAVectorQuantizer` (arXiv 2208.06366 section 3.1): vectors and codes have length 1, so that nearest is
largest cosine. Its defaults are the ones here.

Shapes: K codes, d width of a code, N vectors, `[B, d, h, w]` maps.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.training.distributed import collectives

KMEANS_ROUNDS = 10  # as in the source


class Quantised(NamedTuple):
    """A quantised map.

    Attributes:
        codes: `[B, d, h, w]`, the codes; their gradient goes to the map as it is (straight-through).
        indices: int64 `[B, h, w]`.
        loss: Commitment loss, the distance of the map from its codes; a scalar.
        perplexity: exp of the entropy of this batch's indices: the effective number of codes in use.
        used: Share of the codes that this batch chooses, at most vectors / codes.
    """

    codes: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor
    used: Tensor


class Codebook(nn.Module):
    """The codes and their moving averages; neither has a gradient.

    Args:
        vocabulary: K.
        dim: d.
        decay: Decay of the moving averages.
        commitment: Weight of the loss that pulls the map to its codes.
        kmeans: Initialise by k-means on the first batch; otherwise by random directions.
        restart_below: A code chosen less often than this share of an even one is moved to a random vector of the
            batch; 0 = never, as in the source, where dead codes stay dead.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        *,
        decay: float = 0.99,
        commitment: float = 1.0,
        kmeans: bool = True,
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        self.decay, self.commitment, self.restart_below = decay, commitment, restart_below
        self.codes: Tensor
        self.usage: Tensor
        self.started: Tensor
        self.register_buffer("codes", F.normalize(torch.randn(vocabulary, dim), dim=1))
        self.register_buffer("usage", torch.zeros(vocabulary))  # moving average of how often each code is chosen
        self.register_buffer("started", torch.tensor(not kmeans))

    def forward(self, maps: Tensor) -> Quantised:
        """Quantise a map; in training mode, update the codes."""
        with torch.autocast(maps.device.type, enabled=False):
            z = F.normalize(maps.float().permute(0, 2, 3, 1), dim=3)  # [B, h, w, d]
            vectors = z.detach().flatten(0, 2)  # [N, d]
            if self.training and not bool(self.started):
                self._start(vectors)
            indices = self.nearest(vectors)
            chosen = self.codes[indices].view(z.shape)
            if self.training:
                self._move(vectors, indices)
            loss = self.commitment * F.mse_loss(z, chosen)
            through = z + (chosen - z).detach()
        share = indices.bincount(minlength=len(self.codes)).float() / len(indices)
        perplexity = torch.special.entr(share).sum().exp()
        used = (share > 0).float().mean()
        return Quantised(through.permute(0, 3, 1, 2), indices.view(z.shape[:3]), loss, perplexity, used)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the index of the nearest code of each unit vector `[N, d]`, int64 `[N]`."""
        return (vectors @ self.codes.t()).argmax(dim=1)

    @torch.no_grad()
    def _move(self, vectors: Tensor, indices: Tensor) -> None:
        counts = collectives.total(indices.bincount(minlength=len(self.codes)).float())
        sums = collectives.total(torch.zeros_like(self.codes).index_add_(0, indices, vectors))
        self.usage.lerp_(counts, 1 - self.decay)
        towards = torch.where(counts[:, None] > 0, F.normalize(sums, dim=1), self.codes)
        self.codes.copy_(F.normalize(self.codes.lerp(towards, 1 - self.decay), dim=1))
        if self.restart_below:
            dead = self.usage < self.restart_below * self.usage.mean()
            count = collectives.count_of_all(vectors)
            places = collectives.of_first(torch.randint(count, (len(self.codes),), device=vectors.device))
            self.codes.copy_(torch.where(dead[:, None], collectives.picked(vectors, places), self.codes))
            self.usage.copy_(torch.where(dead, self.usage.mean(), self.usage))

    @torch.no_grad()
    def _start(self, vectors: Tensor) -> None:
        """Initialise the codes by spherical k-means on the vectors of all ranks."""
        vectors, _ = collectives.joined(vectors)
        count = len(self.codes)
        order = torch.randperm(len(vectors), device=vectors.device)
        places = order.repeat(-(-count // len(order)))[:count]
        means = vectors[places]
        for _ in range(KMEANS_ROUNDS):
            nearest = (vectors @ means.t()).argmax(dim=1)
            sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
            held = nearest.bincount(minlength=count) > 0
            means = torch.where(held[:, None], F.normalize(sums, dim=1), means)
        self.codes.copy_(collectives.of_first(means))
        self.started.fill_(True)
