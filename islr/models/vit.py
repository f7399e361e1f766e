"""The plain vision transformer of VideoMAE (Tong et al., arXiv 2203.12602): space-time patches, joint attention.

There is no class token and no final norm: VideoMAE's pre-training ends in a norm that its fine-tuning drops for a
fresh one over the mean token, so the norm belongs to what is put on top (the recipe, or `Classifier`).

Shapes: B batch, T H W frames and pixels, p a patch's side, t h w = T / 2, H / p, W / p the token grid, N = t * h * w
tokens in that order, V of them visible, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import NORMALISATIONS, Encoder
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset
from islr.models.transformer import drop_path_rates, sincos_positions, transformer_block

TUBELET = 2  # frames that a token covers (arXiv 2203.12602 section 3.3, "joint space-time cube embedding")


def patchify(clip: Tensor, patch: int) -> Tensor:
    """Cut `[B, C, T, H, W]` into what each token covers, `[B, N, C, 2 * p * p]`."""
    batch, channels, frames, height, width = clip.shape
    cells = clip.reshape(
        batch, channels, frames // TUBELET, TUBELET, height // patch, patch, width // patch, patch
    )  # [B, C, t, 2, h, p, w, p]
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(5).flatten(1, 3)


def unpatchify(patches: Tensor, grid: tuple[int, int, int], patch: int) -> Tensor:
    """Put `[B, N, C, 2 * p * p]` together to the clip they were cut from, `[B, C, T, H, W]`."""
    cells = patches.unflatten(3, (TUBELET, patch, patch)).unflatten(1, grid)  # [B, t, h, w, C, 2, p, p]
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens of `[B, N, D]` that int64 `[B, V]` names: `[B, V, D]`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class ViTEncoder(Encoder):
    """A video ViT from its numbers; it can be given the visible tokens alone, as masked modelling needs.

    Positions are recomputed for the input's size, never stored. As in VideoMAE, a token at the same place has another
    position in a clip of another size: weights moved between sizes have to be trained on.

    Args:
        frames: Frames per clip, a multiple of 2.
        size: Height and width in pixels, a multiple of `patch`.
        patch: Side of a token in pixels.
        dim: Token width.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Width of an MLP's hidden layer over `dim`.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).

    Raises:
        UserError: The frame count or the size does not fit the tokens.
    """

    source = "VideoMAE's ViT (arXiv 2203.12602; giant: VideoMAE V2, arXiv 2303.16727)"
    positions: Tensor

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        input: Input = "rgb",
    ) -> None:
        super().__init__()
        for name, value, step in (("frames", frames, TUBELET), ("size", size, patch)):
            if value < step or value % step:
                raise UserError(f"{name}={value} does not fit the tokens: it must be a multiple of {step}")
        self.patch, self.grid = patch, (frames // TUBELET, size // patch, size // patch)
        kernel = (TUBELET, patch, patch)
        self.input = input
        self.patch_embed = nn.Conv3d(input_channels(input), dim, kernel, stride=kernel)
        rates = drop_path_rates(drop_path, depth)
        self.blocks = nn.ModuleList(transformer_block(dim, heads, mlp_ratio, rate) for rate in rates)
        self.register_buffer("positions", sincos_positions(self.num_tokens, dim), persistent=False)
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS["imagenet"], "video")
        self.dim, self.layer_dims = dim, [dim] * depth
        self.apply(xavier_init)

    @property
    def num_tokens(self) -> int:
        """Return N, the number of tokens."""
        times, rows, columns = self.grid
        return times * rows * columns

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean of the last block's tokens, `[B, dim]`."""
        return self.forward_tokens(clip)[-1].mean(dim=1)

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return tokens `[B, N, D]` after each block."""
        return self.forward_tokens(clip)

    def forward_tokens(self, clip: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Return tokens after each block.

        Args:
            clip: Normalised `[B, 3, T, H, W]`.
            visible: int64 `[B, V]`, the tokens to encode; None = all. The others are not seen.

        Returns:
            `[B, V, D]` per block.
        """
        self.check_clip(clip)
        tokens = self.embed(clip, visible)
        outputs = []
        for block in self.blocks:
            tokens = self.run_block(block, tokens)
            outputs.append(tokens)
        return outputs

    def embed(self, clip: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return tokens before the first block, `[B, V, D]`.

        Patches do not overlap, so the convolution is a linear layer on each, computed for the visible ones alone.
        """
        hidden = None if visible is None else self._hidden(visible)
        patches = patchify(self.front_end(clip, hidden), self.patch).flatten(2)  # [B, N, channels * 2 * p * p]
        if visible is not None:
            patches = take_tokens(patches, visible)
        tokens = F.linear(patches, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        return tokens + (self.positions if visible is None else self.positions[visible])

    def _hidden(self, visible: Tensor) -> Tensor:
        """Return the mask of the tokens that `visible` does not name, bool `[B, t, h, w]`."""
        hidden = torch.ones(len(visible), self.num_tokens, dtype=torch.bool, device=visible.device)
        return hidden.scatter(1, visible, False).unflatten(1, self.grid)

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the patch embedding, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith("patch_embed."), parameter_name
        return 0


def xavier_init(module: nn.Module) -> None:
    """Initialise linear layers as VideoMAE, by their width; the rest is at PyTorch's default. For `apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_DEFAULTS = {"frames": 16, "size": 224, "drop_path": 0.0, "input": "rgb"}
PRESETS = {
    # For two CPU cores, under a million parameters. Patches of 8 pixels make four times the tokens, with which
    # reconstructing pixels takes many more steps to begin.
    "vit_tiny": Preset(
        ViTEncoder,
        {"frames": 8, "size": 64, "patch": 16, "drop_path": 0.0, "input": "rgb"},
        {"dim": 128, "depth": 4, "heads": 4},
    ),
    # VideoMAE's sizes; drop_path is .1 in its fine-tuning of B. Unlike the image model's, tokens of H have 16 pixels.
    "vit_s": Preset(ViTEncoder, _DEFAULTS, {"patch": 16, "dim": 384, "depth": 12, "heads": 6}),
    "vit_b": Preset(ViTEncoder, _DEFAULTS, {"patch": 16, "dim": 768, "depth": 12, "heads": 12}),
    "vit_l": Preset(ViTEncoder, _DEFAULTS, {"patch": 16, "dim": 1024, "depth": 24, "heads": 16}),
    "vit_h": Preset(ViTEncoder, _DEFAULTS, {"patch": 16, "dim": 1280, "depth": 32, "heads": 16}),
    # VideoMAE V2 (arXiv 2303.16727 table 1).
    "vit_g": Preset(ViTEncoder, _DEFAULTS, {"patch": 14, "dim": 1408, "depth": 40, "heads": 16, "mlp_ratio": 48 / 11}),
}
