"""The corpora that `islr data` converts to manifests, by name."""

from collections.abc import Callable

from islr.data.corpora.asl_signs import from_asl_signs
from islr.data.corpora.folder import from_folder
from islr.data.corpora.published import PUBLISHED
from islr.data.corpora.wlasl import from_wlasl
from islr.data.manifest import Manifest

CORPORA: dict[str, Callable[..., Manifest]] = {
    "wlasl": from_wlasl,
    "folder": from_folder,
    "asl-signs": from_asl_signs,
    **PUBLISHED,
}
