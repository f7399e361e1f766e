"""What a number measured now depends on: the corpus, the protocol, the weights, the code and the machine."""

import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from islr.config import Config, config_hash
from islr.data.loading.config import DataConfig
from islr.data.manifest import Manifest
from islr.data.packs.reader import decoder_name
from islr.environment import commit, libraries
from islr.evaluation.results import Provenance, encoder_label
from islr.evaluation.scoring import ViewsConfig
from islr.files import file_sha256
from islr.models.weights import read_metadata, stages_in
from islr.training.distributed.world import World, device_name

PROTOCOL = "isr/1"


def label_fingerprint(manifest: Manifest) -> str:
    """Return the sha256 of the ordered class names."""
    return sha256("\n".join(manifest.classes).encode()).hexdigest()


def provenance_now(
    *,
    manifest: Manifest,
    split: str,
    present: int,
    config: Config,
    world: World,
    started: float,
    cluster: Literal["signer"] | None = None,
    **model: Any,
) -> Provenance:
    """Return the provenance of a number measured now on `split`; `model` holds the fields that describe the model."""
    return Provenance(
        protocol=PROTOCOL,
        manifest=manifest.name,
        split=split,
        split_fingerprint=manifest.fingerprint(split),
        label_space=str(manifest.notes.get("label_space", "original")),
        label_fingerprint=label_fingerprint(manifest),
        clips_present=present,
        clips_expected=len(manifest.select(split, status=None)),
        config_hash=config_hash(config),
        commit=commit(),
        libraries=libraries(),
        device=device_name(world.device),
        wall_time_s=time.monotonic() - started,
        cluster=cluster or "",
        poses=manifest.notes.get("poses_made_by", {}),
        **model,
    )


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
    cluster: Literal["signer"] | None = None,
) -> Provenance:
    """Return the provenance of a number that one of our classifiers, read from `weights`, reached on `split`."""
    facts = read_metadata(weights)
    return provenance_now(
        manifest=manifest,
        split=split,
        present=present,
        config=config,
        world=world,
        started=started,
        cluster=cluster,
        selection_set=selection,
        views=str(views),
        decoder=decoder_name(manifest, data.backend),
        encoder=encoder_label(facts),
        pretraining=stages_in(facts, weights),
        seed=seed,
        checkpoint_hash=file_sha256(weights),
    )
