"""The input of an encoder: the frames, size and normalisation that a view must deliver."""

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class InputSpec:
    """Shape and normalisation of an encoder's input.

    Attributes:
        frames: Frames per clip.
        size: Height and width in pixels; 0 for poses.
        mean: Per-channel mean of pixels scaled to 0..1; empty for poses.
        std: Per-channel standard deviation of the same; empty for poses.
        modality: Frames of a video, or keypoints.
        channels: Order of the colours; some published weights were trained on OpenCV's blue-first frames.
    """

    frames: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    modality: Literal["video", "pose"]
    channels: Literal["rgb", "bgr"] = "rgb"

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Shape of one clip, without the batch axis."""
        if self.modality == "pose":
            return (self.frames, 75, 3)
        return (3, self.frames, self.size, self.size)

    def to_json(self) -> str:
        """Return one line of JSON, for file metadata."""
        return json.dumps(asdict(self))
