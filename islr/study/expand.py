"""From a grid's file to stages, each run once (`islr/study/bench.py` runs them).

The grid becomes stages (`islr/study/stages.py`): corpora, pre-training, fine-tuning, one probing run. A stage is named
by a hash of everything its result depends on: its resolved configuration, its corpora, and the stage whose weights it
starts from. So equal stages of different cells run once (generic pre-training serves `generic` and
`generic_then_sign`), a changed configuration runs again, and what is finished is never run twice.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import islr
from islr.config import Config, validate
from islr.config_files import override, read_tree
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.files import file_sha256
from islr.models import EncoderConfig
from islr.models.layouts import layouts_of
from islr.study.config import SYNTH_OPTIONS, CorpusConfig, GridConfig, MethodConfig, RegimeConfig
from islr.study.stages import Stage
from islr.synth.options import SynthOptions

ENCODER = "encoder.safetensors"  # what a pre-training run leaves
TOKENIZER = "tokenizer.safetensors"  # what a tokenizer's run leaves
KEY_LENGTH = 10  # hex digits of a stage's hash in names
# Keys of a run's configuration that its numbers do not depend on, or that the hashes of its inputs stand for.
NOT_HASHED = {
    "": ("name", "tags", "downstream", "lexicon"),
    "run": ("out", "wandb", "log_every", "checkpoint_every", "timeout_s"),
    "data": ("manifest", "workers", "deadline_s", "cache"),
    "encoder": ("weights",),
    "recipe": ("tokenizer",),
}
Schema = Callable[[str], type[Config]]


@dataclass(frozen=True)
class GridCell:
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
        kinds: Training stage -> config file and encoder: stages of a kind train at the same rate.
        declared: Kind -> clips a second in training, where a method says so.
        configs: Stage -> its resolved configuration, for training and probing stages.
        parents: Training stage -> the pre-training stage whose encoder it starts from.
        public: Import stage -> the encoder that it makes of public weights.
        problems: Why it cannot run as it is: files that a stage reads, no stage makes, and that do not exist.
    """

    stages: list[Stage] = field(default_factory=list)
    cells: list[GridCell] = field(default_factory=list)
    runs: dict[str, Path] = field(default_factory=dict)
    clips: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, tuple[str, str]] = field(default_factory=dict)
    declared: dict[tuple[str, str], float] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    public: dict[str, EncoderConfig] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def expand(config: GridConfig, schema: Schema) -> Grid:
    """Turn a grid into stages; every configuration is validated, and files that do not exist are listed in `problems`.

    Args:
        config: The grid.
        schema: Task -> configuration class.

    Raises:
        UserError: A configuration of a cell is wrong.
    """
    return _Expansion(config, schema).grid


class _Expansion:
    """Builds the stages of a grid, each once."""

    def __init__(self, config: GridConfig, schema: Schema) -> None:
        self.config, self.schema, self.out = config, schema, Path(config.out)
        self.grid = Grid()
        self.names: dict[str, str] = {}  # key -> stage
        self.keys: dict[str, str] = {}  # stage -> key
        self.counts: dict[str, Counter[str]] = {}  # manifest -> readable clips by split
        self.corpora = {name: self._corpus(name, corpus) for name, corpus in config.corpora.items()}
        self.imported: dict[str, str] = {}  # import stage -> the file that it leaves
        self.made: set[Path] = set()  # files that stages leave for others
        self.encoders: dict[str, Path] = {}  # stages whose encoders are fine-tuned -> run folder, or imported file
        for name, method in config.methods.items():
            for regime in self._regimes(method):
                for seed in method.seeds or config.seeds:
                    self._cell(name, method, regime, seed)
        if config.probe and self.encoders:
            self._probe(config.probe)

    def _regimes(self, method: MethodConfig) -> tuple[str, ...]:
        if method.regimes is not None:
            return method.regimes
        scratch = method.pretrain is None and method.public is None
        return tuple(
            name
            for name, regime in self.config.regimes.items()
            if (not regime.stages or method.pretrain)
            and (not regime.public or method.public)
            and scratch != bool(regime.stages or regime.public)
        )

    def _row(self, method: str, regime: str, seed: int, part: str = "") -> str:
        several = len(self.config.methods[method].seeds or self.config.seeds) > 1
        return f"{method}{part} · {regime}" + (f" · seed {seed}" if several else "")

    def _labels(self, method: str, regime: str, seed: int, part: str = "") -> list[str]:
        """Return the overrides that label a cell in tables, or a part of its pre-training."""
        name = self._row(method, regime, seed, part)
        tags = {"method": method, "regime": regime}
        return [override("name", name), f"tags={json.dumps(tags, ensure_ascii=False)}"]

    def _corpus(self, name: str, corpus: CorpusConfig) -> tuple[Path, str, tuple[str, ...]]:
        """Return the manifest, the key of its content, and the stage that renders it, if any."""
        if corpus.manifest is not None:
            path = Path(corpus.manifest)
            if not path.is_file():
                self.grid.problems.append(f"corpora.{name}: {path} does not exist")
                self.counts[str(path)] = Counter()
                return path, "", ()
            return path, file_sha256(path), ()
        assert corpus.synth is not None
        plain = SynthOptions()
        options = {key: getattr(corpus.synth, key) for key in SYNTH_OPTIONS}
        options = {key: str(value) for key, value in options.items() if value != getattr(plain, key)}
        key = _key({"synth": options, "version": islr.__version__})
        path = self.out / "corpora" / f"{name}-{key}" / "manifest.csv"
        stage = f"render {name}"
        flags = [flag for key, value in options.items() for flag in (f"--{key.replace('_', '-')}", value)]
        named = () if "name" in options else ("--name", name)
        self.grid.stages.append(Stage(stage, ("synth", str(path.parent), *named, *flags), path, cost=50))
        self.counts[str(path)] = corpus.synth.clips()
        return path, key, (stage,)

    def _cell(self, name: str, method: MethodConfig, regime: str, seed: int) -> None:
        parent, weights = "", ""
        seen = self.config.regimes[regime]
        stages = seen.labelled if method.labelled and seen.labelled is not None else seen.stages
        if seen.public:
            parent, weights = self._import(name, method, self._row(name, regime, seed))
        for count in range(1, len(stages) + 1):
            parent, weights = self._pretrain(name, method, regime, stages[:count], seed, parent, weights)
        if parent:
            self.encoders[parent] = self.grid.runs.get(parent, Path(weights))
        manifest, corpus_key, renders = self.corpora[self.config.target]
        overrides = [
            *method.finetune_overrides,
            *(["allow_partial=true"] if self.config.allow_partial else []),
            *self._labels(name, regime, seed),
            override("data.manifest", str(manifest)),
            f"run.seed={seed}",
            *([override("encoder.weights", weights)] if weights else []),
        ]
        needs = (*renders, *([parent] if parent else []))
        title, inputs = f"{name}-{regime}-s{seed}", (corpus_key, self.keys.get(parent, ""))
        stage, _ = self._run("finetune", method.finetune, overrides, title, inputs, needs, "result.json")
        self._starts(stage, parent)
        self._declare(stage, method.clips_per_s.get("finetune"))
        self.grid.cells.append(GridCell(name, regime, seed, stage))

    def _import(self, name: str, method: MethodConfig, row: str) -> tuple[str, str]:
        """Add the stage that imports a method's public weights; return its name and the file it leaves.

        The file is called as its row in probing: `row`, of the first cell that needs it.
        """
        public = method.public
        assert public is not None
        where, file = f"methods.{name}.public", Path(public.file)
        if public.layout not in layouts_of(public.arch):
            known = ", ".join(layouts_of(public.arch)) or "none"
            raise UserError(f"{where}: layout '{public.layout}' is none of {public.arch}'s ({known})")
        sha256 = file_sha256(file) if file.is_file() else ""
        if not file.exists():
            self.grid.problems.append(f"{where}: {file} does not exist")
        elif public.sha256 and sha256 != public.sha256:
            self.grid.problems.append(f"{where}: {file} has sha256 {sha256 or 'of a folder'}, not {public.sha256}")
        key = _key({"public": public.model_dump(mode="json", exclude={"file"}), "sha256": sha256})
        if key not in self.names:
            stage = f"import {name} {key}"
            done = self.out / "public" / f"{name}-{key}" / f"{row}.safetensors"
            flags = ("--arch", public.arch, "--from", public.layout, "--out", str(done))
            arguments = [override(argument, value) for argument, value in public.arguments.items()]
            self.grid.stages.append(
                Stage(stage, ("weights", "import", public.file, *flags, *arguments), done, cost=float("inf"))
            )
            self.grid.public[stage] = EncoderConfig(name=public.arch, arguments=public.arguments)
            self.names[key], self.keys[stage] = stage, key
            self.made.add(done)
            self.imported[stage] = str(done)
        stage = self.names[key]
        return stage, self.imported[stage]

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
        """Add the last of these pre-training stages; return its name and the weights it leaves."""
        assert method.pretrain is not None
        overrides, inputs, needs = self._learning_from(stages[-1], self.config.regimes[regime], seed)
        labels = self._labels(name, regime, seed)
        if method.tokenizer:
            own = [*method.tokenizer_overrides, *overrides, *self._labels(name, regime, seed, " tokenizer")]
            title = f"{name}-tokenizer-{'+'.join(stages[-1])}-s{seed}"
            stage, folder = self._run("pretrain", method.tokenizer, own, title, inputs, needs, TOKENIZER)
            self._declare(stage, method.clips_per_s.get("tokenizer"))
            overrides.append(override("recipe.tokenizer", str(folder / TOKENIZER)))
            inputs, needs = [*inputs, self.keys[stage]], [*needs, stage]
        if weights:
            overrides.append(override("encoder.weights", weights))
            needs = [*needs, parent]
        inputs = [*inputs, self.keys.get(parent, "")]
        start = "public-then-" if parent in self.imported else ""
        title = f"{name}-{start}{'-then-'.join('+'.join(stage) for stage in stages)}-s{seed}"
        overrides = [*method.pretrain_overrides, *overrides, *labels]
        stage, folder = self._run("pretrain", method.pretrain, overrides, title, inputs, needs, ENCODER)
        self._starts(stage, parent)
        self._declare(stage, method.clips_per_s.get("pretrain"))
        return stage, str(folder / ENCODER)

    def _starts(self, stage: str, parent: str) -> None:
        if parent:
            self.grid.parents[stage] = parent

    def _learning_from(
        self, corpora: tuple[str, ...], regime: RegimeConfig, seed: int
    ) -> tuple[list[str], list[str], list[str]]:
        """Return overrides, hashed inputs and needed stages of a run that learns from these corpora's clips."""
        sources = [self.corpora[corpus] for corpus in corpora]
        target, target_key, target_renders = self.corpora[self.config.target]
        overrides = [
            override("data.manifest", [str(path) for path, _, _ in sources]),
            override("downstream", [str(target)]),
            f"run.seed={seed}",
            *(["transductive=true"] if regime.transductive else []),
        ]
        rendered = [stage for _, _, renders in sources for stage in renders]
        return (
            overrides,
            [*(key for _, key, _ in sources), target_key],
            list(dict.fromkeys([*rendered, *target_renders])),
        )

    def _run(
        self,
        task: str,
        config: str,
        overrides: list[str],
        title: str,
        inputs: Sequence[str],
        needs: Sequence[str],
        done: str,
    ) -> tuple[str, Path]:
        """Add a training stage, once for equal content; return its name and run folder."""
        tree = validate(self.schema(task), read_tree(config, [*overrides, "run.out=unset"]), config)
        content = tree.model_dump(mode="json")
        inputs = [*inputs, *self._given(config, content)]
        key = _key({"config": _that_matters(content), "inputs": inputs, "version": islr.__version__})
        if key in self.names:
            return self.names[key], self.grid.runs[self.names[key]]
        stage = f"{task} {title} {key}"
        folder = self.out / "runs" / stage.replace(" ", "-")
        arguments = (task, config, *overrides, override("run.out", str(folder)))
        manifests, splits = content["data"]["manifest"], content.get("splits", ["train"])
        trials = len(content.get("trials", ())) or 1
        clips = (
            trials
            * content["optim"]["epochs"]
            * sum(self._count(path, split) for path in manifests for split in splits)
        )
        self.grid.stages.append(Stage(stage, arguments, folder / done, tuple(needs), cost=max(clips, 1.0)))
        self.grid.runs[stage], self.grid.clips[stage], self.grid.configs[stage] = folder, clips, tree
        self.grid.kinds[stage] = (config, content["encoder"]["name"])
        self.names[key], self.keys[stage] = stage, key
        self.made.add(folder / done)
        return stage, folder

    def _given(self, config: str, content: dict[str, Any]) -> list[str]:
        """Return hashes of the files that a run starts from and no stage makes: public weights, a tokenizer."""
        files = [content["encoder"]["weights"], content.get("recipe", {}).get("tokenizer")]
        given = [Path(file) for file in files if file and Path(file) not in self.made]
        self.grid.problems += [f"{config}: {file} does not exist" for file in given if not file.is_file()]
        return [file_sha256(file) for file in given if file.is_file()]

    def _declare(self, stage: str, rate: float | None) -> None:
        if rate is not None:
            self.grid.declared[self.grid.kinds[stage]] = rate

    def _count(self, path: str, split: str) -> int:
        """Return the number of readable clips of a split."""
        if path not in self.counts:
            self.counts[path] = Counter(clip.split for clip in Manifest.load(path).select())
        return self.counts[path][split]

    def _probe(self, config: str) -> None:
        """Add one run over all encoders; where some failed, over the others, in a folder of its own."""
        manifest, corpus_key, renders = self.corpora[self.config.target]
        lexicon = Path(self.config.lexicon or manifest.with_name("lexicon.csv"))
        if not renders and not lexicon.is_file():
            self.grid.problems.append(f"lexicon: {lexicon} does not exist")
        fixed = [
            *self.config.probe_overrides,
            override("data.manifest", str(manifest)),
            override("lexicon", str(lexicon)),
        ]
        tree = validate(self.schema("probe"), read_tree(config, [*fixed, "run.out=unset"]), config)
        labelled = [name for name, method in self.config.methods.items() if method.labelled and method.pretrain]
        if getattr(tree, "label_trained", "") == "refuse" and labelled:
            self.grid.problems.append(f"{config}: label_trained=refuse, and {', '.join(labelled)} learn sign labels")
        table = file_sha256(lexicon) if self.config.lexicon and lexicon.is_file() else ""

        def over(lost: frozenset[str]) -> Stage:
            there = {stage: run for stage, run in self.encoders.items() if stage not in lost}
            inputs = [corpus_key, table, *sorted(self.keys[stage] for stage in there)]
            key = _key({"config": _that_matters(tree.model_dump(mode="json")), "inputs": inputs})
            folder = self.out / "runs" / f"probe-{key}"
            encoders = override("encoders", [str(run) for run in there.values()])
            arguments = ("probe", config, *fixed, encoders, override("run.out", str(folder)))
            done = folder / "result.json"
            return Stage("probe", arguments, done, renders, tuple(self.encoders), cost=float("inf"), settle=over)

        whole = over(frozenset())
        self.grid.stages.append(whole)
        self.grid.runs[whole.name], self.grid.clips[whole.name], self.grid.configs[whole.name] = (
            whole.done.parent,
            0.0,
            tree,
        )


def _that_matters(content: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration without `NOT_HASHED`."""
    plain = {key: value for key, value in content.items() if key not in NOT_HASHED[""]}
    for group, keys in NOT_HASHED.items():
        if group in plain:
            plain[group] = {key: value for key, value in plain[group].items() if key not in keys}
    return plain


def _key(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
