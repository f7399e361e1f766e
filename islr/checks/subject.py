"""The run under check, whatever its task, and the outcome of a check."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from timm.layers import DropPath
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from islr.checks.goal import Goal
from islr.data.loading.config import DataConfig
from islr.data.loading.loader import Batch
from islr.data.manifest import Clip, Manifest
from islr.data.views.input_spec import InputSpec
from islr.data.views.sampling import SamplingConfig
from islr.data.views.views import View
from islr.evaluation.pretext import Trivial
from islr.training.classification import Classification, ClassificationConfig
from islr.training.optim import OptimConfig
from islr.training.run_config import RunConfig


@dataclass(frozen=True)
class Labelled:
    """Clips and classifier of the control with shuffled labels.

    Attributes:
        train: Labelled training clips.
        held_out: Labelled clips outside training; never test.
        build: Number of classes -> a fresh classifier with its loss.
        sampling: How frames of a scored clip are sampled.
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
        train: The training clips, with those that are missing.
        scored: Labelled clips that select or score the run's model; None in pre-training.
        view: Makes a training sample of a clip.
        spec: Input of the encoder.
        span: Clip -> how many of its frames a sample spans.
        build: Returns the module that the run would train, fresh; given true, without mixed clips and smoothed labels,
            under which neither a loss nor an accuracy has a clear goal.
        groups: Returns the optimiser's groups of such a module.
        goal: Returns what such a module must reach on a batch; called before any training of it.
        exported: Returns the part of it that the run leaves behind: an encoder or a classifier.
        save: Writes that part as the run would.
        labelled: The control with shuffled labels, where there are labels.
        predictors: Trivial predictors that the module scores beside its own values: logged name -> what it is.
    """

    name: str
    task: Literal["pretrain", "finetune"]
    optim: OptimConfig
    run: RunConfig
    data: DataConfig
    train: Manifest
    scored: Manifest | None
    view: View
    spec: InputSpec
    span: Callable[[Clip], float]
    build: Callable[[bool], nn.Module]
    groups: Callable[[nn.Module], list[dict[str, Any]]]
    goal: Callable[[nn.Module, Batch], Goal]
    exported: Callable[[nn.Module], nn.Module]
    save: Callable[[nn.Module, Path], None]
    labelled: Labelled | None
    predictors: Mapping[str, Trivial] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckLimits:
    """Bounds of a check.

    Attributes:
        steps: Most training steps of one check.
        seconds: Most seconds of one check; it ends with the step during which they pass.
        clips: Size of the batch that is overfitted.
        processes: Number of processes of the planned run.
    """

    steps: int = 200
    seconds: float = 120.0
    clips: int = 8
    processes: int = 1


@dataclass(frozen=True)
class CheckOutcome:
    """The outcome of a check: a line of text, and its numbers."""

    check: str
    state: Literal["pass", "fail", "skip"]
    message: str
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, check: str, passed: bool, message: str, values: dict[str, Any]) -> "CheckOutcome":
        """Return a passed or a failed outcome."""
        return cls(check, "pass" if passed else "fail", message, values)


def frames_spanned(spec: InputSpec, sampling: SamplingConfig, clip: Clip) -> float:
    """Return how many frames of a clip a sample spans: as many as it has, or its window at a fixed rate."""
    if spec.modality == "pose":
        return float(spec.frames)
    return sampling.spanned(clip.frames or 0, clip.fps or 25.0, spec.frames)


def disable_dropout(module: nn.Module) -> None:
    """Disable dropout and drop path, so that two passes of one batch agree."""
    for part in module.modules():
        if isinstance(part, _DropoutNd | StochasticDepth):
            part.p = 0.0
        elif isinstance(part, DropPath):
            part.drop_prob = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0


def evenly(clips: list[Clip], most: int) -> list[Clip]:
    """Return at most `most` clips, evenly spaced."""
    return [clips[place * len(clips) // most] for place in range(most)] if len(clips) > most else clips


def unmixed(config: ClassificationConfig) -> ClassificationConfig:
    """Return the options without mixed clips and smoothed labels."""
    return config.model_copy(update={"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0})


def unrepeated(config: ClassificationConfig) -> ClassificationConfig:
    """Return the options for one view of each clip, as in scoring."""
    return config.model_copy(update={"repeats": 1})
