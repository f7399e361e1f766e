"""The contract of a recipe, tested on every entry of `RECIPES` by its smallest run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.killed_runs import killed_at
from support.recipe_runs import smallest_config

from islr.checks.overfit import one_batch
from islr.config import load_config
from islr.config_files import shipped_configs
from islr.errors import UserError
from islr.evaluation.pretext import Trivial, judge
from islr.models import create_model
from islr.models.weights import load_encoder
from islr.training.distributed.world import World
from islr.training.tracking import read_metrics
from pretrain import RECIPES
from pretrain.check import pretrain_subject
from pretrain.recipe import ENCODER, Recipe, RecipeConfig
from pretrain.run import PretrainConfig, run_pretrain
from pretrain.supervised import Supervised, SupervisedConfig

EVERY = pytest.mark.parametrize("name", sorted(RECIPES))


@EVERY
def test_a_killed_run_ends_with_the_same_bits(name: str, mini_corpus: Path, tmp_path: Path) -> None:
    whole, cut = (
        smallest_config(name, mini_corpus / "manifest.csv", tmp_path / run, health={"looks": 0}, optim={"epochs": 2})
        for run in ("whole", "cut")
    )
    run_pretrain(whole)
    assert killed_at(cut, 5)
    run_pretrain(cut)
    files = sorted((tmp_path / "whole").glob("*.safetensors"))
    assert tmp_path / "whole" / ENCODER in files
    for file in files:
        first, second = load_file(file), load_file(tmp_path / "cut" / file.name)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items()), file.name
    losses = [[row["loss"] for row in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("whole", "cut")]
    assert losses[0] == losses[1]
    encoder = whole.encoder
    assert load_encoder(tmp_path / "whole" / ENCODER).layer_dims == create_model(encoder.name).layer_dims


@EVERY
def test_trivial_predictors_score_what_a_step_logs(name: str, mini_corpus: Path, tmp_path: Path) -> None:
    subject = pretrain_subject(smallest_config(name, mini_corpus / "manifest.csv", tmp_path / "run"))
    recipe, batch = subject.build(False).eval(), one_batch(subject, 4, World("cpu"))
    assert isinstance(recipe, Recipe)
    with torch.no_grad():
        logged, scores = recipe(batch), recipe.trivial(batch)
    assert scores.keys() == recipe.trivial_predictors.keys()
    values = {key: float(value) for key, value in logged.items()}
    compared = {one.predictor.predicts for one in judge(recipe.trivial_predictors, values).comparisons}
    assert compared == {predictor.predicts for predictor in recipe.trivial_predictors.values()} != set()
    assert {key: values[key] for key in scores} == {key: float(score) for key, score in scores.items()}


@EVERY
def test_pictures_are_of_every_clip(name: str, mini_corpus: Path, tmp_path: Path) -> None:
    subject = pretrain_subject(smallest_config(name, mini_corpus / "manifest.csv", tmp_path / "run"))
    recipe, batch = subject.build(False).eval(), one_batch(subject, 3, World("cpu"))
    assert isinstance(recipe, Recipe)
    with torch.no_grad():
        panels = recipe.pictures(batch)
    for title, images in panels.items():
        assert images.shape[0] == 3, title
        assert (images.shape[3], str(images.dtype)) == (3, "uint8"), title


@EVERY
def test_a_configuration_is_shipped(name: str) -> None:
    assert RECIPES[name].Config.model_fields["name"].default == name
    assert any(f"name: {name}\n" in path.read_text(encoding="utf-8") for path in shipped_configs().values())


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("befor_update", "did you mean 'before_update'"),
        ("export_", "did you mean 'export'"),
        ("NEEDS_LABELS", "did you mean 'needs_labels'"),
        ("view", "did you mean 'views'"),
        ("on_train_start", "no hook of a recipe; hooks are .*after_step, .*views"),
    ],
)
def test_a_misspelt_or_unknown_hook_is_refused(hook: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        type("Mine", (Recipe,), {hook: lambda self, *_: None})


def test_a_hook_with_other_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Mine.after_step takes \(step\); the hook is called with \(step, total\)"):
        type("Mine", (Recipe,), {"after_step": lambda self, step: None})


def test_trivial_predictors_are_named_and_scored() -> None:
    with pytest.raises(TypeError, match="define both or none"):
        type("Mine", (Recipe,), {"trivial_predictors": {"zero": Trivial("zero everywhere")}})


def test_own_methods_are_allowed() -> None:
    options = {name: lambda self: None for name in ("predict", "targets", "encode", "loss", "features")}
    assert issubclass(type("Mine", (Recipe,), options | {"Config": RecipeConfig}), Recipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{name: videomae, guidance: 2}", "guidance acts only with mask: motion_tube or hand_tube"),
        ("{name: videomae, mask: motion_tube, face_weight: 1}", "face_weight acts only with mask: hand_tube"),
        ("{name: maskfeat, face_weight: 1}", "face_weight acts only with mask: hand_cube"),
        ("{name: bevt, images: 0, image_weight: 2}", "image_weight acts only with images"),
    ],
)
def test_an_option_that_cannot_act_is_refused(options: str, message: str) -> None:
    settings = [f"recipe={options}", "data.manifest=none.csv", "run.out=none"]
    with pytest.raises(ValueError, match=message):
        load_config(PretrainConfig, "smoke/maskfeat.yaml", settings)


@pytest.mark.parametrize(
    ("encoder", "options", "other"),
    [("mvit_tiny", {"pose": {"jitter": 0.5}}, "pose"), ("stgcn_tiny", {"video": {"colour": 0.3}}, "video")],
)
def test_supervised_refuses_augmentation_of_the_other_modality(encoder: str, options: dict, other: str) -> None:
    with pytest.raises(UserError, match=f"{other} augments {other} clips; .*: leave {other} out"):
        Supervised(create_model(encoder), SupervisedConfig(**options), num_classes=2)
