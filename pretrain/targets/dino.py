"""Self-distillation without labels: head, loss and centre of DINO (Caron et al., arXiv 2104.14294), as SVT uses them.

Shapes: B clips, V student views, G teacher views (the first G of the V), D feature width, K prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.models.encoder import INIT_STD
from islr.training.distributed import collectives


class DINOHead(nn.Module):
    """Three-layer MLP, L2 norm, and one score per prototype: a cosine, because prototypes have unit length.

    kahnchana/svt writes the last layer as a weight norm with its length frozen at one, which is the same.

    Args:
        dim: Feature width.
        prototypes: Width of the result.
        hidden_dim: Width of the MLP.
        bottleneck_dim: Width of the prototypes.
    """

    def __init__(self, dim: int, prototypes: int, hidden_dim: int, bottleneck_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for layer in self.mlp[::2]:
            assert isinstance(layer, nn.Linear)
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)
        self.last_layer = nn.Linear(bottleneck_dim, prototypes, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., D]` -> scores `[..., K]`."""
        direction = F.normalize(self.mlp(features), dim=-1)
        # In full precision: the teacher's temperature would enlarge bfloat16 rounding 25 times.
        with torch.autocast(direction.device.type, enabled=False):
            return F.linear(direction.float(), F.normalize(self.last_layer.weight, dim=-1))


class Centre(nn.Module):
    """Running mean of the teacher's scores, which prevents one prototype from winning every clip (section 3.1).

    Args:
        prototypes: K.
        momentum: Weight of the old centre in an update.
    """

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.value: Tensor
        self.register_buffer("value", torch.zeros(prototypes))
        self._noted: list[Tensor] = []

    def note(self, scores: Tensor) -> None:
        """Store teacher scores `[..., K]` for the next `update`; a step may have several parts."""
        scores = scores.detach().float().flatten(0, -2)
        self._noted.append(torch.cat([scores.sum(dim=0), scores.new_tensor([len(scores)])]))

    def update(self) -> None:
        """Move the centre towards the mean of the scores noted on all ranks since the last update."""
        if not self._noted:
            return
        total = collectives.total(torch.stack(self._noted).sum(dim=0))  # [K + 1]
        self._noted.clear()
        self.value.lerp_(total[:-1] / total[-1], 1 - self.momentum)


def dino_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cross-entropy of every student view with every other teacher view, mean over pairs and clips.

    Args:
        student: Scores over the student's temperature, `[B, V, K]`.
        teacher: The teacher's probabilities `[B, G, K]`, of the first G of the same views.
    """
    pairs = -torch.einsum("bgk,bvk->gv", teacher, student.log_softmax(dim=-1)) / len(student)  # [G, V]
    same = pairs.diagonal().sum()
    return (pairs.sum() - same) / (pairs.numel() - len(pairs))
