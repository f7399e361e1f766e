"""The `islr` command: the composition root, which alone puts `islr`, `pretrain` and `probe` together.

It imports inside its commands, so that `--help` answers at once.
"""

import fnmatch
import importlib
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import Abort, TyperException

from islr.commands.arguments import ConfigFile, Overrides, print_once
from islr.commands.data import data_app
from islr.commands.evaluation import evaluate_command, finetune_command, report_command
from islr.commands.models import models_command, weights_app
from islr.commands.synth import synth_command
from islr.config_files import TASKS, read_task, read_tree, shipped_configs, title_of
from islr.errors import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_INPUT,
    Interrupted,
    ProcessLost,
    RunFailed,
    UserError,
    one_line,
    out_of_memory,
)
from islr.logs import of_other_rank, print_anywhere, show_logs

app = typer.Typer(
    name="islr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than everything else that `--help` needs
    context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]},
    help="Pre-train, fine-tune, probe and report on encoders for isolated sign language recognition.",
)
config_app = typer.Typer(no_args_is_help=True, help="Inspect configurations.")


def main(command: str | None = None) -> None:
    """Run the command line and end the process with the documented exit code.

    Args:
        command: Put in front of the arguments (`python -m pretrain` is `islr pretrain`).
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    sys.exit(run([*([command] if command else []), *arguments], debug))


def run(arguments: list[str], debug: bool = False) -> int:
    """Run one command and return its exit code; print one line on stderr when that is not 0."""
    from islr.data.video.guard import DecodeError

    show_logs()
    print_anywhere()
    try:
        code = app(args=arguments, prog_name="islr", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except TyperException as error:
        # Typer's own errors (a wrong option, no command) print themselves with the usage line.
        error.show()  # type: ignore[attr-defined]
        return WRONG_INPUT
    except Abort:
        return _fail("aborted", FAILED, debug)
    except (UserError, DecodeError) as error:
        return _fail(str(error), WRONG_INPUT, debug)
    except Interrupted as error:
        return _fail(str(error), INTERRUPTED, debug)
    except ProcessLost as error:
        return _fail(str(error), FAILED, debug, everywhere=True)
    except (RunFailed, OSError) as error:
        return _fail(str(error), FAILED, debug)
    except Exception as error:
        if out_of_memory(error):
            return _fail(f"not enough memory ({one_line(error)})", FAILED, debug)
        traceback.print_exc()
        return _fail(f"this is a bug in islr, not a mistake in your input: {error}", FAILED, False)


def _fail(message: str, code: int, debug: bool, everywhere: bool = False) -> int:
    """Print the reason on rank 0, or on every rank where rank 0 may be the one that died; return `code`."""
    if debug:
        traceback.print_exc()
    if everywhere or not of_other_rank():
        print(f"islr: {' '.join(message.split())}", file=sys.stderr)
    return code


def _print_versions(requested: bool) -> None:
    if requested:
        from islr.environment import commit, libraries

        print("\n".join(f"{name} {version}" for name, version in (libraries() | {"commit": commit()}).items()))
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="print the versions", callback=_print_versions, is_eager=True)
    ] = False,
) -> None:
    """Declare `--debug` for `--help`; `main` takes it out of the arguments before they are parsed."""


def demo(
    out: Annotated[Path, typer.Option(help="folder for the corpora, the runs and report.html")] = Path("demo"),
) -> None:
    """Run a small complete study. It renders corpora, pre-trains, fine-tunes, probes and writes a report."""
    _preload()
    from islr.study.demo import run_demo

    run_demo(out, run)


def _preload() -> None:
    """Import the modules of the stages once, before their processes are forked from this one."""
    for module in ("islr.synth", "islr.evaluation.finetune", "pretrain.run", "probe.run"):
        importlib.import_module(module)


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="maximum training steps of one check")] = 200,
    seconds: Annotated[float, typer.Option(min=1, help="maximum seconds of one check")] = 120,
    clips: Annotated[int, typer.Option(min=2, help="clips in the batch that the model overfits")] = 8,
    processes: Annotated[int, typer.Option(min=1, help="ranks of the planned run, for time and memory")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(help="check to run: data, overfit, reload, shuffled or speed; may be repeated"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the findings to this file")] = None,
) -> None:
    """Check a run before it starts. Can it learn, does data leak, do its weights reload, what does it cost?"""
    from islr.checks.run import report_checks
    from islr.checks.subject import CheckLimits

    subject = _subject(config, overrides or [])
    report_checks(subject, CheckLimits(steps, seconds, clips, processes), only or (), json_file)


def _subject(where: str, overrides: list[str]) -> Any:
    """Return what the checks need of a configuration, by its task."""
    from islr.config import validate

    tree = read_tree(where, overrides)
    if tree.get("task") == "pretrain":
        from pretrain.check import pretrain_subject

        return pretrain_subject(validate(schema_of("pretrain"), tree, where))
    if tree.get("task") == "finetune":
        from islr.checks.finetune import finetune_subject

        return finetune_subject(validate(schema_of("finetune"), tree, where))
    raise UserError(f"{where}: `islr check` takes pretrain and finetune configs, not task {tree.get('task')!r}")


def pretrain(config: ConfigFile, overrides: Overrides = None) -> None:
    """Pre-train an encoder. On several GPUs: torchrun --nproc-per-node N -m pretrain CONFIG."""
    tree = read_task("pretrain", config, overrides or [])
    from islr.config import validate
    from pretrain.run import ENCODER, PretrainConfig, run_pretrain

    resolved = validate(PretrainConfig, tree, config)
    run_pretrain(resolved)
    print_once(Path(resolved.run.out) / ENCODER)


def probe(config: ConfigFile, overrides: Overrides = None) -> None:
    """Probe frozen encoders for phonological features."""
    tree = read_task("probe", config, overrides or [])
    from islr.config import validate
    from probe.config import ProbeConfig
    from probe.run import run_probe
    from probe.tables import render

    print(render(run_probe(validate(ProbeConfig, tree, config))))


def bench(
    config: ConfigFile,
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="check every stage, and print it with its state and cost")
    ] = False,
) -> None:
    """Run a grid of recipes x data regimes x seeds and report on it. The same command continues a stopped grid."""
    tree = read_task("bench", config, overrides or [])
    from islr.config import validate
    from islr.study.bench import plan as plan_of
    from islr.study.bench import run_bench
    from islr.study.config import GridConfig
    from islr.study.expand import expand
    from islr.study.preflight import refuse_grid

    grid = validate(GridConfig, tree, config)
    if plan:
        expanded = expand(grid, schema_of)
        refuse_grid(grid, expanded, check_stage)
        print("\n".join(plan_of(grid, expanded)))
        return
    _preload()
    run_bench(grid, schema_of, check_stage, run)  # `islr report` prints where the report is


def check_stage(config: Any, ranks: int) -> None:
    """Refuse a stage of a grid that could not run on so many ranks, whatever its task."""
    if config.task == "pretrain":
        from pretrain.run import check_pretrain

        check_pretrain(config, ranks)
    elif config.task == "finetune":
        from islr.evaluation.finetune import check_finetune

        check_finetune(config, ranks)
    else:
        from probe.data import ProbeData

        ProbeData.load(config)


def perf(
    what: Annotated[Literal["decode", "hog", "step", "probe", "all"], typer.Argument(help="what to measure")] = "all",
    videos: Annotated[
        Path | None, typer.Option(help="decode: folder of clips; default: clips rendered for the measurement")
    ] = None,
    short_side: Annotated[
        int, typer.Option(min=16, help="decode: shorter side in pixels of the output and of the pack")
    ] = 256,
    clips: Annotated[
        int, typer.Option(min=1, help="decode: number of clips, taken from the folder at even spacing")
    ] = 40,
    frames: Annotated[int, typer.Option(min=1, help="step: frames per clip")] = 16,
    size: Annotated[int, typer.Option(min=1, help="step: height and width in pixels")] = 224,
    batch: Annotated[int, typer.Option(min=1, help="step: clips per step")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="step: device; cuda computes in bfloat16")] = "cpu",
) -> None:
    """Compare speed with well-known libraries. On a CPU, everything runs on one thread."""
    from islr.perf.decode import decode_speed, run_contests

    if what in ("decode", "all"):
        print(decode_speed(videos, short_side, clips))
    if what in ("hog", "all"):
        from pretrain.targets.hog_perf import speed_contest

        run_contests([speed_contest()])
    if what in ("step", "all"):
        from islr.perf.step import step_speed

        print(step_speed(frames, size, batch, device))
    if what in ("probe", "all"):
        from probe.evidence.solver_benchmark import PUBLISHED, compare

        result = compare(*PUBLISHED)
        print(result.table(), result, sep="\n")


@config_app.command("schema")
def config_schema(
    task: Annotated[Literal["pretrain", "finetune", "probe", "bench"], typer.Argument(help="task")],
) -> None:
    """Print the JSON Schema of a task's configuration. Editors use it to complete YAML."""
    print(json.dumps(schema_of(task).model_json_schema(), indent=1))


@config_app.command("list")
def config_list(
    pattern: Annotated[str, typer.Argument(help="shell pattern of names, as 'smoke/*' or '*maskfeat*'")] = "*",
) -> None:
    """List the shipped configurations by name, with what each is for."""
    found = {name: title_of(file) for name, file in shipped_configs().items() if fnmatch.fnmatch(name, pattern)}
    if not found:
        raise UserError(f"no shipped configuration is called '{pattern}'; `islr config list` lists all")
    width = max(map(len, found))
    print("\n".join(f"{name:{width}}  {title}" for name, title in found.items()))


@config_app.command("show")
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print a configuration with its base files, overrides and defaults resolved."""
    from islr.config import dump_yaml, validate

    tree = read_tree(config, overrides or [])
    task = tree.get("task")
    if task not in TASKS:
        raise UserError(f"{config}: key 'task' must be pretrain, finetune, probe or bench, not {task!r}")
    print(dump_yaml(validate(schema_of(task), tree, config)), end="")


def schema_of(task: str) -> Any:
    """Return the configuration class of a task."""
    if task == "pretrain":
        from pretrain.run import PretrainConfig

        return PretrainConfig
    if task == "finetune":
        from islr.evaluation.finetuning.config import FinetuneConfig

        return FinetuneConfig
    if task == "bench":
        from islr.study.config import GridConfig

        return GridConfig
    from probe.config import ProbeConfig

    return ProbeConfig


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "synth": synth_command,
    "check": check,
    "pretrain": pretrain,
    "finetune": finetune_command,
    "evaluate": evaluate_command,
    "probe": probe,
    "bench": bench,
    "report": report_command,
    "models": models_command,
    "perf": perf,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
for _name, _group in {"data": data_app, "weights": weights_app, "config": config_app}.items():
    app.add_typer(_group, name=_name)
