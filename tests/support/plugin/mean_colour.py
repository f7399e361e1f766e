"""Mean-colour pre-training: predict the mean colour of every clip."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from islr.data.loading.loader import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import View, train_view
from islr.evaluation.pretext import Trivial
from islr.models import Encoder, to_input
from pretrain.recipe import Recipe, VideoRecipeConfig


class MeanColourConfig(VideoRecipeConfig):
    """Options of mean-colour pre-training."""

    beta: float = Field(0.1, gt=0, description="error at which the loss turns from squared to absolute")


class MeanColour(Recipe):
    """An encoder and a linear layer that predicts the three means of a clip."""

    Config = MeanColourConfig
    modality = "video"
    trivial_predictors: ClassVar = {"mean_colour": Trivial("the mean colour of the batch")}

    @staticmethod
    def views(config: MeanColourConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented clip."""
        return train_view(input_spec, config.video, PoseAugmentConfig())

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a tiny ResNet on four frames of 32 pixels."""
        return {"recipe": {"beta": 0.2}, "encoder": {"name": "r3d_tiny", "arguments": {"frames": 4, "size": 32}}}

    def __init__(self, encoder: Encoder, config: MeanColourConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.head, self.loss = nn.Linear(encoder.dim, 3), nn.SmoothL1Loss(beta=config.beta)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss."""
        prediction = self.head(self.encoder(to_input(batch["clip"], self.encoder.input_spec)))
        return {"loss": self.loss(prediction.float(), self.targets(batch))}

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the batch's mean colour."""
        target = self.targets(batch)
        return {"mean_colour": self.loss(target.mean(dim=0).expand_as(target), target)}

    def targets(self, batch: Batch) -> Tensor:
        """Return the mean colour of each clip in 0..1, `[B, 3]`."""
        return batch["clip"].float().mean(dim=(2, 3, 4)) / 255
