"""The configuration of a probing run, and the encoders it names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from islr.config import Config
from islr.data.loading.config import DataConfig
from islr.data.phonology import ASL_LEX, Columns, Policy
from islr.data.views.sampling import SamplingConfig
from islr.errors import UserError
from islr.files import file_sha256
from islr.models import Encoder
from islr.models.weights import load_encoder, read_metadata
from islr.training.run_config import RunConfig
from probe.features.features import is_features_file
from probe.fitting import FitConfig

ENCODER_FILE, CLASSIFIER_FILE = "encoder.safetensors", "classifier.safetensors"
FINE_TUNING = "fine-tuning"  # the stage of an encoder that was taken out of a classifier
Control = Literal["majority", "random-init", "pixel", "pose", "label-only", "sign-identity"]
ALL_CONTROLS: tuple[Control, ...] = ("majority", "random-init", "pixel", "pose", "label-only", "sign-identity")
LABEL_RECIPES = ("supervised",)  # pre-training that was told which sign a clip shows
Analysis = Literal[
    "mdl", "knn", "attentive", "weighted_sum", "minimal_pairs", "rsa", "few_shot", "retrieval", "erasure"
]


class AttentiveConfig(Config):
    """The attentive probe: every pair of a learning rate and a weight decay is trained in one pass."""

    heads: int = Field(2, ge=1, description="attention maps of the one query")
    lrs: tuple[float, ...] = Field((1e-3, 5e-3), min_length=1)
    weight_decays: tuple[float, ...] = Field((0.01, 0.5), min_length=1)
    epochs: int = Field(15, ge=1, description="at most; ended for each probe where its held-out signs are read best")
    batch_size: int = Field(64, ge=1)
    block: int | None = Field(None, description="block whose tokens are read, counted from 0; none = the last")
    max_gigabytes: float = Field(
        16.0, gt=0, description="refuse to keep more tokens than this: clips x tokens x width x 2 bytes"
    )


class AnalysesConfig(Config):
    """What is asked of the features beside the probes; a plain list of names is `run`."""

    run: tuple[Analysis, ...] = Field((), description="analyses to run; none by default")
    layers: Literal["last", "all"] = Field(
        "last", description="blocks read by analyses that learn nothing (minimal_pairs, rsa, retrieval)"
    )
    orders: int = Field(4, ge=1, description="mdl: fixed orders of the signs whose code lengths are averaged")
    neighbours: tuple[int, ...] = Field((1, 5, 20), min_length=1, description="knn: k")
    shots: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="few_shot: training signs per class")
    few_shot_draws: int = Field(10, ge=1, description="few_shot: draws of the training signs, averaged")
    attentive: AttentiveConfig = AttentiveConfig()

    @field_validator("run", "neighbours", "shots", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value

    @field_validator("run", "neighbours", "shots")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value) or any(isinstance(item, int) and item < 1 for item in value):
            raise ValueError("name each once; numbers are at least 1")
        return value


class ProbeConfig(Config):
    """Everything a probing run depends on."""

    task: Literal["probe"] = "probe"
    name: str = Field("probe", min_length=1)
    encoders: tuple[str, ...] = Field(
        (), description="run folders, exported weights, or features files (.npz, .safetensors) with clip ids"
    )
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()
    lexicon: str = Field(description="table of signs and their phonological features")
    columns: Columns = Field(ASL_LEX, description="what the lexicon's columns mean; default: those of ASL-LEX 2.0")
    join_by: Literal["form", "gloss"] | None = Field(None, description="none: by form where the manifest has forms")
    ambiguous: Policy | dict[str, Policy] = Field(
        "agree", description="labels of a word with several entries, for all features or feature -> policy"
    )
    features: tuple[str, ...] | None = Field(None, description="phonological features to probe; none = all")
    splits: tuple[Literal["unseen_sign", "seen_sign", "unseen_sign_signer"], ...] = (
        "unseen_sign",
        "seen_sign",
    )
    shared_with_test: Literal["error", "drop"] = Field(
        "error", description="seen_sign: a training clip that is a recording of the test part: stop, or leave it out"
    )
    label_trained: Literal["mark", "refuse"] = Field(
        "mark", description="encoders trained with sign labels, whose unseen signs only the probe has not seen"
    )
    folds: int = Field(5, ge=2)
    held_out: float = Field(
        0.2, gt=0, le=0.5, description="share of training sign groups that choose penalty and layer"
    )
    layers: tuple[int, ...] | None = Field(None, description="blocks to probe, counted from 0; none = all")
    pool: Literal["mean", "max", "mean_std"] = "mean"
    probes: FitConfig = FitConfig()
    controls: tuple[Control, ...] = ALL_CONTROLS
    random_inits: int = Field(3, ge=1, description="seeds of the random-init control")
    analyses: AnalysesConfig = Field(AnalysesConfig(), description="further analyses: a list of names, or a block")
    draws: int = Field(2000, ge=100, description="bootstrap draws")
    batch_size: int = Field(16, ge=1)
    run: RunConfig

    @field_validator("encoders", "features", "splits", "controls", "layers", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value

    @field_validator("analyses", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str | list | tuple) else value

    @model_validator(mode="after")
    def _analyses_have_a_split(self) -> "ProbeConfig":
        if self.analyses.run and "unseen_sign" not in self.splits:
            raise ValueError("analyses are made on unseen signs; add unseen_sign to splits")
        return self

    @field_validator("splits")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one split, each once")
        return value


@dataclass(frozen=True)
class Source:
    """One encoder to probe, not yet loaded."""

    name: str
    path: Path
    sha256: str
    facts: dict[str, str]

    @property
    def external(self) -> bool:
        """Features made elsewhere."""
        return not self.facts

    @property
    def architecture(self) -> str:
        """Registered name, or "features" for external ones."""
        return self.facts.get("architecture", "features")

    @property
    def arguments(self) -> dict[str, Any]:
        """What builds the architecture."""
        return dict(json.loads(self.facts["arguments"]))

    @property
    def stages(self) -> list[dict[str, str]]:
        """Stages of its training, fine-tuning included."""
        stages = list(json.loads(self.facts.get("pretraining", "[]")))
        if "classes" in self.facts:
            stages.append({"recipe": FINE_TUNING, "manifest": "", "fingerprint": "", "clips": ""})
        return stages

    @property
    def saw_labels(self) -> bool:
        """Whether any stage was told which sign a clip shows."""
        return any(stage.get("recipe") in (*LABEL_RECIPES, FINE_TUNING) for stage in self.stages)

    def load(self) -> Encoder:
        """The encoder with its weights."""
        if self.path.name == CLASSIFIER_FILE:
            from islr.evaluation.evaluate import load_classifier  # fine-tuned encoders only

            return load_classifier(self.path)[0].encoder
        return load_encoder(self.path)


def find_encoders(paths: tuple[str, ...]) -> list[Source]:
    """Resolve what a config names.

    Raises:
        UserError: A path holds neither weights of ours nor features, or two rows would have the same name.
    """
    found = []
    for text in paths:
        path = Path(text)
        folder = path if path.is_dir() else path.parent
        if path.is_dir():
            files = [path / name for name in (ENCODER_FILE, CLASSIFIER_FILE) if (path / name).is_file()]
            if not files:
                raise UserError(f"{path}: holds no {ENCODER_FILE}; give a finished run folder, weights or features")
            path = files[0]
        if not path.is_file():
            raise UserError(f"{path}: no such run folder, weights or features file")
        external = is_features_file(path)
        facts = {} if external else read_metadata(path)
        if not external and "architecture" not in facts:
            raise UserError(f"{path}: no architecture in its metadata; features files need clip ids")
        standard = path.name in (ENCODER_FILE, CLASSIFIER_FILE)
        name = facts.get("name") or (folder.resolve().name if standard else path.stem)
        found.append(Source(name, path, file_sha256(path), facts))
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two encoders are called '{name}'; rename one's file or the run's name")
    return found


def check_labels(sources: Sequence[Source]) -> None:
    """Refuse encoders that were trained with sign labels.

    Raises:
        UserError: There is one; all are named.
    """
    found = [source.name for source in sources if source.saw_labels]
    if found:
        raise UserError(
            f"{', '.join(found)}: trained with sign labels, so no sign is known to be unseen; leave out, train without"
            " the test signs, or set label_trained=mark"
        )


def check_forms(sources: Sequence[Source]) -> None:
    """Refuse encoders that one random initialisation cannot stand for.

    Raises:
        UserError: Two encoders of one architecture were built with different arguments (drop path apart, which does
            nothing in a frozen encoder).
    """
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for source in sources:
        if source.external:
            continue
        form = {name: value for name, value in source.arguments.items() if name != "drop_path"}
        name, known = first.setdefault(source.architecture, (source.name, form))
        if form != known:
            raise UserError(
                f"{name} and {source.name} are both {source.architecture} built with different arguments, so one "
                "random start cannot stand for both; probe them in two runs, or leave random-init out of controls"
            )
