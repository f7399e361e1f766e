"""Configuration of a grid: corpora, data regimes, methods and seeds; `islr/study/expand.py` turns it into stages."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from islr.config import Config
from islr.synth.options import SynthOptions

Seed = Annotated[int, Field(ge=0, lt=2**63)]
SYNTH_OPTIONS = tuple(option.name for option in fields(SynthOptions) if option.name not in ("fps", "workers"))


class CorpusConfig(Config):
    """One corpus: an existing manifest, or a synthetic corpus to render."""

    manifest: str | None = Field(None, description="path of an existing manifest.csv")
    synth: SynthOptions | None = Field(
        None, description="options of `islr synth`; the corpus is rendered into the grid's folder"
    )

    @field_validator("synth", mode="before")
    @classmethod
    def _options_of_the_command(cls, options: object) -> object:
        unknown = set(options) - set(SYNTH_OPTIONS) if isinstance(options, dict) else set()
        if unknown:
            raise ValueError(f"no option of islr synth: {', '.join(sorted(unknown))}")
        return options

    @model_validator(mode="after")
    def _one(self) -> "CorpusConfig":
        if (self.manifest is None) == (self.synth is None):
            raise ValueError("a corpus has either manifest or synth")
        return self


class PublicConfig(Config):
    """Weights that others published, where a method starts in `public` regimes (`islr weights import`)."""

    file: str = Field(description="the published file, or a folder of its shards")
    arch: str = Field(description="name of the encoder (islr models)")
    layout: str = Field(description="layout of the file (--from)")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="hash that the file must have")
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of the encoder")


class RegimeConfig(Config):
    """One data regime: the stages of pre-training in order, each on one corpus or a mixture of several."""

    public: bool = Field(False, description="start from the methods' public weights, before any stages")
    stages: tuple[tuple[str, ...], ...] = Field(
        (), description="names of corpora, stage by stage; empty: no pre-training (scratch)"
    )
    labelled: tuple[tuple[str, ...], ...] | None = Field(
        None, description="stages of methods that learn from labels; default: as `stages`"
    )
    transductive: bool = Field(
        False, description="declare that pre-training sees val or test clips of the target without their labels"
    )


class MethodConfig(Config):
    """One row of the grid: how an encoder is pre-trained and fine-tuned."""

    pretrain: str | None = Field(
        None, description="config of the pre-training; default: none, for regimes without stages"
    )
    pretrain_overrides: tuple[str, ...] = ()
    finetune: str = Field(description="config of the fine-tuning")
    finetune_overrides: tuple[str, ...] = ()
    public: PublicConfig | None = Field(
        None,
        description="published weights, where `public` regimes start; default: the method is in none",
    )
    tokenizer: str | None = Field(
        None,
        description="config of the tokenizer whose visual tokens the recipe predicts; trained per stage",
    )
    tokenizer_overrides: tuple[str, ...] = ()
    labelled: bool = Field(
        False, description="the recipe learns from labels, so it uses the `labelled` stages of the regimes"
    )
    clips_per_s: dict[Literal["pretrain", "tokenizer", "finetune"], PositiveFloat] = Field(
        default_factory=dict,
        description="clips per second in training for `--plan`, until runs of the grid have measured them",
    )
    regimes: tuple[str, ...] | None = Field(None, description="regimes of this method; default: all that pre-train")
    seeds: tuple[Seed, ...] | None = Field(None, description="seeds of this method; default: the grid's")


class BackendConfig(Config):
    """Where stages run."""

    kind: Literal["processes", "torchrun", "slurm"] = "processes"
    at_once: int = Field(1, ge=1, description="most stages at the same time")
    processes: int = Field(1, ge=1, description="torchrun, slurm: ranks of a training stage, on one machine")
    cluster: Literal["slurm", "local"] = Field(
        "slurm", description="slurm: `local` runs the jobs through submitit on this machine"
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="slurm: options of sbatch under submitit's names"
    )


class GridConfig(Config):
    """A grid of methods x data regimes x seeds."""

    task: Literal["bench"] = "bench"
    name: str = Field(min_length=1)
    out: str = Field(description="folder of the grid; a second launch continues there")
    corpora: dict[str, CorpusConfig] = Field(min_length=1)
    target: str = Field(description="name of the corpus for fine-tuning, scoring and probing")
    allow_partial: bool = Field(False, description="score the target's test set with clips missing, as n/expected")
    regimes: dict[str, RegimeConfig] = Field(min_length=1)
    methods: dict[str, MethodConfig] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    probe: str | None = Field(None, description="config of the probing of all encoders; default: no probing")
    probe_overrides: tuple[str, ...] = ()
    lexicon: str | None = Field(
        None, description="probing: table of phonology; default: lexicon.csv beside the target's manifest"
    )
    backend: BackendConfig = BackendConfig()

    @model_validator(mode="after")
    def _names(self) -> "GridConfig":
        for kind in ("corpora", "regimes", "methods"):
            for name in getattr(self, kind):
                if "/" in name or not name.strip():
                    raise ValueError(f"{kind}: '{name}' names folders, so it is not empty and has no '/'")
        named = {"target": (self.target,)} | {
            f"regimes.{name}": tuple(corpus for stage in regime.stages for corpus in stage)
            for name, regime in self.regimes.items()
        }
        named |= {
            f"regimes.{name}.labelled": tuple(corpus for stage in regime.labelled or () for corpus in stage)
            for name, regime in self.regimes.items()
        }
        for where, names in named.items():
            for name in names:
                if name not in self.corpora:
                    raise ValueError(f"{where} names corpus '{name}'; known: {', '.join(self.corpora)}")
        for name, method in self.methods.items():
            for regime in method.regimes or ():
                if regime not in self.regimes:
                    raise ValueError(f"methods.{name} names regime '{regime}'; known: {', '.join(self.regimes)}")
                if self.regimes[regime].stages and method.pretrain is None:
                    raise ValueError(f"methods.{name} has no pretrain config for regime '{regime}'")
                if self.regimes[regime].public and method.public is None:
                    raise ValueError(f"methods.{name} has no public weights for regime '{regime}'")
            if method.tokenizer and method.pretrain is None:
                raise ValueError(f"methods.{name} has a tokenizer and no pretrain config")
        return self
