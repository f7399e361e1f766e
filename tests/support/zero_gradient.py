"""Parameters whose gradient is zero by construction."""

from islr.models.convnets.pytorchvideo_nets import MViTv1
from islr.models.encoder import Encoder
from islr.models.gcn.slgcn import SLGCN
from islr.models.gcn.stgcn import STGCN
from islr.models.mvit.encoder import MViTEncoder

# A key's bias shifts all scores of a query alike, which softmax ignores; a batch norm subtracts the bias before it.
_ENDS: dict[type[Encoder], tuple[str, ...]] = {
    MViTEncoder: ("attn.pool_k.norm_act.0.bias",),
    MViTv1: ("attn.norm_k.bias",),
    SLGCN: ("graph.bias", "temporal.bias", "shortcut.0.bias"),
    STGCN: ("temporal.bias", "shortcut.0.bias"),
}
_OF_PATCHES = ("rel_pos_t", "rel_pos_h", "rel_pos_w", "pool_q.pool.weight")


def zero_gradient(encoder: Encoder) -> tuple[str, ...]:
    """Return the ends of the names of an encoder's parameters whose gradient is zero by construction."""
    ends = _ENDS.get(type(encoder), ())
    if isinstance(encoder, MViTEncoder) and encoder.pool == "class":  # only the last block's class query is used
        ends += tuple(f"blocks.{len(encoder.blocks) - 1}.attn.{name}" for name in _OF_PATCHES)
    return ends
