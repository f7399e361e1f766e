"""Supervised pre-training on labelled video: the transfer baseline every self-supervised recipe is held against.

Source: the supervised rows of MViTv2 (arXiv 2112.01526, section 5); the objective and the augmentation are those
of our fine-tuning, so that only the labels' origin differs.
"""

from typing import Literal

from torch import Tensor, nn

from islr.config import Config as BaseConfig
from islr.data.loading.store import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.transforms import AugmentConfig, PoseAugmentConfig, View, train_view
from islr.models.encoder import Encoder
from islr.training.classification import Classification, ClassificationConfig

NEEDS_LABELS = True


class Config(BaseConfig):
    """Options of supervised pre-training."""

    name: Literal["supervised"] = "supervised"
    classification: ClassificationConfig = ClassificationConfig()
    video: AugmentConfig = AugmentConfig()
    pose: PoseAugmentConfig = PoseAugmentConfig()


def views(config: Config, input_spec: InputSpec) -> View:
    """One augmented clip of a labelled video or pose sequence."""
    return train_view(input_spec, config.video, config.pose, config.classification.repeats)


class Recipe(nn.Module):
    """Classification of the source corpus; only the encoder is kept."""

    def __init__(self, encoder: Encoder, config: Config, num_classes: int) -> None:
        super().__init__()
        self.task = Classification(encoder, num_classes, config.classification)

    @property
    def encoder(self) -> Encoder:
        """What is exported."""
        return self.task.encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy and training accuracy."""
        return self.task(batch)
