"""The search for run folders and corpus folders below given folders."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from islr.errors import UserError
from islr.reporting.run_files import ReportedCorpus, ReportedRun, is_results, read_corpus, read_run


@dataclass(frozen=True)
class Gathered:
    """Everything below the scanned folders, in the order of their paths."""

    runs: tuple[ReportedRun, ...]
    corpora: tuple[ReportedCorpus, ...]

    def of(self, *tasks: str) -> tuple[ReportedRun, ...]:
        """Runs of the given tasks."""
        return tuple(run for run in self.runs if run.task in tasks)


def scan(paths: Sequence[Path]) -> Gathered:
    """Read every run and corpus folder at or below the given folders.

    Raises:
        UserError: A folder does not exist, or nothing was found.
    """
    runs: dict[Path, ReportedRun] = {}
    corpora: dict[Path, ReportedCorpus] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give run folders or folders that hold them")
        for folder, files in _folders(path):
            label = folder.relative_to(path).as_posix()
            label = folder.resolve().name if label == "." else label
            if "config.yaml" in files or any(is_results(name) for name in files):
                run = read_run(folder, label, files)
                if run is not None:
                    runs.setdefault(folder.resolve(), run)
            if {"audit.json", "samples.png"} & files or {"manifest.csv", "manifest.json"} <= files:
                corpora.setdefault(folder.resolve(), read_corpus(folder, label))
    if not runs and not corpora:
        given = ", ".join(map(str, paths))
        raise UserError(f"no run folders (config.yaml with task:) and no audited corpora found under {given}")
    return Gathered(tuple(_distinct(list(runs.values()))), tuple(corpora.values()))


def _folders(root: Path) -> Iterator[tuple[Path, set[str]]]:
    for folder, below, files in os.walk(root, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "wandb")
        yield Path(folder), set(files)


def _distinct(runs: list[ReportedRun]) -> list[ReportedRun]:
    """Runs of different scanned folders may share a label; the later ones get a number."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.label] = seen.get(run.label, 0) + 1
        named.append(run if seen[run.label] == 1 else replace(run, label=f"{run.label} ({seen[run.label]})"))
    return named
