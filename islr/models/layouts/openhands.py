"""ST-GCN and SL-GCN of AI4Bharat/OpenHands: Lightning checkpoints, or the encoder's bare state dict."""

import re

from islr.models.layouts.layout import Layout, State

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_CONV = r"(weight|bias)"
_PREFIXES = ("model.encoder.",)
_LEFT = (r"model\.decoder\..+",)


def _numbered_blocks(state: State) -> State:
    """SL-GCN's blocks `l1`, `l2`, ... counted from 0, the graph of the first as everybody's, biases as vectors."""
    renamed: State = {}
    for name, value in state.items():
        if found := re.fullmatch(r"l(\d+)\.(.+)", name):
            name = f"blocks.{int(found[1]) - 1}.{found[2]}"
        renamed[name] = value.flatten() if name.endswith("gcn1.linear_bias") else value
    if "blocks.0.A" in renamed:
        renamed["adjacency"] = renamed.pop("blocks.0.A")
    return renamed


OPENHANDS_STGCN = Layout(
    name="openhands-stgcn",
    source="AI4Bharat/OpenHands ST-GCN, Lightning .ckpt",
    families=("stgcn*",),
    marks=(r"st_gcn_networks\.0\.gcn\.conv\.weight", r"edge_importance\.0"),
    rules=(
        (r"A", r"adjacency"),
        (rf"data_bn\.{_NORM}", r"point_norm.\1"),
        (r"edge_importance\.(\d+)", r"blocks.\1.importance"),
        (rf"st_gcn_networks\.(\d+)\.gcn\.conv\.{_CONV}", r"blocks.\1.spread.\2"),
        (rf"st_gcn_networks\.(\d+)\.tcn\.0\.{_NORM}", r"blocks.\1.spread_norm.\2"),
        (rf"st_gcn_networks\.(\d+)\.tcn\.2\.{_CONV}", r"blocks.\1.temporal.\2"),
        (rf"st_gcn_networks\.(\d+)\.tcn\.3\.{_NORM}", r"blocks.\1.temporal_norm.\2"),
        (rf"st_gcn_networks\.(\d+)\.residual\.([01])\.{_NORM}", r"blocks.\1.shortcut.\2.\3"),
    ),
    left=_LEFT,
    fresh=(r".+\.num_batches_tracked",),
    entries=("state_dict",),
    prefixes=_PREFIXES,
)

OPENHANDS_SLGCN = Layout(
    name="openhands-slgcn",
    source="AI4Bharat/OpenHands SL-GCN (decoupled GCN), Lightning .ckpt",
    families=("slgcn*",),
    marks=(r"l1\.gcn1\.decoupled_A", r"l1\.fc2c\.weight"),
    rules=(
        (r"adjacency", r"adjacency"),
        (rf"data_bn\.{_NORM}", r"point_norm.\1"),
        (r"blocks\.(\d+)\.gcn1\.decoupled_A", r"blocks.\1.graph.adjacency"),
        (r"blocks\.(\d+)\.gcn1\.linear_(weight|bias)", r"blocks.\1.graph.\2"),
        (rf"blocks\.(\d+)\.gcn1\.bn0\.{_NORM}", r"blocks.\1.graph.spread_norm.\2"),
        (rf"blocks\.(\d+)\.gcn1\.bn\.{_NORM}", r"blocks.\1.graph.norm.\2"),
        (rf"blocks\.(\d+)\.gcn1\.down\.([01])\.{_NORM}", r"blocks.\1.graph.shortcut.\2.\3"),
        (rf"blocks\.(\d+)\.tcn1\.conv\.{_CONV}", r"blocks.\1.temporal.\2"),
        (rf"blocks\.(\d+)\.tcn1\.bn\.{_NORM}", r"blocks.\1.temporal_norm.\2"),
        (rf"blocks\.(\d+)\.residual\.conv\.{_CONV}", r"blocks.\1.shortcut.0.\2"),
        (rf"blocks\.(\d+)\.residual\.bn\.{_NORM}", r"blocks.\1.shortcut.1.\2"),
        (rf"blocks\.(\d+)\.conv_sa\.{_CONV}", r"blocks.\1.attention.points.\2"),
        (rf"blocks\.(\d+)\.conv_ta\.{_CONV}", r"blocks.\1.attention.frames.\2"),
        (rf"blocks\.(\d+)\.fc1c\.{_CONV}", r"blocks.\1.attention.squeeze.\2"),
        (rf"blocks\.(\d+)\.fc2c\.{_CONV}", r"blocks.\1.attention.excite.\2"),
    ),
    # Every block repeats the graph, and holds one unit matrix per channel.
    left=(*_LEFT, r"blocks\.\d+\.A", r"blocks\.\d+\.gcn1\.eye_list"),
    fresh=(r".+\.num_batches_tracked",),
    entries=("state_dict",),
    prefixes=_PREFIXES,
    prepare=_numbered_blocks,
)
