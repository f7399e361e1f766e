"""Video Swin Transformers: attention within windows of a token grid that shift from block to block.

Liu et al., "Video Swin Transformer" (arXiv 2106.13230), on torchvision's `SwinTransformer3d`, whose results equal
the original's bit for bit. Ours beside it: mask tokens, the tokens after every block, and position tables and
patch kernels that load from windows of another size and from image models.

A window larger than the token grid is cut to it. Cut in time, the relative positions stay right; cut in height or
width, the original and torchvision look up other places' biases. Sizes whose last grid (pixels / 32) is at least
a window's side are free of that: 224 for windows of 7.

Shapes: B batch, T H W frames and pixels, t h w a token grid, N = t * h * w tokens, D width. Tokens keep their grid:
`[B, t, h, w, D]`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.video.swin_transformer import PatchEmbed3d, ShiftedWindowAttention3d, SwinTransformer3d

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import NORMALISATIONS, Encoder
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset
from islr.models.tokens import Grid, hide_tokens
from islr.models.transformer import init_linear

PATCH: Grid = (2, 4, 4)  # frames and pixels of one token, as published
WINDOW: Grid = (8, 7, 7)  # tokens of one window, as published
TABLE = "relative_position_bias_table"

Init = Literal["swin", "fan_in"]


class SwinEncoder(Encoder):
    """A Video Swin encoder from its numbers; `swin_tiny`, `swin_t`, `swin_s` and `swin_b` are presets of it.

    Args:
        frames: Frames per clip, a multiple of 2.
        size: Height and width in pixels, a multiple of 4.
        depths: Blocks of each stage; between stages, 2 x 2 tokens merge into one of twice the width.
        embed_dim: Width of the first stage.
        num_heads: Attention heads of each stage.
        window: Tokens of a window along time, height, width.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        init: `swin` (truncated normal of .02), or `fan_in` (of 1 / sqrt(inputs)), with which narrow encoders start
            to learn many times sooner.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).

    Raises:
        UserError: Numbers that do not fit each other.
    """

    source = "Video Swin Transformer (arXiv 2106.13230), torchvision's SwinTransformer3d"

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        depths: Sequence[int],
        embed_dim: int,
        num_heads: Sequence[int],
        window: Sequence[int] = WINDOW,
        drop_path: float = 0.0,
        init: Init = "swin",
        input: Input = "rgb",
    ) -> None:
        super().__init__()
        if init not in get_args(Init):
            raise UserError(f"init='{init}' is unknown; it is one of {', '.join(get_args(Init))}")
        for name, value, patch in (("frames", frames, PATCH[0]), ("size", size, PATCH[1])):
            if value < patch or value % patch:
                raise UserError(f"{name}={value} does not fit the patches: it must be a multiple of {patch}")
        if len(window) != 3 or min(window) < 1:
            raise UserError(f"window={list(window)}: a window is three numbers of tokens, along time, height and width")
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        if len(num_heads) != len(depths) or any(width % heads for width, heads in zip(widths, num_heads, strict=False)):
            raise UserError(f"num_heads={list(num_heads)} must divide the stages' widths {widths}, one number a stage")
        if min(depths) < 1 or sum(depths) < 2:
            raise UserError(f"depths={list(depths)}: every stage has a block, all together two or more")
        patch_embed: Any = partial(PatchEmbed3d, in_channels=input_channels(input))  # only called, never subclassed
        trunk = SwinTransformer3d(
            patch_size=list(PATCH),
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=list(window),
            stochastic_depth_prob=drop_path,
            patch_embed=patch_embed,
        )
        # The trunk's class head stays behind: what is put on top belongs to the task.
        self.patch_embed, self.features, self.norm = trunk.patch_embed, trunk.features, trunk.norm
        for module in self.modules():
            if isinstance(module, ShiftedWindowAttention3d):
                # It follows from the window, so files need not hold it, nor hold it for the same window.
                index = module.relative_position_index
                del module.relative_position_index
                module.register_buffer("relative_position_index", index, persistent=False)
        if init == "fan_in":
            self.apply(init_linear)
        self.input = input
        self.window: Grid = (window[0], window[1], window[2])
        self.depths = tuple(depths)
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS["imagenet"], "video")
        self.layer_dims = [width for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]
        self.dim = widths[-1]

    @property
    def stage_ends(self) -> list[int]:
        """Return the index of each stage's last block."""
        return [sum(self.depths[: stage + 1]) - 1 for stage in range(len(self.depths))]

    def forward(self, clip: Tensor) -> Tensor:
        """Encode normalised clips `[B, 3, T, H, W]` into `[B, dim]`: the mean of the normalised last tokens."""
        return self.norm(self.forward_tokens(clip)[-1]).mean(dim=(1, 2, 3))

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return tokens after each block, `[B, N_l, D_l]`, before the final norm."""
        return [tokens.flatten(1, 3) for tokens in self.forward_tokens(clip)]

    def forward_tokens(
        self, clip: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> list[Tensor]:
        """Return tokens after each block, `[B, t, h_l, w_l, D_l]`, some patches hidden.

        Args:
            clip: Normalised clips `[B, 3, T, H, W]`.
            mask: bool `[B, t, h', w']`, true = hidden; enlarged to the patch grid by repetition. t is the patch
                grid's.
            mask_token: `[D_0]`, put in place of the hidden patches' embeddings.
        """
        self.check_clip(clip)
        tokens = self.patch_embed(self.front_end(clip, mask))  # [B, t, h, w, D_0]
        if mask is not None:
            assert mask_token is not None
            tokens = hide_tokens(tokens, mask, mask_token)
        return self.run_blocks(tokens)

    def run_blocks(self, tokens: Tensor) -> list[Tensor]:
        """Tokens after each block, `[B, t, h_l, w_l, D_l]`, from patch embeddings `[B, t, h, w, D_0]` of any grid.

        A single image is a grid of one moment.
        """
        outputs = []
        for index, part in enumerate(self.features):
            if index % 2:  # between two stages
                tokens = self.run_block(part, tokens)
                continue
            for block in part:
                tokens = self.run_block(block, tokens)
                outputs.append(tokens)
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """0 for the patch embedding, i + 1 for block i and a merging before it; the final norm is the last block's."""
        if parameter_name.startswith("features."):
            part, block = parameter_name.split(".")[1:3]
            stage, merges = divmod(int(part), 2)
            return sum(self.depths[: stage + merges]) + (0 if merges else int(block)) + 1
        if parameter_name.startswith("norm."):
            return len(self.layer_dims)
        assert parameter_name.startswith("patch_embed."), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Position tables follow the window (trilinear); image models are inflated in time, as Video Swin starts.

        A stored window may differ in time or in its square plane, not in both. Inflated, a table holds its image's
        biases at every distance in time, and a patch kernel takes the mean of its frames, so that a still clip gives
        what its image gave.
        """
        if name == "patch_embed.proj.weight" and value.ndim == 4:  # [D, 3, h, w]
            return (value[:, :, None] / shape[2]).repeat(1, 1, shape[2], 1, 1)
        if not name.endswith(TABLE) or value.ndim != 2:
            return None
        time, height, width = (2 * side - 1 for side in self.window)
        stored = _stored_sides(len(value), (time, height, width))
        if stored is None:
            return None
        table = value.float().t().reshape(1, -1, *stored)  # [1, A, 2t - 1, 2h - 1, 2w - 1]
        table = F.interpolate(table, size=(time, height, width), mode="trilinear")
        return table[0].flatten(1).t().to(value.dtype).contiguous()


def _stored_sides(length: int, wanted: Grid) -> Grid | None:
    """Sides of a stored table of `length` places: windows differ in time, or they are images', or square ones."""
    time, height, width = wanted
    moments, rest = divmod(length, height * width)
    if rest == 0 and moments % 2:
        return moments, height, width
    for moments in (time, 1):
        side = round((length / moments) ** 0.5)
        if moments * side**2 == length and side % 2:
            return moments, side, side
    return None


_DEFAULTS = {"frames": 32, "size": 224, "window": WINDOW, "drop_path": 0.0, "init": "swin", "input": "rgb"}
# Published fine-tuning has a window of (16, 7, 7) and B a drop_path of .4 on Something-Something v2; on Kinetics
# drop_path is .1 for T and .3 for B.
PRESETS = {
    # For two CPU cores, under a million parameters: at 8 x 64 x 64, the windows of the published 16 x 224 x 224.
    # Pre-training with BEVT needs a size that 32 divides.
    "swin_tiny": Preset(
        SwinEncoder,
        {"frames": 8, "size": 64, "window": (4, 2, 2), "drop_path": 0.0, "init": "fan_in", "input": "rgb"},
        {"depths": (2, 2, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    ),
    "swin_t": Preset(SwinEncoder, _DEFAULTS, {"depths": (2, 2, 6, 2), "embed_dim": 96, "num_heads": (3, 6, 12, 24)}),
    "swin_s": Preset(SwinEncoder, _DEFAULTS, {"depths": (2, 2, 18, 2), "embed_dim": 96, "num_heads": (3, 6, 12, 24)}),
    # BEVT's backbone; BEVT pre-trains with 16 frames.
    "swin_b": Preset(SwinEncoder, _DEFAULTS, {"depths": (2, 2, 18, 2), "embed_dim": 128, "num_heads": (4, 8, 16, 32)}),
}
