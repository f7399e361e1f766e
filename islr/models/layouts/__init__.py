"""Public checkpoint layouts by name, and which of them a state dict is of."""

from collections.abc import Mapping

from torch import Tensor

from islr.errors import UserError
from islr.models.layouts.layout import Layout, Renamed, load_layout, rename, shown
from islr.models.layouts.slowfast import SLOWFAST
from islr.models.layouts.swin import BEVT, MM_SWIN, SWIN_2D, TORCHVISION_SWIN3D

__all__ = ["LAYOUTS", "Layout", "Renamed", "detect_layout", "layouts_of", "load_layout", "rename"]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (SLOWFAST, TORCHVISION_SWIN3D, MM_SWIN, BEVT, SWIN_2D)}


def layouts_of(architecture: str) -> list[str]:
    """Names of the layouts that can be imported into an encoder of this registry name."""
    return [name for name, layout in LAYOUTS.items() if layout.fits(architecture)]


def detect_layout(state: Mapping[str, Tensor], architecture: str, where: str) -> Layout:
    """The one layout of an architecture that a state dict is of.

    Args:
        state: As read from the file's entry.
        architecture: Registry name of the encoder wanted.
        where: Names the file in errors.

    Raises:
        UserError: None fits, or more than one.
    """
    fitting = [LAYOUTS[name] for name in layouts_of(architecture)]
    found = [layout for layout in fitting if layout.matches(state)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(layout.name for layout in (found or fitting)) or "none"
    if found:
        raise UserError(f"{where} could be of several layouts ({known}); name one with --from")
    raise UserError(f"{where} is of no layout known for {architecture} ({known}); its tensors: {shown(state)}")
