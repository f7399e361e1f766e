"""Metrics of a run: `metrics.jsonl` and the console always, and the W&B run (`wandb_run.py`) if there is one."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pydantic

from islr.errors import UserError
from islr.files import write_atomic
from islr.training.wandb_run import WandbRun
from islr.untrusted.json_files import Count, Number, check_facts, parse_json

METRICS = "metrics.jsonl"


class Tracker:
    """Rows appended to `metrics.jsonl` and to the W&B run; a context manager that closes the file.

    Rows after the step from which a run resumes are dropped first.

    Args:
        folder: Run folder.
        resume_step: Steps done already; later rows belong to work that will be repeated.
        wandb_run: Gets the rows, too.
        enabled: False on all ranks but the first.
        evaluated: Step of the last evaluation that the checkpoint holds; later ones will be repeated, too.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int,
        wandb_run: WandbRun | None = None,
        enabled: bool = True,
        evaluated: int | None = None,
    ) -> None:
        self._file: TextIO | None = None
        self._wandb_run = wandb_run
        if not enabled:
            return
        path = folder / METRICS
        rows = read_metrics(path)
        last = {"val": resume_step if evaluated is None else min(evaluated, resume_step)}
        kept = [row for row in rows if row["step"] <= last.get(row["kind"], resume_step)]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")
        for row in kept:  # wandb has lost the rows that it had not written when the run was killed
            self._forward(row)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def log(self, kind: str, step: int, epoch: float, **values: float) -> None:
        """Add a row of `kind` train or val."""
        if self._file is None:
            return
        row: dict[str, Any] = {"kind": kind, "step": step, "epoch": round(epoch, 4), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._forward(row)

    def _forward(self, row: dict[str, Any]) -> None:
        if self._wandb_run is not None:
            numbers = {key: value for key, value in row.items() if key not in ("kind", "step")}
            self._wandb_run.numbers(row["kind"], row["step"], numbers)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`, none where it is absent; a line that a kill cut short is left out."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                rows.append(check_facts(_Row, parse_json(dict[str, Any], line, path.name), path.name))
            except UserError:
                continue
    return rows


class _Row(pydantic.BaseModel, extra="allow"):
    """What every row of metrics has; its other values are numbers, finite or not."""

    __pydantic_extra__: dict[str, float | bool]
    kind: str
    step: Count
    epoch: Number = 0.0


class Throughput:
    """Clips a second since the last report, and the share of that time spent waiting for clips."""

    def __init__(self, step: int) -> None:
        self._step, self._since, self._waited = step, time.monotonic(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting for clips."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def report(self, step: int, batch_size: int) -> dict[str, float]:
        """Return `clips_per_s` and `data_wait` up to `step`, and start anew."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-6)
        numbers = {
            "clips_per_s": round((step - self._step) * batch_size / seconds, 1),
            "data_wait": round(self._waited / seconds, 3),
        }
        self._step, self._since, self._waited = step, now, 0.0
        return numbers
