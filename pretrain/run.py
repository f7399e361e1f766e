"""A pre-training run: configuration -> trained encoder in a run folder."""

import json
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from islr.config import Config, config_hash
from islr.data.loader import pin_threads
from islr.data.manifest import Manifest
from islr.data.module import ClipStore, DataConfig, TrainBatches, load_manifests
from islr.errors import UserError
from islr.files import write_atomic_with
from islr.models import EncoderConfig
from islr.models.weights import build_encoder, export_encoder, read_metadata
from islr.training.engine import fit, to_device, train_batches
from islr.training.optim import OptimConfig
from islr.training.runtime import RunConfig, World, commit, prepare_process, run_folder
from islr.training.tracking import Progression
from pretrain import RECIPES

ENCODER = "encoder.safetensors"
PICTURES = "pictures.npz"
PICTURE_CLIPS = 4  # clips shown in the report

if TYPE_CHECKING:
    RecipeConfig = Any
else:
    RecipeConfig = Annotated[reduce(or_, (recipe.Config for recipe in RECIPES.values())), Field(discriminator="name")]


class PretrainConfig(Config):
    """Everything a pre-training run depends on."""

    task: Literal["pretrain"] = "pretrain"
    name: str = Field(min_length=1, description="the row of this encoder in tables")
    recipe: RecipeConfig
    encoder: EncoderConfig
    data: DataConfig
    splits: tuple[Literal["train", "val", "test", "none"], ...] = Field(
        ("train", "none"), min_length=1, description="splits of the manifests that are seen"
    )
    optim: OptimConfig
    run: RunConfig


def run_pretrain(config: PretrainConfig) -> None:
    """Train the recipe's encoder and leave `encoder.safetensors` in the run folder; resumes; skips finished runs.

    Raises:
        UserError: The configuration does not fit the data or the encoder.
        Interrupted: Stopped by a signal, state saved.
    """
    world = World(config.run.device)
    prepare_process(config.run.threads)
    torch.manual_seed(config.run.seed)
    recipe_module = RECIPES[config.recipe.name]
    manifest = seen_manifest(config)
    recipe = build_recipe(config, manifest)
    store = ClipStore(manifest, config.data)
    view = recipe_module.views(config.recipe, recipe.encoder.input_spec)
    batches = train_batches(store, view, config.optim, config.run, world)
    with world.connected(), run_folder(config, config.run.out, world) as folder:
        if (folder / ENCODER).exists():
            return
        if config.data.cache == "memory":
            with Progression(f"{config.name}: decoding", len(store), enabled=world.main) as bar:
                store.fill_cache(bar.callback)
        groups = recipe.param_groups() if hasattr(recipe, "param_groups") else None
        title = f"{config.name}: pre-training"
        fit(
            recipe,
            batches,
            optim=config.optim,
            run=config.run,
            config=config,
            world=world,
            folder=folder,
            title=title,
            groups=groups,
        )
        if world.main:
            if hasattr(recipe, "pictures"):
                _draw(recipe, batches, folder, world)
            facts = _facts(config, manifest)
            if hasattr(recipe_module, "export"):
                recipe_module.export(recipe, folder, facts)
            export_encoder(recipe.encoder, folder / ENCODER, facts)
        world.barrier()


def seen_manifest(config: PretrainConfig) -> Manifest:
    """The clips a run sees: the chosen splits of all its manifests.

    Raises:
        UserError: Nothing is left, or labels are needed and absent.
    """
    whole = load_manifests(config.data.manifest)
    manifest = whole.replace(clip for clip in whole if clip.split in config.splits)
    if not len(manifest.select()):
        raise UserError(f"manifest {whole.name}: no readable clip in splits {', '.join(config.splits)}")
    if getattr(RECIPES[config.recipe.name], "NEEDS_LABELS", False):
        bare = [clip.clip_id for clip in manifest if clip.label is None]
        if bare:
            raise UserError(
                f"recipe {config.recipe.name} needs labels and {len(bare)} clips of {whole.name} have none ({bare[0]})"
            )
    return manifest


def build_recipe(config: PretrainConfig, manifest: Manifest) -> Any:
    """The recipe's module (an `nn.Module` with the attribute `encoder`) on a fresh or loaded encoder."""
    recipe = RECIPES[config.recipe.name]
    arguments: dict[str, Any] = {}
    if hasattr(recipe, "encoder_arguments"):
        arguments = recipe.encoder_arguments(config.recipe)
    encoder = build_encoder(config.encoder, **arguments)
    wanted = getattr(recipe, "MODALITY", None)
    if wanted and encoder.input_spec.modality != wanted:
        raise UserError(
            f"recipe {config.recipe.name} trains {wanted} encoders, {config.encoder.name} takes "
            f"{encoder.input_spec.modality}"
        )
    if encoder.input_spec.modality == "pose":
        bare = [clip.clip_id for clip in manifest.select() if not clip.pose]
        if bare:
            raise UserError(f"{config.encoder.name} needs poses and {len(bare)} clips have none ({bare[0]}, ...)")
    extra = {"num_classes": len(manifest.classes)} if getattr(recipe, "NEEDS_LABELS", False) else {}
    return recipe.Recipe(encoder, config.recipe, **extra)


def _facts(config: PretrainConfig, manifest: Manifest) -> dict[str, str]:
    """Metadata of the exported encoder: how it came to be, all stages included."""
    stages = []
    if config.encoder.weights:
        stages = json.loads(read_metadata(config.encoder.weights).get("pretraining", "[]"))
    stage = {
        "recipe": config.recipe.name,
        "manifest": manifest.name,
        "fingerprint": manifest.fingerprint(),
        "clips": str(len(manifest.select())),
    }
    return {
        "name": config.name,
        "recipe": config.recipe.name,
        "pretraining": json.dumps([*stages, stage]),
        "config_hash": config_hash(config),
        "seed": str(config.run.seed),
        "commit": commit(),
    }


def _draw(recipe: Any, batches: TrainBatches, folder: Any, world: World) -> None:
    """Save the recipe's pictures of clips it was trained on."""
    pin_threads()
    batch = next(batches.fixed(PICTURE_CLIPS))
    recipe.eval()
    with torch.no_grad():
        panels = recipe.pictures(to_device(batch, world.device))
    write_atomic_with(folder / PICTURES, lambda file: np.savez_compressed(file, **panels))
