"""Late fusion: several finished runs answer together, each from its own input (video, pose, other seeds).

The scores are made again from the checkpoints, so that any runs can be fused, whatever their files keep. Each run
reads its own manifest; they must list the same clips with the same labels. The fused row names its parents.
"""

import time
from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from islr.config import Config, config_hash
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.evaluate import Scores, labelled_split, provenance, ranked, trained_signers, write_scores
from islr.evaluation.rescore import Device, Model, Split
from islr.evaluation.results import Provenance, Result
from islr.training.distributed.world import World
from islr.training.run_folder import run_folder

Pool = Literal["probabilities", "logits"]
_LEAST = 1e-12  # a probability below counts as this, so that one stream cannot forbid a class
_STEPS = {2: 20, 3: 20}  # the weights of a search are multiples of one over this; of more runs, over _COARSE
_COARSE = 10
_MOST_SEARCHED = 5  # runs; 1001 combinations


class FusionConfig(Config):
    """What a fused row depends on; the `config.yaml` of its folder."""

    task: Literal["evaluate"] = "evaluate"
    kind: Literal["fusion"] = "fusion"
    name: str
    runs: tuple[str, ...]
    checkpoints: tuple[str, ...]
    pool: Pool
    weights: str
    split: Split
    views: str
    manifest: str | None
    allow_partial: bool
    cluster: Literal["signer"] | None


def pool_scores(tables: Sequence[NDArray[np.float64]], weights: Sequence[float], pool: Pool) -> NDArray[np.float64]:
    """Fused probabilities `[N, K]` of several tables `[N, K]` of probabilities over the same clips and classes.

    `probabilities` is the weighted mean; `logits` the softmax of the weighted mean of log-probabilities, which is
    that of the logits themselves for single views (softmax does not see what is added to all classes).
    Weights are scaled to sum to one.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    if pool == "probabilities":
        return np.asarray(sum(share * table for share, table in zip(shares, tables, strict=True)))
    logs = sum(share * np.log(np.maximum(table, _LEAST)) for share, table in zip(shares, tables, strict=True))
    powers = np.exp(logs - np.max(logs, axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def choose_weights(tables: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], pool: Pool) -> tuple[float, ...]:
    """The weights of highest top-1 on held-out clips; ties go to the lower loss, as for the choice of an epoch.

    All multiples of 1/20 that sum to one are tried (1/10 for four or five runs); zero is among them.

    Raises:
        UserError: More runs than can be searched.
    """
    count = len(tables)
    if count > _MOST_SEARCHED:
        raise UserError(f"weights can be chosen for at most {_MOST_SEARCHED} runs; give them, or weigh all alike")
    steps = _STEPS.get(count, _COARSE)
    rows = np.arange(len(labels))
    best: tuple[float, float] | None = None
    chosen: tuple[float, ...] = ()
    for parts in product(range(steps + 1), repeat=count):
        if sum(parts) != steps:
            continue
        weights = tuple(part / steps for part in parts)
        fused = pool_scores(tables, weights, pool)
        true = fused[rows, labels]
        # As for predictions, a tie counts against the model.
        right = ((fused >= true[:, None]).sum(axis=1) == 1).mean()
        score = (float(right), float(np.log(np.maximum(true, _LEAST)).mean()))
        if best is None or score > best:
            best, chosen = score, weights
    return chosen


def parse_weights(text: str, count: int) -> tuple[float, ...]:
    """`2,1` -> (2/3, 1/3).

    Raises:
        UserError: Not one number for each run, one is negative, or all are zero.
    """
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"weights '{text}' are not 'equal', 'val' or numbers with commas such as 2,1") from None
    if len(weights) != count:
        raise UserError(f"{len(weights)} weights for {count} runs; give one for each, such as 2,1")
    if not np.isfinite(weights).all() or min(weights) < 0 or sum(weights) == 0:
        raise UserError(f"weights '{text}' must not be negative, and not all zero")
    return tuple(weight / sum(weights) for weight in weights)


def fuse_runs(
    runs: Sequence[Path],
    *,
    weights: str = "equal",
    pool: Pool = "probabilities",
    split: Split = "test",
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
        name: The row; default the runs' names joined by +.
        out: Folder for the results; default beside the first run.
        allow_partial: Score the clips that every run could score.
        cluster: "signer" draws whole signers in intervals; default so where a run's configuration says so.
        device: Default as the first run's configuration says.

    Raises:
        UserError: The runs have other classes or other test clips, or the weights cannot be had.
    """
    started = time.monotonic()
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise UserError("--fuse takes two or more different runs")
    if weights == "val" and split == "val":
        raise UserError("weights chosen on val would be judged on the clips that chose them; score test, or give them")
    given = None if weights in ("equal", "val") else parse_weights(weights, len(runs))
    models = [Model.load(run) for run in runs]
    cluster = cluster or next((model.config.cluster for model in models if model.config.cluster), None)
    _same_classes(models)
    manifests = [Manifest.load(model.data(manifest_path).manifest[0]) for model in models]
    _same_clips(models, manifests, split)
    tests = [labelled_split(manifest, split, allow_partial, cluster) for manifest in manifests]
    selections = [
        model.check_unseen(part, manifest_path) if split == "test" else model.config.select_on
        for model, part in zip(models, tests, strict=True)
    ]
    selection = " / ".join(dict.fromkeys(selections))
    world = World(device or models[0].config.run.device)
    with world.connected(models[0].config.run.timeout_s):
        scored = [
            model.score(part, model.data(manifest_path), model.views(views), world, allow_partial)
            for model, part in zip(models, tests, strict=True)
        ]
        rows, tables = _aligned(scored)
        shares = given or (1 / len(models),) * len(models)
        if weights == "val":
            held, labels = _selection_scores(models, tests, views, world)
            shares = choose_weights(held, labels, pool)
            selection += f"; weights chosen on {len(labels)} of the same clips"
        records = [
            provenance(
                manifest=manifest,
                split=split,
                present=len(rows),
                views=model.views(views),
                data=model.data(manifest_path),
                weights=model.weights,
                config=model.config,
                selection=selection,
                seed=model.config.run.seed,
                world=world,
                started=started,
                cluster=cluster,
            )
            for model, manifest in zip(models, manifests, strict=True)
        ]
        config = FusionConfig(
            name=name or " + ".join(model.config.name for model in models),
            runs=tuple(run.as_posix() for run in runs),
            checkpoints=tuple(record.checkpoint_hash for record in records),
            pool=pool,
            weights=weights,
            split=split,
            views=_joined([record.views for record in records]),
            manifest=manifest_path,
            allow_partial=allow_partial,
            cluster=cluster,
        )
        record = _fused_record(models, records, shares, config)
        fused = Scores(np.array(rows, np.int64), pool_scores(tables, shares, pool), {})
        asked = views or models[0].config.views
        with run_folder(config, str(out or _beside(runs, split, asked, pool, weights)), world) as folder:
            if not world.main:
                return []
            predictions, signers = ranked(fused, scored[0][1]), _signers(models, manifests[0])
            return write_scores(folder, predictions, config.name, manifests[0], split, record, signers)


def _same_classes(models: Sequence[Model]) -> None:
    first = models[0]
    for model in models[1:]:
        if set(model.classes) != set(first.classes):
            odd = sorted(set(model.classes) ^ set(first.classes))[0]
            raise UserError(
                f"{first.folder} and {model.folder} know different classes ({len(first.classes)} and "
                f"{len(model.classes)}; only one knows '{odd}'); only answers to one question can be fused"
            )


def _same_clips(models: Sequence[Model], manifests: Sequence[Manifest], split: str) -> None:
    first = manifests[0]
    for model, manifest in zip(models[1:], manifests[1:], strict=True):
        if manifest.classes != first.classes or manifest.fingerprint(split) != first.fingerprint(split):
            raise UserError(
                f"{models[0].folder} and {model.folder} have different {split} clips or labels ({first.name}, "
                f"{len(first.select(split, None))} clips, and {manifest.name}, {len(manifest.select(split, None))}); "
                "score both on one corpus with --manifest"
            )


def _aligned(scored: Sequence[tuple[Scores, Manifest]]) -> tuple[list[int], list[NDArray[np.float64]]]:
    """Rows, in the first run's manifest, of the clips that every run scored, and each run's table in that order.

    Raises:
        UserError: There is none.
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
    return [int(first[places[0][clip_id]]) for clip_id in common], tables


def _selection_scores(
    models: Sequence[Model], tests: Sequence[Manifest], views: str | None, world: World
) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """Each run's table on the clips that chose the runs' epochs, and the labels.

    Raises:
        UserError: The runs were chosen on different clips, or their corpus is not here.
    """
    held = [model.selection(test) for model, test in zip(models, tests, strict=True)]
    same = {(part.classes, part.fingerprint()) for part in held}
    if len(same) > 1:
        names = " and ".join(str(model.folder) for model in models)
        raise UserError(f"{names} were chosen on different clips, so no common ones are left to choose weights on")
    scored = [
        model.score(part, model.data(None), model.views(views), world, allow_partial=True)
        for model, part in zip(models, held, strict=True)
    ]
    rows, tables = _aligned(scored)
    return tables, np.array([scored[0][1].clips[row].label for row in rows], np.int64)


def _joined(words: Sequence[str]) -> str:
    """Different words with + between them."""
    return " + ".join(dict.fromkeys(word for word in words if word))


def _fused_record(
    models: Sequence[Model], records: Sequence[Provenance], shares: Sequence[float], config: FusionConfig
) -> Provenance:
    """The provenance of the fused row: the parents' where they agree, all of them by name where not."""
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


def _signers(models: Sequence[Model], manifest: Manifest) -> frozenset[str] | None:
    """Signers that any of the runs was trained on; None where one does not say."""
    known = [trained_signers(model.weights, manifest) for model in models]
    parts = [part for part in known if part is not None]
    return frozenset().union(*parts) if len(parts) == len(known) else None


def _beside(runs: Sequence[Path], split: Split, views: str, pool: Pool, weights: str) -> Path:
    """Where a fusion goes when nobody says: beside its first run, under a name that tells it from the others."""
    names = "+".join(run.resolve().name for run in runs)
    chosen = {"equal": "", "val": "_val"}.get(weights, f"_{weights.replace(',', '-')}")
    return runs[0].resolve().parent / f"fusion_{names}_{split}_{views}_{pool}{chosen}"
