"""Weights & Biases: a run's numbers, pictures and tables, kept offline by default and never required.

When wandb fails, one warning says so and the run goes on without it: the local record is complete. A run folder is one
wandb run: its id is kept in `wandb-id`, so that a run that is killed and launched again continues it. Offline, each
launch leaves a folder `wandb/offline-run-*` of that id; the last one holds the metrics of all launches and is the one
to upload with `wandb sync`.
"""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from islr.config import Config
from islr.files import write_atomic

WandbMode = Literal["offline", "online", "disabled"]
ID_FILE = "wandb-id"
PROJECT = "islr-bench"  # unless WANDB_PROJECT names another
_CONNECT_SECONDS = 60.0  # then the run is kept offline
_GAP = 4  # white pixels between pictures

logger = logging.getLogger(__name__)


class WandbRun:
    """The wandb run of a run folder; a context manager. Every method does nothing when wandb is disabled or failed.

    Args:
        folder: Run folder.
        mode: `disabled` starts nothing; `online` falls back to `offline` when wandb cannot be reached.
        config: The resolved configuration; its `name`, `task`, `tags` and seed name the run, its group and its tags.
        enabled: False on all ranks but the first.
    """

    def __init__(self, folder: Path, mode: WandbMode, config: Config, enabled: bool = True) -> None:
        self._run: Any = None
        if enabled and mode != "disabled":
            self._run = _start(folder, mode, config.model_dump(mode="json"))

    def __enter__(self) -> "WandbRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(lambda run: run.finish(exit_code=int(kind is not None)))
        self._run = None

    @property
    def active(self) -> bool:
        """Return whether wandb takes what is logged; if not, costly pictures need not be made."""
        return self._run is not None

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log a row of metrics."""
        self._do(lambda run: run.log({f"{kind}/{key}": value for key, value in values.items()}, step=step))

    def pictures(self, panels: Mapping[str, np.ndarray], step: int) -> None:
        """Log a recipe's panels, uint8 `[N, H, W, 3]`, each as one strip."""

        def send(run: Any) -> None:
            import wandb

            images = {f"pictures/{name}": wandb.Image(strip(panel)) for name, panel in panels.items()}
            run.log(images, step=step)

        self._do(send)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a final table."""

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._do(send)

    def summary(self, values: Mapping[str, float]) -> None:
        """Log the final numbers, by which wandb compares runs."""
        self._do(lambda run: run.summary.update(dict(values)))

    def _do(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a service may fail in any way, and the local record is complete without it
            logger.warning("wandb is not used any more: %s", error)
            self._run = None


def strip(panel: np.ndarray) -> np.ndarray:
    """Return pictures uint8 `[N, H, W, 3]` side by side, `[H, W', 3]`."""
    gap = np.full((panel.shape[1], _GAP, 3), 255, np.uint8)
    parts = [part for picture in panel for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def _start(folder: Path, mode: WandbMode, config: Mapping[str, Any]) -> Any:
    """Return a wandb run, or None after a warning."""
    modes: list[WandbMode] = ["online", "offline"] if mode == "online" else [mode]
    reasons = []
    for tried in modes:
        try:
            run = _init(folder, tried, config)
        except Exception as error:  # a service may fail in any way
            reasons.append(" ".join(str(error).split()) or type(error).__name__)
            continue
        if reasons:
            logger.warning("wandb cannot be reached, this run is kept offline: %s", reasons[0])
        return run
    logger.warning("wandb is not used: %s", reasons[0])
    return None


def _init(folder: Path, mode: WandbMode, config: Mapping[str, Any]) -> Any:
    import wandb

    tags: Mapping[str, str] = config.get("tags", {})
    seed = config.get("run", {}).get("seed", 0)
    in_sweep = bool(os.environ.get("WANDB_SWEEP_ID"))  # its agent names the run and the project
    return wandb.init(
        project=None if in_sweep else os.environ.get("WANDB_PROJECT", PROJECT),
        id=None if in_sweep else _run_id(folder),
        resume="allow" if mode == "online" and not in_sweep else None,
        name=config.get("name"),
        job_type=config.get("task"),
        group=" · ".join(tags.values()) or None,  # a cell of a grid: its seeds are compared within it
        tags=[*(f"{key}={value}"[:64] for key, value in tags.items()), f"seed={seed}"],
        dir=str(folder),
        mode=mode,
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=_CONNECT_SECONDS),
    )


def _run_id(folder: Path) -> str:
    """Return the id of the folder's wandb run, drawn at the first launch."""
    path = folder / ID_FILE
    if not path.is_file():
        write_atomic(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
