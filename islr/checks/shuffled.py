"""The shuffled-label control: with permuted labels, held-out accuracy must be at chance.

Labels are permuted over all clips, training and held-out alike; clips with the same pictures keep a common label. The
control detects two leaks: a label that reaches the model with its clip (in pixels, in a name, in an order), and a
held-out clip that is also a training clip. The second one shows only as far as the model memorised the training clips,
so training accuracy is reported beside the result.

Chance is what the same predictions would score against labels in another order. The control fails if a 99 % interval
of the accuracy (Clopper and Pearson's) lies above it.
"""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import binomtest

from islr.checks.subject import CheckLimits, CheckOutcome, Labelled, Subject, evenly
from islr.data.audit.duplicates import same_content
from islr.data.loading.batches import TrainBatches
from islr.data.loading.store import ClipStore
from islr.data.manifest import Clip, Manifest
from islr.data.views.views import eval_view
from islr.evaluation.scoring import ViewsConfig, score
from islr.training.classification import Classification
from islr.training.determinism import seed_step
from islr.training.distributed.world import World
from islr.training.engine import to_device
from islr.training.optim import build_optimizer, clip_gradients, set_learning_rate

CLASSES = 6  # the largest ones; with few classes, few clips are enough to detect an accuracy above chance
CLIPS = 72  # for training, and as many held out
CONFIDENCE = 0.99
_SMALLEST = 8  # held-out clips; an accuracy of fewer has an interval that covers everything


def shuffled(subject: Subject, world: World, limits: CheckLimits) -> CheckOutcome:
    """Train briefly on shuffled labels and score the held-out clips."""
    labelled = subject.labelled
    if labelled is None:
        return CheckOutcome("shuffled", "skip", "the recipe uses no labels")
    train, held_out, classes = _shuffle(labelled, subject.run.seed)
    if classes < 2 or len(held_out) < _SMALLEST:
        message = f"{classes} classes with {len(held_out)} held-out clips are too few to test against chance"
        return CheckOutcome("shuffled", "skip", message)
    data = subject.data.model_copy(update={"cache": "memory", "workers": 0})
    stores = [ClipStore(part, data) for part in (train, held_out)]
    for store in stores:
        store.fill_cache()
    torch.manual_seed(subject.run.seed)
    task = labelled.build(classes).to(world.device)
    size = min(subject.optim.batch_size, len(stores[0]))
    accuracies = _train(subject, labelled, task, stores[0], size, world, limits)
    views = ViewsConfig(sampling=labelled.sampling)
    scores = score(task.classifier, stores[1], views, batch_size=size, world=world, precision=subject.run.precision)
    truth = np.array([stores[1].manifest.clips[row].label for row in scores.rows])
    last_epoch = float(np.mean(accuracies[-max(1, len(stores[0]) // size) :]))
    predicted = scores.probabilities.argmax(axis=1)
    return _compared_with_chance(predicted, truth, classes, len(accuracies), last_epoch, len(stores[0]))


def _train(
    subject: Subject,
    labelled: Labelled,
    task: Classification,
    store: ClipStore,
    batch_size: int,
    world: World,
    limits: CheckLimits,
) -> list[float]:
    """Train a classifier until the limits are reached; return the accuracy of each step."""
    optimizer = build_optimizer(subject.optim, subject.groups(task))
    set_learning_rate(optimizer, subject.optim.lr * subject.optim.scale)
    view = eval_view(subject.spec, labelled.sampling)  # as in scoring: no augmentation slows memorising
    batches = TrainBatches(store, view, batch_size=batch_size, seed=subject.run.seed)
    began, accuracies = time.monotonic(), []
    for step, (batch,) in enumerate(batches.iterate(0, limits.steps)):
        seed_step(subject.run.seed, step, 0)
        task.train()
        with world.autocast(subject.run.precision):
            logged = task(to_device(batch, world.device))
        logged["loss"].backward()
        clip_gradients(task.parameters(), subject.optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        accuracies.append(float(logged["accuracy"]))
        if time.monotonic() - began > limits.seconds:
            break
    return accuracies


def _shuffle(labelled: Labelled, seed: int) -> tuple[Manifest, Manifest, int]:
    """Return clips of the largest classes, with labels 0..k-1 permuted over all different pictures."""
    train, held_out = (part.select() for part in (labelled.train, labelled.held_out))
    common = {clip.label for clip in held_out}
    counts = Counter(clip.label for clip in train if clip.label in common)
    largest = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0] or 0))[:CLASSES]]
    parts = [
        part.replace(evenly([clip for clip in part if clip.label in largest], CLIPS)) for part in (train, held_out)
    ]
    place: dict[tuple[str, str], int] = {}  # a clip of a part -> the place of its label
    for group in same_content(*parts):
        number = min(place.get(_key(clip), len(place)) for clip in group)
        place |= {_key(clip): number for clip in group}
    for clip in [clip for part in parts for clip in part]:
        place.setdefault(_key(clip), len(place))
    labels = [largest.index(clip.label) for part in parts for clip in part]
    order = np.random.default_rng(seed).permutation(len(labels))
    named = {number: labels[order[rank]] for rank, number in enumerate(sorted(set(place.values())))}
    train, held_out = (part.replace(replace(clip, label=named[place[_key(clip)]]) for clip in part) for part in parts)
    return train, held_out, len(largest)


def _key(clip: Clip) -> tuple[str, str]:
    return clip.clip_id, clip.path


def _compared_with_chance(
    predicted: np.ndarray, truth: np.ndarray, classes: int, steps: int, learned: float, trained: int
) -> CheckOutcome:
    hits, count = int((predicted == truth).sum()), len(truth)
    shares = [np.bincount(values, minlength=classes) / count for values in (predicted, truth)]
    chance = float(shares[0] @ shares[1])
    interval = binomtest(hits, count).proportion_ci(CONFIDENCE, method="exact")
    low, high = float(interval.low), float(interval.high)
    message = (
        f"held-out top-1 {100 * hits / count:.1f} % [{100 * low:.1f}, {100 * high:.1f}] on {count} clips of {classes} "
        f"classes, chance {100 * chance:.1f} %; {100 * learned:.0f} % of {trained} shuffled training labels memorised "
        f"after {steps} steps"
    )
    values = {"top1": hits / count, "low": low, "high": high, "chance": chance, "clips": count, "classes": classes}
    return CheckOutcome.of("shuffled", low <= chance, message, values | {"steps": steps, "train_accuracy": learned})
