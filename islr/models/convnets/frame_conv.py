"""A plain convolutional encoder of single frames: the half of a discrete autoencoder that makes its tokens.

Ours: the residual blocks of pre-activation ResNets (arXiv 1603.05027) with GroupNorm, three halvings, so that a token
is a cell of 8 pixels of one frame. No token knows of another frame.

Shapes: B clips, T frames, F frames of whatever clips, H W pixels, h w = H / 8, W / 8, D width.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import NORMALISATIONS, Encoder
from islr.models.presets import Preset
from islr.models.transformer import drop_path_rates

STRIDE = 8  # pixels a token's side covers
GROUPS = 8  # of every GroupNorm


class ResidualConv(nn.Module):
    """Norm, SiLU, convolution, twice, added to what came in; `[F, D, h, w]` -> the same.

    Args:
        dim: Channels, a multiple of `GROUPS`.
        drop_path: Chance of skipping the branch for a whole frame.
    """

    def __init__(self, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, dim), nn.GroupNorm(GROUPS, dim)
        self.conv1, self.conv2 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))
        self.act = nn.SiLU()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.conv1(self.act(self.norm1(x)))
        return x + self.drop_path(self.conv2(self.act(self.norm2(y))))


class FrameConv(Encoder):
    """A convolutional encoder of single frames; `frame_conv_tiny` and `frame_conv_base` are presets of it.

    Args:
        frames: Frames per clip; any number.
        size: Height and width in pixels, a multiple of 8.
        widths: Channels of the three stages.
        depth: Residual blocks of each stage.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.

    Raises:
        UserError: The size has no whole cells.
    """

    source = "ours: residual convolutions (arXiv 1603.05027) on single frames"

    def __init__(
        self, *, frames: int, size: int, widths: tuple[int, int, int], depth: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if frames < 1:
            raise UserError(f"frames={frames}: a clip has at least one frame")
        if size < STRIDE or size % STRIDE:
            raise UserError(f"size={size} has no whole cells: it must be a multiple of {STRIDE}")
        rates = drop_path_rates(drop_path, len(widths) * depth)
        self.stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.blocks = nn.ModuleList()
        width = widths[0]
        for stage, wide in enumerate(widths):
            for number in range(depth):
                block = nn.Sequential(ResidualConv(wide, rates[stage * depth + number]))
                if stage and not number:
                    block.insert(0, nn.Conv2d(width, wide, 4, stride=2, padding=1))
                self.blocks.append(block)
            width = wide
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS["half"], "video")
        self.layer_dims = [wide for wide in widths for _ in range(depth)]
        self.dim = width

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean of the cells of all frames, `[B, dim]`."""
        return self.forward_layers(clip)[-1].mean(dim=1)

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return cells after each block, `[B, T * h_l * w_l, D_l]`, ordered by time, row, column."""
        self.check_clip(clip)
        maps = self.forward_maps(clip.transpose(1, 2).flatten(0, 1))
        return [x.unflatten(0, (len(clip), -1)).permute(0, 1, 3, 4, 2).flatten(1, 3) for x in maps]

    def forward_maps(self, frames: Tensor) -> list[Tensor]:
        """Feature maps `[F, D_l, h_l, w_l]` after each block, of normalised frames `[F, 3, H, W]` of any size."""
        x = self.stem(frames)
        outputs = []
        for block in self.blocks:
            x = self.run_block(block, x)
            outputs.append(x)
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the stem, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith("stem."), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """No parameter depends on the input's size."""
        return None


PRESETS = {
    "frame_conv_tiny": Preset(
        FrameConv, {"frames": 4, "size": 64, "drop_path": 0.0}, {"widths": (32, 64, 128), "depth": 1}
    ),
    # A third of the size of DALL-E's encoder, with its tokens of 8 pixels, for frames of 112 pixels.
    "frame_conv_base": Preset(
        FrameConv, {"frames": 8, "size": 112, "drop_path": 0.0}, {"widths": (128, 256, 512), "depth": 2}
    ),
}
