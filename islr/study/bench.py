"""`islr bench`: plan a grid, run it, resume it, and render its report."""

from collections.abc import Callable
from pathlib import Path

from islr.data.manifest import Manifest
from islr.errors import RunFailed
from islr.progress import duration
from islr.study.config import GridConfig
from islr.study.cost import rates_of, seconds, summary
from islr.study.expand import Grid, Schema, expand
from islr.study.launchers import Execute, Launcher, Processes, Slurm, Torchrun
from islr.study.preflight import Check, refuse_grid
from islr.study.stages import LOST, run_stages


def run_bench(
    config: GridConfig, schema: Schema, check: Check, execute: Execute, say: Callable[[str], None] = print
) -> Path:
    """Run every stage that is not done yet and render the report; continue where an earlier launch stopped.

    A failed stage does not stop others: the report shows what has finished, and the error names what failed.

    Args:
        config: The grid.
        schema: Task -> configuration class.
        check: See `refuse_grid`.
        execute: Runs one command line of this program.
        say: Called with one line at a time.

    Returns:
        The report.

    Raises:
        UserError: The grid could not run to its end; nothing was begun.
        RunFailed: Stages failed; the report exists, the message names them.
        Interrupted: A signal came; launched again, the grid goes on.
    """
    out = Path(config.out)
    grid = expand(config, schema)
    refuse_grid(config, grid, check)
    say("\n".join(plan(config, grid)))
    outcomes = run_stages(grid.stages, launcher_of(config, execute), out / "logs", config.backend.at_once, say)
    report = out / "report.html"
    finished = [outcome.stage for outcome in outcomes if outcome.state not in LOST]
    there = [str(stage.done.parent) for stage in finished if stage.name in grid.runs]
    corpora = sorted(str(stage.done.parent) for stage in finished if stage.name not in grid.runs)
    if there and execute(["report", *corpora, *there, "--out", str(report)]):
        raise RunFailed("the report could not be made")
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        skipped = sum(outcome.state == "skipped" for outcome in outcomes)
        names = "; ".join(f"{outcome.stage.name}: {outcome.why}" for outcome in failed)
        raise RunFailed(f"{len(failed)} stages failed and {skipped} were skipped ({names}); the report has the others")
    return report


def plan(config: GridConfig, grid: Grid) -> list[str]:
    """Return the stages as lines: which are done, and what the others cost."""
    done = [stage for stage in grid.stages if stage.done.exists()]
    rates = rates_of(grid)
    lines = [
        f"{config.name}: {len(config.methods)} methods, {len(config.regimes)} regimes, {len(grid.cells)} cells, "
        f"{len(grid.stages)} stages, {len(done)} of them done; in {config.out}"
    ]
    lines += _incomplete(config)
    for stage in grid.stages:
        clips = grid.clips.get(stage.name, 0)
        size = f"{clips:>9,.0f} clips" if clips else ""
        time = seconds(stage, grid, rates)
        time_text = duration(time) if time else ""
        lines.append(f"  {'done' if stage in done else 'to do':6} {stage.name:72} {size:15} {time_text}".rstrip())
    left = [stage for stage in grid.stages if stage not in done]
    lines.append(f"  {summary(left, grid, rates, config.backend.at_once)}")
    return lines


def _incomplete(config: GridConfig) -> list[str]:
    """Return a line about test clips of the target that are missing; none where all are there or not rendered yet."""
    path = config.corpora[config.target].manifest
    if path is None:
        return []
    manifest = Manifest.load(path)
    present, expected = len(manifest.select("test")), len(manifest.select("test", status=None))
    if present == expected:
        return []
    return [f"  {present} of {expected} test clips of {manifest.name} are readable: scores say so (allow_partial)"]


def launcher_of(config: GridConfig, execute: Execute) -> Launcher:
    """Return the launcher that a grid names.

    Raises:
        UserError: The launcher is SLURM, which cannot be used here.
    """
    backend = config.backend
    if backend.kind == "torchrun":
        return Torchrun(backend.processes)
    if backend.kind == "slurm":
        return Slurm(Path(config.out) / "slurm", backend.cluster, backend.parameters, backend.processes)
    return Processes(execute)
