"""A fine-tuning run as the checks see it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from islr.checks.subject import Goal, Labelled, Subject, plain, span_wanted, unrepeated
from islr.data.loading.store import Batch
from islr.data.manifest import Manifest
from islr.data.views.transforms import train_view
from islr.evaluation.evaluate import save_classifier
from islr.evaluation.finetune import FinetuneConfig, classifier_facts, clips_of, groups_of, task_of
from islr.models import Classifier
from islr.models.encoder import Encoder
from islr.models.weights import build_encoder
from islr.training.classification import Classification, ClassificationConfig


def finetune_subject(config: FinetuneConfig) -> Subject:
    """What a fine-tuning configuration would train.

    Raises:
        UserError: As `run_finetune`, before any work.
    """
    clips = clips_of(config)
    manifest = clips.manifest
    spec = build_encoder(config.encoder).input_spec
    view = train_view(spec, config.video, config.pose, config.classification.repeats)
    simple = plain(config.classification)

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
        seen=clips.train,
        unseen=manifest.replace([*clips.selection, *clips.test]),
        view=view,
        spec=spec,
        frames_wanted=lambda clip: span_wanted(spec, config.video.sampling, clip),
        build=lambda plainly: task(clips.train, simple if plainly else config.classification),
        groups=groups,
        goal=told_goal,
        kept=classifier,
        save=save,
        labelled=Labelled(clips.train, clips.selection, shuffled_task, config.video.sampling),
    )


def told_goal(module: nn.Module, batch: Batch) -> Goal:
    """Every clip of the batch told right: a mean cross-entropy under log 2 / B gives each label more than a half."""
    labels = batch["label"]
    shares = torch.bincount(labels) / len(labels)
    entropy = float(torch.special.entr(shares).sum())
    words = f"at which every clip is told right (the labels' frequencies score {entropy:.3g})"
    encoder = module.encoder
    assert isinstance(encoder, Encoder)
    once = 5 if encoder.input_spec.modality == "video" else 4  # dimensions of clips without repeats
    views = batch["clip"].shape[1] if batch["clip"].ndim > once else 1
    return Goal("loss", math.log(2) / (len(labels) * views), words)


def classifier(module: nn.Module) -> Classifier:
    """The classifier of a task."""
    assert isinstance(module, Classification)
    return module.classifier
