"""MaskFeat: predict the HOG features of hidden parts of a video (Wei et al., arXiv 2112.09133).

Replace cuboids of a clip by a learned mask token, encode all tokens, and regress the oriented gradients of the masked
cuboids from their encoded tokens with one linear layer. The numbers are SlowFast's
`k400_MVITv2_S_16x4_MaskFeat_PT`. Deviations, each a key here or in the optimiser's group: clips are sampled
over the whole sign, flips are off (they swap the signer's handedness), HOG is computed on pixels
(`pretrain/targets/hog.py` says why). Options beside the published form: masks guided by motion
(`mask: motion_cube`) or by the signer's hands and face (`mask: hand_cube`), and histograms of temporal differences as
further targets (`motion_bins`).

Shapes: B clips, T H W frames and pixels, t h w a token grid, M masked tokens of the batch, D width.
"""

import math
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
from islr.data.views.crops import to_cthw
from islr.data.views.input_spec import InputSpec
from islr.data.views.source import ClipSource
from islr.data.views.views import View, training_crop
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models.encoder import INIT_STD, NORM_EPS, to_input
from islr.models.mvit.encoder import MViTEncoder
from islr.models.tokens import resize_mask
from islr.training.distributed.collectives import share
from pretrain.masks.draw import cube_mask, exact_cube_mask, weighted_cube_mask
from pretrain.masks.saliency import cell_hands, cell_motion, check_poses, guided_share
from pretrain.pictures import VISIBLE_DIM, cell_contrast, enlarge, hide_cells, hog_picture
from pretrain.recipe import Recipe, VideoRecipeConfig
from pretrain.targets.best_constant import half_of_best_constant
from pretrain.targets.hog import BINS, CHANNELS, hog_targets, motion_targets, reference_hog_targets, target_dim
from pretrain.targets.running_mean import RunningMean

FRAMES_PER_TOKEN = 2  # time stride of the patch embedding
RANDOM_MASKS = {"cube": cube_mask, "exact_cube": exact_cube_mask}  # independent of the clip


class MaskFeatConfig(VideoRecipeConfig):
    """Options of MaskFeat; the defaults are the published ones."""

    name: Literal["maskfeat"] = "maskfeat"
    mask: Literal["cube", "exact_cube", "motion_cube", "hand_cube"] = "cube"
    mask_ratio: float = Field(0.4, gt=0, lt=1)
    mask_pixels: int = Field(32, ge=1, description="side of a mask cell, in pixels")
    face_weight: float = Field(0.5, ge=0, le=1, description="hand_cube: weight of the face relative to the hands")
    depths: tuple[int, ...] = Field((-1,), min_length=1, description="blocks that predict; -1 is the last")
    hog: Literal["pixels", "normalised"] = Field(
        "pixels", description="normalised: the original's numerics, with noise as the target of flat cells"
    )
    motion_bins: int = Field(
        0, ge=0, description="orientations of a further histogram, of the difference between a token's frames; 0 = none"
    )

    @model_validator(mode="after")
    def _possible(self) -> "MaskFeatConfig":
        refuse_idle(self, "face_weight", self.mask == "hand_cube", "mask: hand_cube")
        if self.motion_bins and self.hog == "normalised":
            raise ValueError("motion_bins needs hog: pixels; still cells of normalised frames would hold noise")
        return self


class MaskFeat(Recipe):
    """An MViT with a mask token and one prediction head per depth.

    Raises:
        UserError: The encoder is no MViT, or a depth has no tokens of whole HOG cells.
    """

    Config = MaskFeatConfig
    modality = "video"
    encoder: MViTEncoder
    trivial_predictors: ClassVar = {
        "zero_prediction": Trivial("zero everywhere"),
        "place_mean": Trivial("the mean target of the place"),
    }
    check_clips = staticmethod(check_poses)

    @staticmethod
    def encoder_arguments(config: MaskFeatConfig) -> dict[str, Any]:
        """Keep the last stage at tokens of 16 pixels; fine-tuning pools them (as SlowFast does)."""
        return {"last_stride": 1}

    @staticmethod
    def views(config: MaskFeatConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented clip and its mask, bool `[t, H / mask_pixels, W / mask_pixels]`.

        Raises:
            UserError: The size is no multiple of `mask_pixels`, or smaller than two cells.
        """
        if input_spec.size % config.mask_pixels or input_spec.size < 2 * config.mask_pixels:
            raise UserError(
                f"mask_pixels={config.mask_pixels} does not divide, twice or more, the encoder's size={input_spec.size}"
            )
        cells = input_spec.size // config.mask_pixels
        window = (input_spec.frames // FRAMES_PER_TOKEN, cells, cells)

        def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
            shot = training_crop(source, input_spec, config.video, rng)
            clip = to_cthw(shot.frames)
            if config.mask in RANDOM_MASKS:
                return {"clip": clip, "mask": RANDOM_MASKS[config.mask](window, config.mask_ratio, rng)}
            if config.mask == "motion_cube":
                weight = cell_motion(clip.numpy(), window)
            else:
                weight = cell_hands(source, shot, window, config.face_weight)
            return {"clip": clip, "mask": weighted_cube_mask(weight, config.mask_ratio, rng), "guided": weight.any()}

        return view

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a two-block MViT on four frames of 32 pixels."""
        return {
            "recipe": {"name": "maskfeat", "mask_pixels": 16},
            "encoder": {"name": "mvit_tiny", "arguments": {"frames": 4, "size": 32}},
        }

    def __init__(self, encoder: MViTEncoder, config: MaskFeatConfig) -> None:
        super().__init__()
        if not isinstance(encoder, MViTEncoder):
            raise UserError(f"maskfeat trains mvit encoders, not {type(encoder).__name__}")
        blocks = len(encoder.layer_dims)
        outside = [depth for depth in config.depths if not -blocks <= depth < blocks]
        if outside:
            raise UserError(f"depths names block {outside[0]}, the encoder has blocks 0 to {blocks - 1}")
        self.encoder, self.config = encoder, config
        self.mask_token = nn.Parameter(torch.empty(encoder.conv_proj.out_channels))
        nn.init.trunc_normal_(self.mask_token, std=INIT_STD)
        self.heads = nn.ModuleList(self._head(depth) for depth in config.depths)
        tokens = [math.prod(encoder.grids[depth]) for depth in config.depths]
        self.means = nn.ModuleList(map(RunningMean, tokens, map(self._target_dim, config.depths)))

    def _head(self, depth: int) -> nn.Sequential:
        """LayerNorm and one linear layer: there is no decoder (section 3.1)."""
        dim = self.encoder.layer_dims[depth]
        linear = nn.Linear(dim, self._target_dim(depth))
        nn.init.trunc_normal_(linear.weight, std=INIT_STD)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.LayerNorm(dim, eps=NORM_EPS), linear)

    def _target_dim(self, depth: int) -> int:
        pixels = self.encoder.input_spec.size // self.encoder.grids[depth][1]
        return target_dim(pixels, BINS + self.config.motion_bins)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the scores of zero everywhere (1/9 where no cell is flat) and of the place's mean."""
        clip = to_input(batch["clip"], self.encoder.input_spec)
        targets = self._batch_targets(batch)
        loss = self.loss(self.predict(clip, batch["mask"]), targets)
        out = {"loss": loss, **self._trivial(targets, batch["mask"]), **guided_share(batch)}
        if self.training:
            for mean, place, target in zip(self.means, self._places(batch["mask"]), targets, strict=True):
                assert isinstance(mean, RunningMean)
                mean.note(place, target)
        return out

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of zero everywhere and of the mean target of the place in the steps before."""
        return self._trivial(self._batch_targets(batch), batch["mask"])

    @torch.no_grad()
    def _trivial(self, targets: list[Tensor], mask: Tensor) -> dict[str, Tensor]:
        means = [mean(place) for mean, place in zip(self.means, self._places(mask), strict=True)]
        zeros = [torch.zeros_like(target) for target in targets]
        return {"zero_prediction": self.loss(zeros, targets), "place_mean": self.loss(means, targets)}

    def _places(self, mask: Tensor) -> list[Tensor]:
        """Return which token of a clip each row of the targets is, for each depth."""
        grids = (self.encoder.grids[depth] for depth in self.config.depths)
        return [resize_mask(mask, grid).flatten(1).nonzero()[:, 1] for grid in grids]

    def goal(self, batch: Batch) -> Goal:
        """Return half of the loss of the best constant."""
        return half_of_best_constant(self, batch, token_dims=1)

    def _batch_targets(self, batch: Batch) -> list[Tensor]:
        pixels = self.config.hog == "pixels"
        clip = batch["clip"] if pixels else to_input(batch["clip"], self.encoder.input_spec)
        return self.targets(clip, batch["mask"])

    def predict(self, clip: Tensor, mask: Tensor, reported: Tensor | None = None) -> list[Tensor]:
        """Return the predicted features per depth, `[M, target_dim]`, in the order (clip, time, row, column).

        Args:
            clip: Normalised `[B, 3, T, H, W]`.
            mask: bool `[B, t, h, w]`, true = masked.
            reported: Tokens to predict, as a mask of the same shape; None = the masked ones.
        """
        outputs = self.encoder.forward_tokens(clip, mask, self.mask_token)
        reported = mask if reported is None else reported
        return [
            head(outputs[depth].patches[resize_mask(reported, outputs[depth].grid).flatten(1)])
            for head, depth in zip(self.heads, self.config.depths, strict=True)
        ]

    def targets(self, clip: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the targets of `predict`; `clip` is uint8, or normalised for the original's numerics.

        Each row holds the HOG first, then the histogram of temporal differences.
        """
        describe = hog_targets if self.config.hog == "pixels" else reference_hog_targets
        targets = []
        for depth in self.config.depths:
            masked = resize_mask(mask, self.encoder.grids[depth])
            target = describe(clip, masked)
            if self.config.motion_bins:
                target = torch.cat([target, motion_targets(clip, masked, self.config.motion_bins)], dim=1)
            targets.append(target)
        return targets

    @staticmethod
    def loss(predictions: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Return the squared error, mean over tokens and features, summed over depths (equation 1)."""
        errors = [F.mse_loss(p.float(), t) * share(len(t)) for p, t in zip(predictions, targets, strict=True)]
        return torch.stack(errors).sum()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the most masked moment of each clip: input, masked input, target and predicted HOG.

        Strokes fade in flat cells, whose features are amplified noise. In the last panel, visible cells are dim and
        show their targets.
        """
        clip, mask = batch["clip"], batch["mask"]
        everywhere = torch.ones_like(mask)
        grid = self.encoder.grids[self.config.depths[-1]]
        target_cells = _cells(hog_targets(clip, resize_mask(everywhere, grid)), grid)
        features = self.predict(to_input(clip, self.encoder.input_spec), mask, everywhere)[-1]
        predicted_cells = _cells(features[:, : target_dim(self.encoder.input_spec.size // grid[1])], grid)
        panels: dict[str, list[np.ndarray]] = {"input": [], "masked": [], "target HOG": [], "predicted HOG": []}
        for index in range(len(clip)):
            time = int(mask[index].sum(dim=(1, 2)).argmax())
            frame = clip[index, :, time * FRAMES_PER_TOKEN].permute(1, 2, 0).cpu().numpy()
            hidden = mask[index, time].cpu().numpy()
            target, predicted = target_cells[index, time], predicted_cells[index, time]  # [rows, columns, 9]
            scale = target.shape[0] // hidden.shape[0]
            hidden_cells = hidden.repeat(scale, axis=0).repeat(scale, axis=1)
            contrast = cell_contrast(frame, target.shape[0], target.shape[1])
            panels["input"].append(enlarge(frame))
            panels["masked"].append(enlarge(hide_cells(frame, hidden)))
            panels["target HOG"].append(hog_picture(target, contrast))
            shown = np.where(hidden_cells[..., None], predicted, target)
            panels["predicted HOG"].append(hog_picture(shown, contrast * np.where(hidden_cells, 1.0, VISIBLE_DIM)))
        return {name: np.stack(images) for name, images in panels.items()}


def _cells(features: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Return the features of all tokens as histograms per cell, averaged over colours: `[B, t, rows, columns, 9]`."""
    side = round((features.shape[1] / (CHANNELS * BINS)) ** 0.5)  # cells along a token's side
    tokens = features.float().view(-1, *grid, CHANNELS, BINS, side, side).mean(dim=4)  # [B, t, h, w, 9, cy, cx]
    cells = tokens.permute(0, 1, 2, 5, 3, 6, 4).flatten(4, 5).flatten(2, 3)
    return cells.cpu().numpy()
