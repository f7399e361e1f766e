"""Public checkpoint layouts by name, and which of them a state dict is of."""

from collections.abc import Callable, Mapping

from torch import Tensor

from islr.errors import UserError
from islr.models.layouts.hf_videomae import HF_VIDEOMAE
from islr.models.layouts.hiera import HIERA, HIERA_IMAGE
from islr.models.layouts.i3d import BSL1K_I3D, KINETICS_I3D, WLASL_I3D
from islr.models.layouts.layout import Layout, Renamed, load_layout, rename, shown
from islr.models.layouts.openhands import OPENHANDS_SLGCN, OPENHANDS_STGCN
from islr.models.layouts.pytorchvideo import PYTORCHVIDEO, PYTORCHVIDEO_MVIT
from islr.models.layouts.slowfast import SLOWFAST
from islr.models.layouts.spoter import SPOTER_LAYOUT
from islr.models.layouts.swin import BEVT, MM_SWIN, SWIN_2D, TORCHVISION_SWIN3D
from islr.models.layouts.timesformer import DINO_VIT, HF_TIMESFORMER, SVT, SVT_STUDENT, TIMESFORMER
from islr.models.layouts.torchvision_mvit import TORCHVISION_MVIT
from islr.models.layouts.torchvision_video import TORCHVISION_RESNET, TORCHVISION_S3D
from islr.models.layouts.videomae import VIDEOMAE

__all__ = ["LAYOUTS", "Layout", "Renamed", "choose_layout", "detect_layout", "layouts_of", "load_layout", "rename"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        BEVT,
        BSL1K_I3D,
        DINO_VIT,
        HF_TIMESFORMER,
        HIERA,
        HIERA_IMAGE,
        KINETICS_I3D,
        MM_SWIN,
        OPENHANDS_SLGCN,
        OPENHANDS_STGCN,
        PYTORCHVIDEO,
        PYTORCHVIDEO_MVIT,
        SLOWFAST,
        SPOTER_LAYOUT,
        SVT,
        SVT_STUDENT,
        SWIN_2D,
        TIMESFORMER,
        TORCHVISION_MVIT,
        TORCHVISION_RESNET,
        TORCHVISION_S3D,
        TORCHVISION_SWIN3D,
        VIDEOMAE,
        HF_VIDEOMAE,
        WLASL_I3D,
    )
}


def layouts_of(architecture: str) -> list[str]:
    """Return the names of the layouts that can be imported into an encoder of this registry name."""
    return [name for name, layout in LAYOUTS.items() if layout.fits(architecture)]


def detect_layout(state: Mapping[str, Tensor], architecture: str, where: str) -> Layout:
    """Return the one layout of an architecture that a state dict matches.

    Args:
        state: As read from the file's entry.
        architecture: Registry name of the encoder wanted.
        where: Names the file in errors.

    Raises:
        UserError: None fits, or more than one.
    """
    return choose_layout(lambda layout: state, architecture, where)


def choose_layout(read: Callable[[Layout], Mapping[str, Tensor]], architecture: str, where: str) -> Layout:
    """As `detect_layout`, where each layout's `entries` may name another part of the file: `read` gives that part."""
    fitting = [LAYOUTS[name] for name in layouts_of(architecture)]
    found = [layout for layout in fitting if layout.matches(read(layout))]
    if len(found) == 1:
        return found[0]
    known = ", ".join(layout.name for layout in (found or fitting)) or "none"
    if found:
        raise UserError(f"{where} could be of several layouts ({known}); name one with --from")
    tensors = f"; its tensors: {shown(read(fitting[0]))}" if fitting else ""
    raise UserError(f"{where} is of no layout known for {architecture} ({known}){tensors}")
