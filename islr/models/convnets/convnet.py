"""3D convolutional networks as encoders: the base class, its initialisation and its input.

Shapes: B batch, T H W frames and pixels, t h w a map's grid, N = t * h * w tokens, D width. Video is `[B, 3, T, H, W]`,
a map `[B, D, t, h, w]`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the common base of BatchNorm1d-3d and SyncBatchNorm

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import NORMALISATIONS, Encoder, Normalisation
from islr.models.front_end import Input

CLOSING_SCALE = 0.2  # of the BatchNorm that closes a residual branch


class ConvNet(Encoder):
    """A 3D convolutional network; its modules keep the names they have in the project it comes from.

    A subclass makes the modules; `forward` gives the mean of the last map over time and space at any input size, where
    the originals average a window of their own input size. A layer is a residual stage or an Inception block.

    Args:
        spec: The clip it takes.
        layers: Names of the modules in the order they run: the stem's, then those of each layer. One string is run,
            and with `checkpointing` computed again, as one piece; it holds one name or several separated by spaces.
        widths: Width of each layer's map.
        smallest: The least frames and pixels that leave a map at the end.
        input: What the stem takes (`islr/models/front_end.py`).

    Raises:
        UserError: The clip is smaller than that.
    """

    batch_norm = True

    def __init__(
        self,
        spec: InputSpec,
        layers: Sequence[Sequence[str]],
        widths: Sequence[int],
        smallest: tuple[int, int] = (1, 1),
        input: Input = "rgb",
    ) -> None:
        super().__init__()
        for name, value, least in (("frames", spec.frames, smallest[0]), ("size", spec.size, smallest[1])):
            if value < least:
                raise UserError(f"{name}={value} leaves nothing after the strides: it must be at least {least}")
        assert len(layers) == len(widths) + 1
        self.layers = [tuple(pieces) for pieces in layers]
        self.input_spec, self.input = spec, input
        self.dim, self.layer_dims = widths[-1], list(widths)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean of the last map, `[B, dim]`."""
        return self.pool(self.forward_maps(clip)[-1])

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return the cells of each layer's map as tokens, `[B, t * h * w, D_l]`."""
        return [x.flatten(2).transpose(1, 2) for x in self.forward_maps(clip)]

    def forward_maps(self, clip: Tensor) -> list[Tensor]:
        """Return the map after each layer, `[B, D_l, t, h, w]`."""
        self.check_clip(clip)
        outputs = []
        x = self.enter(clip)
        for pieces in self.layers:
            for piece in pieces:
                x = self.run_block(partial(self.run_piece, piece), x)
            outputs.append(self.leave(x))
        return outputs[1:]

    def pool(self, last: Tensor) -> Tensor:
        """Pool the last map into the result of `forward`."""
        return last.mean(dim=(2, 3, 4))

    def enter(self, clip: Tensor) -> Any:
        """Return the stem's input."""
        return self.front_end(clip)

    def run_piece(self, piece: str, x: Any) -> Any:
        """Run the modules of one of `layers`' strings."""
        for name in piece.split():
            x = self.get_submodule(name)(x)
        return x

    def leave(self, x: Any) -> Tensor:
        """Return a layer's map from its last module's output."""
        return x

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the stem, i + 1 for layer i."""
        for layer, pieces in enumerate(self.layers):
            if any(parameter_name.startswith(f"{name}.") for piece in pieces for name in piece.split()):
                return layer
        raise AssertionError(parameter_name)


def fan_in_init(module: nn.Module) -> None:
    """Apply He initialisation (arXiv 1502.01852) from fan-in, BatchNorm at 1 and 0; for `Module.apply`.

    Activations keep their size before BatchNorm has seen a batch. pytorchvideo's residual branches, which start closed
    (their last BatchNorm at 0), start nearly closed, so that all of a branch learns from the first step.
    """
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, BatchNorm):
        nn.init.constant_(module.weight, CLOSING_SCALE if getattr(module, "block_final_bn", False) else 1.0)
    if isinstance(module, nn.Conv3d | BatchNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


def video_spec(frames: int, size: int, normalisation: Normalisation) -> InputSpec:
    """Return the input of RGB clips, normalised as in the named project."""
    return InputSpec(frames, size, *NORMALISATIONS[normalisation], "video")
