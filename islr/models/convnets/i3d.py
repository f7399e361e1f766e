"""I3D on Inception: the convolutional baseline of WLASL (arXiv 1910.11006) and BSL-1K (arXiv 2007.12131).

Carreira and Zisserman, "Quo Vadis, Action Recognition?" (arXiv 1705.07750, figure 3), as the PyTorch code that those
two train computes it; module names are that code's, which neither torchvision nor pytorchvideo has.

Shapes: B batch, T H W frames and pixels, t h w a map's grid, D width; maps are `[B, D, t, h, w]`.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.convnets.convnet import ConvNet, fan_in_init
from islr.models.convnets.inception import NARROW_MOMENTUM, Branches, block_width, inception_widths
from islr.models.encoder import NORMALISATIONS, Normalisation
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset

NORM_EPS = 1e-3  # of its BatchNorm, TensorFlow's default
MOMENTUM = 0.01
Size = tuple[int, int, int]
Channels = Literal["rgb", "bgr"]

# Kernel and stride of the pooling before a block.
POOLS: dict[str, tuple[str, Size, Size]] = {
    "3b": ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    "4b": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "5b": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}


def pad_same(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Zeros around `[B, D, t, h, w]` as TensorFlow's SAME: ceil(length / stride) outputs, the odd zero at the end."""
    sides: list[int] = []
    for length, width, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max(width - (length % step or step), 0)
        sides += [missing // 2, missing - missing // 2]
    return functional.pad(x, sides) if any(sides) else x


class Unit(nn.Module):
    """Convolution with SAME padding, BatchNorm, ReLU.

    Args:
        inputs: Width of the input.
        outputs: Width of the result.
        kernel: Of the convolution.
        stride: Of the convolution.
        momentum: Of BatchNorm's running statistics.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size, momentum: float) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=NORM_EPS, momentum=momentum)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, D, t, h, w]` -> `[B, D', ...]`, every side divided by the stride and rounded up."""
        if max(self.stride) == 1:  # an odd kernel's zeros are then the same on both sides: no padded copy
            padding = [width // 2 for width in self.kernel]
            x = functional.conv3d(x, self.conv3d.weight, padding=padding)
        else:
            x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return functional.relu(self.bn(x), inplace=True)


class MaxPool(nn.Module):
    """Max pooling with SAME padding. Zeros are no larger than what a ReLU gives, so they never win wrongly.

    Args:
        kernel: Of the window.
        stride: Of the window.
    """

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, D, t, h, w]` -> every side divided by the stride and rounded up."""
        return functional.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class InceptionBlock(nn.Module):
    """Four branches side by side: `b0`; `b1a`, `b1b`; `b2a`, `b2b`; pooling and `b3b`.

    Args:
        inputs: Width of the input.
        branches: As in `INCEPTION_BLOCKS`.
        momentum: Of BatchNorm's running statistics.
    """

    def __init__(self, inputs: int, branches: Branches, momentum: float) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        self.b0 = Unit(inputs, branches[0], one, one, momentum)
        self.b1a = Unit(inputs, branches[1], one, one, momentum)
        self.b1b = Unit(branches[1], branches[2], three, one, momentum)
        self.b2a = Unit(inputs, branches[3], one, one, momentum)
        self.b2b = Unit(branches[3], branches[4], three, one, momentum)
        self.b3a = MaxPool(three, one)
        self.b3b = Unit(inputs, branches[5], one, one, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, D, t, h, w]` -> `[B, D', t, h, w]`."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class InceptionI3d(ConvNet):
    """I3D without its class layer.

    Deviation: the original averages windows of 2 x 7 x 7 cells and scores every moment; `forward` is the mean of all
    cells, one vector per clip.

    Args:
        frames: Frames per clip.
        size: Height and width in pixels.
        channels: Order of the colours. WLASL's released weights saw OpenCV's blue-first frames.
        normalisation: A key of `NORMALISATIONS`: `half` (pixels in -1..1) for WLASL and Kinetics, `centred` for BSL-1K.
        width: Factor on the published widths.
        momentum: Of BatchNorm's running statistics.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).

    Raises:
        UserError: Unknown channels or normalisation, or no frames or pixels.
    """

    source = "I3D (arXiv 1705.07750), dxli94/WLASL code/I3D/pytorch_i3d.py"

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        channels: Channels = "rgb",
        normalisation: Normalisation = "half",
        width: float = 1.0,
        momentum: float = MOMENTUM,
        input: Input = "rgb",
    ) -> None:
        for name, value, known in (
            ("channels", channels, ("rgb", "bgr")),
            ("normalisation", normalisation, tuple(NORMALISATIONS)),
        ):
            if value not in known:
                raise UserError(f"{name}='{value}' is unknown; it is one of {', '.join(known)}")
        stem, blocks = inception_widths(width)
        layers = [["Conv3d_1a_7x7 MaxPool3d_2a_3x3 Conv3d_2b_1x1 Conv3d_2c_3x3"]]
        layers += [[f"{POOLS[name][0]} Mixed_{name}" if name in POOLS else f"Mixed_{name}"] for name in blocks]
        spec = InputSpec(frames, size, *NORMALISATIONS[normalisation], "video", channels)
        super().__init__(spec, layers, [block_width(branches) for branches in blocks.values()], input=input)
        self.Conv3d_1a_7x7 = Unit(input_channels(input), stem[0], (7, 7, 7), (2, 2, 2), momentum)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(stem[0], stem[1], (1, 1, 1), (1, 1, 1), momentum)
        self.Conv3d_2c_3x3 = Unit(stem[1], stem[2], (3, 3, 3), (1, 1, 1), momentum)
        inputs = stem[2]
        for name, branches in blocks.items():
            if name in POOLS:
                pool, kernel, stride = POOLS[name]
                self.add_module(pool, MaxPool(kernel, stride))
            self.add_module(f"Mixed_{name}", InceptionBlock(inputs, branches, momentum))
            inputs = block_width(branches)


def _narrow_i3d(**arguments: Any) -> InceptionI3d:
    return InceptionI3d(**arguments).apply(fan_in_init)


PRESETS = {
    "i3d_tiny": Preset(
        _narrow_i3d,
        {"frames": 8, "size": 64, "channels": "rgb", "normalisation": "half", "input": "rgb"},
        {"width": 0.25, "momentum": NARROW_MOMENTUM},
    ),
    # As published, at WLASL's 64 frames.
    "i3d": Preset(
        InceptionI3d, {"frames": 64, "size": 224, "channels": "rgb", "normalisation": "half", "input": "rgb"}, {}
    ),
}
