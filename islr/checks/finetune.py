"""A fine-tuning run as the subject of `islr check`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from islr.checks.goal import classification_goal
from islr.checks.subject import Labelled, Subject, frames_spanned, unmixed, unrepeated
from islr.data.manifest import Manifest
from islr.data.views.views import train_view
from islr.evaluation.classifier import save_classifier
from islr.evaluation.finetune import classifier_facts, clips_of, groups_of, task_of
from islr.evaluation.finetuning.config import FinetuneConfig
from islr.models import Classifier
from islr.models.weights import build_encoder
from islr.training.classification import Classification, ClassificationConfig


def finetune_subject(config: FinetuneConfig) -> Subject:
    """Return what a fine-tuning configuration would train.

    Raises:
        UserError: As `run_finetune`, before any work.
    """
    clips = clips_of(config)
    manifest = clips.manifest
    spec = build_encoder(config.encoder).input_spec
    view = train_view(spec, config.video, config.pose, config.classification.repeats)
    simple = unmixed(config.classification)

    def task(train: Manifest, options: ClassificationConfig) -> Classification:
        torch.manual_seed(config.run.seed)
        return task_of(config, train, options)

    def shuffled_task(classes: int) -> Classification:
        torch.manual_seed(config.run.seed)
        return Classification(task_of(config, clips.train, simple).encoder, classes, unrepeated(simple))

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, Classification)
        return groups_of(module, config.optim)

    def save(module: nn.Module, path: Path) -> None:
        save_classifier(path, classifier(module), classifier_facts(config, manifest, clips.train))

    return Subject(
        name=config.name,
        task="finetune",
        optim=config.optim,
        run=config.run,
        data=config.data,
        train=clips.train,
        scored=manifest.replace([*clips.selection, *clips.test]),
        view=view,
        spec=spec,
        span=lambda clip: frames_spanned(spec, config.video.sampling, clip),
        build=lambda without_mixing: task(clips.train, simple if without_mixing else config.classification),
        groups=groups,
        goal=classification_goal,
        exported=classifier,
        save=save,
        labelled=Labelled(clips.train, clips.selection, shuffled_task, config.video.sampling),
    )


def classifier(module: nn.Module) -> Classifier:
    """Return the classifier of a task."""
    assert isinstance(module, Classification)
    return module.classifier
