"""The configuration of a fine-tuning run."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from islr.config import Config, load_config, refuse_idle
from islr.data.loading.config import DataConfig
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import AugmentConfig
from islr.errors import UserError
from islr.evaluation.classifier import CLASSIFIER
from islr.evaluation.scoring import ViewsConfig
from islr.models import EncoderConfig
from islr.training.classification import ClassificationConfig
from islr.training.harness import TrainingConfig
from islr.training.optim import OptimConfig
from islr.training.run_config import RunConfig

HELD_OUT = "train_held_out"


class TrialConfig(Config):
    """Values of the optimiser that one trial has in place of the configured ones."""

    lr: float | None = Field(None, gt=0)
    layer_decay: float | None = Field(None, gt=0, le=1)
    weight_decay: float | None = Field(None, ge=0)

    def values(self) -> dict[str, float]:
        """Return the values that it changes."""
        return self.model_dump(exclude_none=True)


class FinetuneConfig(TrainingConfig):
    """Everything a fine-tuning run and its test result depend on."""

    task: Literal["finetune"] = "finetune"
    name: str = Field(min_length=1, description="the row of this model in tables")
    tags: dict[str, str] = Field(default_factory=dict, description="facts for reports: a grid's method and regime")
    encoder: EncoderConfig
    mode: Literal["full", "partial", "linear"] = Field(
        "full",
        description="linear: the encoder is frozen; partial: its embeddings and first frozen_blocks blocks are frozen",
    )
    frozen_blocks: int = Field(0, ge=0, description="frozen blocks in mode partial")
    data: DataConfig
    classification: ClassificationConfig = ClassificationConfig()
    video: AugmentConfig = AugmentConfig()
    pose: PoseAugmentConfig = PoseAugmentConfig()
    class_balance: Literal["none", "sampling", "loss"] = Field(
        "none", description="sampling: draw all classes equally often; loss: weigh clips of rare classes more"
    )
    balance_beta: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="with class_balance loss: 0 = equal weights, towards 1 = inverse class counts",
    )
    optim: OptimConfig
    trials: tuple[TrialConfig, ...] = Field(
        (), description="trainings with other values of optim; the best on the selection clips is scored"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="epochs without a better score on the selection clips before stopping; none = never",
    )
    select_on: Literal["val", "train_held_out"] = Field(
        "val",
        description="clips on which the epoch is chosen: val, or a part held out of train; never test",
    )
    shared_with_test: Literal["error", "drop"] = Field(
        "error",
        description="selection clips that are also in test, by id or by the bytes of the file: stop, or leave them out",
    )
    held_out: float = Field(0.1, gt=0, lt=0.5, description="share of train for select_on: train_held_out")
    views: str = Field("1x1", pattern=r"^[1-9]\d?x[1-9]$", description="test views, temporal x spatial")
    short_side_test: int | None = Field(
        None,
        ge=16,
        description="shorter side of scored frames before the central crop of the encoder's size; none = that size",
    )
    allow_partial: bool = Field(False, description="score a test set with clips missing, as n/expected")
    cluster: Literal["signer"] | None = Field(
        None, description="unit that intervals and tests resample: whole signers, or (null) single clips"
    )
    run: RunConfig

    @model_validator(mode="after")
    def _possible(self) -> "FinetuneConfig":
        if (self.mode == "partial") != (self.frozen_blocks > 0):
            raise ValueError("mode partial and frozen_blocks go together: set both, or neither")
        refuse_idle(self, "balance_beta", self.class_balance == "loss", "class_balance: loss")
        if self.video.windows > 1 and self.class_balance == "sampling":
            raise ValueError("video.windows repeats long clips and class_balance: sampling mixes classes; use one")
        if not all(trial.values() for trial in self.trials) or len(set(self.trials)) < len(self.trials):
            raise ValueError("each of trials changes a value of optim, in another way than the others")
        self.tried()
        refuse_idle(self, "held_out", self.select_on == HELD_OUT, f"select_on: {HELD_OUT}")
        return self

    def tried(self) -> list["FinetuneConfig"]:
        """Return the configuration of each trial."""
        optims = [OptimConfig.model_validate(self.optim.model_dump() | trial.values()) for trial in self.trials]
        return [self.model_copy(update={"optim": optim, "trials": ()}) for optim in optims]

    def scored_views(self, text: str | None = None) -> ViewsConfig:
        """Return the views in which clips are scored: `CxS`, or the configured ones."""
        return ViewsConfig.parse(text or self.views, self.video.sampling, self.short_side_test)

    @classmethod
    def read(cls, run: Path) -> "FinetuneConfig":
        """Return the resolved configuration of a finished fine-tuning run.

        Raises:
            UserError: The folder holds no such run.
        """
        if not (run / "config.yaml").is_file() or not (run / CLASSIFIER).is_file():
            raise UserError(f"{run} is not a finished fine-tuning run (it needs config.yaml and {CLASSIFIER})")
        return load_config(cls, run / "config.yaml")
