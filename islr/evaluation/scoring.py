"""Scoring of a classifier on a split: views, probabilities averaged over them, predictions, result records."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from islr.config import Config
from islr.data.loading.batches import eval_batches
from islr.data.loading.store import ClipStore
from islr.data.loading.unreadable import unreadable_clips, warn_unreadable
from islr.data.manifest import Manifest
from islr.data.views.sampling import SamplingConfig
from islr.data.views.views import multi_view
from islr.errors import UserError
from islr.evaluation.calibration import calibration_results
from islr.evaluation.forms import form_results
from islr.evaluation.metrics import accuracy_results
from islr.evaluation.predictions import Predictions, rank_scores, write_predictions
from islr.evaluation.results import Provenance, Result, save_results
from islr.models import to_input
from islr.training.distributed.world import World
from islr.training.engine import to_device

NOT_COMPARABLE = "Scores on part of a test set are not comparable with scores on all of it"


class ViewsConfig(Config):
    """The views of a clip whose probabilities are averaged."""

    clips: int = 1
    crops: int = 1
    sampling: SamplingConfig = SamplingConfig()
    short_side: int | None = None

    @classmethod
    def parse(cls, text: str, sampling: SamplingConfig, short_side: int | None = None) -> "ViewsConfig":
        """Read `CxS`, temporal clips times spatial crops, of frames resized to a shorter side.

        Raises:
            UserError: Not two positive numbers.
        """
        match = re.fullmatch(r"([1-9]\d?)x([1-9])", text)
        if not match:
            raise UserError(f"views '{text}' is not CxS, temporal clips x spatial crops, such as 1x1 or 5x3")
        return cls(clips=int(match[1]), crops=int(match[2]), sampling=sampling, short_side=short_side)

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops} {self.sampling.kind}" + (
            f" of {self.short_side} px" if self.short_side else ""
        )


@dataclass(frozen=True)
class Scores:
    """Probabilities of the clips that could be read.

    Attributes:
        rows: Row of each scored clip in `store.manifest`, ascending, `[n]`.
        probabilities: float64 `[n, K]`.
        failed: Row -> reason, clips that could not be read.
    """

    rows: np.ndarray
    probabilities: np.ndarray
    failed: dict[int, str]


def score(
    classifier: nn.Module,
    store: ClipStore,
    views: ViewsConfig,
    *,
    batch_size: int,
    world: World,
    precision: str = "fp32",
) -> Scores:
    """Return softmax probabilities averaged over the views; every clip is scored once, whatever the number of ranks."""
    spec = classifier.encoder.input_spec  # type: ignore[union-attr]
    view = multi_view(spec, views.clips, views.crops, views.sampling, views.short_side)  # type: ignore[arg-type]
    classifier.to(world.device).eval()
    rows: list[int] = []
    tables: list[np.ndarray] = []
    failed: dict[int, str] = {}
    with torch.inference_mode():
        for batch in eval_batches(store, view, batch_size=batch_size, rank=world.rank, world=world.size):
            failed.update(dict(batch["failed"]))
            if not len(batch["index"]):
                continue
            clip = to_device(batch, world.device)["clip"]  # [B, V, ...]
            count, number = clip.shape[:2]
            with world.autocast(precision):
                logits = classifier(to_input(clip.flatten(0, 1), spec))  # type: ignore[arg-type]
            probabilities = logits.float().softmax(dim=1).view(count, number, -1).double().mean(dim=1)
            rows += batch["index"].tolist()
            tables.append(probabilities.cpu().numpy())
    mine = (rows, np.concatenate(tables) if tables else None, failed)
    shards = world.gather(mine)
    all_rows = np.array([row for shard in shards for row in shard[0]], np.int64)
    filled = [shard[1] for shard in shards if shard[1] is not None]
    if not filled:
        raise UserError(f"none of the {len(store)} clips of {store.manifest.name} could be read")
    order = np.argsort(all_rows)
    merged = {row: reason for shard in shards for row, reason in shard[2].items()}
    return Scores(all_rows[order], np.concatenate(filled)[order], merged)


def ranked(scores: Scores, manifest: Manifest) -> Predictions:
    """Rank the classes of each clip; true classes come from the manifest that the scores' rows refer to."""
    clips = [manifest.clips[row] for row in scores.rows]
    return rank_scores(
        scores.probabilities,
        np.array([clip.label for clip in clips], np.int64),
        manifest.classes,
        [clip.clip_id for clip in clips],
        [clip.signer for clip in clips],
        [clip.source for clip in clips],
    )


def labelled_rows(manifest: Manifest, split: str, cluster: str | None = None) -> Manifest:
    """Return all rows of a split, whether or not their files are present.

    Raises:
        UserError: The split is empty or unlabelled, or a clip has no signer where `cluster` is "signer".
    """
    rows = manifest.select(split, status=None)
    if not len(rows):
        raise UserError(f"manifest {manifest.name} has no clip in split {split}")
    if any(clip.label is None for clip in rows):
        raise UserError(f"manifest {manifest.name}: clips of split {split} have no label")
    if cluster == "signer" and any(not clip.signer for clip in rows):
        raise UserError(f"cluster: signer needs the signer of every clip; {split} clips of {manifest.name} have none")
    return rows


def labelled_split(manifest: Manifest, split: str, allow_partial: bool, cluster: str | None = None) -> Manifest:
    """Return all rows of a split, after checking that scores on it would be comparable.

    Raises:
        UserError: See `labelled_rows`; or clips are missing and `allow_partial` is not set.
    """
    rows = labelled_rows(manifest, split, cluster)
    present = len(rows.select())
    if not present:
        raise UserError(f"manifest {manifest.name}: none of the {len(rows)} clips of split {split} is readable")
    if present < len(rows) and not allow_partial:
        raise UserError(
            f"manifest {manifest.name}: {present} of {len(rows)} clips of split {split} are readable. "
            f"{NOT_COMPARABLE}: restore the missing clips, or pass --allow-partial (allow_partial: true)"
        )
    return rows


def write_scores(
    folder: Path,
    predictions: Predictions,
    name: str,
    manifest: Manifest,
    split: str,
    record: Provenance,
    signers: frozenset[str] | None,
    further: Sequence[Result] = (),
) -> list[Result]:
    """Write `predictions.csv`, then `result.json`: a result never exists without its predictions.

    Args:
        folder: Where the two files go.
        predictions: Of the clips of `split` that were scored.
        name: Name of the row in tables.
        manifest: The whole corpus.
        split: The scored split.
        record: Where the predictions come from.
        signers: See `trained_signers`.
        further: Records to add, such as a fitted temperature.
    """
    results = accuracy_results(predictions, name, len(manifest.classes), record, signers)
    results += form_results(predictions, name, manifest, split, record)
    results += [*calibration_results(predictions, name, record), *further]
    write_predictions(folder / "predictions.csv", predictions)
    save_results(folder / "result.json", results)
    return results


def note_unread(scores: Scores, manifest: Manifest, use: str, title: str) -> dict[str, list[str]]:
    """Log the clips that could not be read; return them under their use, for the record, or nothing."""
    warn_unreadable(scores.failed, manifest, use, title)
    return {use: unreadable_clips(scores.failed, manifest)} if scores.failed else {}


def refuse_unread(scores: Scores, store: ClipStore, allow_partial: bool) -> None:
    """Stop when clips counted as present could not be read.

    Raises:
        UserError: Names the first of them.
    """
    if scores.failed and not allow_partial:
        row, reason = next(iter(scores.failed.items()))
        raise UserError(
            f"{len(scores.failed)} of {len(store)} clips of {store.manifest.name} could not be read, such as "
            f"{store.manifest.clips[row].clip_id} ({reason}); audit the manifest, or pass --allow-partial "
            "(allow_partial: true)"
        )
