"""VideoMAE: reconstruct the pixels of a video from a tenth of its tokens (Tong et al., arXiv 2203.12602).

Mask the same positions of all frames, encode the visible tokens alone, and let a narrow decoder predict the pixels of
the masked ones, each patch normalised by its own mean and deviation. The numbers are MCG-NJU/VideoMAE's for ViT-B.
Deviations, each a key here: clips are sampled over the whole sign, crops are random resized ones. The
saliency-guided masks `motion_tube` (over motion) and `hand_tube` (over hands and face) are our variants, not in the
paper.

Shapes: B clips, T H W frames and pixels, t h w the token grid, N = t * h * w tokens, V visible and M masked ones, C = 3
colours, P = 2 * p * p pixels of a token, D width.
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
from islr.data.views.crops import to_cthw
from islr.data.views.input_spec import InputSpec
from islr.data.views.source import ClipSource
from islr.data.views.views import View, training_crop
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models.encoder import INIT_STD, NORM_EPS, to_input
from islr.models.tokens import resize_mask
from islr.models.transformer import sincos_positions, transformer_block
from islr.models.vit import TUBELET, ViTEncoder, patchify, unpatchify, xavier_init
from islr.training.distributed.collectives import share
from pretrain.masks.draw import motion_tube_mask, tube_mask, weighted_tube_mask
from pretrain.masks.saliency import cell_hands, check_poses, guided_share
from pretrain.pictures import enlarge, hide_cells
from pretrain.recipe import Recipe, VideoRecipeConfig
from pretrain.targets.best_constant import half_of_best_constant
from pretrain.targets.running_mean import RunningMean

COLOURS = 3
TARGET_EPS = 1e-6  # added to a patch's deviation, on pixels of 0..1


class VideoMAEConfig(VideoRecipeConfig):
    """Options of VideoMAE; the defaults are the published ones for ViT-B."""

    name: Literal["videomae"] = "videomae"
    mask: Literal["tube", "motion_tube", "hand_tube"] = "tube"
    mask_ratio: float = Field(0.9, gt=0, lt=1)
    mask_pixels: int = Field(16, ge=1, description="side of a masked tube in pixels: the encoder's patch or a multiple")
    guidance: float = Field(
        1.0, ge=0, description="motion_tube, hand_tube: weight of saliency against chance in choosing tubes; 0 = random"
    )
    face_weight: float = Field(0.5, ge=0, le=1, description="hand_tube: weight of the face relative to the hands")
    decoder_dim: int = Field(384, ge=8, description="S 192, B 384, L 512, H 640")
    decoder_depth: int = Field(4, ge=1)
    decoder_heads: int = Field(6, ge=1, description="S 3, B 6, L 8, H 8")

    @model_validator(mode="after")
    def _possible(self) -> "VideoMAEConfig":
        refuse_idle(self, "guidance", self.mask != "tube", "mask: motion_tube or hand_tube")
        refuse_idle(self, "face_weight", self.mask == "hand_tube", "mask: hand_tube")
        return self


def tube_motion(clip: np.ndarray, side: int) -> np.ndarray:
    """Return the mean squared difference between neighbouring frames in each tube of `side` pixels.

    Args:
        clip: uint8 `[C, T, H, W]`.
        side: Divides H and W.

    Returns:
        `[H / side, W / side]`.
    """
    energy = np.square(np.diff(clip.astype(np.float32), axis=1)).mean(axis=(0, 1))  # [H, W]
    rows, columns = energy.shape[0] // side, energy.shape[1] // side
    return energy.reshape(rows, side, columns, side).mean(axis=(1, 3))


class VideoMAE(Recipe):
    """A ViT with a final norm for pre-training and a narrow decoder.

    Raises:
        UserError: The encoder is no video ViT, its patches do not fill the tubes, or heads do not divide the decoder.
    """

    Config = VideoMAEConfig
    modality = "video"
    encoder: ViTEncoder
    trivial_predictors: ClassVar = {
        "zero_prediction": Trivial("zero everywhere"),
        "place_mean": Trivial("the mean target of the place"),
    }
    no_weight_decay = ("mask_token",)  # as in the original; other recipes decay theirs
    check_clips = staticmethod(check_poses)

    @staticmethod
    def views(config: VideoMAEConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented clip and its mask, bool `[t, H / mask_pixels, W / mask_pixels]`.

        Raises:
            UserError: The size is no multiple of `mask_pixels`, or the ratio masks no tube.
        """
        side = config.mask_pixels
        if input_spec.size % side:
            raise UserError(f"mask_pixels={side} does not divide the encoder's size={input_spec.size}")
        cells = input_spec.size // side
        if int(cells**2 * config.mask_ratio) == 0:
            raise UserError(f"mask_ratio={config.mask_ratio:g} masks none of the {cells} x {cells} tubes; raise it")
        window = (input_spec.frames // TUBELET, cells, cells)

        def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
            shot = training_crop(source, input_spec, config.video, rng)
            clip = to_cthw(shot.frames)
            if config.mask == "tube":
                return {"clip": clip, "mask": tube_mask(window, config.mask_ratio, rng)}
            if config.mask == "motion_tube":
                weight = tube_motion(clip.numpy(), side)
                mask = motion_tube_mask(window, config.mask_ratio, weight, config.guidance, rng)
            else:
                weight = cell_hands(source, shot, window, config.face_weight).max(
                    axis=0
                )  # a tube is there all the time
                mask = weighted_tube_mask(window, config.mask_ratio, weight, config.guidance, rng)
            return {"clip": clip, "mask": mask, "guided": weight.any()}

        return view

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny ViT with a decoder of one block on four frames of 32 pixels."""
        return {
            "recipe": {"name": "videomae", "mask_ratio": 0.75, "decoder_dim": 48, "decoder_depth": 1},
            "encoder": {"name": "vit_tiny", "arguments": {"frames": 4, "size": 32}},
        }

    positions: Tensor

    def __init__(self, encoder: ViTEncoder, config: VideoMAEConfig) -> None:
        super().__init__()
        if not isinstance(encoder, ViTEncoder):
            raise UserError(f"videomae trains vit encoders, not {type(encoder).__name__}")
        if config.mask_pixels % encoder.patch:
            raise UserError(f"mask_pixels={config.mask_pixels} is no multiple of the encoder's patch={encoder.patch}")
        dim, heads = config.decoder_dim, config.decoder_heads
        if dim % heads:
            raise UserError(f"decoder_heads={heads} does not divide decoder_dim={dim}")
        self.encoder, self.config = encoder, config
        self.norm = nn.LayerNorm(encoder.dim, eps=NORM_EPS)
        self.to_decoder = nn.Linear(encoder.dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=INIT_STD)
        self.register_buffer("positions", sincos_positions(encoder.num_tokens, dim), persistent=False)
        self.decoder = nn.ModuleList(transformer_block(dim, heads) for _ in range(config.decoder_depth))
        self.head = nn.Sequential(nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, COLOURS * TUBELET * encoder.patch**2))
        self.mean = RunningMean(encoder.num_tokens, COLOURS * TUBELET * encoder.patch**2)
        for module in (self.decoder, self.head):
            module.apply(xavier_init)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the score of predicting zero, and the variance of predictions over that of targets.

        Zero scores (P - 1) / P, 511 / 512 for tokens of 16 pixels, and less on flat patches. The variance ratio is 0
        while every token gets the same prediction.
        """
        clip, mask = batch["clip"], batch["mask"]
        prediction = self.predict(to_input(clip, self.encoder.input_spec), mask).float()
        target = self.targets(clip, mask)
        with torch.no_grad():
            variances = [values.flatten(0, 1).var(dim=0).mean() for values in (prediction, target)]
        loss = F.mse_loss(prediction, target) * share(len(clip))
        ratio = variances[0] / variances[1]
        out = {"loss": loss, "variance_ratio": ratio, **self._trivial(target, mask), **guided_share(batch)}
        if self.training:
            self.mean.note(self._places(mask), target.flatten(0, 1))
        return out

    @torch.no_grad()
    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of zero everywhere and of the mean target of the place in the steps before."""
        return self._trivial(self.targets(batch["clip"], batch["mask"]), batch["mask"])

    @torch.no_grad()
    def _trivial(self, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
        mean = F.mse_loss(self.mean(self._places(mask)), target.flatten(0, 1)) * share(len(target))
        return {"zero_prediction": target.square().mean(), "place_mean": mean}

    def _places(self, mask: Tensor) -> Tensor:
        """Return which token of a clip each target is, `[B * M]`."""
        return self.hidden(mask).nonzero()[:, 1]

    def goal(self, batch: Batch) -> Goal:
        """Return half of the loss of the best constant."""
        return half_of_best_constant(self, batch, token_dims=1)

    def hidden(self, mask: Tensor) -> Tensor:
        """Return which tokens a mask `[B, t, h', w']` covers, bool `[B, N]`."""
        return resize_mask(mask, self.encoder.grid).flatten(1)

    def predict(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Return the predicted normalised pixels of the masked tokens, `[B, M, P * C]`, colours innermost.

        Args:
            clip: Normalised `[B, 3, T, H, W]`.
            mask: bool `[B, t, h', w']`, true = masked; every clip has the same count.
        """
        hidden = self.hidden(mask)
        visible_index = hidden.logical_not().nonzero()[:, 1].view(len(clip), -1)  # [B, V]
        hidden_index = hidden.nonzero()[:, 1].view(len(clip), -1)  # [B, M]
        encoded = self.to_decoder(self.norm(self.encoder.forward_tokens(clip, visible_index)[-1]))  # [B, V, D]
        visible = encoded + self.positions[visible_index]
        masked = self.mask_token + self.positions[hidden_index]
        tokens = torch.cat([visible, masked], dim=1)  # [B, N, D]; attention is independent of the order
        for block in self.decoder:
            tokens = self.encoder.run_block(block, tokens)
        return self.head(tokens[:, visible.shape[1] :])

    def targets(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Return the masked pixels `[B, M, P * C]`, each colour of a patch at mean 0 and deviation 1 (section 3.3).

        Args:
            clip: uint8 `[B, 3, T, H, W]`; floats are taken as pixels of 0..1.
            mask: As in `predict`.
        """
        patches = self._hidden_patches(clip, mask)
        mean, std = _statistics(patches)
        return ((patches - mean) / std).transpose(2, 3).flatten(2)

    def _hidden_patches(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Return the pixels of the masked tokens in 0..1, `[B, M, C, P]`."""
        patches = patchify(clip, self.encoder.patch)[self.hidden(mask)].unflatten(0, (len(clip), -1))
        return patches.float() / 255 if clip.dtype == torch.uint8 else patches

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the middle frame of each clip: input, masked, and with the masked part as predicted."""
        clip, mask = batch["clip"], batch["mask"]
        time = self.encoder.grid[0] // 2
        frames, rebuilt = (
            video[:, :, time * TUBELET].permute(0, 2, 3, 1).cpu().numpy() for video in (clip, self.rebuild(clip, mask))
        )  # [B, H, W, 3]
        masked = [hide_cells(frame, one) for frame, one in zip(frames, mask[:, time].cpu().numpy(), strict=True)]
        panels = {"input": frames, "masked": masked, "predicted": rebuilt}
        return {name: np.stack([enlarge(image) for image in images]) for name, images in panels.items()}

    def rebuild(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Return the uint8 clip with masked tokens as predicted, at their own true mean and deviation."""
        prediction = self.predict(to_input(clip, self.encoder.input_spec), mask).float()
        mean, std = _statistics(self._hidden_patches(clip, mask))
        pixels = prediction.unflatten(2, (-1, COLOURS)).transpose(2, 3) * std + mean  # [B, M, C, P]
        patches = patchify(clip, self.encoder.patch)
        patches[self.hidden(mask)] = (pixels * 255).round().clamp(0, 255).to(torch.uint8).flatten(0, 1)
        return unpatchify(patches, self.encoder.grid, self.encoder.patch)


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each colour of each patch of `[..., P]`; one number for P."""
    return patches.mean(dim=-1, keepdim=True), patches.std(dim=-1, keepdim=True) + TARGET_EPS
