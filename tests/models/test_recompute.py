"""Layers that compute a cheap half again give PyTorch's results and gradients, and keep less."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.models.mvit.recompute import gelu_linear, norm_linear
from islr.training.memory import saved_bytes

NORM, LINEAR = nn.LayerNorm(24, eps=1e-6), nn.Linear(24, 16)
PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "norm": (lambda x: norm_linear(x, NORM, LINEAR), lambda x: LINEAR(NORM(x))),
    "gelu": (lambda x: gelu_linear(x, LINEAR), lambda x: LINEAR(F.gelu(x))),
}


def gradients(function: Callable[[Tensor], Tensor], dtype: torch.dtype, half: bool) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters that were used."""
    torch.manual_seed(0)
    for parameter in (*NORM.parameters(), *LINEAR.parameters()):
        nn.init.normal_(parameter)
        parameter.grad = None
    x = torch.randn(2, 7, 24, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = function(x)
    (output * torch.randn(output.shape)).sum().backward()
    used = [parameter.grad for parameter in (*NORM.parameters(), *LINEAR.parameters()) if parameter.grad is not None]
    assert x.grad is not None
    return [output.detach(), x.grad, *used]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("dtype", "half", "tolerance"),
    [(torch.float32, False, 1e-5), (torch.float32, True, 0.02), (torch.bfloat16, True, 0.02)],
)
def test_results_and_gradients_are_pytorch_s(name: str, dtype: torch.dtype, half: bool, tolerance: float) -> None:
    ours, theirs = (gradients(function, dtype, half) for function in PAIRS[name])
    assert len(ours) == len(theirs) == {"norm": 6, "gelu": 4}[name]
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == reference.dtype
        assert (mine - reference).float().norm() <= tolerance * reference.float().norm()


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_between_is_not_kept(name: str) -> None:
    layers = nn.ModuleList([NORM, LINEAR])
    x = torch.randn(100, 24, requires_grad=True)
    ours, theirs = (saved_bytes(lambda function=function: function(x), layers) for function in PAIRS[name])
    assert theirs - ours == x.nbytes
