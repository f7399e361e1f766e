"""BEVT: predict the visual tokens of masked parts of a video (Wang et al., arXiv 2112.01529).

A frozen tokenizer assigns one of V visual tokens to every 16-pixel cell of every frame. Replace a tube of blocks of a
clip by a learned mask token, encode the clip with a Video Swin, and predict from its last two stages the visual token
of every masked cell of every frame. A second stream does the same with single images, through the same blocks and head.
The numbers are those of `swin_base_patch244_window877_bevt_in1k_k400` (xyzforever/BEVT). Deviations, each a key
here unless it is marked at its line: clips are sampled over the whole sign, flips are off (they swap the signer's
handedness), and the images are frames of the same clips, with a crop and colours of their own, not ImageNet's.

Shapes: B clips, T H W frames and pixels, t moments of two frames, h w cells, M masked cells of the batch, K images of
a clip, D width, V visual tokens.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from islr.config import refuse_idle
from islr.data.loading.loader import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.source import ClipSource
from islr.data.views.views import AugmentConfig, View, train_view
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models import create_model
from islr.models.convnets.frame_conv import FrameConv
from islr.models.encoder import INIT_STD, to_input
from islr.models.swin import PATCH, SwinEncoder
from islr.models.tokens import hide_tokens
from islr.training.distributed.collectives import share
from pretrain.masks.draw import block_mask, block_tube_mask
from pretrain.pictures import VISIBLE_DIM, enlarge, hide_cells, token_colours
from pretrain.recipe import Recipe, VideoRecipeConfig
from pretrain.targets.codebook import Codebook
from pretrain.targets.frame_tokenizer import PixelTokenizer
from pretrain.targets.tokenizer_files import load_tokenizer, save_tokenizer

FRAMES_PER_TOKEN = PATCH[0]
CELL = 16  # side in pixels of the cell of a visual token: a token of the last stage but one


class BEVTConfig(VideoRecipeConfig):
    """Options of BEVT; the defaults are the published ones, but for the images."""

    name: Literal["bevt"] = "bevt"
    tokenizer: str = Field("", description="file of the frozen tokenizer whose visual tokens are the targets")
    mask_ratio: float = Field(0.5, gt=0, lt=1, description="share of the cells that the blocks mask")
    smallest_block: float = Field(16 / 196, gt=0, lt=1, description="share of the cells in the smallest block")
    largest_block: float = Field(1.0, gt=0, le=1, description="share of the cells in the largest; 1 = no limit")
    tube: tuple[float, float] = Field((0.5, 1.0), description="shortest and longest tube over the clip's length")
    images: int = Field(1, ge=0, description="images of each clip for the image stream; 0 = the video stream alone")
    image_weight: float = Field(1.0, gt=0, description="weight of the image stream's loss")
    image: AugmentConfig = AugmentConfig(colour=0.4)

    @model_validator(mode="after")
    def _ordered(self) -> "BEVTConfig":
        refuse_idle(self, "image_weight", self.images > 0, "images")
        refuse_idle(self, "image", self.images > 0, "images")
        if not 0 < self.tube[0] <= self.tube[1] <= 1:
            raise ValueError("tube must be two shares of the clip's length, the smaller first")
        if self.smallest_block > self.largest_block:
            raise ValueError(f"smallest_block {self.smallest_block:g} is above largest_block {self.largest_block:g}")
        return self


def open_tokenizer(path: str) -> Any:
    """Return the tokenizer in a file.

    Raises:
        UserError: No file is named, or it holds no tokenizer.
    """
    if not path:
        raise UserError("recipe.tokenizer is empty: name the file of a trained tokenizer")
    return load_tokenizer(path)


class BEVT(Recipe):
    """A Swin with a mask token, a decoder for each stream, and a common head.

    The decoders end in the encoder's own final norm, so that the exported encoder has a trained one. The tokenizer is
    part of the checkpoints, so that a resumed run keeps its targets.

    Args:
        encoder: A Swin of four stages.
        config: Options.
        tokenizer: Module with `vocabulary`, `stride` (pixels of a visual token) and `tokens(frames)`, uint8
            `[N, 3, H, W]` to int64 `[N, H / stride, W / stride]`; that of `config.tokenizer` when None. Never trained.

    Raises:
        UserError: Another encoder, or no tokenizer.
    """

    Config = BEVTConfig
    modality = "video"
    encoder: SwinEncoder
    trivial_predictors: ClassVar = {
        "unigram_entropy": Trivial("the frequencies of the visual tokens", ("video_loss", "loss"))
    }

    @staticmethod
    def views(config: BEVTConfig, input_spec: InputSpec) -> View:
        """Return the view of a clip and its mask, bool `[t, h, w]`; K images `[K, 3, H, W]` and theirs, `[K, h, w]`.

        Raises:
            UserError: The encoder's size does not give whole cells in its last two stages.
        """
        if input_spec.size % (2 * CELL):
            raise UserError(f"bevt needs an encoder of a size that is a multiple of {2 * CELL}, not {input_spec.size}")
        side = input_spec.size // CELL
        count = round(side**2 * config.mask_ratio)
        clip_view = train_view(input_spec, config.video, PoseAugmentConfig())
        image_view = train_view(replace(input_spec, frames=1), config.image, PoseAugmentConfig())

        def plane(rng: np.random.Generator) -> np.ndarray:
            shares = config.smallest_block, config.largest_block
            smallest, largest = (side**2 * share for share in shares)
            return block_mask((side, side), count, smallest, rng, largest)

        def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
            sample = clip_view(source, rng)
            sample["mask"] = block_tube_mask(plane(rng), input_spec.frames // FRAMES_PER_TOKEN, config.tube, rng)
            if config.images:
                sample["images"] = torch.stack([image_view(source, rng)["clip"][:, 0] for _ in range(config.images)])
                sample["image_masks"] = np.stack([plane(rng) for _ in range(config.images)])
            return sample

        return view

    @staticmethod
    def teachers(config: BEVTConfig) -> tuple[str, ...]:
        """Return the file of the tokenizer."""
        return (config.tokenizer,)

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny Swin on four frames of 64 pixels, whose targets an untrained tokenizer gives."""
        path = folder / "smallest_tokenizer.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            encoder = create_model("frame_conv_tiny", frames=2, size=32)
            assert isinstance(encoder, FrameConv)
            save_tokenizer(PixelTokenizer(encoder, Codebook(16, 8), width=8, depth=1), path, {})
        return {
            "recipe": {"name": "bevt", "tokenizer": str(path)},
            "encoder": {"name": "swin_tiny", "arguments": {"frames": 4, "size": 64}},
        }

    def __init__(self, encoder: SwinEncoder, config: BEVTConfig, tokenizer: Any = None) -> None:
        super().__init__()
        if not isinstance(encoder, SwinEncoder):
            raise UserError(f"bevt trains swin encoders, not {type(encoder).__name__}")
        if PATCH[1] * 2 ** (len(encoder.depths) - 2) != CELL:
            raise UserError(f"bevt needs a Swin of four stages, not {len(encoder.depths)}")
        self.encoder, self.config = encoder, config
        self.tokenizer = open_tokenizer(config.tokenizer) if tokenizer is None else tokenizer
        self.tokenizer.requires_grad_(False).eval()
        first, middle, last = encoder.layer_dims[0], encoder.layer_dims[encoder.stage_ends[-2]], encoder.dim
        self.mask_token = nn.Parameter(torch.empty(first))
        self.enlarge = nn.ConvTranspose3d(last, last, (1, 2, 2), (1, 2, 2))
        self.fuse = nn.Linear(middle + last, last)
        self.to_frames = nn.ConvTranspose3d(last, last, (FRAMES_PER_TOKEN, 1, 1), (FRAMES_PER_TOKEN, 1, 1))
        self.head = nn.Linear(last, self.tokenizer.vocabulary)
        linears = [self.fuse, self.head]
        if config.images:
            self.image_embed = nn.Conv2d(3, first, PATCH[1:], PATCH[1:])
            self.image_norm = nn.LayerNorm(first)
            self.image_enlarge = nn.ConvTranspose2d(last, last, 2, 2)
            self.image_fuse = nn.Linear(middle + last, last)
            linears.append(self.image_fuse)
        nn.init.trunc_normal_(self.mask_token, std=INIT_STD)
        for linear in linears:
            nn.init.trunc_normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)

    def train(self, mode: bool = True) -> "BEVT":
        """Set the mode as `nn.Module.train` does, but leave the tokenizer in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, its two terms, and the values that put them in proportion.

        `unigram_entropy` is the cross-entropy of predicting the batch's frequencies of visual tokens for every cell,
        and `target_perplexity` the number of visual tokens in use: near 1, there is nothing to learn.
        """
        spec, clip, mask = self.encoder.input_spec, batch["clip"], batch["mask"]
        tokens = self.targets(clip)
        masked = mask.repeat_interleave(FRAMES_PER_TOKEN, dim=1)  # [B, T, h, w]
        logits, target = self.head(self.features(to_input(clip, spec), mask)[masked]), tokens[masked]  # [M, V], [M]
        out = {"loss": self.loss(logits, target)}
        if self.config.images:
            images, masks = batch["images"].flatten(0, 1), batch["image_masks"].flatten(0, 1)
            pixels = to_input(images[:, :, None], spec)[:, :, 0]
            image_logits = self.head(self.image_features(pixels, masks)[masks])
            image_target = self.targets(images[:, :, None])[:, 0][masks]
            out["video_loss"], out["image_loss"] = out["loss"], self.loss(image_logits, image_target)
            out["loss"] = out["video_loss"] + self.config.image_weight * out["image_loss"]
            out["image_accuracy"] = (image_logits.argmax(dim=1) == image_target).float().mean()
        out["accuracy"] = (logits.argmax(dim=1) == target).float().mean()
        out["unigram_entropy"] = self.entropy(target)
        out["target_perplexity"] = self.entropy(tokens).exp()
        return out

    @torch.no_grad()
    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of predicting the frequencies of the batch's hidden visual tokens."""
        masked = batch["mask"].repeat_interleave(FRAMES_PER_TOKEN, dim=1)
        return {"unigram_entropy": self.entropy(self.targets(batch["clip"])[masked])}

    def features(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Return the head's input for every cell of every frame, `[B, T, h, w, D]`.

        Args:
            clip: Normalised `[B, 3, T, H, W]`.
            mask: bool `[B, t, h, w]`, true = masked.
        """
        outputs = self.encoder.forward_tokens(clip, mask, self.mask_token)
        # [B, t, h, w, D'] and [B, t, h / 2, w / 2, D]
        middle, last = (outputs[end] for end in self.encoder.stage_ends[-2:])
        last = self.enlarge(last.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)  # [B, t, h, w, D]
        fused = self.fuse(torch.cat([middle, last], dim=-1))
        return self.encoder.norm(self.to_frames(fused.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1))

    def image_features(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return `features` of normalised images `[B, 3, H, W]` and masks `[B, h, w]`: `[B, h, w, D]`."""
        tokens = self.image_norm(self.image_embed(image).permute(0, 2, 3, 1))[:, None]  # [B, 1, H / 4, W / 4, D_0]
        tokens = hide_tokens(tokens, mask[:, None], self.mask_token)
        # Deviation: the original's image stream gives the shifted windows' attention mask to blocks that do not shift
        # too, and shifts where one window covers the map. An image is a clip of one moment here.
        outputs = self.encoder.run_blocks(tokens)
        middle, last = (outputs[end][:, 0] for end in self.encoder.stage_ends[-2:])
        last = self.image_enlarge(last.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [B, h, w, D]
        return self.encoder.norm(self.image_fuse(torch.cat([middle, last], dim=-1)))

    @torch.no_grad()
    def targets(self, clip: Tensor) -> Tensor:
        """Return the visual tokens of a uint8 clip `[B, 3, T, H, W]`: int64 `[B, T, h, w]`.

        Frames are resized so that a cell is one visual token: to half their size for tokens of 8 pixels. Deviation:
        bicubic with antialiasing, the original uses Lanczos.
        """
        batch, _, time, height, width = clip.shape
        frames = clip.transpose(1, 2).flatten(0, 1)  # [B * T, 3, H, W]
        size = (height // CELL * self.tokenizer.stride, width // CELL * self.tokenizer.stride)
        if size != (height, width):
            resized = F.interpolate(frames.float(), size=size, mode="bicubic", antialias=True)
            frames = resized.round().clamp(0, 255).to(torch.uint8)
        with torch.autocast(clip.device.type, enabled=False):  # rounding must not change the targets
            tokens = self.tokenizer.tokens(frames)
        return tokens.unflatten(0, (batch, time))

    @staticmethod
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy, mean over masked cells, of logits `[M, V]` and visual tokens `[M]`."""
        return F.cross_entropy(logits.float(), target) * share(len(target))

    def entropy(self, tokens: Tensor) -> Tensor:
        """Return the entropy in nats of the frequencies of visual tokens."""
        share = torch.bincount(tokens.flatten(), minlength=self.tokenizer.vocabulary) / tokens.numel()
        return -torch.special.xlogy(share, share).sum()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the most masked moment of each clip: input, masked input, target and predicted visual tokens.

        A visual token has the mean colour of its cells in these clips; visible cells are dim in the last panel.
        """
        clip, mask = batch["clip"], batch["mask"]
        tokens = self.targets(clip)
        features = self.features(to_input(clip, self.encoder.input_spec), mask)
        frames = clip.permute(0, 2, 3, 4, 1).cpu().numpy()  # [B, T, H, W, 3]
        colours = token_colours(frames, tokens.cpu().numpy(), self.tokenizer.vocabulary)
        panels: dict[str, list[np.ndarray]] = {"input": [], "masked": [], "target tokens": [], "predicted tokens": []}
        for index in range(len(clip)):
            moment = int(mask[index].sum(dim=(1, 2)).argmax())
            time, hidden = moment * FRAMES_PER_TOKEN, mask[index, moment].cpu().numpy()
            guess = self.head(features[index, time]).argmax(dim=-1)  # [h, w]
            target, predicted = (colours[ids.cpu().numpy()] for ids in (tokens[index, time], guess))
            shown = np.where(hidden[..., None], predicted, (target * VISIBLE_DIM).astype(np.uint8))
            panels["input"].append(enlarge(frames[index, time]))
            panels["masked"].append(enlarge(hide_cells(frames[index, time], hidden)))
            panels["target tokens"].append(enlarge(target))
            panels["predicted tokens"].append(enlarge(shown))
        return {name: np.stack(images) for name, images in panels.items()}
