"""Fine-tuned models that were never trained, scored on the mini corpus."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from islr.config import dump_yaml, load_config
from islr.data.manifest import Manifest
from islr.evaluation.classifier import CLASSIFIER, save_classifier, training_facts
from islr.evaluation.finetune import FinetuneConfig
from islr.evaluation.requests.rescore import FinishedRun
from islr.evaluation.results import Result
from islr.models import Classifier, create_model
from support.tiny_runs import FINETUNE, write_config

VIDEO = {"name": "mvit_tiny", "arguments": {"frames": 4, "size": 32}}
POSE = {"name": "pose_transformer_tiny"}


def write_model(folder: Path, manifest: Path, encoder: dict[str, Any], seed: int, **changes: Any) -> Path:
    """The folder of a fine-tuning run that was never trained: all that scoring it needs."""
    folder.mkdir(parents=True)
    path = write_config(FINETUNE, folder / "asked.yaml", manifest, folder, encoder=encoder, name=folder.name, **changes)
    config = load_config(FinetuneConfig, path)
    (folder / "config.yaml").write_text(dump_yaml(config))
    corpus = Manifest.load(manifest)
    torch.manual_seed(seed)
    built = create_model(encoder["name"], **encoder.get("arguments", {}))
    facts = {"classes": list(corpus.classes), "pretraining": "[]", "training": training_facts(corpus.select("train"))}
    classifier = Classifier(built, len(corpus.classes))
    torch.nn.init.normal_(classifier.head.weight, std=0.2)  # a fresh head answers every clip alike
    save_classifier(folder / CLASSIFIER, classifier, facts)
    return folder


def probabilities(run_folder: Path, split: str = "test", views: str = "1x1") -> tuple[list[str], np.ndarray]:
    """Ids and probabilities of a split, from a run's weights."""
    model = FinishedRun.load(run_folder)
    from islr.training.distributed.world import World

    rows = Manifest.load(model.config.data.manifest[0]).select(split)
    scores, manifest = model.score(rows, model.data(None), model.views(views), World("cpu"), allow_partial=False)
    return [manifest.clips[row].clip_id for row in scores.rows], scores.probabilities


def top1(results: list[Result]) -> Result:
    return next(r for r in results if r.metric == "top1" and not r.group)


def other_corpus(source: Path, folder: Path, name: str = "", **changes: Any) -> Path:
    """The same files in a folder of their own, its manifest changed."""
    shutil.copytree(source, folder)
    manifest = dataclasses.replace(Manifest.load(source / "manifest.csv"), root=folder)
    manifest = dataclasses.replace(manifest, name=name or manifest.name, **changes)
    manifest.save(folder / "manifest.csv")
    return folder / "manifest.csv"
