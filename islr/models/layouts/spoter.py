"""SPOTER (matyasbohacek/spoter).

Its `.pth` files are whole pickled modules, which can run code when opened and are never loaded here. What can be
imported is the state dict of such a module, saved on its own by whoever trusts the file.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout, State

_LINEAR = r"(weight|bias)"


def _single_vectors(state: State) -> State:
    """Return the position and the class query without their axes of length one."""
    return {
        name: value.reshape(1, -1) if name == "pos" else value.flatten() if name == "class_query" else value
        for name, value in state.items()
    }


def _form(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"positions": "none"}


SPOTER_LAYOUT = Layout(
    name="spoter",
    source="matyasbohacek/spoter: the state dict of a trained module (its .pth is a pickled module, never opened)",
    families=("spoter*",),
    marks=(r"class_query", r"transformer\.decoder\.layers\.0\.multihead_attn\.in_proj_weight"),
    rules=(
        (r"pos", r"time_embed"),
        (r"class_query", r"class_query"),
        (r"transformer\.encoder\.layers\.(\d+)\.(.+)", r"encoder_layers.\1.\2"),
        (rf"transformer\.encoder\.norm\.{_LINEAR}", r"encoder_norm.\1"),
        (r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\.(.+)", r"decoder_layers.\1.attention.\2"),
        (rf"transformer\.decoder\.layers\.(\d+)\.(linear[12]|norm[123])\.{_LINEAR}", r"decoder_layers.\1.\2.\3"),
        (rf"transformer\.decoder\.norm\.{_LINEAR}", r"decoder_norm.\1"),
    ),
    left=(r"row_embed", rf"linear_class\.{_LINEAR}"),
    prepare=_single_vectors,
    arguments=_form,
)
