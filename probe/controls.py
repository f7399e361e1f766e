"""Controls: what a probe scores without a trained encoder, the baselines of every number.

The permuted-label control is part of every fit (`fitting.run_split`); the others are feature sets, or guesses without
features.
"""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from islr.data.poses.pose import normalise
from islr.data.views.crops import resize_clip
from islr.data.views.sampling import uniform_indices
from islr.data.views.source import ClipSource
from islr.data.views.views import View
from islr.models import Encoder, create_model
from probe.config import FitConfig
from probe.fitting import UNSCORED, ProbePredictions, scored_labels
from probe.splits import Split
from probe.targets import Targets

LEAST_PROBABILITY = 1e-12  # keeps the log-loss of a guess finite where the truth has probability zero
PIXEL_SIDE = 32
PIXEL_FRAMES = 16
PIXEL_RANK = 768  # principal directions kept: no more dimensions than the features of a large encoder


def random_encoder(architecture: str, arguments: dict[str, Any], seed: int) -> Encoder:
    """Build the architecture with random weights that depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, 7]).generate_state(1)[0]))
        return create_model(architecture, **arguments)


def weights_sha256(encoder: Encoder) -> str:
    """Return the sha256 over the names and values of an encoder's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pixel_view() -> View:
    """Return a view with mean frame and temporal deviation of a small grey clip, float32 `[2 * 32 * 32]` in `clip`."""

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        frames = source.read(uniform_indices(source.length, PIXEL_FRAMES))
        grey = resize_clip(frames, (PIXEL_SIDE, PIXEL_SIDE)).astype(np.float32).mean(3) / 255  # [T, 32, 32]
        return {"clip": np.concatenate([grey.mean(0).ravel(), grey.std(0).ravel()])}

    return view


def pose_view() -> View:
    """Return a view with statistics of each normalised keypoint over the frames it is detected in, float32 `[75 * 10]`.

    Mean, deviation, minimum and maximum of x and y, mean speed, and mean confidence, in `clip`.
    """

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        sequence, _ = normalise(source.pose())  # [T, 75, 3]
        points, confidence = sequence[..., :2], sequence[..., 2]
        known = (confidence > 0)[..., None]  # [T, 75, 1]
        count = np.maximum(known.sum(0), 1)  # [75, 1]
        mean = (points * known).sum(0) / count
        deviation = np.sqrt((((points - mean) * known) ** 2).sum(0) / count)
        low = np.where(known.any(0), np.where(known, points, np.inf).min(0), 0)
        high = np.where(known.any(0), np.where(known, points, -np.inf).max(0), 0)
        both = known[1:] & known[:-1]
        distance = np.linalg.norm(np.diff(points, axis=0) * both, axis=2, keepdims=True)  # [T-1, 75, 1]
        speed = distance.sum(0) / np.maximum(both.sum(0), 1) * source.fps
        table = np.concatenate([mean, deviation, low, high, speed, confidence.mean(0)[:, None]], axis=1)
        return {"clip": table.astype(np.float32).ravel()}

    return view


def other_labels(targets: Targets, bundle: tuple[str, ...]) -> np.ndarray:
    """Return one-hot labels of all features outside a bundle, missing as a class of its own, float32 `[N, D]`.

    A probe on these measures how far the lexicon confounds the bundle with other features; it sees no clip.
    """
    columns = []
    for feature, labels in targets.features.items():
        if feature not in bundle:
            levels = np.arange(-1, len(targets.classes[feature]))
            columns.append((labels[:, None] == levels).astype(np.float32))
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(targets), 1), np.float32)


def sign_identity(targets: Targets, split: Split, config: FitConfig) -> ProbePredictions:
    """Predict the commonest training label of the clip's sign, for unseen signs the commonest class.

    The ceiling that sign identity alone reaches: perfect on seen signs, chance on unseen ones. Nothing is learnt from
    any clip.
    """
    result = majority(targets, split, config)
    signs = np.unique(targets.signs, return_inverse=True)[1]
    for fold in split.folds:
        labels, _ = scored_labels(targets, fold, config)
        for f, row in enumerate(labels):
            train = fold.train[row[fold.train] >= 0]
            if not len(train):
                continue
            table = np.zeros((signs.max() + 1, row.max() + 1), dtype=np.int64)
            np.add.at(table, (signs[train], row[train]), 1)
            here = fold.test[(row[fold.test] >= 0) & (table[signs[fold.test]].sum(1) > 0)]
            count = table[signs[here]]
            _write_guess(result, f, here, count / count.sum(1, keepdims=True), row[here])
    return result


def majority(targets: Targets, split: Split, config: FitConfig) -> ProbePredictions:
    """Predict the commonest class of the training clips, with the training frequencies as probabilities."""
    result = ProbePredictions.unscored(0, len(targets.features), len(targets), 0)
    for number, fold in enumerate(split.folds):
        labels, notes = scored_labels(targets, fold, config)
        result.truth[:, fold.test] = labels[:, fold.test]
        for f, row in enumerate(labels):
            known = row[fold.train][row[fold.train] >= 0]
            if len(known):
                share = np.bincount(known, minlength=len(targets.classes[notes[f]["feature"]])) / len(known)
                _write_guess(result, f, fold.test, np.tile(share, (len(fold.test), 1)), row[fold.test])
        result.details.extend(note | {"fold": number} for note in notes)
    result.predicted[result.truth == UNSCORED] = UNSCORED
    return replace(result, by_layer=result.predicted[None])


def _write_guess(result: ProbePredictions, f: int, rows: np.ndarray, share: np.ndarray, truth: np.ndarray) -> None:
    """Write the most probable class of each row, from class probabilities `[n, K]`."""
    result.predicted[f, rows] = share.argmax(1)
    result.confidence[f, rows] = share.max(1)
    probability = share[np.arange(len(rows)), truth.clip(0)]
    result.log_loss[f, rows] = np.where(truth >= 0, -np.log(np.maximum(probability, LEAST_PROBABILITY)), 0)
