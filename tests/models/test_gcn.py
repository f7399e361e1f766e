"""Graph networks: the graph, their options, and parity with OpenHands."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from support.encoder_clips import random_clip
from support.oracle_helpers import oracle_file, sine_state
from torch import Tensor

from islr.errors import UserError
from islr.models import create_model
from islr.models.gcn.graph import GraphEncoder, graph_points
from islr.models.gcn.skeleton import EDGES, POINTS, directed_partition, spatial_partition
from islr.models.gcn.slgcn import SLGCN, drop_frames, drop_points
from islr.models.gcn.stgcn import STGCN
from islr.models.layouts import detect_layout, load_layout

GRAPH = ["stgcn_tiny", "slgcn_tiny"]
PARITY = 1e-5


def test_every_point_hangs_on_the_graph_by_one_edge() -> None:
    assert len(EDGES) == len(POINTS) - 1 == len(set(EDGES))
    reached = {0}
    while more := {end for edge in EDGES for end in edge if reached & set(edge)} - reached:
        reached |= more
    assert reached == set(range(len(POINTS)))


def test_partitions_share_out_all_neighbours() -> None:
    joined = np.eye(len(POINTS), dtype=bool)
    for start, end in EDGES:
        joined[start, end] = joined[end, start] = True
    for partition in (spatial_partition(), directed_partition()):
        assert ((partition > 0).sum(axis=0) == joined).all()
    assert spatial_partition().sum(axis=(0, 1)) == pytest.approx(1)


@pytest.mark.parametrize("name", GRAPH)
def test_a_point_that_is_not_seen_is_zero_whatever_its_coordinates(name: str) -> None:
    encoder = create_model(name).eval()
    clip = random_clip(encoder.input_spec)
    moved = clip.clone()
    moved[..., :2][clip[..., 2] == 0] = 100.0
    assert (clip[:, :, POINTS, 2] == 0).any()
    assert torch.equal(encoder(moved), encoder(clip))


@pytest.mark.parametrize("name", GRAPH)
@pytest.mark.parametrize("frames", [1, 7, 30])
def test_frames_are_halved_where_channels_grow(name: str, frames: int) -> None:
    encoder = create_model(name, frames=frames).eval()
    widths = encoder.layer_dims
    halvings = np.cumsum([wider > narrow for narrow, wider in pairwise(widths)]).tolist()
    for maps, halved in zip(encoder.forward_maps(random_clip(encoder.input_spec)), [0, *halvings], strict=True):
        assert maps.shape[2:] == (-(-frames // 2**halved), len(POINTS))


@pytest.mark.parametrize("name", GRAPH)
def test_movement_in_time_changes_the_result(name: str) -> None:
    encoder = create_model(name).eval()
    clip = random_clip(encoder.input_spec)
    assert not torch.allclose(encoder(clip.flip(1)), encoder(clip), atol=1e-3)


@pytest.mark.parametrize("name", GRAPH)
def test_checkpointing_counts_a_batch_once(name: str) -> None:
    statistics = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = create_model(name)
        encoder.checkpointing = checkpointing
        encoder(random_clip(encoder.input_spec)).sum().backward()
        statistics.append({key: value.clone() for key, value in encoder.named_buffers()})
        momenta = {module.momentum for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)}
        assert momenta == {0.1}
    assert statistics[0].keys() == statistics[1].keys()
    assert all(torch.equal(value, statistics[1][key]) for key, value in statistics[0].items())
    assert statistics[0]["point_norm.num_batches_tracked"] == 1


def test_drop_graph_fells_points_with_their_neighbours_and_runs_of_frames() -> None:
    torch.manual_seed(0)
    adjacency = torch.from_numpy(directed_partition().sum(axis=0))
    joined = (adjacency > 0) | (adjacency.T > 0)
    x = torch.ones(64, 2, 60, len(POINTS))
    points = drop_points(x, 0.1, adjacency)
    fallen = points[:, 0, 0] == 0  # [B, V]
    assert fallen.any()
    assert not fallen.all()
    assert (fallen[:, None] & joined).any(dim=2)[fallen].all()  # beside every fallen point, or it is the seed itself
    assert 0.05 < fallen.float().mean() < 0.15
    assert points.mean() == pytest.approx(1, abs=1e-5)
    frames = drop_frames(x, 0.1)
    fallen = frames[:, 0, :, 0] == 0  # [B, T]
    assert fallen.any()
    assert fallen.sum(dim=1)[fallen.any(dim=1)].min() >= 20  # half a block at the clip's edge
    assert frames.mean() == pytest.approx(1, abs=1e-5)


def test_what_moves_falls_more_often() -> None:
    torch.manual_seed(0)
    x = torch.full((2000, 1, 2, len(POINTS)), 0.1)
    x[..., 26] = 10.0
    fallen = drop_points(x, 0.05, torch.eye(len(POINTS)))[:, 0, 0] == 0
    assert fallen[:, 26].float().mean() > 10 * fallen[:, :26].float().mean()


def test_published_start_is_a_stack_of_shortcuts() -> None:
    encoder = SLGCN(frames=4, channels=(16, 16), groups=4)
    for block in encoder.blocks:
        assert (block.graph.norm.weight == 1e-6).all()
        assert (block.attention.excite.weight == 0).all()
    opened = SLGCN(frames=4, channels=(16, 16), groups=4, init="fan_in")
    assert opened.blocks[1].attention.excite.weight.std() > 0.1


@pytest.mark.parametrize("name", GRAPH)
def test_narrow_networks_keep_the_scale_of_what_passes_through(name: str) -> None:
    torch.manual_seed(0)
    encoder = create_model(name).eval()  # fresh batch norms change nothing
    for maps in encoder.forward_maps(random_clip(encoder.input_spec)):
        assert 0.01 < maps.abs().mean() < 10


def test_impossible_graph_networks_are_refused() -> None:
    with pytest.raises(UserError, match="frames=0"):
        create_model("stgcn", frames=0)
    with pytest.raises(UserError, match="groups=8 does not divide"):
        SLGCN(frames=4, channels=(16, 20))
    with pytest.raises(UserError, match="init='zeros' is unknown"):
        create_model("slgcn_tiny", init="zeros")
    with pytest.raises(UserError, match="at least one block"):
        STGCN(frames=4, channels=())


# Parity with OpenHands ------------------------------------------------------------------------------------------------


def openhands_state(oracles: Path, name: str) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Its state dict by the weights rule, and the recorded arrays."""
    recorded = dict(np.load(oracle_file(oracles, f"{name}_forward.npz", "pose")))
    parameters = json.loads(oracle_file(oracles, f"{name}_params.json", "pose").read_text())
    graph = torch.from_numpy(recorded["A"].astype(np.float32))
    kept = {}
    for key, shape, rule in parameters:
        if key.startswith("edge_importance."):
            kept[key] = torch.ones(shape)
        elif key.endswith("decoupled_A"):
            kept[key] = graph[:, None].repeat(1, shape[1], 1, 1)
        elif key.endswith("eye_list"):
            kept[key] = torch.eye(shape[1]).repeat(shape[0], 1, 1)
        elif rule == "kept":
            kept[key] = graph if len(shape) == 3 else graph.sum(dim=0)
    return sine_state(parameters, kept), recorded


@pytest.mark.oracle
@pytest.mark.parametrize(("ours", "theirs"), [("stgcn", "stgcn"), ("slgcn", "decoupled_gcn")])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "lightning"])
def test_graph_networks_are_openhands(oracles: Path, ours: str, theirs: str, wrapped: bool) -> None:
    state, recorded = openhands_state(oracles, theirs)
    trainable = sum(
        value.numel()
        for key, value in state.items()
        if not key.endswith(("running_mean", "running_var", "eye_list", "A")) or key.endswith("decoupled_A")
    )
    points = torch.from_numpy(recorded["inp"]).permute(0, 2, 3, 1)  # [B, T, V, 2]
    encoder = create_model(ours, frames=points.shape[1])
    assert isinstance(encoder, GraphEncoder)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == trainable
    if wrapped:
        state = {f"model.encoder.{key}": value for key, value in state.items()}
        state |= {
            "model.decoder.fc.weight": torch.zeros(3, 256),
            "model.encoder.data_bn.num_batches_tracked": torch.tensor(7),
        }
    layout = detect_layout(state, ours, "file")
    load_layout(encoder.eval(), state, layout, "file")
    with torch.no_grad():
        result = encoder.maps_of(points)[-1].mean(dim=(2, 3))
    assert (result - torch.from_numpy(recorded["out"])).abs().max() < PARITY
    assert encoder.point_norm.num_batches_tracked == (7 if wrapped else 0)


@pytest.mark.oracle
def test_the_graph_is_openhands(oracles: Path) -> None:
    spatial = np.load(oracle_file(oracles, "stgcn_forward.npz", "pose"))
    assert sorted(EDGES) == sorted(map(tuple, spatial["edges"].tolist()))
    assert spatial_partition() == pytest.approx(spatial["A"], abs=1e-6)
    directed = np.load(oracle_file(oracles, "decoupled_gcn_forward.npz", "pose"))
    assert directed_partition() == pytest.approx(directed["A"].astype(np.float32), abs=1e-6)


@pytest.mark.oracle
def test_the_points_are_those_openhands_selects(oracles: Path) -> None:
    recorded = np.load(oracle_file(oracles, "openhands_transforms.npz", "pose"))
    clip = torch.from_numpy(np.concatenate([recorded["kps75"][..., :2], recorded["conf75"][..., None]], axis=-1))
    ours = graph_points(clip[None])[0].numpy()
    seen = recorded["conf75"][:, POINTS] > 0
    assert seen.any()
    assert np.array_equal(ours[seen], recorded["select27"].transpose(1, 2, 0)[seen])
