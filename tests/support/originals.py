"""Encoders beside the networks that they come from: built unfilled, filled with noise, loaded through layouts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from islr.models import Encoder
from islr.models.layouts import LAYOUTS, detect_layout, load_layout


def unfilled(build: Callable[[], Any]) -> Any:
    """A network in memory whose initialisation was not computed."""
    with torch.device("meta"):
        network = build()
    return network.to_empty(device="cpu")


def randomised(module: Any, seed: int = 0) -> Any:
    """In evaluation mode, with nothing left where it starts, at sizes that keep activations near 1."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                value.zero_()
                continue
            noise = torch.randn(value.shape, generator=stream)
            if value.ndim > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                value.copy_(1 + 0.2 * noise.clamp(-2, 2))
            else:
                value.copy_(0.1 * noise)
    return module.eval()


def loaded(encoder: Encoder, state: dict[str, Tensor], architecture: str, layout: str) -> Encoder:
    """The encoder with the file's weights, through the layout that the file's names give away."""
    assert detect_layout(state, architecture, "file").name == layout
    load_layout(encoder, state, LAYOUTS[layout], "file")
    return encoder.eval()


def head_input(model: nn.Module, head: str, clip: Any) -> Tensor:
    """What a model gives its class layer, as `[B, D]`."""
    seen: list[Tensor] = []
    model.get_submodule(head).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(clip)
    return seen[0].flatten(1)
