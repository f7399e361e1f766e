"""Reading of one run folder or one corpus folder: no videos, no weights and no GPU are needed."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic
from safetensors import SafetensorError, safe_open

from islr.config_files import parse_yaml
from islr.data.audit.corpus import audit
from islr.data.manifest import Manifest
from islr.errors import UserError, one_line
from islr.evaluation.predictions import Predictions, read_predictions
from islr.evaluation.pretext import Trivial, from_json
from islr.evaluation.results import Result, encoder_label, load_results
from islr.files import slug
from islr.reporting.file_schemas import AuditFacts, ProbeDetails, RecipeFacts, RunConfigFacts
from islr.training.tracking import read_metrics
from islr.untrusted.json_files import Facts, check_facts, parse_json, read_json

TASKS = ("pretrain", "finetune", "evaluate", "probe")

Place = tuple[str, str]  # method and data regime of a cell of the grid


@dataclass(frozen=True)
class ReportedRun:
    """One run folder.

    Attributes:
        folder: Where it is.
        label: Its path below the scanned folder, which is how the report names it.
        task: "pretrain", "finetune", "evaluate" or "probe".
        config: The resolved configuration.
        env: The environment record.
        metrics: Rows of metrics.jsonl.
        results: Records of all its result files.
        weights: Metadata of encoder.safetensors, empty when absent.
        problem: Why the run counts as failed or incomplete; empty when it finished.
    """

    folder: Path
    label: str
    task: str
    config: dict[str, Any]
    env: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    results: tuple[Result, ...]
    weights: dict[str, str]
    problem: str

    @property
    def anchor(self) -> str:
        """Where its provenance stands in the page."""
        return f"run-{slug(self.label)}"

    @property
    def name(self) -> str:
        """The row of its numbers: from its records, else its configuration, else its folder."""
        if self.task != "probe" and self.results:
            return self.results[0].name
        return str(self.config.get("name") or self.recipe or self.folder.name)

    @property
    def encoder(self) -> str:
        """Its encoder as tables call it, empty when nothing says."""
        if self.task != "probe" and self.results:
            return self.results[0].provenance.encoder
        encoder = self.config.get("encoder")
        named = encoder.get("name") if isinstance(encoder, dict) else encoder
        return encoder_label(self.weights) if "architecture" in self.weights else str(named or "")

    @property
    def place(self) -> Place | None:
        """Its method and data regime, where it is part of a grid."""
        tags = self.config.get("tags") or {}
        return (str(tags["method"]), str(tags["regime"])) if {"method", "regime"} <= set(tags) else None

    @cached_property
    def details(self) -> dict[str, Any]:
        """details.json of a probing run: what was covered and how the splits were made; empty when absent."""
        return _facts(self.folder / "details.json", ProbeDetails, [])

    @property
    def trivial_predictors(self) -> dict[str, Trivial]:
        """Logged name of each trivial predictor of the recipe -> what it is."""
        return from_json(_facts(self.folder / "recipe.json", RecipeFacts, []).get("predictors", {}))

    @property
    def recipe(self) -> str:
        """Name of the pre-training recipe, empty for other tasks."""
        recipe = self.config.get("recipe")
        return str(recipe.get("name", "") if isinstance(recipe, dict) else recipe or "")

    @cached_property
    def predictions(self) -> Predictions | None:
        """Its predictions, or None when there are none.

        Raises:
            UserError: The file is broken.
        """
        path = self.folder / "predictions.csv"
        return read_predictions(path) if path.is_file() else None

    @property
    def pictures(self) -> Path | None:
        """Its pictures.npz, if any."""
        path = self.folder / "pictures.npz"
        return path if path.is_file() else None

    def rows(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Epochs (or steps where there are none) and finite values of one metric."""
        rows = [row for row in self.metrics if row.get("kind") == kind and isinstance(row.get(key), int | float)]
        by_epoch = all("epoch" in row for row in rows)
        pairs = [(float(row["epoch" if by_epoch else "step"]), float(row[key])) for row in rows]
        pairs = [(x, y) for x, y in pairs if y == y and abs(y) != float("inf")]
        return [x for x, _ in pairs], [y for _, y in pairs]


@dataclass(frozen=True)
class ReportedCorpus:
    """One corpus folder: its audit, its sample sheet, and the notes of its manifest.

    `counted`: there was no audit.json, so the facts are counted from the manifest and no file was opened.
    """

    folder: Path
    label: str
    audit: dict[str, Any]
    about: dict[str, Any]
    problem: str
    counted: bool = False

    @property
    def name(self) -> str:
        """The corpus's name."""
        return str(self.about.get("name") or self.audit.get("name") or self.audit.get("corpus") or self.label)

    @property
    def samples(self) -> Path | None:
        """Its samples.png, if any."""
        path = self.folder / "samples.png"
        return path if path.is_file() else None


def is_results(name: str) -> bool:
    return name.startswith("result") and name.endswith(".json")


def read_run(folder: Path, label: str, files: set[str]) -> ReportedRun | None:
    """Read the run in a folder; None when its config.yaml is not that of a run.

    A folder with results and no configuration is a later evaluation of the run in its parent folder. Where a file is
    broken, the run has no results and `problem` says why.
    """
    problems: list[str] = []
    config = _config(folder, problems) if "config.yaml" in files else {"task": "evaluate"}
    if config is None:
        return None
    results: list[Result] = []
    for name in sorted(filter(is_results, files)):
        try:
            results += load_results(folder / name)
        except UserError as error:
            problems.append(str(error).replace(str(folder) + os.sep, ""))
    env = _facts(folder / "env.json", None, problems)
    weights = _weights_metadata(folder / "encoder.safetensors", problems)
    for name, model in (("recipe.json", RecipeFacts), ("details.json", ProbeDetails)):
        _facts(folder / name, model, problems)
    if problems:
        results = []
    task = str(config.get("task", "unknown"))
    metrics = tuple(read_metrics(folder / "metrics.jsonl"))
    if "error.txt" in files:
        lines = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problems.insert(0, f"failed: {lines[-1] if lines else 'no message'}")
    elif not problems and ("encoder.safetensors" if task == "pretrain" else "result.json") not in files:
        step = max((int(row.get("step", 0)) for row in metrics), default=0)
        problems.append(f"not finished (last recorded step {step:,})" if step else "not finished (no step recorded)")
    return ReportedRun(
        folder,
        label,
        task,
        config,
        env,
        metrics,
        tuple(results),
        weights,
        "; ".join(problems),
    )


def read_corpus(folder: Path, label: str) -> ReportedCorpus:
    problems: list[str] = []
    about = _facts(folder / "manifest.json", None, problems)
    if (folder / "audit.json").exists():
        found = _facts(folder / "audit.json", AuditFacts, problems)
        return ReportedCorpus(folder, label, found, about, "; ".join(problems))
    found = {}
    if (folder / "manifest.csv").is_file():
        try:
            found = audit(Manifest.load(folder / "manifest.csv"), poses=False, content=False)
        except UserError as error:
            problems = [str(error).replace(str(folder) + os.sep, "")]
    return ReportedCorpus(folder, label, found, about, "; ".join(problems), counted=bool(found))


def _config(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    """Return the configuration of a run, empty where it is broken; None where it is of something else."""
    try:
        config = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"), "config.yaml")
        if not isinstance(config, dict) or config.get("task") not in TASKS:
            return None
        return check_facts(RunConfigFacts, config, "config.yaml")
    except (UserError, OSError, ValueError, TypeError) as error:
        problems.append(str(error))
        return {}


def _facts(path: Path, model: type[pydantic.BaseModel] | None, problems: list[str]) -> dict[str, Any]:
    """Return the mapping in a json file, checked by a model; empty when it is absent, or broken: `problems` say how."""
    try:
        facts: dict[str, Any] = read_json(Facts, path)
        return facts if model is None else check_facts(model, facts, str(path))
    except FileNotFoundError:
        return {}
    except UserError as error:
        problems.append(str(error).replace(str(path.parent) + os.sep, ""))
        return {}


def _weights_metadata(path: Path, problems: list[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file without its weights, nor torch; empty when there is none."""
    try:
        with safe_open(path, framework="np") as file:
            facts = dict(file.metadata() or {})
        parse_json(list[dict[str, str]], facts.get("pretraining", "[]"), f"{path.name}: metadata 'pretraining'")
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError, UserError) as error:
        problems.append(f"{path.name}: {one_line(error)}")
        return {}
    return facts
