"""The value that training on one small batch must reach, and where that value comes from."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from islr.data.loading.loader import Batch
from islr.models.encoder import Encoder

SHARE = 0.5  # of the distance from a trivial predictor to a perfect one that may be left


@dataclass(frozen=True)
class Goal:
    """The value that a loss, or an accuracy, must reach on one batch.

    Attributes:
        key: Which of the values of the module's `forward`.
        limit: The largest value that passes; the smallest, where `rises`.
        reason: Where the limit comes from.
        rises: Whether more is better.
    """

    key: str
    limit: float
    reason: str
    rises: bool = False

    def met(self, value: float) -> bool:
        """Return whether a value passes."""
        return value >= self.limit if self.rises else value <= self.limit


def half_of(key: str, trivial: float, predictor: str) -> Goal:
    """Return the goal of half the loss that a trivial predictor scores."""
    return Goal(key, SHARE * trivial, f"half of what {predictor} scores ({trivial:.3g})")


def classification_goal(module: nn.Module, batch: Batch) -> Goal:
    """Return the goal of classifying every clip correctly.

    A mean cross-entropy under log 2 / B gives each label a probability above one half.
    """
    labels = batch["label"]
    shares = torch.bincount(labels) / len(labels)
    entropy = float(torch.special.entr(shares).sum())
    reason = f"at which every clip is classified correctly (the labels' frequencies score {entropy:.3g})"
    encoder = module.encoder
    assert isinstance(encoder, Encoder)
    once = 5 if encoder.input_spec.modality == "video" else 4  # dimensions of clips without repeats
    views = batch["clip"].shape[1] if batch["clip"].ndim > once else 1
    return Goal("loss", math.log(2) / (len(labels) * views), reason)
