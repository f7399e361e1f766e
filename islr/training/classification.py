"""Learning labels: the objective shared by fine-tuning and supervised pre-training.

Shapes: B batch, K classes; clips as the encoder takes them.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import CutMix, MixUp

from islr.config import Config
from islr.data.module import Batch
from islr.errors import UserError
from islr.models.encoder import Classifier, Encoder, HeadNorm, to_input
from islr.training.across import share


class ClassificationConfig(Config):
    """Regularisation of a classifier in training."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1, description="before the linear head")
    mixup: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0 = off; video only")
    cutmix: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0 = off; video only")
    head_init_scale: float = Field(0.001, gt=0, description="factor on the fresh head's weights")
    head_norm: HeadNorm = Field("layer", description="before the head; batch: without affine, for small encoders")


class Classification(nn.Module):
    """A classifier with its loss: smoothed cross-entropy, on mixed clips when the configuration says so.

    Args:
        encoder: Fresh or pre-trained.
        num_classes: K.
        config: Regularisation.

    Raises:
        UserError: mixup or cutmix for a pose encoder (a mean of two skeletons is no skeleton).
    """

    def __init__(self, encoder: Encoder, num_classes: int, config: ClassificationConfig) -> None:
        super().__init__()
        if encoder.input_spec.modality == "pose" and (config.mixup or config.cutmix):
            raise UserError("mixup and cutmix are for video; set both to 0 for a pose encoder")
        self.config = config
        self.classifier = Classifier(encoder, num_classes, config.dropout, config.head_init_scale, config.head_norm)
        self._mixes = [
            mix(alpha=alpha, num_classes=num_classes)
            for mix, alpha in ((MixUp, config.mixup), (CutMix, config.cutmix))
            if alpha
        ]

    @property
    def encoder(self) -> Encoder:
        """The encoder inside the classifier."""
        return self.classifier.encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and training accuracy of a batch with `clip` and `label`."""
        clip, label = to_input(batch["clip"], self.encoder.input_spec), batch["label"]
        target = label
        if self._mixes:
            mix = self._mixes[int(torch.randint(len(self._mixes), ()))]
            clip, target = mix(clip, label)  # target [B, K]
        logits = self.classifier(clip)  # [B, K]
        loss = functional.cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)
        weight = share(len(clip))
        # Against the clip's own label: under mixing this is a lower bound.
        accuracy = (logits.argmax(dim=1) == label).float().mean() * weight
        return {"loss": loss * weight, "accuracy": accuracy}
