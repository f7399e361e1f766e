"""Depthwise 3 x 3 x 3 convolution with gradients that are fast on a CPU.

On a CPU, PyTorch's backward pass of a depthwise Conv3d takes 15 to 30 times as long as its forward pass. Both
gradients are convolutions themselves, so here they are computed by forward passes. Other devices use
PyTorch's own.

Shapes: B batch, C channels, t h w positions, t' h' w' positions after the stride.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Stride = tuple[int, int, int]

SMALL_GRID = 256  # positions up to which the zeros that a stride leaves cost less than PyTorch's backward pass


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: Stride) -> Tensor:
    """Convolve each channel with its own kernel, padding 1.

    Args:
        x: `[B, C, t, h, w]`.
        weight: `[C, 1, 3, 3, 3]`.
        stride: Along t, h, w.

    Returns:
        `[B, C, t', h', w']` with t' = ceil(t / stride) and so on.
    """
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return _DepthwiseConv3d.apply(x, weight, stride)
    return F.conv3d(x, weight, stride=stride, padding=1, groups=x.shape[1])


class _DepthwiseConv3d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Stride) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv3d(x, weight, stride=stride, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        channels = x.shape[1]
        if ctx.stride == (1, 1, 1):
            spread = grad
        elif x[0, 0].numel() <= SMALL_GRID:
            spread = _spread(grad, x.shape, ctx.stride)
        else:
            gradients = torch.ops.aten.convolution_backward(
                grad, x, weight, None, ctx.stride, (1, 1, 1), (1, 1, 1), False, (0, 0, 0), channels, (True, True, False)
            )
            return gradients[0], gradients[1], None
        input_gradient = F.conv3d(spread, weight.flip(2, 3, 4), padding=1, groups=channels)
        return input_gradient, _weight_gradient(spread, x), None


def _spread(grad: Tensor, shape: torch.Size, stride: Stride) -> Tensor:
    """Put the gradient back on the positions it came from, zeros between."""
    spread = grad.new_zeros(shape).contiguous(memory_format=torch.channels_last_3d)
    spread[:, :, :: stride[0], :: stride[1], :: stride[2]] = grad
    return spread


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Correlate the input with the gradient: a convolution whose channels are all (clip, channel) pairs."""
    batch, channels = x.shape[:2]
    taps = F.conv3d(
        x.reshape(1, batch * channels, *x.shape[2:]),
        grad.reshape(batch * channels, 1, *grad.shape[2:]),
        padding=1,
        groups=batch * channels,
    )  # [1, B * C, 3, 3, 3]
    return taps.view(batch, channels, 1, 3, 3, 3).sum(dim=0)
