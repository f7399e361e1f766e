"""The grid of recipes x data regimes x seeds, from one YAML file to stages (`islr/bench.py` runs them).

The grid becomes stages (`islr/stages.py`): corpora, pre-training, fine-tuning, one probing run. A stage is named by a
hash of everything its result depends on: its resolved configuration, its corpora, and the stage whose weights it starts
from. So equal stages of different cells run once (generic pre-training serves `generic` and `generic_then_sign`), a
changed configuration runs again, and what is finished is never run twice.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

import islr
from islr.config import Config, read_tree, validate
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.files import file_sha256
from islr.stages import Stage

KEY_LENGTH = 10  # hex digits of a stage's hash in names
# Keys of a run's configuration that its numbers do not depend on, or that the hashes of its inputs stand for.
NOT_HASHED = {
    "": ("name", "tags", "downstream", "lexicon"),
    "run": ("out", "wandb", "log_every", "checkpoint_every", "timeout_s"),
    "data": ("manifest", "workers", "deadline_s", "cache"),
    "encoder": ("weights",),
}
Schema = Callable[[str], type[Config]]


class CorpusConfig(Config):
    """A corpus: a manifest that is there, or a rendered one."""

    manifest: str | None = Field(None, description="manifest.csv")
    synth: str | None = Field(None, description="options of `islr synth`, to render it into the grid's folder")

    @model_validator(mode="after")
    def _one(self) -> "CorpusConfig":
        if (self.manifest is None) == (self.synth is None):
            raise ValueError("a corpus has either manifest or synth")
        return self


class RegimeConfig(Config):
    """What is seen before fine-tuning: stages in order, each one or several corpora mixed."""

    stages: tuple[tuple[str, ...], ...] = Field((), description="names of corpora, stage by stage; none = scratch")
    labelled: tuple[tuple[str, ...], ...] | None = Field(
        None, description="the same for methods that learn labels; default: as stages"
    )
    transductive: bool = Field(False, description="declare that val or test clips of the target are seen unlabelled")


class MethodConfig(Config):
    """One row of the grid: how encoders are pre-trained and fine-tuned."""

    pretrain: str | None = Field(None, description="config of the recipe; none = only the scratch regime")
    pretrain_overrides: tuple[str, ...] = ()
    finetune: str = Field(description="config of the fine-tuning")
    finetune_overrides: tuple[str, ...] = ()
    labelled: bool = Field(False, description="the recipe learns labels: the regimes' labelled stages are its own")
    regimes: tuple[str, ...] | None = Field(None, description="only these; default: all that pre-train")
    seeds: tuple[int, ...] | None = Field(None, description="instead of the grid's")


class BackendConfig(Config):
    """Where stages run."""

    kind: Literal["processes", "torchrun", "slurm"] = "processes"
    at_once: int = Field(1, ge=1, description="stages at the same time")
    processes: int = Field(1, ge=1, description="torchrun, slurm: processes of a training stage, on one machine")
    cluster: Literal["slurm", "local"] = Field("slurm", description="slurm: local runs submitit on this machine")
    parameters: dict[str, Any] = Field(default_factory=dict, description="slurm: what sbatch is given, as in submitit")


class GridConfig(Config):
    """The whole grid."""

    task: Literal["bench"] = "bench"
    name: str = Field(min_length=1)
    out: str = Field(description="folder of the grid; a second launch continues it")
    corpora: dict[str, CorpusConfig] = Field(min_length=1)
    target: str = Field(description="corpus that is fine-tuned on, scored and probed")
    regimes: dict[str, RegimeConfig] = Field(min_length=1)
    methods: dict[str, MethodConfig] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    probe: str | None = Field(None, description="config of the probing run over all encoders; none = no probing")
    probe_overrides: tuple[str, ...] = ()
    lexicon: str | None = Field(None, description="probing: table of phonology; default: the target's own")
    backend: BackendConfig = BackendConfig()

    @model_validator(mode="after")
    def _names(self) -> "GridConfig":
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
        return self


@dataclass(frozen=True)
class Cell:
    """One fine-tuned model of the grid."""

    method: str
    regime: str
    seed: int
    stage: str  # the fine-tuning stage that makes it


@dataclass
class Grid:
    """A grid as stages.

    Attributes:
        stages: In an order in which each comes after those it needs.
        cells: Which stage scores which cell.
        runs: Stage -> run folder, for stages that leave one.
        clips: Stage -> clips it trains on, over all epochs; 0 where it trains nothing.
    """

    stages: list[Stage] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    runs: dict[str, Path] = field(default_factory=dict)
    clips: dict[str, float] = field(default_factory=dict)


def expand(config: GridConfig, schema: Schema) -> Grid:
    """Turn a grid into stages; every configuration is validated before anything runs.

    Args:
        config: The grid.
        schema: Task -> configuration class.

    Raises:
        UserError: A configuration of a cell is wrong, or a corpus does not exist.
    """
    return _Expansion(config, schema).grid


class _Expansion:
    """Builds the stages of a grid, each once."""

    def __init__(self, config: GridConfig, schema: Schema) -> None:
        self.config, self.schema, self.out = config, schema, Path(config.out)
        self.grid = Grid()
        self.names: dict[str, str] = {}  # key -> stage
        self.keys: dict[str, str] = {}  # stage -> key
        self.corpora = {name: self._corpus(name, corpus) for name, corpus in config.corpora.items()}
        self.counts: dict[str, Counter[str]] = {}  # manifest -> readable clips by split
        self.encoders: dict[str, Path] = {}  # pre-training stages whose encoders are fine-tuned -> run folder
        for name, method in config.methods.items():
            for regime in self._regimes(method):
                for seed in method.seeds or config.seeds:
                    self._cell(name, method, regime, seed)
        if config.probe and self.encoders:
            self._probe(config.probe)

    def _regimes(self, method: MethodConfig) -> tuple[str, ...]:
        if method.regimes is not None:
            return method.regimes
        wanted = bool(method.pretrain)
        return tuple(name for name, regime in self.config.regimes.items() if bool(regime.stages) == wanted)

    def _labels(self, method: str, regime: str, seed: int) -> list[str]:
        """Overrides by which tables know a cell."""
        several = len(self.config.methods[method].seeds or self.config.seeds) > 1
        name = f"{method} · {regime}" + (f" · seed {seed}" if several else "")
        tags = {"method": method, "regime": regime}
        return [f"name={json.dumps(name, ensure_ascii=False)}", f"tags={json.dumps(tags)}"]

    def _corpus(self, name: str, corpus: CorpusConfig) -> tuple[Path, str, tuple[str, ...]]:
        """The manifest, the key of its content, and the stage that renders it, if any."""
        if corpus.manifest is not None:
            path = Path(corpus.manifest)
            if not path.is_file():
                raise UserError(f"corpora.{name}: {path} does not exist")
            return path, file_sha256(path), ()
        options = (corpus.synth or "").split()
        key = _key({"synth": options, "version": islr.__version__})
        path = self.out / "corpora" / f"{name}-{key}" / "manifest.csv"
        stage = f"render {name}"
        arguments = ("synth", str(path.parent), "--name", name, *options)
        self.grid.stages.append(Stage(stage, arguments, path, cost=50))
        return path, key, (stage,)

    def _cell(self, name: str, method: MethodConfig, regime: str, seed: int) -> None:
        parent, weights = "", ""
        seen = self.config.regimes[regime]
        stages = seen.labelled if method.labelled and seen.labelled is not None else seen.stages
        for count in range(1, len(stages) + 1):
            parent, weights = self._pretrain(name, method, regime, stages[:count], seed, parent, weights)
        if parent:
            self.encoders[parent] = self.grid.runs[parent]
        manifest, corpus_key, renders = self.corpora[self.config.target]
        overrides = [
            *method.finetune_overrides,
            *self._labels(name, regime, seed),
            f"data.manifest={manifest}",
            f"run.seed={seed}",
            *([f"encoder.weights={weights}"] if weights else []),
        ]
        needs = (*renders, *([parent] if parent else []))
        title, inputs = f"{name}-{regime}-s{seed}", (corpus_key, self.keys.get(parent, ""))
        stage, _ = self._run("finetune", method.finetune, overrides, title, inputs, needs, "result.json")
        self.grid.cells.append(Cell(name, regime, seed, stage))

    def _pretrain(
        self,
        name: str,
        method: MethodConfig,
        regime: str,
        stages: tuple[tuple[str, ...], ...],
        seed: int,
        parent: str,
        weights: str,
    ) -> tuple[str, str]:
        """The last of these pre-training stages; returns its name and the weights it leaves."""
        assert method.pretrain is not None
        found = [self.corpora[corpus] for corpus in stages[-1]]
        target, target_key, target_renders = self.corpora[self.config.target]
        transductive = self.config.regimes[regime].transductive
        overrides = [
            *method.pretrain_overrides,
            *self._labels(name, regime, seed),
            f"data.manifest={json.dumps([str(path) for path, _, _ in found])}",
            f"downstream={json.dumps([str(target)])}",
            f"run.seed={seed}",
            *(["transductive=true"] if transductive else []),
            *([f"encoder.weights={weights}"] if weights else []),
        ]
        rendered = [stage for _, _, renders in found for stage in renders]
        needs = tuple(dict.fromkeys([*rendered, *target_renders, *([parent] if parent else [])]))
        inputs = (*(key for _, key, _ in found), target_key, self.keys.get(parent, ""))
        title = f"{name}-{'-then-'.join('+'.join(stage) for stage in stages)}-s{seed}"
        stage, folder = self._run("pretrain", method.pretrain, overrides, title, inputs, needs, "encoder.safetensors")
        return stage, str(folder / "encoder.safetensors")

    def _run(
        self,
        task: str,
        config: str,
        overrides: list[str],
        title: str,
        inputs: Sequence[str],
        needs: tuple[str, ...],
        done: str,
    ) -> tuple[str, Path]:
        """A training stage, made once for equal content; returns its name and run folder."""
        tree = validate(self.schema(task), read_tree(config, [*overrides, "run.out=unset"]), config)
        content = tree.model_dump(mode="json")
        key = _key({"config": _that_matters(content), "inputs": inputs, "version": islr.__version__})
        if key in self.names:
            return self.names[key], self.grid.runs[self.names[key]]
        stage = f"{task} {title} {key}"
        folder = self.out / "runs" / stage.replace(" ", "-")
        arguments = (task, config, *overrides, f"run.out={folder}")
        manifests, splits = content["data"]["manifest"], content.get("splits", ["train"])
        clips = content["optim"]["epochs"] * sum(self._count(path, split) for path in manifests for split in splits)
        self.grid.stages.append(Stage(stage, arguments, folder / done, needs, cost=max(clips, 1.0)))
        self.grid.runs[stage], self.grid.clips[stage] = folder, clips
        self.names[key], self.keys[stage] = stage, key
        return stage, folder

    def _count(self, path: str, split: str) -> int:
        """Readable clips of a split; 0 while the corpus is not rendered yet."""
        if not Path(path).is_file():
            return 0
        if path not in self.counts:
            self.counts[path] = Counter(clip.split for clip in Manifest.load(path).select())
        return self.counts[path][split]

    def _probe(self, config: str) -> None:
        """One run over all encoders; where some failed, over the others, in a folder of its own."""
        manifest, corpus_key, renders = self.corpora[self.config.target]
        lexicon = Path(self.config.lexicon or manifest.with_name("lexicon.csv"))
        fixed = [*self.config.probe_overrides, f"data.manifest={manifest}", f"lexicon={lexicon}"]
        tree = validate(self.schema("probe"), read_tree(config, [*fixed, "run.out=unset"]), config)
        table = file_sha256(lexicon) if self.config.lexicon and lexicon.is_file() else ""

        def over(lost: frozenset[str]) -> Stage:
            there = {stage: run for stage, run in self.encoders.items() if stage not in lost}
            inputs = [corpus_key, table, *sorted(self.keys[stage] for stage in there)]
            key = _key({"config": _that_matters(tree.model_dump(mode="json")), "inputs": inputs})
            folder = self.out / "runs" / f"probe-{key}"
            encoders = json.dumps([str(run) for run in there.values()])
            arguments = ("probe", config, *fixed, f"encoders={encoders}", f"run.out={folder}")
            done = folder / "result.json"
            return Stage("probe", arguments, done, renders, tuple(self.encoders), cost=float("inf"), settle=over)

        whole = over(frozenset())
        self.grid.stages.append(whole)
        self.grid.runs[whole.name], self.grid.clips[whole.name] = whole.done.parent, 0.0


def _that_matters(content: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration without `NOT_HASHED`."""
    plain = {key: value for key, value in content.items() if key not in NOT_HASHED[""]}
    for group, keys in NOT_HASHED.items():
        if group in plain:
            plain[group] = {key: value for key, value in plain[group].items() if key not in keys}
    return plain


def _key(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
