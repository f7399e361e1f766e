"""Trials of a fine-tuning: the same training with other values of the optimiser, chosen on the selection clips.

A comparison of two starts is fair when both get the same number of trials; each record states all of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from islr.evaluation.classifier import CLASSIFIER
from islr.evaluation.finetuning.config import FinetuneConfig
from islr.files import write_atomic
from islr.training.classification import Classification
from islr.training.engine import State
from islr.training.harness import Run
from islr.training.tracking import METRICS

SCORE, CHOSEN = "selection_score", "chosen"  # beside a trial's values in records


class Trained(NamedTuple):
    """The end of a training.

    Attributes:
        task: With the weights of the last epoch.
        state: Of the training loop.
        steps_per_epoch: Optimiser steps.
        unreadable: Use -> clips that could not be read.
        folder: Where its best weights are.
        trials: What a record says of each trial; empty where there was one training.
    """

    task: Classification
    state: State
    steps_per_epoch: int
    unreadable: dict[str, list[str]]
    folder: Path
    trials: tuple[dict[str, str], ...] = ()


def best_trial(
    config: FinetuneConfig,
    run: Run,
    fresh: Callable[[], Classification],
    train: Callable[..., Trained],
) -> Trained:
    """Train with each of the configuration's trials and leave the best one's weights and metrics in the run folder.

    Trials share the decoded clips. Each begins at the same seed and has a folder of its own, from which it resumes.

    Args:
        config: Of the run.
        run: The run.
        fresh: Builds the module to train.
        train: Trains a `task` under a configuration in the folder of a `run`.
    """
    ended = []
    for number, one in enumerate(config.tried(), start=1):
        folder = run.folder / f"trial-{number}"
        if run.world.main:
            folder.mkdir(exist_ok=True)
        run.world.barrier()
        torch.manual_seed(config.run.seed)
        ended.append(train(one, task=fresh(), run=replace(run, config=one, folder=folder, wandb_run=None)))
    best = max(ended, key=lambda trained: trained.state.best)  # of equals the first
    if run.world.main:
        for name in (CLASSIFIER, METRICS):
            write_atomic(run.folder / name, (best.folder / name).read_bytes())
    return best._replace(folder=run.folder, trials=_facts(config, ended, best))


def _facts(config: FinetuneConfig, ended: Sequence[Trained], best: Trained) -> tuple[dict[str, str], ...]:
    return tuple(
        {
            **{key: f"{value:g}" for key, value in trial.values().items()},
            SCORE: f"{trained.state.best:.4f}",
            CHOSEN: "yes" if trained is best else "no",
        }
        for trial, trained in zip(config.trials, ended, strict=True)
    )
