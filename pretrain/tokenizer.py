"""A visual tokenizer: every cell of 8 x 8 pixels of a frame becomes one of K visual tokens.

BEVT (arXiv 2112.01529) predicts visual tokens. Its own tokenizer is DALL-E's, which `pretrain/targets/dvae.py` reads
from its file; this recipe trains one on the same clips. A codebook quantises the features of a convolutional encoder,
and a decoder rebuilds from the codes the pixels of their cell (VQ-VAE, arXiv 1711.00937), or the features of a frozen
encoder (VQ-KD, BEiT v2, arXiv 2208.06366 section 3.1). The codebook is BEiT v2's in both cases.

Beside `encoder.safetensors` a run leaves `tokenizer.safetensors`, which `load_tokenizer` reads.

Shapes: B clips, T frames, F = B * T frames, H W pixels, h w = H / 8, W / 8, d width of a code, D of the teacher.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from islr.config import Config as BaseConfig
from islr.data.loading.loader import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import View, train_view
from islr.errors import UserError
from islr.evaluation.pretext import Trivial
from islr.models.convnets.frame_conv import FrameConv
from islr.models.encoder import Encoder, to_input
from islr.models.weights import load_encoder, read_metadata
from islr.training.distributed.collectives import share
from pretrain.pictures import enlarge, token_colours
from pretrain.recipe import Recipe, VideoRecipeConfig
from pretrain.targets.codebook import Codebook
from pretrain.targets.frame_tokenizer import FrameTokenizer, PixelTokenizer, decoder_trunk
from pretrain.targets.tokenizer_files import TOKENIZER, save_tokenizer


class TeacherConfig(BaseConfig):
    """The encoder whose features are the targets, instead of pixels."""

    weights: str = Field(description="an exported video encoder; its frames and size are set to the tokenizer's")
    layer: int = Field(-1, description="block whose tokens are the target; -1 is the last")
    grid: tuple[int, int, int] = Field(description="grid of the teacher's tokens: time, height, width")


class TokenizerConfig(VideoRecipeConfig):
    """Options of the tokenizer; the codebook's defaults are BEiT v2's, but for its size."""

    name: Literal["tokenizer"] = "tokenizer"
    vocabulary: int = Field(8192, ge=2, description="number of visual tokens")
    code_dim: int = Field(32, ge=1)
    decay: float = Field(0.99, gt=0, lt=1, description="decay of the codes' moving averages")
    commitment: float = Field(1.0, ge=0, description="weight of the loss that pulls features to their codes")
    kmeans: bool = Field(True, description="initialise the codes by k-means on the first batch")
    restart_below: float = Field(
        0.0, ge=0, lt=1, description="restart codes chosen less often than this share of an even one; 0 = never"
    )
    decoder_width: int = Field(128, ge=8, multiple_of=8)
    decoder_depth: int = Field(2, ge=1, description="residual blocks at the size of the visual tokens")
    teacher: TeacherConfig | None = None


class Tokenizer(Recipe):
    """A frame tokenizer under training, with the decoder or the teacher that supervises its codes.

    Args:
        encoder: A convolutional encoder of frames.
        config: Options.

    Raises:
        UserError: The encoder is of another family; or the teacher takes no clips of these frames, or has tokens of
            another grid.
    """

    Config = TokenizerConfig
    modality = "video"
    trivial_predictors: ClassVar = {"mean_prediction": Trivial("the mean", ("reconstruction",))}

    @staticmethod
    def views(config: TokenizerConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented clip."""
        return train_view(input_spec, config.video, PoseAugmentConfig())

    @staticmethod
    def teachers(config: TokenizerConfig) -> tuple[str, ...]:
        """Return the file of the teacher, where the codes have one."""
        return () if config.teacher is None else (config.teacher.weights,)

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return sixteen visual tokens on two frames of 32 pixels."""
        return {
            "recipe": {"name": "tokenizer", "vocabulary": 16, "decoder_width": 8, "decoder_depth": 1},
            "encoder": {"name": "frame_conv_tiny", "arguments": {"frames": 2, "size": 32}},
        }

    def __init__(self, encoder: Encoder, config: TokenizerConfig) -> None:
        super().__init__()
        if not isinstance(encoder, FrameConv):
            raise UserError(f"tokenizer trains frame_conv encoders, not {type(encoder).__name__}")
        self.config = config
        codebook = Codebook(
            config.vocabulary,
            config.code_dim,
            decay=config.decay,
            commitment=config.commitment,
            kmeans=config.kmeans,
            restart_below=config.restart_below,
        )
        width, depth = config.decoder_width, config.decoder_depth
        self.tokenizer: FrameTokenizer
        self.teacher: Encoder | None = None
        if config.teacher is None:
            self.tokenizer = PixelTokenizer(encoder, codebook, width, depth)
        else:
            self.tokenizer = FrameTokenizer(encoder, codebook)
            # Part of the checkpoints, so that a resumed run keeps the teacher it began with.
            self.teacher = open_teacher(config.teacher, encoder.input_spec)
            trunk = decoder_trunk(config.code_dim, width, depth)
            self.head = nn.Sequential(*trunk, nn.Conv2d(width, self.teacher.layer_dims[config.teacher.layer], 1))

    @property
    def encoder(self) -> FrameConv:  # type: ignore[override]
        """The encoder inside the tokenizer."""
        return self.tokenizer.encoder

    def train(self, mode: bool = True) -> "Tokenizer":
        """Set the mode as `nn.Module.train` does, but leave the teacher in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, its terms, the mean's score, and the perplexity and the share of visual tokens in use."""
        clip = batch["clip"]
        frames = clip.transpose(1, 2).flatten(0, 1)  # [F, 3, H, W]
        quantised = self.tokenizer.quantise(frames)
        target = self.targets(clip)
        reconstruction = self.reconstruction(quantised.codes, target)
        return {
            "loss": (reconstruction + quantised.loss) * share(len(clip)),
            "reconstruction": reconstruction,
            "mean_prediction": self.mean_prediction(target),
            "commitment": quantised.loss,
            "perplexity": quantised.perplexity,
            "words_used": quantised.used,
        }

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the reconstruction error of the batch's mean colour, or of the teacher's mean token."""
        return {"mean_prediction": self.mean_prediction(self.targets(batch["clip"]))}

    @torch.no_grad()
    def targets(self, clip: Tensor) -> Tensor:
        """Return normalised pixels `[F, 3, H, W]`, or the teacher's tokens `[B, N, D]` on its own grid (VQ-KD)."""
        if self.teacher is None:
            assert isinstance(self.tokenizer, PixelTokenizer)
            return self.tokenizer.normalised(clip.transpose(1, 2).flatten(0, 1))
        assert self.config.teacher is not None
        layers = self.teacher.forward_layers(to_input(clip, self.teacher.input_spec))
        return layers[self.config.teacher.layer].float()

    def reconstruction(self, codes: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error of pixels, or 1 - cosine of decoded codes and the teacher's tokens."""
        if self.teacher is None:
            assert isinstance(self.tokenizer, PixelTokenizer)
            return F.mse_loss(self.tokenizer.decoder(codes).float(), target)
        assert self.config.teacher is not None
        maps = self.head(codes).unflatten(0, (len(target), -1)).transpose(1, 2)  # [B, D, T, h, w]
        tokens = F.adaptive_avg_pool3d(maps.float(), self.config.teacher.grid).flatten(2).transpose(1, 2)  # [B, N, D]
        return 1 - F.cosine_similarity(tokens, target, dim=2).mean()

    @torch.no_grad()
    def mean_prediction(self, target: Tensor) -> Tensor:
        """Return `reconstruction` of the mean colour, or of the mean token, everywhere."""
        if self.teacher is None:
            return target.var(dim=(0, 2, 3), correction=0).mean()
        return 1 - F.cosine_similarity(target.mean(dim=(0, 1)), target, dim=2).mean()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return each clip's middle frame, its visual tokens in the colours they stand for, and the decoded pixels."""
        frames = batch["clip"][:, :, batch["clip"].shape[2] // 2]
        tokens = self.tokenizer.tokens(frames)
        images = np.stack(_images(frames))
        colours = token_colours(images, tokens.cpu().numpy(), self.tokenizer.vocabulary)
        panels = {"input": list(images), "visual tokens": list(colours[tokens.cpu().numpy()])}
        if isinstance(self.tokenizer, PixelTokenizer):
            panels["decoded pixels"] = _images(self.tokenizer.decode(tokens))
        return {name: np.stack([enlarge(image) for image in images]) for name, images in panels.items()}

    def export(self, folder: Path, facts: Mapping[str, str]) -> None:
        """Write the tokenizer beside the encoder, with the same facts."""
        save_tokenizer(self.tokenizer, folder / TOKENIZER, facts)
        super().export(folder, facts)


def open_teacher(config: TeacherConfig, spec: InputSpec) -> Encoder:
    """Return the frozen teacher for clips of a tokenizer's frames and size.

    Raises:
        UserError: The teacher takes no video, or has no such layer or grid.
    """
    metadata = read_metadata(config.weights)
    if "pose" in metadata.get("input_spec", ""):
        raise UserError(f"recipe.teacher: {config.weights} takes poses; a tokenizer's teacher takes video")
    teacher = load_encoder(config.weights, frames=spec.frames, size=spec.size).requires_grad_(False).eval()
    blocks = len(teacher.layer_dims)
    if not -blocks <= config.layer < blocks:
        raise UserError(f"recipe.teacher.layer names block {config.layer}, the teacher has blocks 0 to {blocks - 1}")
    with torch.no_grad():
        count = teacher.forward_layers(torch.zeros(1, *teacher.input_spec.clip_shape))[config.layer].shape[1]
    if math.prod(config.grid) != count:
        raise UserError(f"recipe.teacher.grid={list(config.grid)} is not the grid of the teacher's {count} tokens")
    return teacher


def _images(frames: Tensor) -> list[np.ndarray]:
    return list(frames.permute(0, 2, 3, 1).cpu().numpy())
