"""Late fusion of finished runs, each scored on its own input (video, poses, another seed).

Every run is scored again from its checkpoint, because `predictions.csv` holds the top five classes only. Each run reads
its own manifest; all of them must list the same clips with the same labels. The fused record names its parents.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from islr.config import Config, config_hash
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.classifier import trained_signers
from islr.evaluation.requests.pooling import Pooling, choose_weights, parse_weights, pool_scores
from islr.evaluation.requests.rescore import Device, EvalSplit, FinishedRun
from islr.evaluation.results import Provenance, Result
from islr.evaluation.scoring import Scores, labelled_split, ranked, write_scores
from islr.files import file_sha256
from islr.training.distributed.world import World
from islr.training.run_folder import run_folder


class FusionConfig(Config):
    """The inputs of fused scores; saved as the `config.yaml` of their folder."""

    task: Literal["evaluate"] = "evaluate"
    kind: Literal["fusion"] = "fusion"
    name: str
    runs: tuple[str, ...]
    checkpoints: tuple[str, ...]
    pool: Pooling
    weights: str
    split: EvalSplit
    views: str
    manifest: str | None
    allow_partial: bool
    cluster: Literal["signer"] | None


def fuse_runs(
    runs: Sequence[Path],
    *,
    weights: str = "equal",
    pool: Pooling = "probabilities",
    split: EvalSplit = "test",
    views: str | None = None,
    manifest_path: str | None = None,
    name: str | None = None,
    out: Path | None = None,
    allow_partial: bool = False,
    cluster: Literal["signer"] | None = None,
    device: Device | None = None,
) -> list[Result]:
    """Score the fusion of finished fine-tuning runs.

    Args:
        runs: Their folders, two or more.
        weights: "equal"; "val" chooses them on the clips that chose the runs' epochs; or numbers, `2,1`.
        pool: What is averaged; see `pool_scores`.
        split: What is scored.
        views: `CxS` for every run; default each run's own. Poses have no spatial crops.
        manifest_path: Another corpus for every run; default each run's own.
        name: Name of the row in tables; default the runs' names joined by +.
        out: Folder for the results; default beside the first run.
        allow_partial: Score the clips that every run could score.
        cluster: "signer" draws whole signers in intervals; default so where a run's configuration says so.
        device: Default as the first run's configuration says.

    Raises:
        UserError: The runs have different classes or test clips, or the weights do not fit them.
    """
    started = time.monotonic()
    given = _given_weights(weights, runs, split)
    models = tuple(FinishedRun.load(run) for run in runs)
    _same_classes(models)
    config = FusionConfig(
        name=name or " + ".join(model.config.name for model in models),
        runs=tuple(run.as_posix() for run in runs),
        checkpoints=tuple(file_sha256(model.weights) for model in models),
        pool=pool,
        weights=weights,
        split=split,
        views=_joined([str(model.views(views)) for model in models]),
        manifest=manifest_path,
        allow_partial=allow_partial,
        cluster=cluster or next((model.config.cluster for model in models if model.config.cluster), None),
    )
    streams = _Streams.load(models, config, views)
    selection = streams.selection()
    world = World(device or models[0].config.run.device)
    with world.connected(models[0].config.run.timeout_s):
        rows, tables, scored = _aligned(streams.score(world))
        shares = given or (1 / len(models),) * len(models)
        if weights == "val":
            held, labels = streams.selection_scores(world)
            shares = choose_weights(held, labels, pool)
            selection += f"; weights chosen on {len(labels)} of the same clips"
        predictions = ranked(Scores(np.array(rows, np.int64), pool_scores(tables, shares, pool), {}), scored)
        record = _fused_record(models, streams.records(len(rows), selection, world, started), shares, config)
        default = _default_folder(runs, split, views or models[0].config.views, pool, weights)
        with run_folder(config, str(out or default), world) as folder:
            if not world.main:
                return []
            manifest = streams.manifests[0]
            signers = _signers(models, manifest)
            return write_scores(folder, predictions, config.name, manifest, split, record, signers)


@dataclass(frozen=True)
class _Streams:
    """The fused runs, each with its corpus and the clips it is scored on.

    Attributes:
        models: The runs.
        config: What is fused, and how.
        views: `CxS` for every run, or None for each run's own.
        manifests: The corpus of each run.
        tests: The scored split of each corpus.
    """

    models: tuple[FinishedRun, ...]
    config: FusionConfig
    views: str | None
    manifests: tuple[Manifest, ...]
    tests: tuple[Manifest, ...]

    @classmethod
    def load(cls, models: tuple[FinishedRun, ...], config: FusionConfig, views: str | None) -> "_Streams":
        """Read the runs' manifests.

        Raises:
            UserError: They list different clips, or clips are missing.
        """
        manifests = tuple(Manifest.load(model.data(config.manifest).manifest[0]) for model in models)
        _same_clips(models, manifests, config.split)
        tests = tuple(labelled_split(one, config.split, config.allow_partial, config.cluster) for one in manifests)
        return cls(models, config, views, manifests, tests)

    def selection(self) -> str:
        """Name the runs' selection sets; refuse test clips that a run has used."""
        sets = [
            model.checked_selection(test, self.config.split, self.config.manifest)
            for model, test in zip(self.models, self.tests, strict=True)
        ]
        return " / ".join(dict.fromkeys(sets))

    def score(self, world: World) -> list[tuple[Scores, Manifest]]:
        """Score every run on its clips."""
        config = self.config
        return [
            model.score(test, model.data(config.manifest), model.views(self.views), world, config.allow_partial)
            for model, test in zip(self.models, self.tests, strict=True)
        ]

    def selection_scores(self, world: World) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
        """Return each run's probabilities on the clips that chose the runs' epochs, and the labels.

        Raises:
            UserError: The runs have different selection sets, or their corpus is not on this machine.
        """
        held = [model.selection(test) for model, test in zip(self.models, self.tests, strict=True)]
        if len({(part.classes, part.fingerprint()) for part in held}) > 1:
            names = " and ".join(str(model.folder) for model in self.models)
            raise UserError(f"{names} have different selection sets, so there is no common one to choose weights on")
        scores = [
            model.score(part, model.data(None), model.views(self.views), world, allow_partial=True)
            for model, part in zip(self.models, held, strict=True)
        ]
        rows, tables, scored = _aligned(scores)
        return tables, np.array([scored.clips[row].label for row in rows], np.int64)

    def records(self, present: int, selection: str, world: World, started: float) -> list[Provenance]:
        """Return the provenance that each run alone would have."""
        return [
            model.provenance(
                manifest,
                self.config.split,
                present,
                model.views(self.views),
                data=model.data(self.config.manifest),
                selection=selection,
                world=world,
                started=started,
                cluster=self.config.cluster,
            )
            for model, manifest in zip(self.models, self.manifests, strict=True)
        ]


def _given_weights(weights: str, runs: Sequence[Path], split: EvalSplit) -> tuple[float, ...] | None:
    """Return the weights that the user gave as numbers, else None.

    Raises:
        UserError: The runs are not two or more different ones, or the weights do not fit them or the split.
    """
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise UserError("--fuse takes two or more different runs")
    if weights == "val" and split == "val":
        raise UserError("weights chosen on val cannot be judged on val: score test, or give the weights as numbers")
    return None if weights in ("equal", "val") else parse_weights(weights, len(runs))


def _same_classes(models: Sequence[FinishedRun]) -> None:
    first = models[0]
    for model in models[1:]:
        if set(model.classes) != set(first.classes):
            odd = sorted(set(model.classes) ^ set(first.classes))[0]
            raise UserError(
                f"{first.folder} and {model.folder} have different classes ({len(first.classes)} and "
                f"{len(model.classes)}; only one of them has '{odd}'); only runs with the same classes can be fused"
            )


def _same_clips(models: Sequence[FinishedRun], manifests: Sequence[Manifest], split: str) -> None:
    first = manifests[0]
    for model, manifest in zip(models[1:], manifests[1:], strict=True):
        if manifest.classes != first.classes or manifest.fingerprint(split) != first.fingerprint(split):
            raise UserError(
                f"{models[0].folder} and {model.folder} have different {split} clips or labels ({first.name}, "
                f"{len(first.select(split, None))} clips, and {manifest.name}, {len(manifest.select(split, None))}); "
                "score both on one corpus with --manifest"
            )


def _aligned(scored: Sequence[tuple[Scores, Manifest]]) -> tuple[list[int], list[NDArray[np.float64]], Manifest]:
    """Align scores by clip.

    Returns:
        Rows, in the first run's manifest, of the clips that every run scored; each run's probabilities in that order;
        and that manifest.

    Raises:
        UserError: No clip was scored by every run.
    """
    places = [
        {manifest.clips[row].clip_id: place for place, row in enumerate(scores.rows)} for scores, manifest in scored
    ]
    common = [clip_id for clip_id in places[0] if all(clip_id in other for other in places[1:])]
    if not common:
        raise UserError("no clip was scored by all of the runs")
    first = scored[0][0].rows
    tables = [
        scores.probabilities[[place[clip_id] for clip_id in common]]
        for (scores, _), place in zip(scored, places, strict=True)
    ]
    return [int(first[places[0][clip_id]]) for clip_id in common], tables, scored[0][1]


def _joined(names: Sequence[str]) -> str:
    """Join different names with +."""
    return " + ".join(dict.fromkeys(filter(None, names)))


def _fused_record(
    models: Sequence[FinishedRun], records: Sequence[Provenance], shares: Sequence[float], config: FusionConfig
) -> Provenance:
    """Return the provenance of the fused row: fields of the parents, joined where they differ."""
    parents = [
        {
            "name": model.config.name,
            "weight": f"{share:.4g}",
            "pool": config.pool,
            "encoder": record.encoder,
            "views": record.views,
            "seed": str(record.seed),
            "config_hash": record.config_hash,
            "checkpoint_hash": record.checkpoint_hash,
        }
        for model, record, share in zip(models, records, shares, strict=True)
    ]
    fused = {
        "encoder": " + ".join(record.encoder for record in records),
        "pretraining": [stage for record in records for stage in record.pretraining],
        "views": _joined([record.views for record in records]),
        "decoder": _joined([record.decoder for record in records]),
        "config_hash": config_hash(config),
        "checkpoint_hash": sha256("".join(record.checkpoint_hash for record in records).encode()).hexdigest(),
        "parents": parents,
    }
    return Provenance.model_validate(records[0].model_dump() | fused)


def _signers(models: Sequence[FinishedRun], manifest: Manifest) -> frozenset[str] | None:
    """Return the signers that any of the runs was trained on; None where one does not name them."""
    known = [trained_signers(model.weights, manifest) for model in models]
    parts = [part for part in known if part is not None]
    return frozenset().union(*parts) if len(parts) == len(known) else None


def _default_folder(runs: Sequence[Path], split: EvalSplit, views: str, pool: Pooling, weights: str) -> Path:
    """Return the default folder of a fusion: beside its first run, under a name that no other fusion has."""
    names = "+".join(run.resolve().name for run in runs)
    chosen = {"equal": "", "val": "_val"}.get(weights, f"_{weights.replace(',', '-')}")
    return runs[0].resolve().parent / f"fusion_{names}_{split}_{views}_{pool}{chosen}"
