"""The contract of a pre-training recipe: one class, whose hooks the run, the checks and the reports call."""

import difflib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from islr.checks.goal import Goal, half_of
from islr.checks.subject import frames_spanned
from islr.config import Config as BaseConfig
from islr.data.loading.loader import Batch
from islr.data.manifest import Clip, Manifest
from islr.data.views.input_spec import InputSpec
from islr.data.views.sampling import SamplingConfig
from islr.data.views.views import AugmentConfig, View
from islr.evaluation.pretext import Trivial, judge, to_json
from islr.files import write_atomic
from islr.models.encoder import Encoder
from islr.models.weights import export_encoder
from islr.training.classification import ClassificationConfig

ENCODER = "encoder.safetensors"  # in the run folder; written last, so a run that has it is finished
DESCRIPTION = "recipe.json"  # in the run folder, written first
# Misspelt hooks are found by likeness, and hooks of other frameworks by how their names begin.
_LIKENESS = 0.85
_LIFECYCLE = ("on_", "before_", "after_", "configure_", "training_", "validation_")


class RecipeConfig(BaseConfig):
    """Base of the options of every recipe.

    A built-in recipe fixes `name` to one literal, its default; a plug-in leaves it, for it may be named by its file.
    """

    name: str


class VideoRecipeConfig(RecipeConfig):
    """Options of a recipe whose clips are sampled and augmented as `video` says."""

    video: AugmentConfig = AugmentConfig()


class Recipe(nn.Module):
    """One self-supervised objective on an encoder.

    A subclass has `Config`, `views` and `forward`; every other hook has a default. Its constructor takes
    `(encoder, config)`, and `num_classes` where it needs labels.

    Attributes:
        Config: The recipe's options.
        modality: The clips that it trains on; None = whatever the encoder takes.
        needs_labels: Whether every clip must have a label; such a recipe cannot be transductive.
        no_weight_decay: Names of parameters that weight decay spares beside biases and norms.
        trivial_predictors: Logged name of each predictor that knows no clip -> what it is; `trivial` scores them. A run
            that does not beat all of them has not learned its task.
        encoder: The encoder that is trained.
    """

    Config: ClassVar[type[RecipeConfig]]
    modality: ClassVar[Literal["video", "pose"] | None] = None
    needs_labels: ClassVar[bool] = False
    no_weight_decay: ClassVar[tuple[str, ...]] = ()
    trivial_predictors: ClassVar[Mapping[str, Trivial]] = {}
    encoder: Encoder

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if not name.startswith("_"):
                _check_hook(cls, name, value)
        if bool(cls.trivial_predictors) != (cls.trivial is not Recipe.trivial):
            raise TypeError(f"{cls.__name__}: `trivial_predictors` names what `trivial` scores; define both or none")

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(_add_trivial)

    # Before a run

    @staticmethod
    def encoder_arguments(config: Any) -> dict[str, Any]:
        """Return arguments of the encoder that win over the configuration's while it is pre-trained."""
        return {}

    @staticmethod
    def views(config: Any, input_spec: InputSpec) -> View:
        """Return the function that makes a training sample of a clip.

        Raises:
            UserError: The options do not fit the encoder's input.
        """
        raise NotImplementedError

    @classmethod
    def span(cls, config: Any, input_spec: InputSpec, clip: Clip) -> float:
        """Return how many frames of a clip one sample spans."""
        sampling = config.video.sampling if isinstance(config, VideoRecipeConfig) else SamplingConfig()
        return frames_spanned(input_spec, sampling, clip)

    @staticmethod
    def check_clips(config: Any, manifest: Manifest) -> str:
        """Return a remark about the clips for the log; empty = none.

        Raises:
            UserError: The recipe cannot be trained on these clips.
        """
        return ""

    @staticmethod
    def teachers(config: Any) -> tuple[str, ...]:
        """Return the weights files of the frozen networks that make targets: the encoder learns of their clips, too."""
        return ()

    @staticmethod
    def classification(config: Any) -> ClassificationConfig | None:
        """Return the options of the recipe's classifier, for the control with shuffled labels; None = it has none."""
        return None

    @staticmethod
    def unmixed(config: Any) -> Any:
        """Return the options without mixed clips and smoothed labels, under which a loss has a clear goal."""
        return config

    @classmethod
    def smallest(cls, folder: Path) -> dict[str, Any]:
        """Return the groups of a configuration (`recipe`, `encoder`) for a run of seconds, for tests.

        Args:
            folder: Where files that the run needs may be written.
        """
        raise NotImplementedError(f"{cls.__name__}.smallest: name a tiny encoder and small options")

    # In a run

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `{"loss": scalar, ...}`; every further value is logged."""
        raise NotImplementedError

    def trivial(self, batch: Batch) -> dict[str, Tensor]:
        """Return the score of each of `trivial_predictors`, which know no clip.

        Called without gradients. A `forward` that has the targets at hand may return the same values itself.
        """
        return {}

    def before_update(self, epoch: float) -> None:
        """Act on the gradients of a step after they are clipped and before the optimiser uses them."""

    def after_step(self, step: int, total: int) -> None:
        """Act after the optimiser's step; `step` counts from 1 to `total`."""

    def pictures(self, batch: Batch) -> dict[str, Any]:
        """Return panels for the report: title -> uint8 `[B, H, W, 3]`, in the order shown. Called without gradients."""
        return {}

    @torch.no_grad()
    def goal(self, batch: Batch) -> Goal:
        """Return what a fresh module must reach on one batch, for `islr check`: half of the lowest trivial loss."""
        training = self.training
        self.eval()  # a check must not move running statistics
        logged = self(batch)
        self.train(training)
        values = {name: float(value) for name, value in logged.items()}
        losses = [one for one in judge(self.trivial_predictors, values).comparisons if not one.predictor.rises]
        if not losses:
            return half_of("loss", values["loss"], "the fresh encoder")
        best = min(losses, key=lambda one: one.trivial)
        return half_of(best.value, best.trivial, f"predicting {best.predictor.predicts}")

    def describe(self, folder: Path) -> None:
        """Write `recipe.json`, from which a report knows the recipe's trivial predictors."""
        facts = {"predictors": to_json(self.trivial_predictors)}
        write_atomic(folder / DESCRIPTION, json.dumps(facts, indent=2) + "\n")

    # After a run

    @property
    def exported(self) -> Encoder:
        """The encoder that a run leaves behind; a recipe with a teacher leaves the teacher's."""
        return self.encoder

    def export(self, folder: Path, facts: Mapping[str, str]) -> None:
        """Write what a run leaves behind; the encoder last.

        Args:
            folder: The run folder.
            facts: Metadata for each file.
        """
        export_encoder(self.exported, folder / ENCODER, facts)


HOOKS = tuple(
    sorted({name for name in (*vars(Recipe), *Recipe.__annotations__) if not name.startswith("_")} - {"encoder"})
)


def _check_hook(cls: type[Recipe], name: str, value: Any) -> None:
    """Refuse a hook that is misspelt, unknown, or takes other arguments than the run passes.

    Raises:
        TypeError: Names the nearest hook, or all of them.
    """
    if name in HOOKS:
        required, given = (_parameters(one) for one in (inspect.getattr_static(Recipe, name, None), value))
        if required is not None and given != required:
            takes = "nothing" if given is None else f"({', '.join(given)})"
            raise TypeError(f"{cls.__name__}.{name} takes {takes}; the hook is called with ({', '.join(required)})")
        return
    if hasattr(nn.Module, name) or name == "encoder":
        return
    near = difflib.get_close_matches(name.lower(), [hook.lower() for hook in HOOKS], n=1, cutoff=_LIKENESS)
    if near:
        hook = next(hook for hook in HOOKS if hook.lower() == near[0])
        raise TypeError(f"{cls.__name__}.{name} is no hook of a recipe; did you mean '{hook}'?")
    if name.startswith(_LIFECYCLE):
        raise TypeError(f"{cls.__name__}.{name} is no hook of a recipe; hooks are {', '.join(HOOKS)}")


def _parameters(hook: Any) -> list[str] | None:
    """Names of a function's parameters without `self` and `cls`; None for what is no function."""
    function = hook.__func__ if isinstance(hook, staticmethod | classmethod) else hook
    if not inspect.isfunction(function):
        return None
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def _add_trivial(recipe: nn.Module, inputs: tuple[Batch], logged: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Score the trivial predictors that `forward` has not scored itself."""
    assert isinstance(recipe, Recipe)
    if recipe.trivial_predictors.keys() <= logged.keys():
        return None
    with torch.no_grad():
        return logged | recipe.trivial(*inputs)
