"""A fine-tuning run as the checks see it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from islr.checks.subject import Goal, Labelled, Subject, plain, span_wanted
from islr.data.module import Batch
from islr.data.transforms import train_view
from islr.evaluation.evaluate import save_classifier
from islr.evaluation.finetune import FinetuneConfig, classifier_facts, clips_of, groups_of
from islr.models import Classifier
from islr.models.weights import build_encoder
from islr.training.classification import Classification


def finetune_subject(config: FinetuneConfig) -> Subject:
    """What a fine-tuning configuration would train.

    Raises:
        UserError: As `run_finetune`, before any work.
    """
    clips = clips_of(config)
    manifest = clips.manifest
    spec = build_encoder(config.encoder).input_spec
    view = train_view(spec, config.video, config.pose)

    def task(classes: int, simple: bool) -> Classification:
        torch.manual_seed(config.run.seed)
        options = plain(config.classification) if simple else config.classification
        found = Classification(build_encoder(config.encoder), classes, options)
        if config.mode == "linear":
            found.encoder.freeze()
        return found

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, Classification)
        return groups_of(module, config.optim)

    def save(module: nn.Module, path: Path) -> None:
        save_classifier(path, classifier(module), classifier_facts(config, manifest))

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
        build=lambda simple: task(len(manifest.classes), simple),
        groups=groups,
        goal=told_goal,
        kept=classifier,
        save=save,
        labelled=Labelled(clips.train, clips.selection, lambda count: task(count, True), config.video.sampling),
    )


def told_goal(module: nn.Module, batch: Batch) -> Goal:
    """Every clip of the batch told right: a mean cross-entropy under log 2 / B gives each label more than a half."""
    labels = batch["label"]
    shares = torch.bincount(labels) / len(labels)
    entropy = float(torch.special.entr(shares).sum())
    words = f"at which every clip is told right (the labels' frequencies score {entropy:.3g})"
    return Goal("loss", math.log(2) / len(labels), words)


def classifier(module: nn.Module) -> Classifier:
    """The classifier of a task."""
    assert isinstance(module, Classification)
    return module.classifier
