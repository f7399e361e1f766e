"""A pre-training run as the subject of `islr check`."""

import torch
from torch import nn

from islr.checks.subject import Labelled, Subject, unrepeated
from islr.data.manifest import Manifest
from islr.data.views.sampling import SamplingConfig
from islr.models.weights import build_encoder, export_encoder
from islr.training.classification import Classification
from islr.training.optim import parameter_groups
from pretrain import find_recipe
from pretrain.recipe import Recipe, VideoRecipeConfig
from pretrain.run import PretrainConfig, build_recipe, clips_to_see, exposure_of

HELD_OUT_EVERY = 5  # clips of each class, for the control of a recipe that learns labels


def pretrain_subject(config: PretrainConfig) -> Subject:
    """Return what a pre-training configuration would train.

    Raises:
        UserError: As `run_pretrain`, before any work.
    """
    manifest = clips_to_see(config, exposure_of(config))
    recipe, options = find_recipe(config.recipe.name), config.recipe
    spec = build_recipe(config, manifest).encoder.input_spec

    def build(unmixed: bool) -> Recipe:
        torch.manual_seed(config.run.seed)
        chosen = config.model_copy(update={"recipe": recipe.unmixed(options)}) if unmixed else config
        return build_recipe(chosen, manifest)

    return Subject(
        name=config.name,
        task="pretrain",
        optim=config.optim,
        run=config.run,
        data=config.data,
        train=manifest,
        scored=None,
        view=recipe.views(options, spec),
        spec=spec,
        span=lambda clip: recipe.span(options, spec, clip),
        build=build,
        groups=lambda module: parameter_groups(module, config.optim),
        goal=lambda module, batch: _recipe(module).goal(batch),
        exported=lambda module: _recipe(module).exported,
        save=lambda module, path: export_encoder(_recipe(module).exported, path, {}),
        labelled=_labelled(config, manifest),
        predictors=recipe.trivial_predictors,
    )


def _recipe(module: nn.Module) -> Recipe:
    assert isinstance(module, Recipe)
    return module


def _labelled(config: PretrainConfig, manifest: Manifest) -> Labelled | None:
    """Return the control with shuffled labels, for a recipe that is a classifier."""
    recipe = find_recipe(config.recipe.name)
    classification = recipe.classification(recipe.unmixed(config.recipe))
    if classification is None:
        return None

    def classifier(classes: int) -> Classification:
        torch.manual_seed(config.run.seed)
        return Classification(build_encoder(config.encoder), classes, unrepeated(classification))

    options = config.recipe
    sampling = options.video.sampling if isinstance(options, VideoRecipeConfig) else SamplingConfig()
    return Labelled(*manifest.select().hold_out(HELD_OUT_EVERY), classifier, sampling)
