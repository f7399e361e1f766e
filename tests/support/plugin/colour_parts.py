"""An encoder and a corpus of the stand-in plug-in."""

from islr.data.corpora.folder import from_folder
from islr.data.manifest import Manifest
from islr.models import Encoder, create_model


def small_resnet(frames: int = 4, size: int = 32) -> Encoder:
    """Return a registered encoder under a name of the plug-in."""
    return create_model("r3d_tiny", frames=frames, size=size)


def clips(videos: str, name: str = "clips") -> Manifest:
    """Return the manifest of a folder of videos."""
    return from_folder(videos, name=name, workers=1)
