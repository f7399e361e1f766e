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
from islr.models.convnets.frame_conv import frame_conv_base, frame_conv_tiny
from islr.models.convnets.i3d import i3d, i3d_tiny
from islr.models.convnets.pytorchvideo_nets import (
    csn_r101,
    csn_tiny,
    i3d_r50,
    pytorchvideo_mvit_b,
    pytorchvideo_mvit_tiny,
    slowfast_r50,
    slowfast_tiny,
    x3d_m,
    x3d_s,
    x3d_tiny,
)
from islr.models.convnets.torchvision_nets import mc3_18, r2plus1d_18, r2plus1d_tiny, r3d_18, r3d_tiny, s3d, s3d_tiny
from islr.models.encoder import Classifier, Encoder, EncoderConfig, to_input
from islr.models.gcn.gcn import slgcn, slgcn_tiny, stgcn, stgcn_tiny
from islr.models.hiera import hiera_b, hiera_tiny
from islr.models.mvit.sizes import mvit_b, mvit_l, mvit_s, mvit_tiny
from islr.models.pose_transformer import pose_transformer_base, pose_transformer_tiny
from islr.models.spoter import spoter, spoter_tiny
from islr.models.swin import swin_b, swin_s, swin_t, swin_tiny
from islr.models.timesformer import timesformer_b, timesformer_tiny
from islr.models.vit import vit_b, vit_g, vit_h, vit_l, vit_s, vit_tiny

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
    "mvit_b": mvit_b,
    "mvit_l": mvit_l,
    "vit_tiny": vit_tiny,
    "vit_s": vit_s,
    "vit_b": vit_b,
    "vit_l": vit_l,
    "vit_h": vit_h,
    "vit_g": vit_g,
    "pose_transformer_tiny": pose_transformer_tiny,
    "pose_transformer_base": pose_transformer_base,
    "timesformer_tiny": timesformer_tiny,
    "timesformer_b": timesformer_b,
    "i3d_tiny": i3d_tiny,
    "i3d": i3d,
    "s3d_tiny": s3d_tiny,
    "s3d": s3d,
    "r3d_tiny": r3d_tiny,
    "r3d_18": r3d_18,
    "mc3_18": mc3_18,
    "r2plus1d_tiny": r2plus1d_tiny,
    "r2plus1d_18": r2plus1d_18,
    "slowfast_tiny": slowfast_tiny,
    "slowfast_r50": slowfast_r50,
    "x3d_tiny": x3d_tiny,
    "x3d_s": x3d_s,
    "x3d_m": x3d_m,
    "csn_tiny": csn_tiny,
    "csn_r101": csn_r101,
    "i3d_r50": i3d_r50,
    "pytorchvideo_mvit_tiny": pytorchvideo_mvit_tiny,
    "pytorchvideo_mvit_b": pytorchvideo_mvit_b,
    "stgcn_tiny": stgcn_tiny,
    "stgcn": stgcn,
    "slgcn_tiny": slgcn_tiny,
    "slgcn": slgcn,
    "spoter_tiny": spoter_tiny,
    "spoter": spoter,
    "swin_tiny": swin_tiny,
    "swin_t": swin_t,
    "swin_s": swin_s,
    "swin_b": swin_b,
}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, those of plug-in packages included, sorted."""
    return sorted(fnmatch.filter({*MODELS, *plugins.listed("encoder")}, pattern))


def create_model(name: str, **arguments: Any) -> Encoder:
    """Build an encoder with fresh weights.

    Args:
        name: A key of `MODELS`, an entry point of a plug-in, or `path/to/file.py:Name`.
        arguments: Passed to the function behind the name; what is left out has its default.

    Raises:
        UserError: The name or an argument is unknown (the nearest are listed), or a value is impossible.
    """
    build = MODELS.get(name) or plugins.find("encoder", name, MODELS)
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
