"""A pre-training run as `islr check` sees it, and what each recipe must reach on one batch.

What a loss is held against is the best that can be said without looking at the clip. For recipes that predict values
(`predict`) that is a constant, the same for every token; it is fitted to the batch under the recipe's own loss, so no
normalisation of targets is written down twice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from islr.checks.finetune import told_goal
from islr.checks.subject import Goal, Labelled, Subject, plain, span_wanted, unrepeated
from islr.data.loading.store import Batch
from islr.data.manifest import Clip, Manifest
from islr.data.views.transforms import SamplingConfig
from islr.models.weights import build_encoder, export_encoder
from islr.training.classification import Classification
from islr.training.optim import parameter_groups
from pretrain import RECIPES
from pretrain.run import PretrainConfig, build_recipe, clips_to_see

SHARE = 0.5  # of the loss of the best constant that a learned batch may have
# SVT's teacher says nearly the same of all clips at the start, and its global views disagree: of the way from the best
# constant to what telling clips apart would reach, a third must be gone.
SVT_SHARE = 2 / 3
HELD_OUT_EVERY = 5  # clips of each class, for the control of a recipe that learns labels
_FIT_STEPS = 20
# Trailing dimensions of a prediction that belong to one token.
_OF_A_TOKEN = {"maskfeat": 1, "videomae": 1, "posemae": 3}


def pretrain_subject(config: PretrainConfig) -> Subject:
    """What a pre-training configuration would train.

    Raises:
        UserError: As `run_pretrain`, before any work.
    """
    manifest = clips_to_see(config)
    recipe_module, options = RECIPES[config.recipe.name], config.recipe
    classification = getattr(options, "classification", None)
    simple = options if classification is None else options.model_copy(update={"classification": plain(classification)})
    spec = build_recipe(config, manifest).encoder.input_spec
    view = recipe_module.views(options, spec)
    sampling = getattr(getattr(options, "video", None), "sampling", SamplingConfig())

    def build(without_mixing: bool) -> nn.Module:
        torch.manual_seed(config.run.seed)
        chosen = config.model_copy(update={"recipe": simple}) if without_mixing else config
        return build_recipe(chosen, manifest)

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        own: Callable[[], list[dict[str, Any]]] | None = getattr(module, "param_groups", None)
        return own() if own is not None else parameter_groups(module, config.optim)

    def frames_wanted(clip: Clip) -> float:
        windows = getattr(options, "windows", 1)  # of predictive coding, one after another
        return windows * span_wanted(spec, sampling, clip)

    labelled = None
    if classification is not None:

        def classifier(classes: int) -> Classification:
            torch.manual_seed(config.run.seed)
            return Classification(build_encoder(config.encoder), classes, unrepeated(simple.classification))

        labelled = Labelled(*_held_out(manifest), classifier, sampling)
    return Subject(
        name=config.name,
        task="pretrain",
        optim=config.optim,
        run=config.run,
        data=config.data,
        seen=manifest,
        unseen=None,
        view=view,
        spec=spec,
        frames_wanted=frames_wanted,
        build=build,
        groups=groups,
        goal=lambda module, batch: GOALS[config.recipe.name](module, batch),
        kept=kept,
        save=lambda module, path: export_encoder(kept(module), path, {}),  # type: ignore[arg-type]
        labelled=labelled,
    )


def kept(recipe: nn.Module) -> nn.Module:
    """The encoder that a run leaves behind."""
    encoder = getattr(recipe, "exported", recipe.encoder)
    assert isinstance(encoder, nn.Module)
    return encoder


def _held_out(manifest: Manifest) -> tuple[Manifest, Manifest]:
    seen: dict[int | None, int] = {}
    parts: tuple[list[Clip], list[Clip]] = ([], [])
    for clip in manifest.select():
        seen[clip.label] = seen.get(clip.label, 0) + 1
        parts[seen[clip.label] % HELD_OUT_EVERY == 0].append(clip)
    return manifest.replace(parts[0]), manifest.replace(parts[1])


def best_constant(recipe: nn.Module, batch: Batch, of_a_token: int) -> float:
    """The lowest loss of saying the same of every token, whatever the clip.

    Args:
        recipe: Has `predict`, whose results have tokens first.
        batch: On its device.
        of_a_token: How many of their last dimensions belong to one token.
    """
    constants: list[Tensor] = []
    said: list[Tensor] = []  # each constant as often as there are tokens
    single = False

    def say(*inputs: Tensor) -> Any:
        if not constants:
            with torch.no_grad():
                real = type(recipe).predict(recipe, *inputs)  # type: ignore[attr-defined]
            nonlocal single
            single = isinstance(real, Tensor)
            for prediction in [real] if single else real:
                shape = prediction.shape
                constants.append(torch.zeros(shape[-of_a_token:], device=prediction.device, requires_grad=True))
                said.append(constants[-1].expand(shape))
        return said[0] if single else said

    recipe.predict = say  # type: ignore[assignment]
    try:
        recipe(batch)  # makes the constants
        fit = torch.optim.LBFGS(constants, max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            fit.zero_grad()
            found = recipe(batch)["loss"]
            found.backward()
            return found

        fit.step(loss)
        return float(recipe(batch)["loss"].detach())
    finally:
        del recipe.predict


def _of_the_best_constant(recipe: Any, batch: Batch) -> Goal:
    constant = best_constant(recipe, batch, _OF_A_TOKEN[recipe.config.name])
    return Goal("loss", SHARE * constant, f"half of what the best constant scores ({constant:.3g})")


@torch.no_grad()
def _bevt(recipe: nn.Module, batch: Batch) -> Goal:
    found = recipe(batch)
    entropy = float(found["unigram_entropy"])
    key = "video_loss" if "video_loss" in found else "loss"
    return Goal(key, SHARE * entropy, f"half of what the words' frequencies score ({entropy:.3g})")


@torch.no_grad()
def _tokenizer(recipe: Any, batch: Batch) -> Goal:
    constant = float(recipe.mean_prediction(recipe.targets(batch["clip"])))
    what = "the mean colour" if recipe.teacher is None else "the mean token"
    return Goal("reconstruction", SHARE * constant, f"half of what {what} scores ({constant:.3g})")


@torch.no_grad()
def _svt(recipe: Any, batch: Batch) -> Goal:
    """The teacher does not move here; a student that said the same of all clips would score `constant`."""
    _, _, wanted = recipe.taught(recipe.clips(batch))  # [B, G, K]
    constant = float(torch.special.entr(wanted.mean(dim=(0, 1))).sum())
    apart = float(torch.special.entr(wanted.mean(dim=1)).sum(dim=-1).mean())
    limit = apart + SVT_SHARE * (constant - apart)
    words = f"a third of the way from saying the same of all clips ({constant:.3g}) to telling them apart ({apart:.3g})"
    return Goal("loss", limit, words)


@torch.no_grad()
def _dpc(recipe: nn.Module, batch: Batch) -> Goal:
    chance = float(recipe(batch)["chance"])
    return Goal("accuracy", 1 - SHARE * (1 - chance), f"half of the way from chance ({chance:.3g}) to 1", rises=True)


GOALS: dict[str, Callable[[nn.Module, Batch], Goal]] = {
    "maskfeat": _of_the_best_constant,
    "videomae": _of_the_best_constant,
    "posemae": _of_the_best_constant,
    "bevt": _bevt,
    "tokenizer": _tokenizer,
    "svt": _svt,
    "dpc": _dpc,
    "supervised": told_goal,
}
