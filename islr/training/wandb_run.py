"""wandb: a run's numbers, pictures and tables, kept offline unless asked, and never required.

Whatever goes wrong there is said once and ends its use, never the run: the local record is complete without it. A run
folder is one wandb run: its id is kept in `wandb-id`, so that a run that is killed and launched again goes on in it.
Offline, each launch leaves a folder `wandb/offline-run-*` of that id; the last holds the metrics of all launches and is
the one that `wandb sync` is to upload.
"""

import os
import secrets
import sys
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


class WandbRun:
    """The wandb run of a run folder; a context manager. Every method does nothing where there is none.

    Args:
        folder: Run folder.
        mode: `disabled` starts nothing; `online` falls back to `offline` where wandb cannot be reached.
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
    def there(self) -> bool:
        """Whether anything is kept; what costs time need not be made otherwise."""
        return self._run is not None

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """A row of metrics."""
        self._do(lambda run: run.log({f"{kind}/{key}": value for key, value in values.items()}, step=step))

    def pictures(self, panels: Mapping[str, np.ndarray], step: int) -> None:
        """A recipe's panels, uint8 `[N, H, W, 3]`, each as one strip."""

        def send(run: Any) -> None:
            import wandb

            images = {f"pictures/{name}": wandb.Image(strip(panel)) for name, panel in panels.items()}
            run.log(images, step=step)

        self._do(send)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A final table."""

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._do(send)

    def summary(self, values: Mapping[str, float]) -> None:
        """Final numbers, by which runs are compared."""
        self._do(lambda run: run.summary.update(dict(values)))

    def _do(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # an outside service may fail in any way; the local record is complete without it
            print(f"wandb is not used any more: {error}", file=sys.stderr)
            self._run = None


def strip(panel: np.ndarray) -> np.ndarray:
    """Pictures uint8 `[N, H, W, 3]` side by side, `[H, W', 3]`."""
    gap = np.full((panel.shape[1], _GAP, 3), 255, np.uint8)
    parts = [part for picture in panel for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def _start(folder: Path, mode: WandbMode, config: Mapping[str, Any]) -> Any:
    """A wandb run, or None with one line on stderr."""
    modes: list[WandbMode] = ["online", "offline"] if mode == "online" else [mode]
    reasons = []
    for tried in modes:
        try:
            run = _init(folder, tried, config)
        except Exception as error:  # an outside service may fail in any way
            reasons.append(" ".join(str(error).split()) or type(error).__name__)
            continue
        if reasons:
            print(f"wandb is not reached, this run is kept offline: {reasons[0]}", file=sys.stderr)
        return run
    print(f"wandb is not used: {reasons[0]}", file=sys.stderr)
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
    """The folder's wandb run, made up once."""
    path = folder / ID_FILE
    if not path.is_file():
        write_atomic(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
