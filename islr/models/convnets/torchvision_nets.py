"""torchvision's R3D, MC3, R(2+1)D and S3D at any width."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DNoTemporal, Conv3DSimple
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from islr.models.convnets.convnet import ConvNet, fan_in_init, video_spec
from islr.models.convnets.inception import NARROW_MOMENTUM, block_width, inception_widths
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset

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
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).
    """

    source = "R(2+1)D (arXiv 1711.11248), torchvision.models.video"

    def __init__(
        self, *, frames: int, size: int, form: str, width: int = 64, blocks: int = 2, input: Input = "rgb"
    ) -> None:
        widths = [width * 2**stage for stage in range(4)]
        stages = [[f"layer{stage}.{block}" for block in range(blocks)] for stage in range(1, 5)]
        super().__init__(video_spec(frames, size, "kinetics"), [["stem"], *stages], widths, input=input)
        convolutions, factored = RESNET_FORMS[form]
        self.stem = (_factored_stem if factored else _stem)(input_channels(input), width)
        for stage, (conv, outputs) in enumerate(zip(convolutions, widths, strict=True), start=1):
            inputs = outputs if stage == 1 else outputs // 2
            self.add_module(f"layer{stage}", _residual_stage(conv, inputs, outputs, blocks, 1 if stage == 1 else 2))
        self.apply(_fan_out_init)


def _stem(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _factored_stem(channels: int, width: int) -> nn.Sequential:
    between = int(FACTORED_STEM * width)
    return nn.Sequential(
        nn.Conv3d(channels, between, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
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
    """Initialise as torchvision's video ResNets; BatchNorm starts at 1 and 0 by default."""
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
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).
    """

    source = "S3D (arXiv 1712.04851), torchvision.models.video"

    def __init__(
        self, *, frames: int, size: int, width: float = 1.0, momentum: float = 0.001, input: Input = "rgb"
    ) -> None:
        stem, blocks = inception_widths(width)
        norm = partial(nn.BatchNorm3d, eps=1e-3, momentum=momentum)
        modules: list[nn.Module] = [
            TemporalSeparableConv(input_channels(input), stem[0], 7, 2, 3, norm),
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
        super().__init__(video_spec(frames, size, "kinetics"), layers, widths, S3D_SMALLEST, input)
        self.features = nn.Sequential(*modules)


def _narrow(family: type[ConvNet], **arguments: Any) -> ConvNet:
    return family(**arguments).apply(fan_in_init)


_TINY, _RESNET = ({"frames": frames, "size": size, "input": "rgb"} for frames, size in ((8, 64), (16, 112)))
PRESETS = {
    # One block a stage, a quarter of the width.
    "r3d_tiny": Preset(_narrow, _TINY, {"family": VideoResNet, "form": "r3d", "width": 16, "blocks": 1}),
    "r2plus1d_tiny": Preset(_narrow, _TINY, {"family": VideoResNet, "form": "r2plus1d", "width": 16, "blocks": 1}),
    "s3d_tiny": Preset(_narrow, _TINY, {"family": S3D, "width": 0.25, "momentum": NARROW_MOMENTUM}),
    "r3d_18": Preset(VideoResNet, _RESNET, {"form": "r3d"}),  # 3x3x3 convolutions throughout
    "mc3_18": Preset(VideoResNet, _RESNET, {"form": "mc3"}),  # the later three stages convolve single frames
    "r2plus1d_18": Preset(VideoResNet, _RESNET, {"form": "r2plus1d"}),  # space and time in turn
    "s3d": Preset(S3D, {"frames": 64, "size": 224, "input": "rgb"}, {}),
}
