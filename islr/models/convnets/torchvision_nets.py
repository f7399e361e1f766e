"""3D convolutional networks: what they share as encoders, and torchvision's R3D, MC3, R(2+1)D and S3D at any width.

Shapes: B batch, T H W frames and pixels, t h w a map's grid, N = t * h * w tokens, D width. Video is `[B, 3, T, H,
W]`, a map `[B, D, t, h, w]`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the common base of BatchNorm1d-3d and SyncBatchNorm
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DNoTemporal, Conv3DSimple
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import NORMALISATIONS, Encoder, Normalisation
from islr.models.presets import Preset

NARROW_MOMENTUM = 0.1  # of BatchNorm's running statistics in tiny presets, which train for hundreds of steps, not 1e5
CLOSING_SCALE = 0.2  # of the BatchNorm that closes a residual branch

# Widths of the branches of one Inception block: 1x1x1; 1x1x1 then 3x3x3; the same narrower; pooling then 1x1x1.
Branches = tuple[int, int, int, int, int, int]
INCEPTION_STEM = (64, 64, 192)
# GoogLeNet (arXiv 1409.4842 table 1), inflated by I3D (arXiv 1705.07750 figure 3) and separated by S3D.
INCEPTION_BLOCKS: dict[str, Branches] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def inception_widths(width: float) -> tuple[list[int], dict[str, Branches]]:
    """Stem and branch widths of an Inception network, `width` times the published ones."""

    def scaled(channels: Sequence[int]) -> list[int]:
        return [max(1, int(width * count)) for count in channels]

    blocks: dict[str, Any] = {name: tuple(scaled(branches)) for name, branches in INCEPTION_BLOCKS.items()}
    return scaled(INCEPTION_STEM), blocks


def block_width(branches: Branches) -> int:
    """Width of what an Inception block gives: its four branches side by side."""
    return branches[0] + branches[2] + branches[4] + branches[5]


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
    ) -> None:
        super().__init__()
        for name, value, least in (("frames", spec.frames, smallest[0]), ("size", spec.size, smallest[1])):
            if value < least:
                raise UserError(f"{name}={value} leaves nothing after the strides: it must be at least {least}")
        assert len(layers) == len(widths) + 1
        self.layers = [tuple(pieces) for pieces in layers]
        self.input_spec = spec
        self.dim, self.layer_dims = widths[-1], list(widths)

    def forward(self, clip: Tensor) -> Tensor:
        """Mean of the last map, `[B, dim]`."""
        return self.pool(self.forward_maps(clip)[-1])

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """The cells of each layer's map as tokens, `[B, t * h * w, D_l]`."""
        return [x.flatten(2).transpose(1, 2) for x in self.forward_maps(clip)]

    def forward_maps(self, clip: Tensor) -> list[Tensor]:
        """The map after each layer, `[B, D_l, t, h, w]`."""
        self.check_clip(clip)
        outputs = []
        x = self.enter(clip)
        for pieces in self.layers:
            for piece in pieces:
                x = self.run_block(partial(self.run_piece, piece), x)
            outputs.append(self.leave(x))
        return outputs[1:]

    def pool(self, last: Tensor) -> Tensor:
        """What `forward` gives, from the last map."""
        return last.mean(dim=(2, 3, 4))

    def enter(self, clip: Tensor) -> Any:
        """What the stem is given."""
        return clip

    def run_piece(self, piece: str, x: Any) -> Any:
        """Run the modules of one of `layers`' strings."""
        for name in piece.split():
            x = self.get_submodule(name)(x)
        return x

    def leave(self, x: Any) -> Tensor:
        """A layer's map, from what its last module gives."""
        return x

    def layer_of(self, parameter_name: str) -> int:
        """0 for the stem, i + 1 for layer i."""
        for layer, pieces in enumerate(self.layers):
            if any(parameter_name.startswith(f"{name}.") for piece in pieces for name in piece.split()):
                return layer
        raise AssertionError(parameter_name)


def fan_in_init(module: nn.Module) -> None:
    """He's start (arXiv 1502.01852) from fan-in, BatchNorm at 1 and 0; for `Module.apply`.

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
    """Of RGB clips, normalised as the named project does."""
    return InputSpec(frames, size, *NORMALISATIONS[normalisation], "video")


# Residual networks ----------------------------------------------------------------------------------------------------

# Convolutions of the four stages, and whether the stem's is factored into space and time too.
RESNET_FORMS: dict[str, tuple[tuple[type, ...], bool]] = {
    "r3d": ((Conv3DSimple,) * 4, False),
    "mc3": ((Conv3DSimple, *(Conv3DNoTemporal,) * 3), False),
    "r2plus1d": ((Conv2Plus1D,) * 4, True),
}
FACTORED_STEM = 45 / 64  # width between the stem's two factors, so that it has a 3x7x7 convolution's parameters


class VideoResNet(ConvNet):
    """R3D, MC3 and R(2+1)D from torchvision's blocks, under the names of its `VideoResNet`.

    Args:
        frames: Frames per clip.
        size: Height and width in pixels.
        form: A key of `RESNET_FORMS`.
        width: Of the first stage; each later one doubles it.
        blocks: Per stage.
    """

    source = "R(2+1)D (arXiv 1711.11248), torchvision.models.video"

    def __init__(self, *, frames: int, size: int, form: str, width: int = 64, blocks: int = 2) -> None:
        widths = [width * 2**stage for stage in range(4)]
        stages = [[f"layer{stage}.{block}" for block in range(blocks)] for stage in range(1, 5)]
        super().__init__(video_spec(frames, size, "kinetics"), [["stem"], *stages], widths)
        convolutions, factored = RESNET_FORMS[form]
        self.stem = _factored_stem(width) if factored else _stem(width)
        for stage, (conv, outputs) in enumerate(zip(convolutions, widths, strict=True), start=1):
            inputs = outputs if stage == 1 else outputs // 2
            self.add_module(f"layer{stage}", _residual_stage(conv, inputs, outputs, blocks, 1 if stage == 1 else 2))
        self.apply(_fan_out_init)


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _factored_stem(width: int) -> nn.Sequential:
    between = int(FACTORED_STEM * width)
    return nn.Sequential(
        nn.Conv3d(3, between, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        nn.Conv3d(between, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _residual_stage(conv: Any, inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1:
        strides = conv.get_downsample_stride(stride)
        projection = nn.Conv3d(inputs, outputs, kernel_size=1, stride=strides, bias=False)
        shortcut = nn.Sequential(projection, nn.BatchNorm3d(outputs))
    first = BasicBlock(inputs, outputs, conv, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, conv) for _ in range(blocks - 1)))


def _fan_out_init(module: nn.Module) -> None:
    """torchvision's start of its video ResNets; BatchNorm is at 1 and 0 as it is made."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# S3D ------------------------------------------------------------------------------------------------------------------

S3D_POOLS: Mapping[str, dict[str, Any]] = {  # before these blocks
    "3b": {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
    "4b": {"kernel_size": (3, 3, 3), "stride": (2, 2, 2), "padding": (1, 1, 1)},
    "5b": {"kernel_size": (2, 2, 2), "stride": (2, 2, 2)},
}
S3D_SMALLEST = (5, 17)  # frames and pixels of which the last pool, 2x2x2 without padding, finds two cells each way


class S3D(ConvNet):
    """S3D from torchvision's blocks, under the names of its `S3D`.

    torchvision's class averages windows of 2 x 7 x 7 cells, which a clip of fewer than 14 frames or 224 pixels does
    not have; the mean over all cells is the same at 16 x 224 x 224 and exists at every size.

    Args:
        frames: Frames per clip, at least 5.
        size: Height and width in pixels, at least 17.
        width: Factor on the published widths.
        momentum: Of BatchNorm's running statistics.
    """

    source = "S3D (arXiv 1712.04851), torchvision.models.video"

    def __init__(self, *, frames: int, size: int, width: float = 1.0, momentum: float = 0.001) -> None:
        stem, blocks = inception_widths(width)
        norm = partial(nn.BatchNorm3d, eps=1e-3, momentum=momentum)
        modules: list[nn.Module] = [
            TemporalSeparableConv(3, stem[0], 7, 2, 3, norm),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            Conv3dNormActivation(stem[0], stem[1], kernel_size=1, stride=1, norm_layer=norm),
            TemporalSeparableConv(stem[1], stem[2], 3, 1, 1, norm),
        ]
        layers = [[" ".join(f"features.{index}" for index in range(len(modules)))]]
        inputs = stem[2]
        for name, branches in blocks.items():
            first = len(modules)
            if name in S3D_POOLS:
                modules.append(nn.MaxPool3d(**S3D_POOLS[name]))
            modules.append(SepInceptionBlock3D(inputs, *branches, norm))
            layers.append([" ".join(f"features.{index}" for index in range(first, len(modules)))])
            inputs = block_width(branches)
        widths = [block_width(branches) for branches in blocks.values()]
        super().__init__(video_spec(frames, size, "kinetics"), layers, widths, S3D_SMALLEST)
        self.features = nn.Sequential(*modules)


def _narrow(family: type[ConvNet], **arguments: Any) -> ConvNet:
    return family(**arguments).apply(fan_in_init)


_TINY, _RESNET = {"frames": 8, "size": 64}, {"frames": 16, "size": 112}
PRESETS = {
    # One block a stage, a quarter of the width.
    "r3d_tiny": Preset(_narrow, _TINY, {"family": VideoResNet, "form": "r3d", "width": 16, "blocks": 1}),
    "r2plus1d_tiny": Preset(_narrow, _TINY, {"family": VideoResNet, "form": "r2plus1d", "width": 16, "blocks": 1}),
    "s3d_tiny": Preset(_narrow, _TINY, {"family": S3D, "width": 0.25, "momentum": NARROW_MOMENTUM}),
    "r3d_18": Preset(VideoResNet, _RESNET, {"form": "r3d"}),  # 3x3x3 convolutions throughout
    "mc3_18": Preset(VideoResNet, _RESNET, {"form": "mc3"}),  # the later three stages convolve single frames
    "r2plus1d_18": Preset(VideoResNet, _RESNET, {"form": "r2plus1d"}),  # space and time in turn
    "s3d": Preset(S3D, {"frames": 64, "size": 224}, {}),
}
