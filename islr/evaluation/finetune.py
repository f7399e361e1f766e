"""Fine-tuning: train a recogniser on an encoder, choose its epoch on val, score it on test once."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from islr.data.audit.clip_digests import clips_among
from islr.data.audit.duplicates import check_disjoint, without_shared
from islr.data.loading.batches import TrainBatches
from islr.data.loading.store import ClipStore
from islr.data.loading.unreadable import check_unreadable, unreadable_clips, warn_unreadable
from islr.data.manifest import Manifest
from islr.data.views.input_spec import InputSpec
from islr.data.views.views import View, refuse_other_modality, train_view
from islr.errors import UserError
from islr.evaluation.classifier import CLASSIFIER, load_classifier, save_classifier, trained_signers, training_facts
from islr.evaluation.finetuning.config import HELD_OUT, FinetuneConfig
from islr.evaluation.finetuning.trials import Trained, best_trial
from islr.evaluation.metrics import last_epoch_result
from islr.evaluation.predictions import Predictions
from islr.evaluation.provenance import label_fingerprint, provenance
from islr.evaluation.results import Result, as_table, load_results
from islr.evaluation.scoring import (
    Scores,
    ViewsConfig,
    labelled_split,
    note_unread,
    ranked,
    refuse_unread,
    score,
    write_scores,
)
from islr.models.weights import build_encoder, exposure_in, read_metadata
from islr.training.classification import Classification, ClassificationConfig, check_batch_parts, effective_weights
from islr.training.distributed.world import World
from islr.training.engine import Selection, Trainer, train_batches
from islr.training.harness import Run, open_run, prepare, without_values
from islr.training.optim import OptimConfig, parameter_groups
from islr.training.wandb_run import WandbRun

RESULT = "result.json"

logger = logging.getLogger(__name__)


class Clips(NamedTuple):
    """Clips of a fine-tuning run: to train, to choose the epoch, to score. `left_out`: selection clips also in test."""

    manifest: Manifest
    train: Manifest
    selection: Manifest
    test: Manifest
    left_out: list[str]


class PreparedFinetuning(NamedTuple):
    """What a fine-tuning run trains, on which batches, and the clips that choose its epoch."""

    clips: Clips
    task: Classification
    batches: TrainBatches
    selection: ClipStore


def prepare_finetune(config: FinetuneConfig, world: World) -> PreparedFinetuning:
    """Return what a run needs before its first step; its folder is not touched.

    Raises:
        UserError: The configuration does not fit the data or the number of ranks, or the test set is incomplete.
    """
    clips = clips_of(config)
    task = task_of(config, clips.train, config.classification)
    train, selection = ClipStore(clips.train, config.data), ClipStore(clips.selection, config.data)
    view = train_view(task.encoder.input_spec, config.video, config.pose, config.classification.repeats)
    batches = batches_of(config, train, view, task.encoder.input_spec, world)
    check_batch_parts(config.classification, batches.part_size)
    config.scored_views()
    return PreparedFinetuning(clips, task, batches, selection)


def check_finetune(config: FinetuneConfig, ranks: int) -> None:
    """Refuse what a run of so many ranks would refuse before its first step; networks get no values.

    Raises:
        UserError: As `prepare_finetune`.
    """
    with without_values():
        prepare_finetune(config, World.planned(ranks))


def run_finetune(config: FinetuneConfig) -> list[Result]:
    """Train, choose the epoch on the selection set, score the test split once; resumes; skips finished runs.

    Returns:
        The test records (also in `result.json`).

    Raises:
        UserError: The configuration does not fit the data, or the test set is incomplete (before any work).
        Interrupted: Stopped by a signal, state saved.
    """
    started = time.monotonic()
    world = prepare(config)
    clips, task, batches, selection = prepare_finetune(config, world)
    train = batches.store
    uses = {"train": train.manifest, "select": selection.manifest, "test": clips.test.select()}
    stores = {"decoding train": train, "decoding select": selection}
    with open_run(config, world, stores, RESULT, uses=uses, labels=True) as run:
        if run is None:
            return load_results(Path(config.run.out) / RESULT)
        fresh = partial(task_of, config, clips.train, config.classification)
        train_one = partial(_train, manifest=clips.manifest, batches=batches, selection=selection)
        trained = best_trial(config, run, fresh, train_one) if config.trials else train_one(config, task=task, run=run)
        world.barrier()
        results = _test(config, clips, run, trained, started)
        world.barrier()
        return results


def _train(
    config: FinetuneConfig,
    manifest: Manifest,
    task: Classification,
    batches: TrainBatches,
    selection: ClipStore,
    run: Run,
) -> Trained:
    """Train, and leave the classifier of the best epoch in the run folder."""
    facts = classifier_facts(config, manifest, batches.store.manifest)
    views = config.scored_views("1x1")

    def validate(module: nn.Module, epoch: float) -> dict[str, float]:
        scores = _score(config, module.classifier, selection, views, run)
        trainer.state.unread |= scores.failed
        check_unreadable(trainer.state.unread, selection, "selection")
        return _selection_numbers(scores, selection.manifest)

    def keep(module: nn.Module) -> None:
        save_classifier(run.folder / CLASSIFIER, module.classifier, facts)  # type: ignore[arg-type]

    trainer = Trainer(
        task,
        batches,
        run,
        title=f"{config.name}: fine-tuning",
        groups=groups_of(task, config.optim),
        evaluate=validate,
        selection=Selection("score", keep, config.patience),
    )
    state = trainer.train()
    if run.world.main:
        warn_unreadable(state.unread, selection.manifest, "selection", config.name)
    failed = {"train": (state.failed, batches.store.manifest), "select": (state.unread, selection.manifest)}
    named = {use: unreadable_clips(*rows) for use, rows in failed.items() if rows[0]}
    return Trained(task, state, batches.steps_per_epoch, named, run.folder)


def _score(config: FinetuneConfig, classifier: Any, store: ClipStore, views: ViewsConfig, run: Run) -> Scores:
    return score(
        classifier,
        store,
        views,
        batch_size=config.optim.batch_size,
        world=run.world,
        precision=config.run.precision,
    )


def _test(config: FinetuneConfig, clips: Clips, run: Run, trained: Trained, started: float) -> list[Result]:
    """Score the saved classifier on the test split and write its records; rank 0 returns them."""
    run.world.at("scoring the test clips")
    weights = run.folder / CLASSIFIER
    classifier, _ = load_classifier(weights)
    store = ClipStore(clips.test, config.data)
    views = config.scored_views()
    scores = _score(config, classifier, store, views, run)
    refuse_unread(scores, store, config.allow_partial)
    used = len(clips.selection.select()) - len(trained.unreadable.get("select", ()))
    left_out = f", {len(clips.left_out)} that test also has left out" if clips.left_out else ""
    record = provenance(
        manifest=clips.manifest,
        split="test",
        present=len(scores.rows),
        views=views,
        data=config.data,
        weights=weights,
        config=config,
        selection=f"{config.select_on} ({used} clips{left_out})",
        seed=config.run.seed,
        world=run.world,
        started=started,
        cluster=config.cluster,
    )
    steps = trained.steps_per_epoch
    epochs = {"epoch_chosen": trained.state.best_step / steps, "epochs_trained": trained.state.step / steps}
    last = scores
    if trained.state.best_step != trained.state.step:
        last = _score(config, trained.task.classifier, store, views, run)
    unreadable = trained.unreadable | note_unread(scores, store.manifest, "test", config.name)
    record = record.model_copy(update=epochs | {"unreadable": unreadable, "trials": list(trained.trials)})
    if not run.world.main:
        return []
    predictions = ranked(scores, store.manifest)
    signers = trained_signers(weights, clips.manifest)
    further = [last_epoch_result(ranked(last, store.manifest), config.name, record)]
    results = write_scores(run.folder, predictions, config.name, clips.manifest, "test", record, signers, further)
    if run.wandb_run is not None:
        log_results(run.wandb_run, results, predictions)
    return results


def clips_of(config: FinetuneConfig) -> Clips:
    """Return the clips of a run, after checking that its result will be valid.

    Raises:
        UserError: The clips do not fit the configuration, the test set is incomplete, or pre-training saw it.
    """
    if len(config.data.manifest) != 1:
        raise UserError("fine-tuning takes one manifest; data.manifest names several")
    manifest = Manifest.load(config.data.manifest[0])
    test = labelled_split(manifest, "test", config.allow_partial, config.cluster)
    train, selection = selection_sets(manifest, config)
    shared: list[str] = []
    if config.shared_with_test == "drop":
        selection, shared = without_shared(selection, test)
    check_disjoint(selection, test)
    if config.encoder.weights:
        check_test_unseen(config.encoder.weights, manifest)
    return Clips(manifest, train, selection, test, shared)


def check_test_unseen(weights: str, manifest: Manifest) -> None:
    """Refuse an encoder that was pre-trained on test clips without declaring it, in whatever corpus they stood.

    Raises:
        UserError: Names the stage of its pre-training and the first of the clips.
    """
    test = manifest.select("test", status=None)
    for stage in exposure_in(read_metadata(weights), weights):
        seen = [] if stage.transductive else clips_among(stage.clips, test)
        if seen:
            named = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
            raise UserError(
                f"{weights} was pre-trained ({stage.recipe} on {stage.manifest}) on {len(seen)} of the {len(test)} "
                f"test clips of {manifest.name} ({named}); pre-train without them, or declare it there with "
                "transductive=true"
            )


def class_counts(train: Manifest) -> list[int]:
    """Return the number of readable training clips of each class."""
    labels = [clip.label for clip in train.select() if clip.label is not None]
    return np.bincount(labels, minlength=len(train.classes)).tolist()


def selection_sets(manifest: Manifest, config: FinetuneConfig) -> tuple[Manifest, Manifest]:
    """Return the training clips and the clips on which the epoch is chosen.

    Raises:
        UserError: There is nothing to train or to select on.
    """
    train = labelled_split(manifest, "train", allow_partial=True)
    if config.select_on == "val":
        if not len(manifest.select("val")):
            raise UserError(f"manifest {manifest.name} has no readable val clip; use select_on: {HELD_OUT}")
        return train, labelled_split(manifest, "val", allow_partial=True)
    rest, held = train.hold_out(max(2, round(1 / config.held_out)))
    if not len(held):
        raise UserError(f"manifest {manifest.name}: classes are too small to hold {config.held_out:g} of train out")
    return rest, held


def log_results(wandb_run: WandbRun, results: Sequence[Result], predictions: Predictions) -> None:
    """Log the test's numbers: overall ones in the summary, all of them and each class's accuracy in tables."""
    wandb_run.table("test/results", *as_table(results))
    hits: dict[str, list[bool]] = {}
    for name, rank in zip(predictions.classes, predictions.true_ranks, strict=True):
        hits.setdefault(name, []).append(bool(rank == 1))
    rows = [(name, len(correct), sum(correct) / len(correct)) for name, correct in sorted(hits.items())]
    wandb_run.table("test/classes", ("class", "clips", "top1"), rows)
    wandb_run.summary({f"test/{result.metric}": result.value for result in results if not result.group})


def batches_of(config: FinetuneConfig, train: ClipStore, view: View, spec: InputSpec, world: World) -> TrainBatches:
    """Return the training batches, of every class equally often or of several windows a clip where it says so.

    Raises:
        UserError: The test views do not fit the encoder or the stored frames; or as `train_batches`.
    """
    short_side, stored = config.short_side_test, config.data.short_side
    if short_side is not None:
        if spec.modality == "pose":
            raise UserError(f"short_side_test is for video; {config.encoder.name} takes poses: leave it out")
        if short_side < spec.size or (stored is not None and short_side > stored):
            least = f"the encoder's size {spec.size}"
            most = f" and at most data.short_side {stored}" if stored is not None else ""
            raise UserError(f"short_side_test={short_side} must be at least {least}{most}")
    balanced = config.class_balance == "sampling"
    times = None if balanced else config.video.repeats(train.manifest.clips, spec.frames)
    batches = train_batches(train, view, config, world, balanced, times)
    if remark := config.video.describe(train.manifest.clips, spec.frames):
        logger.info("%s: %s", config.name, remark)
    return batches


def task_of(config: FinetuneConfig, train: Manifest, classification: ClassificationConfig) -> Classification:
    """Return the module to train: an encoder, frozen as the mode says, its head, and the loss.

    Raises:
        UserError: The augmentation of the other modality was configured.
    """
    encoder = build_encoder(config.encoder)
    refuse_other_modality(config.encoder.name, encoder.input_spec, config.video, config.pose)
    if config.mode != "full":
        encoder.freeze(config.frozen_blocks or None)
    weights = None
    if config.class_balance == "loss":
        weights = effective_weights(class_counts(train), config.balance_beta)
    return Classification(encoder, len(train.classes), classification, weights)


def classifier_facts(config: FinetuneConfig, manifest: Manifest, train: Manifest) -> dict[str, Any]:
    """Return the metadata of a classifier's file: classes, labels, training clips, and the encoder's pre-training."""
    inherited: dict[str, Any] = {"pretraining": "[]", "exposure": "[]", "recipe": ""}
    if config.encoder.weights:
        facts = read_metadata(config.encoder.weights)
        inherited = {key: facts.get(key, empty) for key, empty in inherited.items()}
    return inherited | {
        "classes": list(manifest.classes),
        "label_fingerprint": label_fingerprint(manifest),
        "head_norm": config.classification.head_norm,
        "training": training_facts(train),
    }


def groups_of(task: Classification, optim: OptimConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups, whose learning rate decays from the head down."""
    classifier = task.classifier
    return parameter_groups(
        task, optim, lambda name: classifier.layer_of(name.removeprefix("classifier.")), classifier.num_layers
    )


def _selection_numbers(scores: Scores, manifest: Manifest) -> dict[str, float]:
    """Return loss and top-1 of the selection set; `score` prefers top-1 and breaks ties by the lower loss."""
    labels = np.array([manifest.clips[row].label for row in scores.rows], np.int64)
    chosen = scores.probabilities[np.arange(len(labels)), labels]
    top1 = float((scores.probabilities.argmax(axis=1) == labels).mean())
    loss = float(-np.log(np.maximum(chosen, 1e-12)).mean())
    # The loss only breaks ties: it is squeezed below half the share of one clip.
    return {"loss": loss, "top1": top1, "score": top1 - 0.5 / len(labels) * loss / (1 + loss)}
