"""What a probe scores without a trained encoder: the rows that every number has to be read against.

The permuted-label control is part of every fit (`fitting.run_split`); the others are feature sets or plain
guesses.
"""

import hashlib
from typing import Any

import numpy as np
import torch

from islr.data.poses.pose import normalise
from islr.data.views.crops import resize_clip
from islr.data.views.sampling import uniform_indices
from islr.data.views.source import ClipSource
from islr.data.views.views import View
from islr.models import Encoder, create_model
from probe.fitting import UNSCORED, FitConfig, Outcome, scored_labels
from probe.splits import Split
from probe.targets import Targets

LEAST_PROBABILITY = 1e-12  # log-loss of a guess that rules the truth out is finite
PIXEL_SIDE = 32
PIXEL_FRAMES = 16
PIXEL_RANK = 768  # principal directions kept, so that a picture has no more dimensions than a large encoder


def random_encoder(architecture: str, arguments: dict[str, Any], seed: int) -> Encoder:
    """The architecture with fresh weights that depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, 7]).generate_state(1)[0]))
        return create_model(architecture, **arguments)


def weights_sha256(encoder: Encoder) -> str:
    """sha256 over the names and values of an encoder's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pixel_view() -> View:
    """Mean frame and temporal deviation of a small grey clip, float32 `[2 * 32 * 32]` under `clip`."""

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        frames = source.read(uniform_indices(source.length, PIXEL_FRAMES))
        grey = resize_clip(frames, (PIXEL_SIDE, PIXEL_SIDE)).astype(np.float32).mean(3) / 255  # [T, 32, 32]
        return {"clip": np.concatenate([grey.mean(0).ravel(), grey.std(0).ravel()])}

    return view


def pose_view() -> View:
    """Statistics of each normalised keypoint over the frames it is seen in, float32 `[75 * 10]` under `clip`.

    Mean, deviation, least and greatest x and y, mean speed, and the share of frames (confidence) it is seen
    in.
    """

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        sequence, _ = normalise(source.pose())  # [T, 75, 3]
        points, confidence = sequence[..., :2], sequence[..., 2]
        seen = (confidence > 0)[..., None]  # [T, 75, 1]
        count = np.maximum(seen.sum(0), 1)  # [75, 1]
        mean = (points * seen).sum(0) / count
        deviation = np.sqrt((((points - mean) * seen) ** 2).sum(0) / count)
        low = np.where(seen.any(0), np.where(seen, points, np.inf).min(0), 0)
        high = np.where(seen.any(0), np.where(seen, points, -np.inf).max(0), 0)
        both = seen[1:] & seen[:-1]
        moved = np.linalg.norm(np.diff(points, axis=0) * both, axis=2, keepdims=True)  # [T-1, 75, 1]
        speed = moved.sum(0) / np.maximum(both.sum(0), 1) * source.fps
        table = np.concatenate([mean, deviation, low, high, speed, confidence.mean(0)[:, None]], axis=1)
        return {"clip": table.astype(np.float32).ravel()}

    return view


def other_labels(targets: Targets, bundle: tuple[str, ...]) -> np.ndarray:
    """One-hot labels of all features outside a bundle, missing as a level of its own, float32 `[N, D]`.

    What this predicts of the bundle is confound between features, not anything seen in a clip.
    """
    columns = []
    for feature, labels in targets.features.items():
        if feature not in bundle:
            levels = np.arange(-1, len(targets.classes[feature]))
            columns.append((labels[:, None] == levels).astype(np.float32))
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(targets), 1), np.float32)


def sign_identity(targets: Targets, split: Split, config: FitConfig) -> Outcome:
    """Look the sign up: the commonest training label of the clip's sign, where no training clip shows it the
    commonest class.

    The ceiling of what sign identity alone reaches: everything on seen signs, chance on unseen ones. Nothing is
    learnt from any clip.
    """
    outcome = majority(targets, split, config)
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
            share = count / count.sum(1, keepdims=True)  # [n, K]
            outcome.predicted[f, here] = share.argmax(1)
            outcome.confidence[f, here] = share.max(1)
            right = share[np.arange(len(here)), row[here]]
            outcome.log_loss[f, here] = -np.log(np.maximum(right, LEAST_PROBABILITY))
    return outcome


def majority(targets: Targets, split: Split, config: FitConfig) -> Outcome:
    """Always the commonest class of the training clips, with the training frequencies as probabilities."""
    count, clips = len(targets.features), len(targets)
    truth = np.full((count, clips), UNSCORED, np.int16)
    predicted = truth.copy()
    log_loss, confidence = np.zeros((count, clips), np.float32), np.zeros((count, clips), np.float32)
    details = []
    for number, fold in enumerate(split.folds):
        labels, notes = scored_labels(targets, fold, config)
        truth[:, fold.test] = labels[:, fold.test]
        for f, row in enumerate(labels):
            known = row[fold.train][row[fold.train] >= 0]
            if len(known):
                share = np.bincount(known, minlength=len(targets.classes[notes[f]["feature"]])) / len(known)
                predicted[f, fold.test] = share.argmax()
                confidence[f, fold.test] = share.max()
                test = row[fold.test]
                log_loss[f, fold.test] = np.where(
                    test >= 0, -np.log(np.maximum(share[test.clip(0)], LEAST_PROBABILITY)), 0
                )
        details += [note | {"fold": number} for note in notes]
    predicted[truth == UNSCORED] = UNSCORED
    empty = np.zeros((0, count, clips), np.int16)
    return Outcome(truth, predicted, log_loss, confidence, predicted[None], empty, empty, details)
