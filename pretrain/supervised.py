"""Supervised pre-training on labelled video: the transfer baseline every self-supervised recipe is compared with.

Source: the supervised rows of MViTv2 (arXiv 2112.01526, section 5). Objective and augmentation are those of
fine-tuning here, so that only the labels' origin differs.
"""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from islr.checks.goal import Goal, classification_goal
from islr.checks.subject import unmixed
from islr.data.loading.loader import Batch
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import View, refuse_other_modality, train_view
from islr.evaluation.pretext import Trivial
from islr.models.encoder import Encoder
from islr.training.classification import Classification, ClassificationConfig
from islr.training.distributed.collectives import share
from pretrain.recipe import Recipe, VideoRecipeConfig


class SupervisedConfig(VideoRecipeConfig):
    """Options of supervised pre-training."""

    name: Literal["supervised"] = "supervised"
    classification: ClassificationConfig = ClassificationConfig()
    pose: PoseAugmentConfig = PoseAugmentConfig()


class Supervised(Recipe):
    """Classification of the source corpus; only the encoder is kept.

    Raises:
        UserError: The augmentation of the other modality was configured.
    """

    Config = SupervisedConfig
    needs_labels = True
    trivial_predictors: ClassVar = {
        "uniform_classes": Trivial("every class alike"),
        "majority_accuracy": Trivial("the commonest class", ("accuracy",), rises=True),
    }
    label_counts: Tensor

    @staticmethod
    def views(config: SupervisedConfig, input_spec: InputSpec) -> View:
        """Return the view of one augmented clip of a labelled video or pose sequence."""
        return train_view(input_spec, config.video, config.pose, config.classification.repeats)

    @staticmethod
    def classification(config: SupervisedConfig) -> ClassificationConfig:
        """Return the classifier's options."""
        return config.classification

    @staticmethod
    def unmixed(config: SupervisedConfig) -> SupervisedConfig:
        """Return the options without mixed clips and smoothed labels."""
        return config.model_copy(update={"classification": unmixed(config.classification)})

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return a two-block MViT with every augmentation that draws from a generator."""
        mixing = {"mixup": 0.8, "cutmix": 1.0, "mix_prob": 0.8, "repeats": 2, "dropout": 0.1}
        video = {"randaugment": {"layers": 4}, "erasing": {"probability": 0.5}, "colour": 0.2}
        return {
            "recipe": {"name": "supervised", "classification": mixing, "video": video},
            "encoder": {"name": "mvit_tiny", "arguments": {"frames": 4, "size": 32}},
        }

    def __init__(self, encoder: Encoder, config: SupervisedConfig, num_classes: int) -> None:
        super().__init__()
        refuse_other_modality(type(encoder).__name__, encoder.input_spec, config.video, config.pose)
        self.task = Classification(encoder, num_classes, config.classification)
        self.register_buffer("label_counts", torch.zeros(num_classes))  # of the clips trained on so far

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The classifier's encoder."""
        return self.task.encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy and training accuracy, and what knowing the labels' frequencies alone gives."""
        logged = self.task(batch) | self.trivial(batch)
        if self.training:
            self.label_counts += torch.bincount(batch["label"], minlength=len(self.label_counts))
        return logged

    @torch.no_grad()
    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return log K, which no smoothing or mixing of labels changes, and the accuracy of the commonest class."""
        label, counts = batch["label"], self.label_counts
        right = (label == counts.argmax()).float().mean() * share(len(label))
        return {"uniform_classes": counts.new_tensor(math.log(len(counts))), "majority_accuracy": right}

    def goal(self, batch: Batch) -> Goal:
        """Return the goal of classifying every clip correctly."""
        return classification_goal(self, batch)
