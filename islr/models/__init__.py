"""The encoders by name.

`MODELS` maps a name to the function that builds it. `create_model` is how everybody builds one: it checks the
arguments and writes down, on the encoder, what is needed to build it again.
"""

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

from islr import plugins
from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models import hiera, pose_conv_transformer, pose_transformer, spoter, swin, timesformer, vit
from islr.models.convnets import frame_conv, i3d, pytorchvideo_nets, torchvision_nets
from islr.models.encoder import Classifier, Encoder, EncoderConfig, to_input
from islr.models.gcn import slgcn, stgcn
from islr.models.mvit import presets as mvit

__all__ = [
    "MODELS",
    "Classifier",
    "Encoder",
    "EncoderConfig",
    "InputSpec",
    "create_model",
    "list_models",
    "parameters_of",
    "to_input",
]

MODELS: dict[str, Callable[..., Encoder]] = {
    **frame_conv.PRESETS,
    **hiera.PRESETS,
    **i3d.PRESETS,
    **mvit.PRESETS,
    **pose_conv_transformer.PRESETS,
    **pose_transformer.PRESETS,
    **pytorchvideo_nets.PRESETS,
    **slgcn.PRESETS,
    **spoter.PRESETS,
    **stgcn.PRESETS,
    **swin.PRESETS,
    **timesformer.PRESETS,
    **torchvision_nets.PRESETS,
    **vit.PRESETS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, those of plug-in packages included, sorted."""
    return sorted(fnmatch.filter({*MODELS, *plugins.listed("encoder")}, pattern))


def parameters_of(name: str) -> list[str]:
    """Return the arguments that `create_model` takes for a name.

    Raises:
        UserError: The name is unknown.
    """
    return list(inspect.signature(_builder(name)).parameters)


def create_model(name: str, **arguments: Any) -> Encoder:
    """Build an encoder with fresh weights.

    Args:
        name: A key of `MODELS`, an entry point of a plug-in, or `path/to/file.py:Name`.
        arguments: Passed to the function behind the name; what is left out has its default.

    Raises:
        UserError: The name or an argument is unknown (the nearest are listed), or a value is impossible.
    """
    build = _builder(name)
    signature = inspect.signature(build)
    for argument in arguments:
        if argument not in signature.parameters:
            near = difflib.get_close_matches(argument, signature.parameters, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(
                f"model '{name}' has no argument '{argument}'; {hint}known: {', '.join(signature.parameters)}"
            )
    bound = signature.bind(**arguments)
    bound.apply_defaults()
    encoder: Encoder = build(**bound.arguments)
    encoder.architecture = name
    encoder.arguments = dict(bound.arguments)
    return encoder


def _builder(name: str) -> Callable[..., Encoder]:
    return MODELS.get(name) or plugins.find("encoder", name, MODELS)
