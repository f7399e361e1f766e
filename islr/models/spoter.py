"""SPOTER: a transformer over frames of body and hand points, read out by one class query.

Bohacek and Hruz, "Sign Pose-Based Transformer for Word-Level Sign Language Recognition" (WACVW 2022), in the form of
matyasbohacek/spoter. Its decoder has no self-attention, and adds its input to itself before the first norm; PyTorch's
decoder cannot be had without self-attention any more, so ours is written out.

Deviations: clips have a fixed number of frames; the normalisation sees normalised poses, so what depends on the
picture's edges is left out (`body_boxes` and `in_boxes` with `in_picture=False`).

Shapes: B batch, T frames, J = 54 points, 12 of the body and 21 of each hand, D = 2 J width.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.data.poses.pose import BODY, HAND_POINTS, LEFT_HAND, LEFT_SHOULDER, RIGHT_HAND, RIGHT_SHOULDER
from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import Encoder, interpolate_positions
from islr.models.presets import Preset

# SPOTER's order: nose, neck, then right and left of eyes, ears, shoulders, elbows, wrists. There is no neck in 75.
_BEFORE_NECK, _AFTER_NECK = (0,), (5, 2, 8, 7, 12, 11, 14, 13, 16, 15)
# Wrist; index, middle, ring and little finger, then the thumb, each from its tip inwards.
_HAND = (0, *(joint for tip in (8, 12, 16, 20, 4) for joint in range(tip, tip - 4, -1)))
BODY_JOINTS, HAND_JOINTS = 12, HAND_POINTS
JOINTS = BODY_JOINTS + 2 * HAND_JOINTS
NOSE, NECK, LEFT_EYE, RIGHT_SHOULDER_JOINT, LEFT_SHOULDER_JOINT = 0, 1, 3, 6, 7

HEADS = 9
HALF_BOX = 3.0  # head metrics (shoulder widths) from the neck to the box's left and right side
BOX_HEIGHT = 6.0
MARGIN = 0.1  # of a hand's longer side, on both sides of it
CENTRE = 0.5  # subtracted from what lies in 0..1

Positions = Literal["none", "learned"]


def joints_of(clip: Tensor) -> tuple[Tensor, Tensor]:
    """SPOTER's points of normalised poses `[B, T, 75, 3]`, y up: `[B, T, J, 2]`, zero where not seen, and bool
    `[B, T, J]`. The neck is the shoulders' midpoint.
    """
    shoulders = clip[:, :, [LEFT_SHOULDER, RIGHT_SHOULDER]]
    neck = torch.cat([shoulders[..., :2].mean(dim=2), shoulders[..., 2].amin(dim=2)[..., None]], dim=-1)
    points = [BODY.start + point for point in _AFTER_NECK]
    points += [hand.start + joint for hand in (LEFT_HAND, RIGHT_HAND) for joint in _HAND]
    joints = torch.cat([clip[:, :, _BEFORE_NECK], neck[:, :, None], clip[:, :, points]], dim=2)
    seen = joints[..., 2] > 0
    return joints[..., :2] * joints.new_tensor([1.0, -1.0]) * seen[..., None], seen


def normalise_joints(joints: Tensor, seen: Tensor, in_picture: bool = False) -> Tensor:
    """Return the body in its box and each hand in its own, `[B, T, J, 2]`; what is not seen stays as it is.

    Boxes move and grow with the signer, so the result does not depend on place or size. It depends on the picture's
    shape: stretched along one axis, the shoulders' distance changes by another factor than the coordinates do.
    SPOTER's coordinates are shares of the picture's width and height, ours are of one unit.

    Args:
        joints: `[B, T, J, 2]`, y up, zero where not seen.
        seen: bool `[B, T, J]`.
        in_picture: Coordinates are shares of a picture, as SPOTER's: boxes end at its edges on the left and below,
            and a body before its first box stays as it is. Otherwise boxes end nowhere, a body before its first box
            lies in the first one, and a body whose left eye is not seen in the last one.
    """
    body, left, right = joints.split((BODY_JOINTS, HAND_JOINTS, HAND_JOINTS), dim=2)
    body_seen, left_seen, right_seen = seen.split((BODY_JOINTS, HAND_JOINTS, HAND_JOINTS), dim=2)
    parts = [in_boxes(body, body_seen, *body_boxes(body, body_seen, in_picture))]
    for hand, hand_seen in ((left, left_seen), (right, right_seen)):
        parts.append(in_boxes(hand, hand_seen, *hand_boxes(hand, hand_seen)))
    return torch.cat(parts, dim=2)


def body_boxes(body: Tensor, seen: Tensor, in_picture: bool) -> tuple[Tensor, Tensor]:
    """Return the low and high corner of the body's box in each frame, `[B, T, 2]` each; equal where there is none.

    Six head metrics wide around the neck, six high from one above the left eye; the metric is the distance of the
    shoulders, or of neck and nose where a shoulder is not seen. A frame with neither has the last box.
    """
    right, left = body[:, :, RIGHT_SHOULDER_JOINT], body[:, :, LEFT_SHOULDER_JOINT]
    shoulders = seen[:, :, RIGHT_SHOULDER_JOINT] & seen[:, :, LEFT_SHOULDER_JOINT]  # [B, T]
    head = torch.where(shoulders, (left - right).norm(dim=-1), (body[:, :, NECK] - body[:, :, NOSE]).norm(dim=-1))
    found = shoulders | (seen[:, :, NECK] & seen[:, :, NOSE])
    if not in_picture:
        found = found & seen[:, :, LEFT_EYE] & (head > 0)
    centre, top = body[:, :, NECK, 0], body[:, :, LEFT_EYE, 1] + head
    low = torch.stack([centre - HALF_BOX * head, top - BOX_HEIGHT * head], dim=-1)
    high = torch.stack([centre + HALF_BOX * head, top], dim=-1)
    if in_picture:
        low, high = low.clamp(min=0), high.clamp(min=0)
    times = torch.arange(body.shape[1], device=body.device)
    last = torch.where(found, times, -1).cummax(dim=1).values  # [B, T], -1 before the first
    if not in_picture:
        last = torch.where(last < 0, found.int().argmax(dim=1, keepdim=True), last)
    place = last.clamp(min=0)
    boxed = (found.gather(1, place) & (last >= 0))[..., None]
    low, high = (corner.gather(1, place[..., None].expand_as(corner)) for corner in (low, high))
    return low * boxed, high * boxed


def hand_boxes(hand: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high corner of a hand's box in each frame, `[B, T, 2]` each: the square around it, with a margin."""
    unseen = ~seen[..., None]
    low = hand.masked_fill(unseen, torch.inf).amin(dim=2)
    high = hand.masked_fill(unseen, -torch.inf).amax(dim=2)
    absent = ~seen.any(dim=2, keepdim=True)  # [B, T, 1]
    low, high = low.masked_fill(absent, 0), high.masked_fill(absent, 0)
    side = (high - low).amax(dim=-1, keepdim=True)
    room = (side - (high - low)) / 2 + MARGIN * side
    return low - room, high + room


def in_boxes(points: Tensor, seen: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Points `[B, T, K, 2]` in units of their frame's box; those not seen, or of an empty box, stay as they are."""
    size = (high - low)[:, :, None]  # [B, T, 1, 2]
    inside = seen[..., None] & (size != 0).all(dim=-1, keepdim=True)
    return torch.where(inside, (points - low[:, :, None]) / torch.where(size != 0, size, 1.0), points)


class QueryLayer(nn.Module):
    """SPOTER's decoder layer: what was asked, doubled, asks the frames.

    Args:
        dim: Width.
        heads: Attention heads.
        hidden: Width of the feed-forward network.
        dropout: On every branch.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, frames: Tensor) -> Tensor:
        """`[B, 1, D]` and `[B, T, D]` -> `[B, 1, D]`."""
        query = self.norm1(query + self.dropout(query))  # as the original: the place of self-attention kept its sum
        answer, _ = self.attention(query, frames, frames, need_weights=False)
        query = self.norm2(query + self.dropout(answer))
        hidden = self.dropout(F.relu(self.linear1(query)))
        return self.norm3(query + self.dropout(self.linear2(hidden)))


class SPOTER(Encoder):
    """SPOTER; `spoter` and `spoter_tiny` are presets.

    Args:
        frames: Frames per clip.
        depth: Encoder layers, and as many decoder layers.
        hidden: Width of the feed-forward networks.
        dropout: On every branch.
        positions: `none`, the original: one learned vector for all frames, so that their order means nothing; or
            `learned`, one for each frame.

    Raises:
        UserError: No frames, or unknown `positions`.
    """

    source = "SPOTER (WACVW 2022), form of matyasbohacek/spoter"

    def __init__(
        self, *, frames: int, depth: int, hidden: int, dropout: float = 0.0, positions: Positions = "none"
    ) -> None:
        super().__init__()
        if frames < 1:
            raise UserError(f"frames={frames}: a pose encoder needs at least one frame")
        if positions not in get_args(Positions):
            raise UserError(f"positions='{positions}' is unknown; it is one of {', '.join(get_args(Positions))}")
        dim = 2 * JOINTS
        self.time_embed = nn.Parameter(torch.empty(frames if positions == "learned" else 1, dim))
        self.class_query = nn.Parameter(torch.empty(dim))
        self.encoder_layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, HEADS, hidden, dropout, batch_first=True) for _ in range(depth)
        )
        self.encoder_norm = nn.LayerNorm(dim)
        self.decoder_layers = nn.ModuleList(QueryLayer(dim, HEADS, hidden, dropout) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim)
        self.input_spec = InputSpec(frames, 0, (), (), "pose")
        self.dim, self.layer_dims = dim, [dim] * (2 * depth)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.uniform_(self.time_embed)
        nn.init.uniform_(self.class_query)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the class query after the last decoder layer, `[B, dim]`."""
        return self.decoder_norm(self.forward_layers(clip)[-1])[:, 0]

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Frames `[B, T, D]` after each encoder layer, then the class query `[B, 1, D]` after each decoder layer.

        The query is all a decoder layer gives, so it is not removed.
        """
        self.check_clip(clip)
        return self.layers_of(normalise_joints(*joints_of(clip)) - CENTRE)

    def layers_of(self, joints: Tensor) -> list[Tensor]:
        """As `forward_layers`, of points `[B, T, J, 2]` in boxes and centred."""
        frames = joints.flatten(2) + self.time_embed  # [B, T, D]
        outputs = []
        for layer in self.encoder_layers:
            frames = self.run_block(layer, frames)
            outputs.append(frames)
        frames = self.encoder_norm(frames)
        query = self.class_query.expand(len(frames), 1, -1)
        for layer in self.decoder_layers:
            query = self.run_block(layer, query, frames)
            outputs.append(query)
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """0 for positions and class query, then encoder layers and decoder layers, each stack's norm with its last."""
        part, _, rest = parameter_name.partition(".")
        depth = len(self.encoder_layers)
        if part in ("encoder_layers", "decoder_layers"):
            return int(rest.split(".")[0]) + 1 + (depth if part == "decoder_layers" else 0)
        if part in ("encoder_norm", "decoder_norm"):
            return depth if part == "encoder_norm" else 2 * depth
        assert part in ("time_embed", "class_query"), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Learned positions follow the frame count."""
        return interpolate_positions(value, shape[0]) if name == "time_embed" and value.ndim == 2 else None


PRESETS = {
    "spoter_tiny": Preset(SPOTER, {"frames": 16, "dropout": 0.0, "positions": "learned"}, {"depth": 2, "hidden": 128}),
    # The published size, 5.9 million parameters.
    "spoter": Preset(SPOTER, {"frames": 64, "dropout": 0.1, "positions": "none"}, {"depth": 6, "hidden": 2048}),
}
