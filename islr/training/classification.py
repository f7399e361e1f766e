"""Classification: the supervised objective shared by fine-tuning and supervised pre-training.

Shapes: B batch, K classes; clips as the encoder takes them.
"""

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import CutMix, MixUp

from islr.config import Config, refuse_idle
from islr.data.loading.loader import Batch
from islr.errors import UserError
from islr.models.encoder import Classifier, Encoder, HeadNorm, to_input
from islr.training.distributed.collectives import share


class ClassificationConfig(Config):
    """Regularisation of a classifier in training.

    With `repeats` R the model sees R augmentations of each of the `optim.batch_size` clips of a step, so R times as
    much is computed and kept in memory. Steps, epochs and the learning rates' `lr_batch` count clips, as SlowFast's
    and VideoMAE's do: an epoch has as many updates as without.
    """

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1, description="before the linear head")
    mixup: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0 = off; video only")
    cutmix: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0 = off; video only")
    mix_prob: float = Field(1.0, gt=0, le=1, description="share of batches that are mixed, where mixing is on")
    switch_prob: float = Field(0.5, ge=0, le=1, description="share of mixed batches that cutmix gets, if both are on")
    repeats: int = Field(1, ge=1, description="augmentations of each clip of a batch; rates and epochs count clips")
    head_init_scale: float = Field(0.001, gt=0, description="factor on the fresh head's weights")
    head_norm: HeadNorm = Field("layer", description="before the head; batch: without affine, for small encoders")

    @model_validator(mode="after")
    def _nothing_idle(self) -> "ClassificationConfig":
        refuse_idle(self, "mix_prob", bool(self.mixup or self.cutmix), "mixup or cutmix")
        refuse_idle(self, "switch_prob", bool(self.mixup and self.cutmix), "both mixup and cutmix")
        return self


class Classification(nn.Module):
    """A classifier with its loss: smoothed cross-entropy, on mixed clips when the configuration says so.

    Mixing is timm's `batch` mode (one partner, one lambda and one box for the whole batch; cutmix's lambda is that of
    the box as cut), done by torchvision, whose boxes lie in the picture of a clip where timm's would lie in time.

    Args:
        encoder: Fresh or pre-trained.
        num_classes: K.
        config: Regularisation.
        class_weights: Factor of each class's loss `[K]`; None = 1. A mixed clip gets the mixture of its weights.

    Raises:
        UserError: mixup or cutmix for a pose encoder (a mean of two skeletons is no skeleton).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        config: ClassificationConfig,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        if encoder.input_spec.modality == "pose" and (config.mixup or config.cutmix):
            raise UserError("mixup and cutmix are for video; set both to 0 for a pose encoder")
        self.config = config
        self.classifier = Classifier(encoder, num_classes, config.dropout, config.head_init_scale, config.head_norm)
        self.register_buffer("class_weights", class_weights, persistent=False)
        with torch.device("cpu"):  # they check alpha's value, which a network without values (meta) has none of
            self._mixup = MixUp(alpha=config.mixup, num_classes=num_classes) if config.mixup else None
            self._cutmix = CutMix(alpha=config.cutmix, num_classes=num_classes) if config.cutmix else None

    @property
    def encoder(self) -> Encoder:
        """Return the classifier's encoder."""
        return self.classifier.encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy of a batch with `clip` (`[B, R, ...]` where R = `repeats` > 1) and `label` `[B]`."""
        clip, label = batch["clip"], batch["label"]
        if self.config.repeats > 1:
            # All clips once, then all again: mixing pairs a clip with its neighbour, which must be another clip.
            clip, label = clip.transpose(0, 1).flatten(0, 1), label.repeat(self.config.repeats)  # [R * B, ...]
        clip, target = self._mixed(to_input(clip, self.encoder.input_spec), label)
        logits = self.classifier(clip)  # [B, K]
        losses = functional.cross_entropy(
            logits, target, label_smoothing=self.config.label_smoothing, reduction="none"
        )  # [B]
        if self.class_weights is not None:
            hard = target.ndim == 1
            losses = losses * (self.class_weights[target] if hard else (target * self.class_weights).sum(dim=1))
        # Against the clip's own label: under mixing this is a lower bound.
        weight = share(len(clip))
        accuracy = (logits.argmax(dim=1) == label).float().mean() * weight
        return {"loss": losses.mean() * weight, "accuracy": accuracy}

    def _mixed(self, clip: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return clips and their targets: labels `[B]`, or shares of classes `[B, K]` where clips were mixed."""
        mixes = [mix for mix in (self._mixup, self._cutmix) if mix is not None]
        if not (mixes and self.training) or float(torch.rand(())) >= self.config.mix_prob:
            return clip, label
        mix = mixes[0]
        if len(mixes) == 2:
            mix = mixes[int(float(torch.rand(())) < self.config.switch_prob)]
        pictures, target = mix(clip.flatten(1, 2), label)  # [B, C * T, H, W], so that torchvision mixes whole clips
        return pictures.view_as(clip), target


def check_batch_parts(config: ClassificationConfig, clips: int) -> None:
    """Refuse a batch norm in the head whose batches have one clip.

    Args:
        config: Of the classifier.
        clips: Clips in each part of a batch.

    Raises:
        UserError: Says what to change.
    """
    if config.head_norm == "batch" and clips * config.repeats < 2:
        raise UserError(
            "head_norm: batch needs two clips or more in each part of a batch, which has one; raise optim.batch_size, "
            "lower optim.accumulate or the number of processes, or use head_norm: layer"
        )


def effective_weights(counts: Sequence[int], beta: float) -> Tensor:
    """Return class weights by the effective number of samples, `(1 - beta^n) / (1 - beta)` (arXiv 1901.05555).

    Deviation: the mean over all clips is 1, not that over classes, so that the loss and its gradient keep their size.

    Args:
        counts: Training clips of each class; a class without any has weight 0.
        beta: At 0 all weights are equal; towards 1 they approach the inverse of the counts.
    """
    number = torch.tensor(counts, dtype=torch.float64)
    weights = torch.where(number > 0, (1 - beta) / (1 - beta**number).clamp_min(1e-300), 0.0)
    return (weights * number.sum() / (weights * number).sum()).float()
