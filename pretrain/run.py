"""A pre-training run: configuration -> trained encoder in a run folder."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from islr import plugins
from islr.config import ChosenByName, config_hash
from islr.data.audit.clip_digests import digest_clips, digests_text
from islr.data.loading.batches import TrainBatches, check_cut
from islr.data.loading.config import DataConfig
from islr.data.loading.loader import pin_threads
from islr.data.loading.store import ClipStore
from islr.data.loading.unreadable import unreadable_clips
from islr.data.manifest import Manifest
from islr.data.views.views import AugmentConfig
from islr.environment import commit
from islr.errors import UserError
from islr.evaluation.pretext import end_values, judge
from islr.files import write_atomic_with
from islr.models import EncoderConfig
from islr.models.weights import ClipsSeen, Stage, build_encoder, exposure_in, exposure_text, read_metadata, stages_in
from islr.training.classification import check_batch_parts
from islr.training.distributed.world import World
from islr.training.engine import Evaluate, Trainer, to_device, train_batches
from islr.training.harness import Run, TrainingConfig, open_run, prepare, without_values
from islr.training.optim import OptimConfig
from islr.training.run_config import RunConfig
from islr.training.tracking import METRICS, read_metrics
from pretrain import RECIPES, find_recipe
from pretrain.leakage import Exposure
from pretrain.monitor import FeatureMonitor, MonitorConfig
from pretrain.recipe import ENCODER, Recipe, RecipeConfig, VideoRecipeConfig

PICTURES = "pictures.npz"
PICTURE_CLIPS = 4  # clips shown in the report

logger = logging.getLogger(__name__)


def _known_options() -> dict[str, type[RecipeConfig]]:
    return {name: recipe.Config for name, recipe in RECIPES.items()}


class PretrainConfig(TrainingConfig):
    """Everything a pre-training run depends on."""

    task: Literal["pretrain"] = "pretrain"
    name: str = Field(min_length=1, description="the row of this encoder in tables")
    tags: dict[str, str] = Field(default_factory=dict, description="facts for reports: a grid's method and regime")
    recipe: Annotated[RecipeConfig, ChosenByName(lambda name: find_recipe(name).Config, _known_options)]
    encoder: EncoderConfig
    data: DataConfig
    splits: tuple[Literal["train", "val", "test", "none"], ...] = Field(
        ("train", "none"), min_length=1, description="splits of the manifests to train on"
    )
    downstream: tuple[str, ...] = Field(
        (), description="manifests of the tasks the encoder will be evaluated on; their val and test stay unseen"
    )
    shared_with_downstream: Literal["error", "drop"] = Field(
        "error",
        description="training clips that are val or test of downstream, by bytes or id: stop, or drop them",
    )
    transductive: bool = Field(False, description="declare training on unlabelled val or test clips of downstream")
    health: MonitorConfig = MonitorConfig()
    optim: OptimConfig
    run: RunConfig

    @model_validator(mode="after")
    def _nothing_idle(self) -> "PretrainConfig":
        if self.optim.layer_decay != 1:
            raise ValueError("optim.layer_decay acts only in fine-tuning; leave it out")
        return self


class PreparedPretraining(NamedTuple):
    """What a pre-training run trains, on which clips and batches."""

    exposure: Exposure
    manifest: Manifest
    recipe: Recipe
    batches: TrainBatches


def prepare_pretrain(config: PretrainConfig, world: World) -> PreparedPretraining:
    """Return what a run needs before its first step; its folder is not touched.

    Raises:
        UserError: The configuration does not fit the data, the encoder or the number of ranks.
    """
    exposure = exposure_of(config)
    manifest = clips_to_see(config, exposure)
    note = find_recipe(config.recipe.name).check_clips(config.recipe, manifest)
    if note:
        logger.info("%s: %s", config.name, note)
    recipe = build_recipe(config, manifest)
    store = ClipStore(manifest, config.data)
    spec = recipe.encoder.input_spec
    view = recipe.views(config.recipe, spec)
    video = config.recipe.video if isinstance(config.recipe, VideoRecipeConfig) else AugmentConfig()
    times = video.repeats(store.manifest.clips, spec.frames)
    batches = train_batches(store, view, config, world, times=times)
    if (head := recipe.classification(config.recipe)) is not None:
        check_batch_parts(head, batches.part_size)
    for remark in (batches.corpus_shares(), video.describe(store.manifest.clips, spec.frames)):
        if remark:
            logger.info("%s: %s", config.name, remark)
    return PreparedPretraining(exposure, manifest, recipe, batches)


def check_pretrain(config: PretrainConfig, ranks: int) -> None:
    """Refuse what a run of so many ranks would refuse before its first step; networks get no values.

    Where a teacher's file does not exist yet, the recipe is not built.

    Raises:
        UserError: As `prepare_pretrain`.
    """
    teachers = find_recipe(config.recipe.name).teachers(config.recipe)
    if not all(Path(file).is_file() for file in teachers):
        clips_to_see(config, exposure_of(config))
        check_cut(config.optim.batch_size, ranks, config.optim.accumulate)
        return
    with without_values():
        prepare_pretrain(config, World.planned(ranks))


def run_pretrain(config: PretrainConfig) -> None:
    """Train the recipe's encoder and leave `encoder.safetensors` in the run folder; resumes; skips finished runs.

    Raises:
        UserError: The configuration does not fit the data or the encoder.
        Interrupted: Stopped by a signal, state saved.
    """
    world = prepare(config)
    exposure, manifest, recipe, batches = prepare_pretrain(config, world)
    store = batches.store
    uses, labels = {"train": store.manifest}, recipe.needs_labels
    with open_run(config, world, {"decoding": store}, ENCODER, uses=uses, labels=labels) as run:
        if run is not None:
            _train(config, exposure, manifest, recipe, batches, run)


def _train(
    config: PretrainConfig, exposure: Exposure, manifest: Manifest, recipe: Recipe, batches: TrainBatches, run: Run
) -> None:
    """Train, and leave the encoder in the run folder."""
    world, store = run.world, batches.store
    if world.main:
        recipe.describe(run.folder)
    trainer = Trainer(
        recipe,
        batches,
        run,
        title=f"{config.name}: pre-training",
        evaluate=_monitor(config, exposure.monitored(), batches, run),
        evaluate_start=True,
    )
    state = trainer.train()
    world.at("hashing the training clips")
    digests = world.gather(digest_clips(exposure.corpora(manifest), world.rank, world.size))
    world.at("writing the encoder")
    if world.main:
        verdict = judge(recipe.trivial_predictors, end_values(read_metrics(run.folder / METRICS)))
        logger.log(logging.WARNING if verdict.reasons else logging.INFO, "%s: pretext task %s", config.name, verdict)
        ended = {"pretext": str(verdict), "updates": str(state.step)}
        facts = _facts(config, exposure, manifest, unreadable_clips(state.failed, store.manifest), ended)
        facts["exposure"] = exposure_text(_clips_seen(config, manifest, digests_text(digests)))
        _export(recipe, facts, batches, run, state.failed)
    world.barrier()


def _monitor(config: PretrainConfig, monitored: Manifest, batches: TrainBatches, run: Run) -> Evaluate:
    """Return the evaluation of features during training; W&B gets the recipe's pictures with it."""
    monitor = FeatureMonitor(config.health, monitored, config.data, config.optim.epochs, run.world)

    def evaluate(recipe: nn.Module, epoch: float) -> dict[str, float]:
        numbers = monitor(recipe, epoch)
        wandb_run = run.wandb_run
        if numbers and wandb_run and wandb_run.active and (panels := _panels(recipe, batches, run.world)):
            wandb_run.pictures(panels, round(epoch * batches.steps_per_epoch))
        return numbers

    return evaluate


def _export(
    recipe: Recipe, facts: dict[str, str], batches: TrainBatches, run: Run, unreadable: Collection[int]
) -> None:
    """Write the report's pictures, of readable clips, and, last, the encoder."""
    if panels := _panels(recipe, batches, run.world, unreadable):
        write_atomic_with(run.folder / PICTURES, lambda file: np.savez_compressed(file, **panels))
    recipe.export(run.folder, facts)


def exposure_of(config: PretrainConfig) -> Exposure:
    """Load the corpora of a run."""
    return Exposure.load(config.data.manifest, config.splits, config.downstream)


def clips_to_see(config: PretrainConfig, exposure: Exposure) -> Manifest:
    """Return the clips a run sees, checked against what its encoder will be evaluated on.

    Raises:
        UserError: Nothing is left, labels are needed and absent, or a downstream clip would be used undeclared or with
            its label.
    """
    labels = find_recipe(config.recipe.name).needs_labels
    if labels and config.transductive:
        raise UserError(f"recipe {config.recipe.name} learns labels; only recipes without labels can be transductive")
    manifest = exposure.training_clips()
    if not config.transductive and config.shared_with_downstream == "drop":
        manifest, left_out = exposure.without_judged(manifest)
        if left_out:
            logger.info("%s: %d clips left out, val or test clips of downstream", config.name, len(left_out))
    elif not config.transductive:
        exposure.check()
    if labels:
        bare = [clip.clip_id for clip in manifest if clip.label is None]
        if bare:
            raise UserError(
                f"recipe {config.recipe.name} needs labels and {len(bare)} clips of {manifest.name} have none "
                f"({bare[0]})"
            )
    return manifest


def build_recipe(config: PretrainConfig, manifest: Manifest) -> Recipe:
    """Return the recipe on a fresh or loaded encoder.

    Raises:
        UserError: The encoder is of another modality, or clips have no pose for a pose encoder.
    """
    recipe = find_recipe(config.recipe.name)
    encoder = build_encoder(config.encoder, **recipe.encoder_arguments(config.recipe))
    if recipe.modality not in (None, encoder.input_spec.modality):
        raise UserError(
            f"recipe {config.recipe.name} trains {recipe.modality} encoders, {config.encoder.name} takes "
            f"{encoder.input_spec.modality}"
        )
    if encoder.input_spec.modality == "pose":
        bare = [clip.clip_id for clip in manifest.select() if not clip.pose]
        if bare:
            raise UserError(f"{config.encoder.name} needs poses and {len(bare)} clips have none ({bare[0]}, ...)")
    elif bare := [clip.clip_id for clip in manifest.select() if not clip.has_video]:
        raise UserError(f"{config.encoder.name} needs videos and {len(bare)} clips have a pose alone ({bare[0]}, ...)")
    classes = {"num_classes": len(manifest.classes)} if recipe.needs_labels else {}
    build: Callable[..., Recipe] = recipe  # each constructor names its own encoder and options
    return build(encoder, config.recipe, **classes)


def _clips_seen(config: PretrainConfig, manifest: Manifest, digests: str) -> list[ClipsSeen]:
    """Return the clips of every training whose results the encoder holds: earlier stages, teachers, this run."""
    seen: list[ClipsSeen] = []
    start = [config.encoder.weights] if config.encoder.weights else []
    for file in (*start, *find_recipe(config.recipe.name).teachers(config.recipe)):
        seen += [one for one in exposure_in(read_metadata(file), file) if one not in seen]
    recipe, transductive = config.recipe.name, config.transductive
    return [*seen, ClipsSeen(recipe=recipe, manifest=manifest.name, transductive=transductive, clips=digests)]


def _facts(
    config: PretrainConfig, exposure: Exposure, manifest: Manifest, unreadable: list[str], ended: Mapping[str, str]
) -> dict[str, str]:
    """Return the metadata of the exported encoder: how it was pre-trained, earlier stages included."""
    stages: list[Stage] = []
    if start := config.encoder.weights:
        stages = stages_in(read_metadata(start), start)
    stage = {
        "recipe": config.recipe.name,
        "package": plugins.origin_of("recipe", config.recipe.name),
        "manifest": manifest.name,
        "fingerprint": manifest.fingerprint(),
        "clips": str(len(manifest.select()) - len(unreadable)),
        "unreadable": json.dumps(unreadable, ensure_ascii=False),
        "left_out": str(len(exposure.training_clips()) - len(manifest)),
        "transductive": "declared" if config.transductive else "",
        "needs_labels": "yes" if find_recipe(config.recipe.name).needs_labels else "no",
        **ended,
    }
    return {
        "name": config.name,
        "recipe": config.recipe.name,
        "pretraining": json.dumps([*stages, stage]),
        "config_hash": config_hash(config),
        "seed": str(config.run.seed),
        "commit": commit(),
    }


def _panels(recipe: nn.Module, batches: TrainBatches, world: World, unreadable: Collection[int] = ()) -> dict[str, Any]:
    """Return the recipe's pictures of the first training clips but `unreadable` rows; none where none can be read."""
    assert isinstance(recipe, Recipe)
    pin_threads()
    batch = next(batches.fixed(PICTURE_CLIPS, unreadable))
    if not len(batch["index"]):
        return {}
    training = recipe.training
    recipe.eval()
    with torch.no_grad():
        panels = recipe.pictures(to_device(batch, world.device))
    recipe.train(training)
    return panels
