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
        return _input_gradient(grad, weight, x.shape, ctx.stride), _weight_gradient(grad, x, ctx.stride), None


def _input_gradient(grad: Tensor, weight: Tensor, shape: torch.Size, stride: Stride) -> Tensor:
    """Spread the gradient back over the positions it came from, then convolve with the flipped kernel."""
    if stride != (1, 1, 1):
        spread = grad.new_zeros(shape).contiguous(memory_format=torch.channels_last_3d)
        spread[:, :, :: stride[0], :: stride[1], :: stride[2]] = grad
        grad = spread
    return F.conv3d(grad, weight.flip(2, 3, 4), padding=1, groups=shape[1])


def _weight_gradient(grad: Tensor, x: Tensor, stride: Stride) -> Tensor:
    """Correlate the input with the gradient: a convolution whose channels are all (clip, channel) pairs."""
    batch, channels = x.shape[:2]
    if stride == (1, 1, 1):
        taps = F.conv3d(
            x.reshape(1, batch * channels, *x.shape[2:]),
            grad.reshape(batch * channels, 1, *grad.shape[2:]),
            padding=1,
            groups=batch * channels,
        )  # [1, B * C, 3, 3, 3]
        return taps.view(batch, channels, 1, 3, 3, 3).sum(dim=0)
    weight = x.new_empty(channels, 1, 3, 3, 3)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, (1, 1, 1), (1, 1, 1), False, (0, 0, 0), channels, (False, True, False)
    )[1]
