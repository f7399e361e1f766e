"""A visual tokenizer: every cell of 8 x 8 pixels of a frame becomes one of K words.

BEVT (arXiv 2112.01529) predicts such words. Its own tokenizer is DALL-E's (`pretrain/targets/dvae.py` runs a file of
it); this one is trained here, on the same clips. A convolutional encoder of single frames, a codebook of unit vectors,
and what the codes must be able to tell: the pixels of their cell (VQ-VAE, arXiv 1711.00937), or the features in which a
frozen encoder sees it (VQ-KD, BEiT v2, arXiv 2208.06366 section 3.1). The codebook is BEiT v2's in both.

Beside `encoder.safetensors` a run leaves `tokenizer.safetensors`, which `load_tokenizer` reads.

Shapes: B clips, T frames, F = B * T frames, H W pixels, h w = H / 8, W / 8, d width of a code, D of the teacher.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from islr.config import Config as BaseConfig
from islr.data.loading.store import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.transforms import AugmentConfig, PoseAugmentConfig, View, train_view
from islr.errors import UserError
from islr.files import write_atomic
from islr.models import create_model
from islr.models.convnets.frame_conv import STRIDE, FrameConv, ResidualConv
from islr.models.encoder import Encoder, to_input
from islr.models.weights import load_encoder, read_metadata, read_tensors, serialise
from islr.training.distributed.collectives import share
from pretrain.pictures import enlarge, token_colours
from pretrain.targets.codebook import Codebook, Quantised
from pretrain.targets.dvae import DalleTokenizer

MODALITY = "video"
TOKENIZER = "tokenizer.safetensors"  # in the run folder
KIND = "tokenizer"  # the metadata key that says which class reads a file


class TeacherConfig(BaseConfig):
    """The encoder whose features the codes must tell, instead of pixels."""

    weights: str = Field(description="an exported video encoder; its frames and size are set to the tokenizer's")
    layer: int = Field(-1, description="block whose tokens are the target; -1 is the last")
    grid: tuple[int, int, int] = Field(description="of these tokens: time, height, width")


class Config(BaseConfig):
    """Options of the tokenizer; the codebook's defaults are BEiT v2's, but for its size."""

    name: Literal["tokenizer"] = "tokenizer"
    vocabulary: int = Field(8192, ge=2, description="words")
    code_dim: int = Field(32, ge=1)
    decay: float = Field(0.99, gt=0, lt=1, description="of the codes' moving averages")
    commitment: float = Field(1.0, ge=0, description="weight of the loss that pulls features to their codes")
    kmeans: bool = Field(True, description="start the codes from the first batch")
    restart_below: float = Field(
        0.0, ge=0, lt=1, description="restart codes chosen less often than this share of an even one; 0 = never"
    )
    decoder_width: int = Field(128, ge=8, multiple_of=8)
    decoder_depth: int = Field(2, ge=1, description="residual blocks at the size of the tokens")
    teacher: TeacherConfig | None = None
    video: AugmentConfig = AugmentConfig()


def views(config: Config, input_spec: InputSpec) -> View:
    """One augmented clip."""
    return train_view(input_spec, config.video, PoseAugmentConfig())


class FrameTokenizer(nn.Module):
    """Frames -> words.

    Args:
        encoder: Gives the features that are quantised.
        codebook: Quantises them.

    Attributes:
        vocabulary: How many words there are.
        stride: Pixels a word's side covers.
    """

    stride = STRIDE

    def __init__(self, encoder: FrameConv, codebook: Codebook) -> None:
        super().__init__()
        self.encoder, self.codebook = encoder, codebook
        self.vocabulary, code_dim = codebook.codes.shape
        # What all cells have in common would make their unit vectors alike and the choice among codes a matter of
        # rounding; batch normalisation takes it away from the first step on (arXiv 2005.08520 section 3).
        self.project = nn.Sequential(nn.Conv2d(encoder.dim, code_dim, 1), nn.BatchNorm2d(code_dim, affine=False))

    def quantise(self, frames: Tensor) -> Quantised:
        """Codes of uint8 frames `[F, 3, H, W]`."""
        return self.codebook(self.project(self.encoder.forward_maps(self.normalised(frames))[-1]))

    def normalised(self, frames: Tensor) -> Tensor:
        """Frames as the encoder takes them, `[F, 3, H, W]` in -1..1."""
        return to_input(frames[:, :, None], self.encoder.input_spec)[:, :, 0]

    @torch.no_grad()
    def tokens(self, frames: Tensor) -> Tensor:
        """Words int64 `[B, H / 8, W / 8]` of uint8 frames `[B, 3, H, W]`, whose size is any multiple of 8.

        Raises:
            UserError: The frames have no whole cells.
        """
        check_frames(frames, self.stride)
        return self.quantise(frames).indices


class PixelTokenizer(FrameTokenizer):
    """A tokenizer that can also draw what its words say.

    Args:
        encoder: As in `FrameTokenizer`.
        codebook: As in `FrameTokenizer`.
        width: Channels of the decoder at the size of the tokens.
        depth: Its residual blocks there.
    """

    def __init__(self, encoder: FrameConv, codebook: Codebook, width: int, depth: int) -> None:
        super().__init__(encoder, codebook)
        halves = [max(width >> step, 8) // 8 * 8 for step in range(1, int(math.log2(STRIDE)) + 1)]
        layers: list[nn.Module] = decoder_trunk(codebook.codes.shape[1], width, depth)
        for half in halves:
            layers += [nn.ConvTranspose2d(width, half, 4, stride=2, padding=1), ResidualConv(half)]
            width = half
        self.decoder = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """uint8 frames `[B, 3, H, W]` of words `[B, H / 8, W / 8]`."""
        return to_pixels(self.decoder(self.codebook.codes[tokens].permute(0, 3, 1, 2)))


class Recipe(nn.Module):
    """The tokenizer and what its codes are judged by.

    Args:
        encoder: A convolutional encoder of frames.
        config: Options.

    Raises:
        UserError: Another encoder; or the teacher is none for clips of these frames, or has tokens of another grid.
    """

    def __init__(self, encoder: Encoder, config: Config) -> None:
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
    def encoder(self) -> FrameConv:
        """What is exported, beside the tokenizer."""
        return self.tokenizer.encoder

    def train(self, mode: bool = True) -> "Recipe":
        """As `nn.Module.train`, but the teacher stays as it is."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its terms, and how many words the batch uses: as if evenly (perplexity), and the share of all.

        `mean_prediction` is the reconstruction error of telling the batch's mean colour, or the teacher's mean token.
        """
        clip = batch["clip"]
        frames = clip.transpose(1, 2).flatten(0, 1)  # [F, 3, H, W]
        found = self.tokenizer.quantise(frames)
        wanted = self.targets(clip)
        told = self.reconstruction(found.codes, wanted)
        return {
            "loss": (told + found.loss) * share(len(clip)),
            "reconstruction": told,
            "mean_prediction": self.mean_prediction(wanted),
            "commitment": found.loss,
            "perplexity": found.perplexity,
            "words_used": found.used,
        }

    @torch.no_grad()
    def targets(self, clip: Tensor) -> Tensor:
        """Normalised pixels `[F, 3, H, W]`, or the teacher's tokens `[B, N, D]` on its own grid (VQ-KD)."""
        if self.teacher is None:
            assert isinstance(self.tokenizer, PixelTokenizer)
            return self.tokenizer.normalised(clip.transpose(1, 2).flatten(0, 1))
        assert self.config.teacher is not None
        layers = self.teacher.forward_layers(to_input(clip, self.teacher.input_spec))
        return layers[self.config.teacher.layer].float()

    def reconstruction(self, codes: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared error of pixels, or 1 - cosine between what the codes tell and the teacher's tokens."""
        if self.teacher is None:
            assert isinstance(self.tokenizer, PixelTokenizer)
            return F.mse_loss(self.tokenizer.decoder(codes).float(), wanted)
        assert self.config.teacher is not None
        told = self.head(codes).unflatten(0, (len(wanted), -1)).transpose(1, 2)  # [B, D, T, h, w]
        told = F.adaptive_avg_pool3d(told.float(), self.config.teacher.grid).flatten(2).transpose(1, 2)  # [B, N, D]
        return 1 - F.cosine_similarity(told, wanted, dim=2).mean()

    @torch.no_grad()
    def mean_prediction(self, wanted: Tensor) -> Tensor:
        """What `reconstruction` would be if the same were told of everything: the mean colour, or token."""
        if self.teacher is None:
            return wanted.var(dim=(0, 2, 3), correction=0).mean()
        return 1 - F.cosine_similarity(wanted.mean(dim=(0, 1)), wanted, dim=2).mean()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        """The middle frame of each clip, its words in the colours they stand for, and what they say of its pixels."""
        frames = batch["clip"][:, :, batch["clip"].shape[2] // 2]
        words = self.tokenizer.tokens(frames)
        images = np.stack(_images(frames))
        colours = token_colours(images, words.cpu().numpy(), self.tokenizer.vocabulary)
        panels = {"input": list(images), "words": list(colours[words.cpu().numpy()])}
        if isinstance(self.tokenizer, PixelTokenizer):
            panels["pixels of the words"] = _images(self.tokenizer.decode(words))
        return {name: np.stack([enlarge(image) for image in images]) for name, images in panels.items()}


def export(recipe: Recipe, folder: Path, facts: Mapping[str, str]) -> None:
    """Write the tokenizer beside the encoder, with the same facts."""
    tokenizer, config = recipe.tokenizer, recipe.config
    encoder = tokenizer.encoder
    built = {
        "encoder": encoder.architecture,
        "encoder_arguments": dict(encoder.arguments),
        "vocabulary": config.vocabulary,
        "code_dim": config.code_dim,
        "decoder": [config.decoder_width, config.decoder_depth] if isinstance(tokenizer, PixelTokenizer) else None,
    }
    metadata = dict(facts) | {"format": "pt", KIND: "codebook", "arguments": json.dumps(built, sort_keys=True)}
    state = {name: value.detach().cpu().contiguous() for name, value in tokenizer.state_dict().items()}
    write_atomic(folder / TOKENIZER, serialise(state, metadata))


def load_tokenizer(path: str | Path) -> nn.Module:
    """A trained tokenizer, in eval mode and frozen.

    It has `vocabulary`, `stride` (pixels a word's side covers) and `tokens(uint8 [B, 3, H, W])` -> int64
    `[B, H / stride, W / stride]`; some also `decode(tokens)` -> uint8 frames.

    Args:
        path: `tokenizer.safetensors` of a run, or what `python -m pretrain.targets.dvae` wrote.

    Raises:
        UserError: The file holds no tokenizer, or not all of one.
    """
    facts = read_metadata(path)
    tokenizer: nn.Module
    if facts.get(KIND) == "codebook":
        built = json.loads(facts["arguments"])
        encoder = create_model(built["encoder"], **built["encoder_arguments"])
        assert isinstance(encoder, FrameConv)
        codebook = Codebook(built["vocabulary"], built["code_dim"])
        decoder = built["decoder"]
        tokenizer = PixelTokenizer(encoder, codebook, *decoder) if decoder else FrameTokenizer(encoder, codebook)
    elif facts.get(KIND) == "dalle":
        tokenizer = DalleTokenizer(**json.loads(facts["arguments"]))
    else:
        raise UserError(f"{path}: holds no tokenizer; a tokenizer run writes {TOKENIZER}")
    try:
        tokenizer.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise UserError(f"{path}: its tensors are not those of the tokenizer it describes ({error})") from error
    return tokenizer.requires_grad_(False).eval()


def open_teacher(config: TeacherConfig, spec: InputSpec) -> Encoder:
    """The frozen teacher for clips of a tokenizer's frames and size.

    Raises:
        UserError: It takes no video, or the layer or the grid is not its.
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


def decoder_trunk(code_dim: int, width: int, depth: int) -> list[nn.Module]:
    """From codes to features of the same size."""
    return [nn.Conv2d(code_dim, width, 3, padding=1), *(ResidualConv(width) for _ in range(depth))]


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 of pixels in -1..1."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_frames(frames: Tensor, stride: int) -> None:
    """Refuse frames that are not made of whole cells.

    Raises:
        UserError: Names the size.
    """
    assert frames.dtype == torch.uint8
    height, width = frames.shape[-2:]
    if height % stride or width % stride:
        raise UserError(f"frames of {height} x {width} pixels are not made of whole cells of {stride} pixels")


def _images(frames: Tensor) -> list[np.ndarray]:
    return list(frames.permute(0, 2, 3, 1).cpu().numpy())
