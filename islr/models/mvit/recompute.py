"""Pairs of layers that keep one input for the backward pass and compute the cheap one of the two again.

PyTorch keeps what lies between two layers. Behind a LayerNorm or a GELU that is a tensor as large as the input, and
computing it again from the input costs next to nothing beside the linear layer that follows.

Shapes: N rows of all leading axes, D and E widths.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(x))`, `[..., D]` -> `[..., E]`, keeping `x` and two numbers per row."""
    return _NormLinear.apply(x, norm.weight, norm.bias, linear.weight, linear.bias, norm.eps)


def gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(gelu(x))`, `[..., D]` -> `[..., E]`, keeping `x` alone."""
    return _GeluLinear.apply(x, linear.weight, linear.bias)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        # As autocast has it, the norm is computed in its weights' precision; the linear layer rounds its result.
        exact = x.to(norm_weight.dtype)
        normed, mean, scale = torch.native_layer_norm(exact, x.shape[-1:], norm_weight, norm_bias, eps)
        ctx.save_for_backward(x, mean, scale, norm_weight, norm_bias, weight)
        return F.linear(normed, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, norm_weight, norm_bias, weight = ctx.saved_tensors
        exact = x.to(norm_weight.dtype)
        normed = ((exact - mean) * scale * norm_weight + norm_bias).to(grad.dtype)
        inner, weight_gradient, bias_gradient = _linear_backward(grad, normed, weight)
        gradients = torch.ops.aten.native_layer_norm_backward(
            inner.to(exact.dtype), exact, x.shape[-1:], mean, scale, norm_weight, norm_bias, [True, True, True]
        )
        return gradients[0].to(x.dtype), gradients[1], gradients[2], weight_gradient, bias_gradient, None


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        inner, weight_gradient, bias_gradient = _linear_backward(grad, F.gelu(x).to(grad.dtype), weight)
        return torch.ops.aten.gelu_backward(inner.to(x.dtype), x), weight_gradient, bias_gradient


def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a linear layer's input, weight and bias; sums over rows are in the gradient's precision."""
    rows = grad.flatten(0, -2)  # [N, E]
    inner = grad @ weight.to(grad.dtype)  # [..., D]
    return inner, (rows.t() @ x.flatten(0, -2)).to(weight.dtype), rows.sum(dim=0).to(weight.dtype)
