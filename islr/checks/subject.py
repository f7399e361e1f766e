"""What the checks need to know of a run, whatever its task, and what a check says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from islr.data.loading.store import Batch, DataConfig
from islr.data.manifest import Clip, Manifest
from islr.data.views.input_spec import InputSpec
from islr.data.views.transforms import SamplingConfig, View
from islr.training.classification import Classification, ClassificationConfig
from islr.training.distributed.world import World
from islr.training.optim import OptimConfig
from islr.training.run_config import RunConfig


@dataclass(frozen=True)
class Goal:
    """What a loss, or an accuracy, must reach on one batch.

    Attributes:
        key: Which of the values of the module's `forward`.
        limit: At most so much, or at least, where `rises`.
        words: Where the limit comes from.
        rises: Whether more is better.
    """

    key: str
    limit: float
    words: str
    rises: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.limit if self.rises else value <= self.limit


@dataclass(frozen=True)
class Labelled:
    """What the control with shuffled labels trains and scores.

    Attributes:
        train: Labelled clips that are trained on.
        held_out: Labelled clips that are not; never test.
        build: Number of classes -> a fresh classifier with its loss.
        sampling: Frames of a clip that is scored.
    """

    train: Manifest
    held_out: Manifest
    build: Callable[[int], Classification]
    sampling: SamplingConfig


@dataclass(frozen=True)
class Subject:
    """A run that has not begun.

    Attributes:
        name, task: Of the run.
        optim, run, data: Of its configuration.
        seen: The clips that it trains on, with those that are missing.
        unseen: Labelled clips that it is judged on, where it is.
        view: Makes a training sample of a clip.
        spec: Input of its encoder.
        frames_wanted: How many frames of a clip a sample spans.
        build: The module that `fit` would train, fresh; given true, without mixed clips and smoothed labels, under
            which neither a loss nor an accuracy has a clear goal.
        groups: The optimiser's groups of such a module.
        goal: What such a module must reach on a batch; called before any training of it.
        kept: The part of it that the run leaves behind: an encoder or a classifier.
        save: Writes that part as the run would.
        labelled: For the control with shuffled labels, where there are labels.
    """

    name: str
    task: Literal["pretrain", "finetune"]
    optim: OptimConfig
    run: RunConfig
    data: DataConfig
    seen: Manifest
    unseen: Manifest | None
    view: View
    spec: InputSpec
    frames_wanted: Callable[[Clip], float]
    build: Callable[[bool], nn.Module]
    groups: Callable[[nn.Module], list[dict[str, Any]]]
    goal: Callable[[nn.Module, Batch], Goal]
    kept: Callable[[nn.Module], nn.Module]
    save: Callable[[nn.Module, Path], None]
    labelled: Labelled | None


@dataclass(frozen=True)
class Limits:
    """How much a check may do.

    Attributes:
        steps: Training steps of one check.
        seconds: Of one check; it ends with the step during which they are over.
        clips: Of the batch that is overfitted.
        processes: That the run will have.
    """

    steps: int = 200
    seconds: float = 120.0
    clips: int = 8
    processes: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a check found: in words, and as numbers."""

    check: str
    state: Literal["pass", "fail", "skip"]
    words: str
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, check: str, good: bool, words: str, values: dict[str, Any]) -> "Outcome":
        """Passed or failed."""
        return cls(check, "pass" if good else "fail", words, values)


def span_wanted(spec: InputSpec, sampling: SamplingConfig, clip: Clip) -> float:
    """Frames of a clip that a sample spans: as many as it has, or its window at a fixed rate."""
    if spec.modality == "pose" or sampling.kind == "uniform":
        return float(spec.frames)
    return (spec.frames - 1) * sampling.stride * (clip.fps or 25.0) / sampling.target_fps + 1


def without_chance(module: nn.Module) -> None:
    """Turn off what makes two passes of one batch differ: dropout and dropped paths."""
    for part in module.modules():
        if isinstance(part, _DropoutNd | StochasticDepth):
            part.p = 0.0
        elif isinstance(part, DropPath):
            part.drop_prob = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0


def evenly(clips: list[Clip], most: int) -> list[Clip]:
    """At most so many, evenly spaced."""
    return [clips[place * len(clips) // most] for place in range(most)] if len(clips) > most else clips


def autocast(world: World, run: RunConfig) -> torch.autocast:
    """The precision of the run."""
    return torch.autocast(world.device.type, torch.bfloat16, enabled=run.precision == "bf16")


def plain(config: ClassificationConfig) -> ClassificationConfig:
    """Without mixed clips and smoothed labels."""
    return config.model_copy(update={"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0})


def unrepeated(config: ClassificationConfig) -> ClassificationConfig:
    """For clips that come as they are scored, one view each."""
    return config.model_copy(update={"repeats": 1})
