"""Does anything but the pictures tell the label? With shuffled labels, held-out clips must be told at chance.

Labels are permuted over all clips, trained on or held out; clips that show the same pictures keep a label in common.
So two leaks show: a label that reaches the model with its clip (in pixels, in a name, in an order), and a held-out clip
that is among the training clips. The last one shows as far as the training clips were learned by heart, which is said
beside the accuracy.

Chance is what the same predictions would score against labels in another order; the control fails where a 99 %
interval of the accuracy (Clopper and Pearson's) lies above it.
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
from islr.training.determinism import seed_step
from islr.training.distributed.world import World
from islr.training.engine import to_device
from islr.training.optim import build_optimizer, clip_gradients, set_learning_rate

CLASSES = 6  # the largest; few, so that few clips show whether anything is above chance
CLIPS = 72  # trained on, and as many held out
CONFIDENCE = 0.99
_SMALLEST = 8  # held-out clips of which an accuracy says anything


def shuffled(subject: Subject, world: World, limits: CheckLimits) -> CheckOutcome:
    """Train on shuffled labels for a short time and score what is held out."""
    labelled = subject.labelled
    if labelled is None:
        return CheckOutcome("shuffled", "skip", "the recipe learns no labels")
    train, held_out, classes = _shuffle(labelled, subject.run.seed)
    if classes < 2 or len(held_out) < _SMALLEST:
        words = f"{classes} classes with {len(held_out)} held-out clips are too few to tell chance from more"
        return CheckOutcome("shuffled", "skip", words)
    began = time.monotonic()
    data = subject.data.model_copy(update={"cache": "memory", "workers": 0})
    stores = [ClipStore(part, data) for part in (train, held_out)]
    for store in stores:
        store.fill_cache()
    torch.manual_seed(subject.run.seed)
    task = labelled.build(classes).to(world.device)
    optimizer = build_optimizer(subject.optim, subject.groups(task))
    set_learning_rate(optimizer, subject.optim.lr * subject.optim.scale)
    size = min(subject.optim.batch_size, len(stores[0]))
    view = eval_view(subject.spec, labelled.sampling)  # as they are scored: nothing is learned by heart sooner
    batches = TrainBatches(stores[0], view, batch_size=size, seed=subject.run.seed)
    known: list[float] = []
    for step, (batch,) in enumerate(batches.iterate(0, limits.steps)):
        seed_step(subject.run.seed, step, 0)
        task.train()
        with world.autocast(subject.run.precision):
            found = task(to_device(batch, world.device))
        found["loss"].backward()
        clip_gradients(task.parameters(), subject.optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        known.append(float(found["accuracy"]))
        if time.monotonic() - began > limits.seconds:
            break
    views = ViewsConfig(sampling=labelled.sampling)
    scores = score(task.classifier, stores[1], views, batch_size=size, world=world, precision=subject.run.precision)
    truth = np.array([stores[1].manifest.clips[row].label for row in scores.rows])
    learned = float(np.mean(known[-batches.steps_per_epoch :]))
    return _judged(scores.probabilities.argmax(axis=1), truth, classes, len(known), learned, len(stores[0]))


def _shuffle(labelled: Labelled, seed: int) -> tuple[Manifest, Manifest, int]:
    """Clips of the largest classes, with labels 0..k-1 permuted over all that show different pictures."""
    train, held_out = (part.select() for part in (labelled.train, labelled.held_out))
    there = {clip.label for clip in held_out}
    counts = Counter(clip.label for clip in train if clip.label in there)
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


def _judged(
    said: np.ndarray, truth: np.ndarray, classes: int, steps: int, learned: float, trained: int
) -> CheckOutcome:
    hits, count = int((said == truth).sum()), len(truth)
    shares = [np.bincount(values, minlength=classes) / count for values in (said, truth)]
    chance = float(shares[0] @ shares[1])
    interval = binomtest(hits, count).proportion_ci(CONFIDENCE, method="exact")
    low, high = float(interval.low), float(interval.high)
    words = (
        f"held-out top-1 {100 * hits / count:.1f} % [{100 * low:.1f}, {100 * high:.1f}] on {count} clips of {classes} "
        f"classes, chance {100 * chance:.1f} %; {100 * learned:.0f} % of {trained} shuffled training labels known "
        f"after {steps} steps"
    )
    values = {"top1": hits / count, "low": low, "high": high, "chance": chance, "clips": count, "classes": classes}
    return CheckOutcome.of("shuffled", low <= chance, words, values | {"steps": steps, "train_accuracy": learned})
