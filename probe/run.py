"""A probing run: features of every encoder and control, probes on every split, records with intervals."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from islr.errors import Interrupted, UserError
from islr.evaluation.results import Result, as_table, load_results, save_results
from islr.files import slug, write_atomic
from islr.processes.signals import StopSignal
from islr.progress import ProgressBar
from islr.training.determinism import prepare_process
from islr.training.distributed.world import World
from islr.training.run_folder import run_folder
from islr.training.wandb_run import WandbRun
from probe.config import ProbeConfig
from probe.data import ProbeData
from probe.features.encoders import find_encoders, refuse_label_trained
from probe.records import Recorder, ResultRow, details
from probe.rows import RowProber
from probe.splits import save

RESULT = "result.json"
Progress = Callable[[int, int], None]


def run_probe(config: ProbeConfig, progress: Progress | None = None) -> list[Result]:
    """Probe encoders and controls. A second call continues an unfinished run and reads a finished one back.

    The run folder gets `splits/*.json`, `features/`, `predictions/`, `analyses/`, `details.json`, a
    `result-<row>.json` for every row with an encoder or features of its own, and last `result.json` with the rows
    that need none.

    Args:
        config: The run.
        progress: Called with (feature sets done, feature sets in all); None shows a progress bar.

    Raises:
        UserError: The configuration does not fit the data.
        Interrupted: Stopped by a signal; finished rows are in the folder.
    """
    world = World(config.run.device)
    if world.size > 1:
        raise UserError("probing runs in one process; start it without torchrun")
    prepare_process(config.run.threads)
    data = ProbeData.load(config)
    sources = find_encoders(config.encoders)
    if config.label_trained == "refuse":
        refuse_label_trained(sources)
    with run_folder(config, config.run.out, world) as folder, StopSignal() as stop:
        if (folder / RESULT).is_file():
            return _read_results(folder)

        def check_stop(*_: Any) -> None:
            if stop.received:
                raise Interrupted(f"probing stopped; the same command continues it in {folder}")

        for split in data.splits.values():
            save(split, data.targets, folder / "splits" / f"{split.name}.json")
        rows = _probe_rows(RowProber(config, data, sources, folder, world.device, check_stop), config.name, progress)
        results = _record(rows, config, data, folder, check_stop)
        with WandbRun(folder, config.run.wandb, config) as wandb_run:
            wandb_run.table("probe/results", *as_table(results))
        return results


def _probe_rows(prober: RowProber, name: str, progress: Progress | None) -> list[ResultRow]:
    plan = prober.planned()
    total, done = sum(weight for weight, _ in plan), 0
    rows = []
    with ProgressBar(f"{name}: probing", total, enabled=progress is None) as bar:
        for weight, make in plan:
            rows.append(make())
            done += weight
            (progress or bar.callback)(done, total)
    return rows + prober.guess_rows(alone=not rows)


def _record(
    rows: Sequence[ResultRow], config: ProbeConfig, data: ProbeData, folder: Path, check_stop: Callable[[], None]
) -> list[Result]:
    """Score the rows and write the records, one file for each provenance."""
    recorder = Recorder(data.targets, data.splits, config.draws, config.run.seed)
    for row in rows:
        check_stop()
        recorder.add_scores(row)
    recorder.add_differences(rows)
    recorder.add_findings(rows)
    about: dict[str, Any] = {"coverage": data.coverage, "shared_with_test_left_out": data.left_out}
    about["splits"] = {name: split.notes for name, split in data.splits.items()}
    write_atomic(folder / "details.json", json.dumps(about | {"fits": details(rows)}, indent=1) + "\n")
    by_source: dict[str, list[Result]] = {}
    for result in recorder.results:
        by_source.setdefault(result.provenance.model_dump_json(), []).append(result)
    *others, last = by_source.values()
    for number, results in enumerate(others):
        save_results(folder / f"result-{number:02d}-{slug(results[0].name)}.json", results)
    save_results(folder / RESULT, last)
    return _read_results(folder)


def _read_results(folder: Path) -> list[Result]:
    files = sorted(folder.glob("result-*.json"))
    return [result for file in [*files, folder / RESULT] for result in load_results(file)]
