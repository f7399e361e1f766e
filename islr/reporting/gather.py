"""Finds run folders and corpus folders and reads what reports need from them; no videos, no weights, no
GPU."""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from islr.config_files import parse_yaml
from islr.data.audit.corpus import audit
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.predictions import Predictions, read_predictions
from islr.evaluation.results import Result, load_results
from islr.files import slug

TASKS = ("pretrain", "finetune", "evaluate", "probe")
Place = tuple[str, str]  # method and data regime of a cell of the grid
_LARGEST_HEADER = 1 << 24  # bytes; a safetensors header above this is not one of ours


@dataclass(frozen=True)
class Run:
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
        """Architecture of its encoder, empty when nothing says."""
        if self.task != "probe" and self.results:
            return self.results[0].provenance.encoder
        encoder = self.config.get("encoder")
        named = encoder.get("name") if isinstance(encoder, dict) else encoder
        return str(self.weights.get("architecture") or named or "")

    @property
    def place(self) -> Place | None:
        """Its method and data regime, where it is part of a grid."""
        tags = self.config.get("tags") or {}
        return (str(tags["method"]), str(tags["regime"])) if {"method", "regime"} <= set(tags) else None

    @cached_property
    def details(self) -> dict[str, Any]:
        """details.json of a probing run: what was covered and how the splits were made; empty when absent."""
        return _json(self.folder / "details.json")

    @cached_property
    def _recipe_facts(self) -> dict[str, Any]:
        return _json(self.folder / "recipe.json")

    @property
    def trivial_predictors(self) -> dict[str, str]:
        """Logged name of each trivial predictor of the recipe -> what it predicts."""
        return dict(self._recipe_facts.get("trivial_predictors", {}))

    @property
    def compared_values(self) -> tuple[str, ...]:
        """Logged values that trivial scores are comparable with, the first that was logged counts."""
        return tuple(self._recipe_facts.get("compared_values", ()))

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
class Corpus:
    """One corpus folder: its audit, its sample sheet, and what its manifest says of itself.

    `counted`: there was no audit.json, the facts are counted from the manifest and no file was looked at.
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


@dataclass(frozen=True)
class Gathered:
    """Everything below the scanned folders, in the order of their paths."""

    runs: tuple[Run, ...]
    corpora: tuple[Corpus, ...]

    def of(self, *tasks: str) -> tuple[Run, ...]:
        """Runs of the given tasks."""
        return tuple(run for run in self.runs if run.task in tasks)


def scan(paths: Sequence[Path]) -> Gathered:
    """Read every run and corpus folder at or below the given folders.

    Raises:
        UserError: A folder does not exist, or nothing was found.
    """
    runs: dict[Path, Run] = {}
    corpora: dict[Path, Corpus] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give run folders or folders that hold them")
        for folder, files in _folders(path):
            label = folder.relative_to(path).as_posix()
            label = folder.resolve().name if label == "." else label
            if "config.yaml" in files or any(_is_results(name) for name in files):
                run = _run(folder, label, files)
                if run is not None:
                    runs.setdefault(folder.resolve(), run)
            if {"audit.json", "samples.png"} & files or {"manifest.csv", "manifest.json"} <= files:
                corpora.setdefault(folder.resolve(), _corpus(folder, label))
    if not runs and not corpora:
        given = ", ".join(map(str, paths))
        raise UserError(f"no run folders (config.yaml with task:) and no audited corpora found under {given}")
    return Gathered(tuple(_distinct(list(runs.values()))), tuple(corpora.values()))


def _folders(root: Path) -> Iterator[tuple[Path, set[str]]]:
    for folder, below, files in os.walk(root, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "wandb")
        yield Path(folder), set(files)


def _distinct(runs: list[Run]) -> list[Run]:
    """Runs of different scanned folders may share a label; the later ones get a number."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.label] = seen.get(run.label, 0) + 1
        named.append(run if seen[run.label] == 1 else replace(run, label=f"{run.label} ({seen[run.label]})"))
    return named


def _is_results(name: str) -> bool:
    return name.startswith("result") and name.endswith(".json")


def _run(folder: Path, label: str, files: set[str]) -> Run | None:
    """The run in a folder, or None when its config.yaml is not one of ours.

    A folder with results and no configuration is a later evaluation of the run it lies in.
    """
    problems = []
    config: Any = {"task": "evaluate"}
    if "config.yaml" in files:
        try:
            config = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"), "config.yaml")
        except (UserError, OSError, UnicodeDecodeError) as error:
            problems.append(str(error))
            config = {}
        if not problems and (not isinstance(config, dict) or config.get("task") not in TASKS):
            return None
    results: list[Result] = []
    for name in sorted(filter(_is_results, files)):
        try:
            results += load_results(folder / name)
        except UserError as error:
            problems.append(str(error).replace(str(folder) + os.sep, ""))
    task = str(config.get("task", "unknown"))
    metrics = _metrics(folder / "metrics.jsonl")
    if "error.txt" in files:
        lines = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problems.insert(0, f"failed: {lines[-1] if lines else 'no message'}")
    elif not problems and ("encoder.safetensors" if task == "pretrain" else "result.json") not in files:
        step = max((int(row.get("step", 0)) for row in metrics), default=0)
        problems.append(f"not finished (last recorded step {step:,})" if step else "not finished (no step recorded)")
    return Run(
        folder,
        label,
        task,
        config,
        _json(folder / "env.json"),
        metrics,
        tuple(results),
        _weights_metadata(folder / "encoder.safetensors"),
        "; ".join(problems),
    )


def _corpus(folder: Path, label: str) -> Corpus:
    if (folder / "audit.json").exists():
        found = _json(folder / "audit.json")
        problem = "" if found else "audit.json cannot be read"
        return Corpus(folder, label, found, _json(folder / "manifest.json"), problem)
    problem, found = "", {}
    if (folder / "manifest.csv").is_file():
        try:
            found = audit(Manifest.load(folder / "manifest.csv"), poses=False, content=False)
        except UserError as error:
            problem = str(error).replace(str(folder) + os.sep, "")
    return Corpus(folder, label, found, _json(folder / "manifest.json"), problem, counted=bool(found))


def _json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty when it is absent or broken (a report shows what there is)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _metrics(path: Path) -> tuple[dict[str, Any], ...]:
    """Rows of metrics.jsonl; a line cut short by a kill is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return tuple(rows)


def _weights_metadata(path: Path) -> dict[str, str]:
    """Metadata in the header of a safetensors file, read without loading weights; empty when there is
    none."""
    try:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(size)) if size <= _LARGEST_HEADER else {}
    except (OSError, ValueError, struct.error):
        return {}
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return {str(key): str(value) for key, value in metadata.items()}
