"""The configuration of a probing run."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from islr.config import Config
from islr.data.loading.config import DataConfig
from islr.data.phonology import ASL_LEX, Columns, Policy
from islr.data.views.sampling import SamplingConfig
from islr.training.run_config import RunConfig

Control = Literal["majority", "random-init", "pixel", "pose", "label-only", "sign-identity"]
ALL_CONTROLS: tuple[Control, ...] = ("majority", "random-init", "pixel", "pose", "label-only", "sign-identity")
Analysis = Literal[
    "mdl", "knn", "attentive", "weighted_sum", "minimal_pairs", "rsa", "few_shot", "retrieval", "erasure"
]
UNSEEN_SIGN = "unseen_sign"  # the split whose folds the analyses use
DINOV2_PENALTIES = tuple(float(c) for c in np.logspace(-6, 5, 45))  # facebookresearch/dinov2, eval/log_regression

# The analyses that read each of the settings in `AnalysesConfig`.
SETTING_READERS: dict[str, tuple[Analysis, ...]] = {
    "layers": ("minimal_pairs", "rsa", "retrieval"),
    "orders": ("mdl",),
    "neighbours": ("knn",),
    "shots": ("few_shot",),
    "few_shot_draws": ("few_shot",),
    "attentive": ("attentive",),
}

OneOrMany = BeforeValidator(lambda value: (value,) if isinstance(value, str | int) else value)


class FitConfig(Config):
    """How probes are fitted and how their penalty is chosen."""

    inverse_penalties: tuple[float, ...] = Field(
        tuple(float(c) for c in np.logspace(-5, 2, 15)),
        min_length=1,
        description="grid of C, scikit-learn's inverse penalty, fitted in ascending order; or dinov2 for DINOv2's 45",
    )
    patience: int = Field(4, ge=1, description="values of C without a better score after which the search stops")
    min_train_signs: int = Field(10, ge=1, description="drop classes with fewer sign groups in a fold's training part")
    min_test_signs: int = Field(3, ge=1, description="drop classes with fewer sign groups in a fold's test part")
    permutations: int = Field(5, ge=0, description="label permutations of the control task, at the chosen layer and C")

    @field_validator("inverse_penalties", mode="before")
    @classmethod
    def _named_grid(cls, value: Any) -> Any:
        return DINOV2_PENALTIES if value == "dinov2" else value

    @field_validator("inverse_penalties")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(c <= 0 for c in value):
            raise ValueError("every C must be positive")
        return tuple(sorted(set(value)))

    def coarse_grid(self, count: int) -> list[float]:
        """Return at most `count` evenly spaced values of the grid of C."""
        grid = self.inverse_penalties
        return sorted({grid[i] for i in np.linspace(0, len(grid) - 1, count).round().astype(int)})


class AttentiveConfig(Config):
    """The attentive probe, trained once for each pair of a learning rate and a weight decay."""

    heads: int = Field(2, ge=1, description="attention heads of the single query")
    lrs: tuple[float, ...] = Field((1e-3, 5e-3), min_length=1)
    weight_decays: tuple[float, ...] = Field((0.01, 0.5), min_length=1)
    epochs: int = Field(15, ge=1, description="at most; the held-out sign groups choose the number for each probe")
    batch_size: int = Field(64, ge=1)
    block: int | None = Field(None, description="block whose tokens are used, counted from 0; none = the last")
    max_gigabytes: float = Field(
        16.0, gt=0, description="largest size of the stored tokens: clips x tokens x width x 2 bytes"
    )


class AnalysesConfig(Config):
    """Analyses beside the linear probe; a plain list of names stands for `run`."""

    run: Annotated[tuple[Analysis, ...], OneOrMany] = Field((), description="analyses to run; none by default")
    layers: Literal["last", "all"] = Field(
        "last", description="blocks used by the analyses without training (minimal_pairs, rsa, retrieval)"
    )
    orders: int = Field(4, ge=1, description="mdl: random orders of the signs whose code lengths are averaged")
    neighbours: Annotated[tuple[int, ...], OneOrMany] = Field((1, 5, 20), min_length=1, description="knn: values of k")
    shots: Annotated[tuple[int, ...], OneOrMany] = Field(
        (1, 5, 10), min_length=1, description="few_shot: training signs per class"
    )
    few_shot_draws: int = Field(10, ge=1, description="few_shot: random draws of training signs that are averaged")
    attentive: AttentiveConfig = AttentiveConfig()

    @field_validator("run", "neighbours", "shots")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value) or any(isinstance(item, int) and item < 1 for item in value):
            raise ValueError("name each once; numbers are at least 1")
        return value

    @model_validator(mode="after")
    def _every_setting_acts(self) -> "AnalysesConfig":
        for key, readers in SETTING_READERS.items():
            if not set(readers) & set(self.run) and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect without {' or '.join(readers)} in analyses.run; remove it")
        return self


class ProbeRunConfig(Config):
    """How and where a probing run executes; of these only `seed` changes what it computes."""

    out: str = Field(description="run folder; a second launch in the same folder continues it")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, le=1024, description="CPU threads; results are bit-identical for a fixed count")
    wandb: Literal["offline", "online", "disabled"] = "offline"

    @model_validator(mode="before")
    @classmethod
    def _no_training_options(cls, value: Any) -> Any:
        """Refuse options of training, which probing would ignore, unless they have their default."""
        if not isinstance(value, dict):
            return value
        training_only = RunConfig.model_fields.keys() - cls.model_fields.keys()
        for key in sorted(training_only & value.keys()):
            if value[key] != RunConfig.model_fields[key].default:
                raise ValueError(f"{key} is an option of training and has no effect in probing; remove it")
        return {key: item for key, item in value.items() if key not in training_only}


class ProbeConfig(Config):
    """Everything a probing run depends on."""

    task: Literal["probe"] = "probe"
    name: str = Field("probe", min_length=1)
    encoders: Annotated[tuple[str, ...], OneOrMany] = Field(
        (), description="run folders, exported weights, or feature files (.npz, .safetensors) with clip ids"
    )
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()
    lexicon: str = Field(description="table of signs and their phonological features")
    columns: Columns = Field(ASL_LEX, description="what the lexicon's columns mean; default: those of ASL-LEX 2.0")
    join_by: Literal["code", "form", "gloss"] | None = Field(
        None, description="none: the first of these that clips have"
    )
    ambiguous: Policy | dict[str, Policy] = Field(
        "agree", description="labels of a gloss with several entries, for all features or feature -> policy"
    )
    features: Annotated[tuple[str, ...] | None, OneOrMany] = Field(
        None, description="phonological features to probe; none = all"
    )
    splits: Annotated[tuple[Literal["unseen_sign", "seen_sign", "unseen_sign_signer"], ...], OneOrMany] = (
        "unseen_sign",
        "seen_sign",
    )
    shared_with_test: Literal["error", "drop"] = Field(
        "error", description="seen_sign: a training clip that is a recording of the test part: stop, or leave it out"
    )
    label_trained: Literal["mark", "refuse"] = Field(
        "mark", description="encoders trained with sign labels, whose unseen signs are unseen by the probe only"
    )
    folds: int = Field(5, ge=2)
    held_out: float = Field(
        0.2, gt=0, le=0.5, description="share of the training sign groups on which penalty and layer are chosen"
    )
    layers: Annotated[tuple[int, ...] | None, OneOrMany] = Field(
        None, description="blocks to probe, counted from 0; none = all"
    )
    pool: Literal["mean", "max", "mean_std"] = "mean"
    probes: FitConfig = FitConfig()
    controls: Annotated[tuple[Control, ...], OneOrMany] = ALL_CONTROLS
    random_inits: int = Field(3, ge=1, description="seeds of the random-init control")
    analyses: AnalysesConfig = Field(AnalysesConfig(), description="further analyses: a list of names, or a block")
    draws: int = Field(2000, ge=100, description="bootstrap draws")
    batch_size: int = Field(16, ge=1)
    run: ProbeRunConfig

    @field_validator("analyses", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str | list | tuple) else value

    @field_validator("splits")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one split, each once")
        return value

    @model_validator(mode="after")
    def _every_option_acts(self) -> "ProbeConfig":
        if self.analyses.run and UNSEEN_SIGN not in self.splits:
            raise ValueError("analyses are made on unseen signs; add unseen_sign to splits")
        if self.data.balance:
            raise ValueError("data.balance is an option of training and has no effect in probing; remove it")
        if self.shared_with_test != "error" and "seen_sign" not in self.splits:
            raise ValueError("shared_with_test has no effect without seen_sign in splits; remove it")
        return self
