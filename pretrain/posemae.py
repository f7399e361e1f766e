"""PoseMAE: reconstruct the masked parts of a moving skeleton.

A masked autoencoder (He et al., arXiv 2111.06377) over part tokens, one per frame for the body and for each
hand: mask most of them, encode the visible ones alone, and let a light decoder predict points and motion of the masked
parts. Masked are single tokens, moving parts first (`mask: motion`), or one part for several frames in a row
(`mask: tube`). The motion target and motion-guided masking follow MASA (Zhao et al., arXiv 2405.20666). A hidden frame
lies near the straight line between its visible neighbours: that line is the predictor that has to be beaten.

Deviations from masked autoencoders of poses in the literature: undetected points are never targets,
and confidence weights the loss; nothing masked reaches the encoder except through the palms' median length.
Mirroring is off by default (`pose.mirror`), because it swaps the signer's handedness; pre-training on general
movement may turn it on.

Shapes: B clips, T frames, P = 3 parts, N = T * P tokens, V visible and M masked ones, K points of a part, D
width.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from islr.checks.goal import Goal
from islr.config import refuse_idle
from islr.data.loading.loader import Batch
from islr.data.poses.pose import HAND_ROOT, LEFT_HAND, RIGHT_HAND
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig, augmented_pose
from islr.data.views.source import ClipSource
from islr.data.views.views import View
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models.encoder import FAN_IN_POSITION_STD, NORM_EPS
from islr.models.pose_conv_transformer import PoseConvTransformer
from islr.models.pose_transformer import (
    BODY_POINTS,
    PART_POINTS,
    PARTS,
    PartPoints,
    PoseTransformer,
    hand_sizes,
    part_points,
)
from islr.models.transformer import init_linear, sincos_positions, transformer_block
from islr.training.distributed.collectives import average, processes
from pretrain.masks.draw import motion_mask, part_tube_mask
from pretrain.pictures import skeleton_picture
from pretrain.recipe import Recipe, RecipeConfig
from pretrain.targets.straight_lines import straight_lines

POSE_POINTS: tuple[Any, ...] = (list(BODY_POINTS), LEFT_HAND, RIGHT_HAND)  # of the three parts, in a pose's 75


class PoseMAEConfig(RecipeConfig):
    """Options of PoseMAE."""

    name: Literal["posemae"] = "posemae"
    mask: Literal["motion", "tube"] = "motion"
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    guidance: float = Field(1.0, ge=0, description="motion: weight of motion against chance in choosing tokens to mask")
    tube_frames: int = Field(8, ge=2, description="tube: fewest frames in a row for which a part is hidden")
    motion_stride: int = Field(2, ge=1, description="frames between the two ends of a motion")
    motion_weight: float = Field(1.0, ge=0, description="weight of the motion loss; 0 = points only")
    beta: float = Field(0.1, gt=0, description="error at which the loss turns from squared to absolute")
    decoder_dim: int = Field(128, ge=8)
    decoder_depth: int = Field(2, ge=1)
    decoder_heads: int = Field(4, ge=1)
    pose: PoseAugmentConfig = PoseAugmentConfig()

    @model_validator(mode="after")
    def _nothing_idle(self) -> "PoseMAEConfig":
        refuse_idle(self, "guidance", self.mask == "motion", "mask: motion")
        refuse_idle(self, "tube_frames", self.mask == "tube", "mask: tube")
        return self


def part_motion(pose: np.ndarray, stride: int) -> np.ndarray:
    """Return the mean displacement over `stride` frames of the points of each part detected at both ends.

    Args:
        pose: `[T, 75, 3]`.
        stride: Frames between the ends; the last frames look back instead.

    Returns:
        `[T, P]`, 0 where nothing is detected.
    """
    last = len(pose) - 1
    starts = np.minimum(np.arange(len(pose)), max(last - stride, 0))
    before, after = pose[starts], pose[np.minimum(starts + stride, last)]
    moved = np.abs(after[..., :2] - before[..., :2]).mean(axis=-1)  # [T, 75]
    both = ((before[..., 2] > 0) & (after[..., 2] > 0)).astype(np.float32)
    return np.stack(
        [(moved * both)[:, part].sum(1) / np.maximum(both[:, part].sum(1), 1) for part in POSE_POINTS], axis=1
    )


def line_predictions(parts: list[PartPoints], mask: Tensor, stride: int) -> list[Tensor]:
    """Return the trivial prediction: masked points on straight lines between visible frames, and the motion of those.

    Returns:
        Of each part, `[B, T, K, 2 (points, motion), 2 (x, y)]`.
    """
    predictions = []
    for index, part in enumerate(parts):
        points = straight_lines(part.xy, (part.confidence > 0) & ~mask[:, :, index, None])
        motion = torch.zeros_like(points)
        motion[:, :-stride] = points[:, stride:] - points[:, :-stride]
        predictions.append(torch.stack([points, motion], dim=3))
    return predictions


def _check_tubes(config: PoseMAEConfig, frames: int) -> None:
    fewest = config.tube_frames
    if frames < 2 * fewest:
        raise UserError(f"tube_frames={fewest} needs clips of twice as many frames, not {frames}")
    hidden = round(frames * len(PARTS) * config.mask_ratio)
    if hidden < fewest:
        raise UserError(f"mask_ratio={config.mask_ratio:g} hides {hidden} tokens, less than a tube of {fewest}")


class PoseMAE(Recipe):
    """A pose encoder with a light decoder and, for each part, a head for points and motion.

    Raises:
        UserError: The encoder has no part tokens, or the clip is too short for the motion's stride.
    """

    Config = PoseMAEConfig
    modality = "pose"
    encoder: PoseTransformer | PoseConvTransformer
    positions: Tensor
    trivial_predictors: ClassVar = {
        "line_points": Trivial("straight lines between visible frames", ("points",)),
        "line_motion": Trivial("the motion of straight lines between visible frames", ("motion",)),
        "no_motion": Trivial("no motion", ("motion",)),
    }

    @staticmethod
    def views(config: PoseMAEConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented pose sequence and its mask, bool `[T, P]`, true = masked.

        Raises:
            UserError: No tube of `tube_frames` fits the clip or the ratio.
        """
        if config.mask == "tube":
            _check_tubes(config, input_spec.frames)

        def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
            pose = augmented_pose(source, input_spec.frames, config.pose, rng)
            if config.mask == "tube":
                mask = part_tube_mask(len(pose), len(PARTS), config.mask_ratio, config.tube_frames, rng)
            else:
                motion = part_motion(pose, config.motion_stride)
                mask = motion_mask(motion, config.mask_ratio, config.guidance, rng)
            return {"clip": torch.from_numpy(pose), "mask": mask}

        return view

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny pose transformer with a decoder of one block on eight frames."""
        return {
            "recipe": {"name": "posemae", "decoder_dim": 16, "decoder_depth": 1},
            "encoder": {"name": "pose_transformer_tiny", "arguments": {"frames": 8}},
        }

    def __init__(self, encoder: PoseTransformer | PoseConvTransformer, config: PoseMAEConfig) -> None:
        super().__init__()
        if not isinstance(encoder, PoseTransformer | PoseConvTransformer):
            raise UserError(
                f"posemae trains pose_transformer and pose_conv_transformer encoders, not {type(encoder).__name__}"
            )
        frames, dim = encoder.input_spec.frames, config.decoder_dim
        if config.motion_stride >= frames:
            raise UserError(f"motion_stride={config.motion_stride} needs clips longer than frames={frames}")
        if dim % config.decoder_heads:
            raise UserError(f"decoder_heads={config.decoder_heads} does not divide decoder_dim={dim}")
        self.encoder, self.config = encoder, config
        width = encoder.layer_dims[-1]
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.to_decoder = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.register_buffer("positions", sincos_positions(frames, dim), persistent=False)
        self.part_embed = nn.Parameter(torch.empty(len(PARTS), dim))
        self.decoder = nn.Sequential(
            *(transformer_block(dim, config.decoder_heads) for _ in range(config.decoder_depth)),
            nn.LayerNorm(dim, eps=NORM_EPS),
        )
        # Two heads per part in one layer: x and y of its points, then of their motion.
        self.heads = nn.ModuleList(nn.Linear(dim, 2 * 2 * points) for points in PART_POINTS)
        for module in (self.to_decoder, self.decoder, self.heads):
            module.apply(init_linear)
        nn.init.normal_(self.mask_token, std=FAN_IN_POSITION_STD)
        nn.init.normal_(self.part_embed, std=FAN_IN_POSITION_STD)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, its two terms, and what straight lines and no motion score."""
        clip, mask = batch["clip"], batch["mask"]
        parts = part_points(clip)
        points, motion = self._compare(parts, self.predict(clip, mask), mask)
        out = {"loss": points + self.config.motion_weight * motion, "points": points.detach()}
        if self.config.motion_weight:
            out["motion"] = motion.detach()
        return out | self._lines(parts, mask)

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the errors of straight lines between visible frames, and the error of motion of no motion."""
        return self._lines(part_points(batch["clip"]), batch["mask"])

    @torch.no_grad()
    def _lines(self, parts: list[PartPoints], mask: Tensor) -> dict[str, Tensor]:
        lines = line_predictions(parts, mask, self.config.motion_stride)
        points, motion = self._compare(parts, lines, mask)
        _, still = self._compare(parts, [torch.zeros_like(line) for line in lines], mask)
        return {"line_points": points, "line_motion": motion, "no_motion": still}

    @torch.no_grad()
    def goal(self, batch: Batch) -> Goal:
        """Return the loss of straight lines between visible frames."""
        lines = self.trivial(batch)
        points, motion = lines["line_points"], torch.minimum(lines["line_motion"], lines["no_motion"])
        limit = float(points + self.config.motion_weight * motion)
        return Goal("loss", limit, "what straight lines between visible frames score")

    def _compare(self, parts: list[PartPoints], predictions: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors of points and of motion of masked, detected points, weighted by confidence."""
        stride = self.config.motion_stride
        points_error = points_weight = motion_error = motion_weight = parts[0].xy.new_zeros(())
        for index, (part, predicted) in enumerate(zip(parts, predictions, strict=True)):
            hidden = mask[:, :, index, None].to(part.xy.dtype)  # [B, T, 1]
            points, motion = predicted.unbind(dim=3)  # [B, T, K, 2] each
            weight = part.confidence * hidden  # [B, T, K]
            points_error = points_error + self._error(points, part.xy, weight)
            points_weight = points_weight + weight.sum()
            # The last frames have no motion: nothing lies `stride` frames ahead.
            weight = weight[:, :-stride] * part.confidence[:, stride:]
            moved = part.xy[:, stride:] - part.xy[:, :-stride]
            motion_error = motion_error + self._error(motion[:, :-stride], moved, weight)
            motion_weight = motion_weight + weight.sum()
        least = 1 / processes()  # one visible point in all
        points_loss = points_error / average(points_weight).clamp(min=least)
        motion_loss = motion_error / average(motion_weight).clamp(min=least)
        return points_loss, motion_loss

    def _error(self, predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted smooth L1 error, summed over points, mean over x and y."""
        error = F.smooth_l1_loss(predicted.float(), target, reduction="none", beta=self.config.beta)
        return (error.mean(dim=-1) * weight).sum()

    def predict(self, clip: Tensor, mask: Tensor) -> list[Tensor]:
        """Return points and motion of every token of each part, `[B, T, K, 2 (points, motion), 2 (x, y)]`.

        Args:
            clip: `[B, T, 75, 3]`.
            mask: bool `[B, T, P]`, true = masked; every clip has the same count.
        """
        hidden = mask.flatten(1)  # [B, N]
        visible = hidden.logical_not().nonzero()[:, 1].view(len(clip), -1)  # [B, V]
        places = (self.positions[:, None] + self.part_embed).flatten(0, 1)  # [N, D]
        encoded = self.to_decoder(self.norm(self.encoder.forward_tokens(clip, visible)[-1]))  # [B, V, D]
        tokens = self.mask_token.to(encoded.dtype).expand(*hidden.shape, -1)  # [B, N, D]
        tokens = tokens.scatter(1, visible[..., None].expand_as(encoded), encoded) + places
        tokens = self.decoder(tokens).unflatten(1, mask.shape[1:])  # [B, T, P, D]
        return [
            head(tokens[:, :, index]).unflatten(-1, (points, 2, 2))
            for index, (head, points) in enumerate(zip(self.heads, PART_POINTS, strict=True))
        ]

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return one frame near the middle of each clip, if possible one with two of three parts masked.

        The last panel shows masked parts as predicted, in the second colour, and visible ones as they are.
        """
        clip, mask = batch["clip"], batch["mask"]
        rebuilt = self.rebuild(clip, mask).cpu().numpy()
        panels: dict[str, list[np.ndarray]] = {"input": [], "visible": [], "predicted": []}
        for pose, prediction, hidden in zip(clip.cpu().numpy(), rebuilt, mask.cpu().numpy(), strict=True):
            detected = np.stack([pose[:, points, 2].any(axis=1) for points in POSE_POINTS], axis=1)  # [T, P]
            candidates = (hidden.sum(axis=1) == len(PARTS) - 1) & (detected & ~hidden).any(axis=1)
            far_from_middle = np.abs(np.arange(len(pose)) - len(pose) // 2)
            time = int(np.argmin(far_from_middle + len(pose) * ~candidates))
            marked = np.zeros(pose.shape[1], bool)
            for part, points in enumerate(POSE_POINTS):
                marked[points] = hidden[time, part]
            visible = pose[time].copy()
            visible[marked, 2] = 0
            panels["input"].append(skeleton_picture(pose[time]))
            panels["visible"].append(skeleton_picture(visible))
            shown = np.where(marked[:, None], prediction[time], pose[time])
            panels["predicted"].append(skeleton_picture(shown, marked))
        return {name: np.stack(images) for name, images in panels.items()}

    def rebuild(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Return the predicted points of every token as a normalised pose `[B, T, 75, 3]`; confidences stay."""
        body, *hands = (part[..., 0, :] for part in self.predict(clip, mask))  # [B, T, K, 2] each
        pose = clip.clone()
        pose[:, :, list(BODY_POINTS), :2] = body
        for hand, predicted in zip((LEFT_HAND, RIGHT_HAND), hands, strict=True):
            shape, root = predicted[:, :, :-1], predicted[:, :, -1:]
            shape = shape - shape[:, :, HAND_ROOT : HAND_ROOT + 1]
            pose[:, :, hand, :2] = shape * hand_sizes(clip, hand)[:, None, None, None] + root
        return pose
