"""SPOTER: its normalisation, what its positions do, and parity with the original."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.encoder_clips import random_clip
from support.oracle_helpers import oracle_file, sine_state
from torch import Tensor

from islr.data.poses.pose import LEFT_HAND, LEFT_SHOULDER, RIGHT_SHOULDER
from islr.data.poses.tables import SPOTER_BODY, SPOTER_HAND
from islr.errors import UserError
from islr.models import create_model
from islr.models.layouts import LAYOUTS, detect_layout, load_layout
from islr.models.spoter import BODY_JOINTS, CENTRE, HAND_JOINTS, JOINTS, LEFT_EYE, NECK, joints_of, normalise_joints
from islr.models.weights import load_state

LEFT, RIGHT = slice(BODY_JOINTS, BODY_JOINTS + HAND_JOINTS), slice(BODY_JOINTS + HAND_JOINTS, JOINTS)


def signer(frames: int = 6, seed: int = 0) -> Tensor:
    """A normalised pose clip `[1, T, 75, 3]`, all points seen: a head above, shoulders apart, moving."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.rand(1, 1, 75, 3, generator=generator) + 0.1 * torch.randn(1, frames, 75, 3, generator=generator)
    clip[..., 2] = 1.0
    clip[:, :, LEFT_SHOULDER, :2] = torch.tensor([0.5, 0.0])
    clip[:, :, RIGHT_SHOULDER, :2] = torch.tensor([-0.5, 0.0])
    clip[:, :, :11, 1] -= 1.0
    return clip


def normalised(clip: Tensor) -> Tensor:
    return normalise_joints(*joints_of(clip))


def test_points_are_spoter_s_and_the_neck_is_between_the_shoulders() -> None:
    names = ["nose", "neck"] + [
        f"{side}{part}" for part in ("Eye", "Ear", "Shoulder", "Elbow", "Wrist") for side in ("right", "left")
    ]
    fingers = ("index", "middle", "ring", "little")
    hand = ["wrist", *(finger + joint for finger in fingers for joint in ("Tip", "DIP", "PIP", "MCP"))]
    hand += [f"thumb{joint}" for joint in ("Tip", "IP", "MP", "CMC")]
    clip = torch.zeros(1, 1, 75, 3)
    clip[..., 0] = torch.arange(75.0)
    clip[..., 1] = -torch.arange(75.0)
    clip[..., 2] = 1
    joints, seen = joints_of(clip)
    assert seen.all()
    assert torch.equal(joints[..., 0], joints[..., 1])  # y is up now
    places = joints[0, 0, :, 0].tolist()
    assert places[:BODY_JOINTS] == [SPOTER_BODY.get(name, 11.5) for name in names]
    assert places[LEFT] == [33 + SPOTER_HAND.index(name) for name in hand]
    assert places[RIGHT] == [54 + SPOTER_HAND.index(name) for name in hand]
    clip[..., LEFT_SHOULDER, 2] = 0
    assert not joints_of(clip)[1][0, 0, NECK]


def test_body_box_is_six_shoulder_widths_and_hands_fill_theirs() -> None:
    clip = signer()
    joints, _ = joints_of(clip)
    result = normalised(clip)
    assert result[0, :, NECK, 0] == pytest.approx(0.5, abs=1e-6)
    assert torch.allclose(result[0, :, LEFT_EYE, 1], torch.tensor(5 / 6))
    assert torch.allclose(result[0, :, 7, 0] - result[0, :, 6, 0], torch.tensor(1 / 6))
    for hand in (LEFT, RIGHT):
        sides = result[0, :, hand].amax(dim=1) - result[0, :, hand].amin(dim=1)
        assert torch.allclose(sides.amax(dim=1), torch.tensor(1 / 1.2))
        middle = (result[0, :, hand].amax(dim=1) + result[0, :, hand].amin(dim=1)) / 2
        assert torch.allclose(middle, torch.tensor(0.5))
        order = joints[0, 0, hand, 1].argsort()
        assert torch.equal(result[0, 0, hand, 1].argsort(), order)


def test_boxes_follow_place_and_size_but_not_the_picture_s_shape() -> None:
    clip = signer()
    moved = clip.clone()
    moved[..., :2] = clip[..., :2] * 2.5 + torch.tensor([0.7, -0.4])
    assert torch.allclose(normalised(moved), normalised(clip), atol=1e-5)
    stretched = clip.clone()
    stretched[:, 3:, LEFT_SHOULDER, 1] += 0.4  # shoulders aslant: their distance has a share of both axes
    wide = stretched.clone()
    wide[..., 0] *= 16 / 9
    assert not torch.allclose(
        normalised(wide)[:, 3:, :BODY_JOINTS], normalised(stretched)[:, 3:, :BODY_JOINTS], atol=1e-2
    )


def test_what_is_not_seen_is_zero_and_no_part_of_a_box() -> None:
    clip = signer()
    clip[:, 2:4, LEFT_HAND, 2] = 0
    clip[:, :, LEFT_HAND.start + 8, 2] = 0
    clip[..., :2][clip[..., 2] == 0] = 50.0
    result = normalised(clip)
    assert (result[:, 2:4, LEFT] == 0).all()
    assert (result[:, :, LEFT.start + 1] == 0).all()  # the index finger's tip
    assert (result[:, [0, 1, 4, 5], LEFT].amax(dim=2) <= 1).all()
    assert torch.isfinite(normalised(clip * torch.tensor([1.0, 1.0, 0.0]))).all()


def test_a_frame_without_shoulders_has_the_nearest_box_before_it() -> None:
    clip = signer()
    clip[:, 3:, LEFT_SHOULDER, 0] = 1.5  # another size from frame 3 on
    whole = normalised(clip)
    gap = clip.clone()
    gap[:, [0, 2, 5], RIGHT_SHOULDER, 2] = 0
    result = normalised(gap)
    for frame, box in ((0, 1), (2, 1), (5, 4)):
        moved = clip.clone()
        moved[:, frame, [LEFT_SHOULDER, RIGHT_SHOULDER]] = clip[:, box, [LEFT_SHOULDER, RIGHT_SHOULDER]]
        moved[:, frame, 2] = clip[:, box, 2]  # the left eye
        assert torch.allclose(result[:, frame, 0], normalised(moved)[:, frame, 0], atol=1e-6)
    assert torch.equal(result[:, [1, 3, 4]], whole[:, [1, 3, 4]])


@pytest.mark.parametrize(("positions", "matters"), [("none", False), ("learned", True)])
def test_order_of_frames_matters_with_positions_alone(positions: str, matters: bool) -> None:
    encoder = create_model("spoter_tiny", frames=6, positions=positions).eval()
    clip = signer(6)
    change = (encoder(clip.flip(1)) - encoder(clip)).abs().max()
    assert (change > 1e-2) == matters
    if not matters:
        assert change < 1e-5


def test_decoder_layers_give_the_query_alone() -> None:
    encoder = create_model("spoter_tiny", frames=6)
    assert [layer.shape[1] for layer in encoder.forward_layers(signer(6))] == [6, 6, 1, 1]


def test_impossible_spoters_are_refused() -> None:
    with pytest.raises(UserError, match="frames=0"):
        create_model("spoter", frames=0)
    with pytest.raises(UserError, match="positions='sine' is unknown"):
        create_model("spoter_tiny", positions="sine")


# Parity with the original ---------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["ydown", "yup", "syn"])
def test_normalisation_is_spoter_s(oracles: Path, kind: str) -> None:
    recorded = np.load(oracle_file(oracles, "spoter_norm.npz", "pose"))
    points = torch.from_numpy(recorded[f"x_{kind}"])[None]
    result = normalise_joints(points, points[..., 0] != 0, in_picture=True)
    assert (result - torch.from_numpy(recorded[f"out_{kind}"])).abs().max() < 1e-9


@pytest.mark.oracle
def test_a_clip_in_the_picture_s_middle_is_normalised_the_same(oracles: Path) -> None:
    recorded = np.load(oracle_file(oracles, "spoter_norm.npz", "pose"))
    points = torch.from_numpy(recorded["x_yup"])[None]
    seen = points[..., 0] != 0
    shifted = torch.where(seen[..., None], points * 3 + 10, 0.0)  # far from the picture's edges
    theirs = normalise_joints(shifted, seen, in_picture=True)
    ours = normalise_joints(torch.where(seen[..., None], points - 0.5, 0.0), seen)
    assert seen[:, :, [NECK, LEFT_EYE, 6, 7]].all()
    assert (ours - theirs).abs().max() < 1e-9


def spoter_oracle(oracles: Path) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    parameters = json.loads(oracle_file(oracles, "spoter_params.json", "pose").read_text())
    return sine_state(parameters, {}), dict(np.load(oracle_file(oracles, "spoter_forward.npz", "pose")))


@pytest.mark.oracle
def test_spoter_is_the_original(oracles: Path) -> None:
    state, recorded = spoter_oracle(oracles)
    joints = torch.from_numpy(recorded["inp"])[None]
    encoder = create_model("spoter", frames=joints.shape[1]).eval()
    layout = detect_layout(state, "spoter", "file")
    assert layout.arguments(state) == {"positions": "none"}
    left = load_layout(encoder, state, layout, "file").left
    with torch.no_grad():
        query = encoder.decoder_norm(encoder.layers_of(joints)[-1])
        scores = query @ left["linear_class.weight"].T + left["linear_class.bias"]
    assert (scores - torch.from_numpy(recorded["out"])).abs().max() < 1e-5
    unused = sum(value.numel() for value in left.values())
    assert sum(value.numel() for value in encoder.parameters()) + unused == sum(
        value.numel() for value in state.values()
    )


@pytest.mark.oracle
def test_the_recorded_input_is_the_normalised_one_centred(oracles: Path) -> None:
    recorded = np.load(oracle_file(oracles, "spoter_norm.npz", "pose"))["out_yup"] - CENTRE
    given = np.load(oracle_file(oracles, "spoter_forward.npz", "pose"))["inp"]
    assert given == pytest.approx(recorded, abs=1e-6)


def test_single_position_becomes_a_table_for_every_frame() -> None:
    encoder, faithful = (create_model("spoter_tiny", frames=5, positions=kind) for kind in ("learned", "none"))
    load_state(encoder, faithful.state_dict(), "file")
    torch.testing.assert_close(encoder.time_embed, faithful.time_embed.expand_as(encoder.time_embed))
    assert LAYOUTS["spoter"].fits("spoter_tiny")
    clip = random_clip(encoder.input_spec)
    assert torch.allclose(encoder.eval()(clip), faithful.eval()(clip), atol=1e-6)
