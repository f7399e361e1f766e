"""Refuse a grid before any of its work: files that do not exist, and stages that would refuse theirs, all at once."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from islr.data.loading.batches import check_cut
from islr.errors import UserError
from islr.study.config import GridConfig
from islr.study.expand import Grid

Check = Callable[[Any, int], None]  # refuses a configuration that could not run on this number of ranks
NOT_CHECKED = {"name", "tags", "run"}  # parts of a configuration that no check depends on


def refuse_grid(config: GridConfig, grid: Grid, check: Check) -> None:
    """Refuse a grid that could not run to its end; stages that are done are not asked.

    A stage whose corpora are not rendered yet is checked for its encoder's lineage and the cut of its batches.

    Args:
        config: The grid.
        grid: Its stages.
        check: What a stage itself does before its first step.

    Raises:
        UserError: Names every problem, and the first stage that has it.
    """
    ranks = config.backend.processes if config.backend.kind != "processes" else 1
    problems: dict[str, list[str]] = {}
    checked: set[str] = set()
    logging.disable(logging.INFO)  # remarks of a run about its clips
    try:
        for stage in grid.stages:
            if stage.name not in grid.configs or stage.done.exists():
                continue
            try:
                planned = _as_planned(grid, stage.name)
                key = planned.model_dump_json(exclude=NOT_CHECKED)
                if key not in checked:
                    checked.add(key)
                    _check(planned, ranks, check)
            except UserError as error:
                problems.setdefault(str(error), []).append(stage.name)
    finally:
        logging.disable(logging.NOTSET)
    lines = list(dict.fromkeys(grid.problems))
    for problem, stages in problems.items():
        more = f" and {len(stages) - 1} more" if len(stages) > 1 else ""
        lines.append(f"{stages[0]}{more}: {problem}")
    if lines:
        count = f"{len(lines)} problems: " if len(lines) > 1 else ""
        raise UserError(f"{config.name} cannot run: {count}{'; '.join(lines)}")


def _check(planned: Any, ranks: int, check: Check) -> None:
    probing = planned.task == "probe"
    files = [*planned.data.manifest, *([planned.lexicon] if probing else getattr(planned, "downstream", ()))]
    if all(Path(path).is_file() for path in files):
        check(planned, ranks)
    elif not probing:
        check_cut(planned.optim.batch_size, ranks, planned.optim.accumulate)


def _as_planned(grid: Grid, stage: str) -> Any:
    """Return the configuration of a stage without weights that do not exist yet, with the arguments they will bring.

    Raises:
        UserError: The stage that makes the weights trains another encoder, or one of another input.
    """
    config: Any = grid.configs[stage]
    encoder = getattr(config, "encoder", None)
    if encoder is None or encoder.weights is None or Path(encoder.weights).is_file():
        return config
    parent = grid.parents.get(stage)
    brought: dict[str, Any] = {}
    if parent is not None:
        start = grid.public.get(parent) or _as_planned(grid, parent).encoder
        if start.name != encoder.name:
            raise UserError(f"it trains '{encoder.name}' and starts from '{start.name}' of {parent}")
        brought = dict(start.arguments)
        inputs = [taken.get("input", "rgb") for taken in (brought, brought | encoder.arguments)]
        if inputs[0] != inputs[1]:
            raise UserError(f"its input is {inputs[1]} and that of {parent}, from which it starts, {inputs[0]}")
    # Drop path has no place here: it is computed where encoders without values cannot be.
    arguments = {name: value for name, value in (brought | encoder.arguments).items() if name != "drop_path"}
    return config.model_copy(update={"encoder": encoder.model_copy(update={"weights": None, "arguments": arguments})})
