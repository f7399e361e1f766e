"""Mean-colour pre-training: predict the mean colour of every clip. The shortest recipe, and an encoder and a corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from islr.data.corpora.folder import from_folder
from islr.data.loading.loader import Batch
from islr.data.manifest import Manifest
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import View, train_view
from islr.models import Encoder, create_model, to_input
from pretrain.recipe import Recipe, VideoRecipeConfig


class MeanColourConfig(VideoRecipeConfig):
    """Options of mean-colour pre-training."""

    beta: float = Field(0.1, gt=0, description="error at which the loss turns from squared to absolute")


class MeanColour(Recipe):
    """An encoder and a linear layer that predicts the three means of a clip."""

    Config = MeanColourConfig
    modality = "video"
    trivial_predictors: ClassVar[Mapping[str, str]] = {"mean_colour": "the mean colour of the batch"}

    @staticmethod
    def views(config: MeanColourConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented clip."""
        return train_view(input_spec, config.video, PoseAugmentConfig())

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny ResNet on two frames of 32 pixels."""
        return {"recipe": {"beta": 0.2}, "encoder": {"name": "r3d_tiny", "arguments": {"frames": 4, "size": 32}}}

    def __init__(self, encoder: Encoder, config: MeanColourConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.head = nn.Linear(encoder.dim, 3)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss."""
        prediction = self.head(self.encoder(to_input(batch["clip"], self.encoder.input_spec)))
        return {"loss": self.loss(prediction, self.targets(batch))}

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the batch's mean colour."""
        target = self.targets(batch)
        return {"mean_colour": self.loss(target.mean(dim=0).expand_as(target), target)}

    def targets(self, batch: Batch) -> Tensor:
        """Return the mean colour of each clip in 0..1, `[B, 3]`."""
        return batch["clip"].float().mean(dim=(2, 3, 4)) / 255

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the smooth L1 error."""
        return F.smooth_l1_loss(prediction.float(), target, beta=self.config.beta)


def small_resnet(frames: int = 4, size: int = 32) -> Encoder:
    """Return a registered encoder under a name of the plug-in."""
    encoder = create_model("r3d_tiny", frames=frames, size=size)
    return encoder


def clips(videos: str, name: str = "clips") -> Manifest:
    """Return the manifest of a folder of videos."""
    return from_folder(videos, name=name, workers=1)
