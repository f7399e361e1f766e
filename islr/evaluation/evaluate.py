"""Scoring a classifier on a split: views, averaged probabilities, predictions, the result record."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from islr.config import Config, config_hash
from islr.data.loading.batches import eval_batches
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.packs.reader import decoder_name
from islr.data.views.sampling import SamplingConfig
from islr.data.views.views import multi_view
from islr.environment import commit, libraries
from islr.errors import UserError
from islr.evaluation.calibration import calibration_results
from islr.evaluation.forms import form_results
from islr.evaluation.metrics import accuracy_results
from islr.evaluation.predictions import Predictions, rank_scores, write_predictions
from islr.evaluation.results import Provenance, Result, save_results
from islr.files import file_sha256, write_atomic
from islr.models import Classifier, create_model, to_input
from islr.models.encoder import HeadNorm
from islr.models.weights import read_metadata, serialise
from islr.training.distributed.world import World, device_name
from islr.training.engine import to_device

PROTOCOL = "isr/1"
CLASSIFIER = "classifier.safetensors"


class ViewsConfig(Config):
    """Which views of a clip are averaged."""

    clips: int = 1
    crops: int = 1
    sampling: SamplingConfig = SamplingConfig()

    @classmethod
    def parse(cls, text: str, sampling: SamplingConfig) -> "ViewsConfig":
        """Read `CxS`, temporal clips times spatial crops.

        Raises:
            UserError: Not two positive numbers.
        """
        match = re.fullmatch(r"([1-9]\d?)x([1-9])", text)
        if not match:
            raise UserError(f"views '{text}' is not CxS, temporal clips x spatial crops, such as 1x1 or 5x3")
        return cls(clips=int(match[1]), crops=int(match[2]), sampling=sampling)

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops} {self.sampling.kind}"


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
    """Softmax probabilities averaged over the views, every clip once, whatever the number of processes."""
    spec = classifier.encoder.input_spec  # type: ignore[union-attr]
    view = multi_view(spec, views.clips, views.crops, views.sampling)  # type: ignore[arg-type]
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
    """Predictions with the truth from the manifest that the scores' rows refer to."""
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
    """All rows of a split, their files present or not.

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
    """All rows of a split, after checking that a number measured on it would be comparable.

    Raises:
        UserError: See `labelled_rows`; or clips are missing and `allow_partial` is not set.
    """
    rows = labelled_rows(manifest, split, cluster)
    present = len(rows.select())
    if not present:
        raise UserError(f"manifest {manifest.name}: none of the {len(rows)} clips of split {split} is readable")
    if present < len(rows) and not allow_partial:
        raise UserError(
            f"manifest {manifest.name}: {present} of {len(rows)} clips of split {split} are readable; a "
            "number on part of a test set compares with nothing: complete it, or ask for it with "
            "--allow-partial (allow_partial: true), which prints n/expected"
        )
    return rows


def label_fingerprint(manifest: Manifest) -> str:
    """sha256 of the ordered class names."""
    return sha256("\n".join(manifest.classes).encode()).hexdigest()


def provenance(
    *,
    manifest: Manifest,
    split: str,
    present: int,
    views: ViewsConfig,
    data: DataConfig,
    weights: Path,
    config: Config,
    selection: str,
    seed: int,
    world: World,
    started: float,
    cluster: str | None = None,
) -> Provenance:
    """What a number measured now on `split` depends on."""
    facts = read_metadata(weights)
    versions = libraries()
    return Provenance(
        protocol=PROTOCOL,
        manifest=manifest.name,
        split=split,
        split_fingerprint=manifest.fingerprint(split),
        label_space=str(manifest.notes.get("label_space", "original")),
        label_fingerprint=label_fingerprint(manifest),
        clips_present=present,
        clips_expected=len(manifest.select(split, status=None)),
        selection_set=selection,
        views=str(views),
        decoder=decoder_name(manifest, data.backend),
        encoder=facts["architecture"],
        pretraining=json.loads(facts.get("pretraining", "[]")),
        seed=seed,
        config_hash=config_hash(config),
        checkpoint_hash=file_sha256(weights),
        commit=commit(),
        libraries=versions,
        device=device_name(world.device),
        wall_time_s=time.monotonic() - started,
        cluster="signer" if cluster == "signer" else "",
    )


def save_classifier(path: Path, classifier: Classifier, facts: dict[str, Any]) -> None:
    """Write a classifier as safetensors with what is needed to rebuild it."""
    encoder = classifier.encoder
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    metadata |= {
        "format": "pt",
        "architecture": encoder.architecture,
        "arguments": json.dumps(dict(encoder.arguments), sort_keys=True),
        "input_spec": encoder.input_spec.to_json(),
    }
    state = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    write_atomic(path, serialise(state, metadata))


def load_classifier(path: Path) -> tuple[Classifier, tuple[str, ...]]:
    """Rebuild a saved classifier; returns it with its class names.

    Raises:
        UserError: No such file, or not a classifier of ours.
    """
    facts = read_metadata(path)
    if "classes" not in facts or "architecture" not in facts:
        raise UserError(f"{path}: not a classifier written by a fine-tuning run")
    classes = tuple(json.loads(facts["classes"]))
    encoder = create_model(facts["architecture"], **json.loads(facts["arguments"]))
    norm: HeadNorm = "batch" if facts.get("head_norm") == "batch" else "layer"
    classifier = Classifier(encoder, len(classes), norm=norm)
    classifier.load_state_dict(load_file(path))
    return classifier, classes


def training_facts(train: Manifest) -> str:
    """What a classifier's file remembers of its training clips, as JSON: corpus, fingerprint, signers."""
    signers = sorted({clip.signer for clip in train if clip.signer})
    facts = {"manifest": train.name, "fingerprint": train.fingerprint(), "clips": len(train), "signers": signers}
    return json.dumps(facts, ensure_ascii=False)


def trained_signers(weights: Path, manifest: Manifest) -> frozenset[str] | None:
    """Signers of `manifest` that the classifier was trained on.

    None where its file does not say, where its training clips name no signer, or where it was trained on another
    corpus: names of signers mean nothing beyond their own.
    """
    facts = json.loads(read_metadata(weights).get("training", "{}"))
    if facts.get("manifest") != manifest.name or not facts["signers"]:
        return None
    return frozenset(facts["signers"])


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
        folder: Where to.
        predictions: Of the clips of `split` that were scored.
        name: The row.
        manifest: The whole corpus.
        split: The scored split.
        record: Where the predictions come from.
        signers: See `trained_signers`.
        further: Records that only the caller can make.
    """
    results = accuracy_results(predictions, name, len(manifest.classes), record, signers)
    results += form_results(predictions, name, manifest, split, record)
    results += [*calibration_results(predictions, name, record), *further]
    write_predictions(folder / "predictions.csv", predictions)
    save_results(folder / "result.json", results)
    return results


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
