"""A visual tokenizer of single frames: a convolutional encoder whose features a codebook quantises.

Each cell of 8 x 8 pixels becomes one of K visual tokens.

Shapes: B or F frames, H W pixels, h w = H / 8, W / 8, d width of a code.
"""

import math

import torch
from torch import Tensor, nn

from islr.errors import UserError
from islr.models.convnets.frame_conv import STRIDE, FrameConv, ResidualConv
from islr.models.encoder import to_input
from pretrain.targets.codebook import Codebook, Quantised


class FrameTokenizer(nn.Module):
    """Convolutional encoder and codebook: frames -> visual tokens.

    Args:
        encoder: Computes the features that are quantised.
        codebook: Quantises the features.

    Attributes:
        vocabulary: Number of visual tokens.
        stride: Side of the cell that a visual token describes, in pixels.
    """

    stride = STRIDE

    def __init__(self, encoder: FrameConv, codebook: Codebook) -> None:
        super().__init__()
        self.encoder, self.codebook = encoder, codebook
        self.vocabulary, code_dim = codebook.codes.shape
        # A mean common to all cells would make their unit vectors alike and leave the choice of a code to rounding;
        # batch normalisation removes it from the first step on (arXiv 2005.08520 section 3).
        self.project = nn.Sequential(nn.Conv2d(encoder.dim, code_dim, 1), nn.BatchNorm2d(code_dim, affine=False))

    def quantise(self, frames: Tensor) -> Quantised:
        """Return the codes of uint8 frames `[F, 3, H, W]`."""
        return self.codebook(self.project(self.encoder.forward_maps(self.normalised(frames))[-1]))

    def normalised(self, frames: Tensor) -> Tensor:
        """Return frames as the encoder takes them, `[F, 3, H, W]` in -1..1."""
        return to_input(frames[:, :, None], self.encoder.input_spec)[:, :, 0]

    @torch.no_grad()
    def tokens(self, frames: Tensor) -> Tensor:
        """Return visual tokens int64 `[B, H / 8, W / 8]` of uint8 frames `[B, 3, H, W]` of any multiple of 8 pixels.

        Raises:
            UserError: The frames are not made of whole cells.
        """
        check_frames(frames, self.stride)
        return self.quantise(frames).indices


class PixelTokenizer(FrameTokenizer):
    """A tokenizer with a decoder back to pixels.

    Args:
        encoder: As in `FrameTokenizer`.
        codebook: As in `FrameTokenizer`.
        width: Channels of the decoder at the size of the tokens.
        depth: Residual blocks at that size.
    """

    def __init__(self, encoder: FrameConv, codebook: Codebook, width: int, depth: int) -> None:
        super().__init__(encoder, codebook)
        self.width, self.depth = width, depth
        halves = [max(width >> step, 8) // 8 * 8 for step in range(1, int(math.log2(STRIDE)) + 1)]
        layers: list[nn.Module] = decoder_trunk(codebook.codes.shape[1], width, depth)
        for half in halves:
            layers += [nn.ConvTranspose2d(width, half, 4, stride=2, padding=1), ResidualConv(half)]
            width = half
        self.decoder = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Return the uint8 frames `[B, 3, H, W]` that visual tokens `[B, H / 8, W / 8]` stand for."""
        return to_pixels(self.decoder(self.codebook.codes[tokens].permute(0, 3, 1, 2)))


def decoder_trunk(code_dim: int, width: int, depth: int) -> list[nn.Module]:
    """Return the layers from codes to features of the same size."""
    return [nn.Conv2d(code_dim, width, 3, padding=1), *(ResidualConv(width) for _ in range(depth))]


def to_pixels(frames: Tensor) -> Tensor:
    """Return pixels in -1..1 as uint8."""
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
