"""A pre-training run: configuration -> trained encoder in a run folder."""

import json
import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from islr import plugins
from islr.config import ChosenByName, config_hash
from islr.data.loading.batches import TrainBatches
from islr.data.loading.config import DataConfig
from islr.data.loading.loader import pin_threads
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.environment import commit
from islr.errors import UserError
from islr.files import write_atomic_with
from islr.models import EncoderConfig
from islr.models.weights import build_encoder, read_metadata
from islr.training.distributed.world import World
from islr.training.engine import Evaluate, Trainer, to_device, train_batches
from islr.training.harness import Run, TrainingConfig, open_run, prepare
from islr.training.optim import OptimConfig
from islr.training.run_config import RunConfig
from pretrain import RECIPES, find_recipe
from pretrain.leakage import Exposure
from pretrain.monitor import FeatureMonitor, MonitorConfig
from pretrain.recipe import ENCODER, Recipe, RecipeConfig

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


def run_pretrain(config: PretrainConfig) -> None:
    """Train the recipe's encoder and leave `encoder.safetensors` in the run folder; resumes; skips finished runs.

    Raises:
        UserError: The configuration does not fit the data or the encoder.
        Interrupted: Stopped by a signal, state saved.
    """
    world = prepare(config)
    exposure = exposure_of(config)
    manifest = clips_to_see(config, exposure)
    note = find_recipe(config.recipe.name).check_clips(config.recipe, manifest)
    if note:
        logger.info("%s: %s", config.name, note)
    recipe = build_recipe(config, manifest)
    store = ClipStore(manifest, config.data)
    view = recipe.views(config.recipe, recipe.encoder.input_spec)
    batches = train_batches(store, view, config, world)
    if batches.corpus_shares():
        logger.info("%s: %s", config.name, batches.corpus_shares())
    with open_run(config, world, {"decoding": store}, ENCODER) as run:
        if run is None:
            return
        if world.main:
            recipe.describe(run.folder)
        Trainer(
            recipe,
            batches,
            run,
            title=f"{config.name}: pre-training",
            evaluate=_monitor(config, exposure.monitored(), batches, run),
            evaluate_start=True,
        ).train()
        world.at("writing the encoder")
        if world.main:
            _export(recipe, _facts(config, exposure, manifest), batches, run)
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


def _export(recipe: Recipe, facts: dict[str, str], batches: TrainBatches, run: Run) -> None:
    """Write the report's pictures and, last, the encoder."""
    if panels := _panels(recipe, batches, run.world):
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
    classes = {"num_classes": len(manifest.classes)} if recipe.needs_labels else {}
    build: Callable[..., Recipe] = recipe  # each constructor names its own encoder and options
    return build(encoder, config.recipe, **classes)


def _facts(config: PretrainConfig, exposure: Exposure, manifest: Manifest) -> dict[str, str]:
    """Return the metadata of the exported encoder: how it was pre-trained, earlier stages included."""
    stages = []
    if config.encoder.weights:
        stages = json.loads(read_metadata(config.encoder.weights).get("pretraining", "[]"))
    stage = {
        "recipe": config.recipe.name,
        "package": plugins.origin_of("recipe", config.recipe.name),
        "manifest": manifest.name,
        "fingerprint": manifest.fingerprint(),
        "clips": str(len(manifest.select())),
        "left_out": str(len(exposure.training_clips()) - len(manifest)),
        "seen": exposure.facts(),
        "transductive": "declared" if config.transductive else "",
        "needs_labels": "yes" if find_recipe(config.recipe.name).needs_labels else "no",
    }
    return {
        "name": config.name,
        "recipe": config.recipe.name,
        "pretraining": json.dumps([*stages, stage]),
        "config_hash": config_hash(config),
        "seed": str(config.run.seed),
        "commit": commit(),
    }


def _panels(recipe: nn.Module, batches: TrainBatches, world: World) -> dict[str, Any]:
    """Return the recipe's pictures of training clips."""
    assert isinstance(recipe, Recipe)
    pin_threads()
    batch = next(batches.fixed(PICTURE_CLIPS))
    training = recipe.training
    recipe.eval()
    with torch.no_grad():
        panels = recipe.pictures(to_device(batch, world.device))
    recipe.train(training)
    return panels
