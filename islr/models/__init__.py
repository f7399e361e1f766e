"""The encoders by name.

`MODELS` maps a name to the function that builds it. `create_model` is how everybody builds one: it checks the
arguments and writes down, on the encoder, what is needed to build it again.
"""

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

from islr.errors import UserError
from islr.models.encoder import Classifier, Encoder, EncoderConfig, InputSpec, to_input
from islr.models.frame_conv import frame_conv_base, frame_conv_tiny
from islr.models.hiera import hiera_b, hiera_tiny
from islr.models.mvit import mvit_s, mvit_tiny
from islr.models.pose import pose_transformer_base, pose_transformer_tiny

__all__ = [
    "MODELS",
    "Classifier",
    "Encoder",
    "EncoderConfig",
    "InputSpec",
    "create_model",
    "list_models",
    "to_input",
]

MODELS: dict[str, Callable[..., Encoder]] = {
    "frame_conv_tiny": frame_conv_tiny,
    "frame_conv_base": frame_conv_base,
    "hiera_tiny": hiera_tiny,
    "hiera_b": hiera_b,
    "mvit_tiny": mvit_tiny,
    "mvit_s": mvit_s,
    "pose_transformer_tiny": pose_transformer_tiny,
    "pose_transformer_base": pose_transformer_base,
}


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def create_model(name: str, **arguments: Any) -> Encoder:
    """Build an encoder with fresh weights.

    Args:
        name: A key of `MODELS`.
        arguments: Passed to the function behind the name; what is left out has its default.

    Raises:
        UserError: The name or an argument is unknown (the nearest are listed), or a value is impossible.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown model '{name}'; {hint}known: {', '.join(list_models())}")
    signature = inspect.signature(MODELS[name])
    for argument in arguments:
        if argument not in signature.parameters:
            near = difflib.get_close_matches(argument, signature.parameters, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(
                f"model '{name}' has no argument '{argument}'; {hint}known: {', '.join(signature.parameters)}"
            )
    bound = signature.bind(**arguments)
    bound.apply_defaults()
    encoder = MODELS[name](**bound.arguments)
    encoder.architecture = name
    encoder.arguments = dict(bound.arguments)
    return encoder
