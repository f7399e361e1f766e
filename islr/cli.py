"""The `islr` command: the composition root. It imports inside its commands, so that `--help` answers at once."""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import Abort, TyperException

from islr.commands.data import data_app
from islr.commands.models import models_command, weights_app
from islr.errors import Interrupted, ProcessLost, RunFailed, UserError
from islr.logs import show_logs

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 75

app = typer.Typer(
    name="islr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pre-train, fine-tune, probe and report on isolated sign language recognition.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(weights_app, name="weights")
app.command("models")(models_command)

ConfigFile = Annotated[str, typer.Argument(help="config file, or the name of a shipped one (smoke/maskfeat.yaml)")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ...")]


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
    """Run one command; returns its exit code and prints one line on stderr when it is not 0."""
    from islr.data.video.guard import DecodeError

    show_logs()
    try:
        code = app(args=arguments, prog_name="islr", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except TyperException as error:
        # Typer's own errors: a wrong option, no command. They know how to show themselves, usage line included.
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
        traceback.print_exc()
        return _fail(f"this is a fault of the program, not of your input: {error}", FAILED, False)


def _fail(message: str, code: int, debug: bool, everywhere: bool = False) -> int:
    """Say why; of several processes the first does, unless it may be the one that is gone."""
    if debug:
        traceback.print_exc()
    if everywhere or os.environ.get("RANK", "0") == "0":
        print(f"islr: {' '.join(message.split())}", file=sys.stderr)
    return code


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """`--debug` is taken out of the arguments before they are parsed; it is declared here for `--help`."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the corpus, the runs and report.html")] = Path("demo"),
) -> None:
    """From nothing to a report: synthetic corpus, pre-training, fine-tuning, probing, report.html."""
    _preload()
    from islr.study.demo import run_demo

    run_demo(out, run)


def _preload() -> None:
    """Import once what stages need: their processes are forked from this one."""
    for module in ("islr.synth", "islr.evaluation.finetune", "pretrain.run", "probe.protocol"):
        importlib.import_module(module)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="folder for the corpus")],
    kind: Annotated[
        Literal["isolated", "continuous", "actions"],
        typer.Option(help="one sign a clip, 10 to 30 s of signing, or whole-body motions without signs"),
    ] = "isolated",
    difficulty: Annotated[
        Literal["easy", "medium", "hard"], typer.Option(help="a studio, people at home, or found footage")
    ] = "medium",
    lexicon: Annotated[Path | None, typer.Option(help="csv in ASL-LEX columns; default: the built-in lexicon")] = None,
    signs: Annotated[int | None, typer.Option(min=1, help="default: 48 signs, or all actions")] = None,
    signers: Annotated[int, typer.Option(min=1)] = 10,
    reps: Annotated[int, typer.Option(min=1, help="clips of each sign by each signer; of each signer, continuous")] = 2,
    size: Annotated[int, typer.Option(min=64, help="width and height in pixels")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    vocabulary: Annotated[Literal["a", "b"], typer.Option(help="built-in lexicon; a and b share no sign")] = "a",
    homophones: Annotated[int, typer.Option(min=0, help="built-in signs that share the form of another")] = 0,
    val_signers: Annotated[int, typer.Option(min=0)] = 2,
    test_signers: Annotated[int, typer.Option(min=0)] = 2,
    name: Annotated[str, typer.Option(help="corpus name in the manifest")] = "",
    workers: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Render a corpus: videos, exact poses, manifest, and lists as WLASL, OpenASL or Kinetics publish theirs."""
    from islr.progress import ProgressBar
    from islr.synth import SynthOptions, coverage, summary, write_corpus
    from islr.synth.write import corpus_of, load_signs

    options = SynthOptions(
        kind=kind,
        difficulty=difficulty,
        lexicon=lexicon,
        vocabulary=vocabulary,
        signs=signs,
        homophones=homophones,
        signers=signers,
        reps=reps,
        size=size,
        seed=seed,
        val_signers=val_signers,
        test_signers=test_signers,
        name=name,
        workers=workers,
    )
    with ProgressBar("rendering", len(corpus_of(options).takes())) as bar:
        write_corpus(out, options, bar.callback)
    if lexicon is not None:
        print("\n".join(summary(coverage(load_signs(options)))))
    print(out / "manifest.csv")


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="training steps of a check, at most")] = 200,
    seconds: Annotated[float, typer.Option(min=1, help="seconds of a check, at most")] = 120,
    clips: Annotated[int, typer.Option(min=2, help="clips of the batch that is overfitted")] = 8,
    processes: Annotated[int, typer.Option(min=1, help="processes that the run will have")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="data, overfit, reload, shuffled or speed; repeat for several")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write what was found there")] = None,
) -> None:
    """Before a long run: can it learn, does anything leak, does it load again, how long, how much memory."""
    from islr.checks.run import report_checks
    from islr.checks.subject import CheckLimits

    subject = _subject(config, overrides or [])
    report_checks(subject, CheckLimits(steps, seconds, clips, processes), only or (), json_file)


def _subject(where: str, overrides: list[str]) -> Any:
    """The run of a configuration, as the checks see it."""
    from islr.config import validate
    from islr.config_files import read_tree

    tree = read_tree(where, overrides)
    if tree.get("task") == "pretrain":
        from pretrain.check import pretrain_subject

        return pretrain_subject(validate(_schema("pretrain"), tree, where))
    if tree.get("task") == "finetune":
        from islr.checks.finetune import finetune_subject

        return finetune_subject(validate(_schema("finetune"), tree, where))
    raise UserError(f"{where}: `islr check` takes pretrain and finetune configs, not task {tree.get('task')!r}")


@app.command()
def pretrain(config: ConfigFile, overrides: Overrides = None) -> None:
    """Pre-train an encoder (also: torchrun --nproc-per-node N -m pretrain CONFIG)."""
    from islr.config import load_config
    from pretrain.run import ENCODER, PretrainConfig, run_pretrain

    resolved = load_config(PretrainConfig, config, overrides or [])
    run_pretrain(resolved)
    _say(Path(resolved.run.out) / ENCODER)


@app.command()
def finetune(config: ConfigFile, overrides: Overrides = None) -> None:
    """Fine-tune an encoder, choose on val, score test once."""
    from islr.config import load_config
    from islr.evaluation.finetune import FinetuneConfig, run_finetune

    resolved = load_config(FinetuneConfig, config, overrides or [])
    _print_results(run_finetune(resolved))


@app.command()
def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="finished fine-tuning runs")] = None,
    split: Annotated[Literal["val", "test"], typer.Option()] = "test",
    views: Annotated[str | None, typer.Option(help="CxS: temporal clips x spatial crops")] = None,
    manifest: Annotated[Path | None, typer.Option(help="another corpus with the same classes")] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="score n of the expected clips")] = False,
    cluster: Annotated[Literal["signer"] | None, typer.Option(help="intervals draw whole signers, not clips")] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="scale confidences by what fits the selection set")
    ] = False,
    fuse: Annotated[bool, typer.Option("--fuse", help="average the answers of two or more runs")] = False,
    weights: Annotated[str | None, typer.Option(help="fuse: equal, val (chosen there), or numbers such as 2,1")] = None,
    pool: Annotated[
        Literal["probabilities", "logits"] | None, typer.Option(help="fuse: what is averaged; default probabilities")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="another model's answers, with --manifest: csv of clip_id, rank1, rank2, ... (class names; score1, "
            "score2, ... and true_probability where known), csv of clip_id and one column for each class, or npz of "
            "clip_ids, classes and probabilities or logits"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="fuse, predictions: the row in tables")] = None,
    out: Annotated[Path | None, typer.Option(help="fuse, predictions: folder for the results")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="default: as the run says")] = None,
) -> None:
    """Score again: a fine-tuned model, several of them fused, or the predictions of any other model."""
    given = dict(locals())  # by the names of Request's fields
    from islr.evaluation.request import Request, evaluate_request

    _print_results(evaluate_request(Request(**given)))


@app.command()
def probe(config: ConfigFile, overrides: Overrides = None) -> None:
    """Score frozen features against phonological features."""
    from islr.config import load_config
    from probe.config import ProbeConfig
    from probe.protocol import run_probe
    from probe.tables import render

    print(render(run_probe(load_config(ProbeConfig, config, overrides or []))))


@app.command()
def bench(
    config: ConfigFile,
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="show the stages and what is done, run nothing")] = False,
) -> None:
    """The grid of recipes x regimes x seeds; run it again to go on where it stopped."""
    from islr.config import load_config
    from islr.study.bench import plan as plan_of
    from islr.study.bench import run_bench
    from islr.study.config import GridConfig
    from islr.study.expand import expand

    grid = load_config(GridConfig, config, overrides or [])
    if plan:
        print("\n".join(plan_of(grid, expand(grid, _schema))))
        return
    _preload()
    run_bench(grid, _schema, run)  # the report names itself


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, or folders that contain them")],
    out: Annotated[
        Path, typer.Option(help=".html, .md, .tex, .csv (all records), or a folder (all tables as CSV)")
    ] = Path("report.html"),
    frames: Annotated[bool, typer.Option(help="show frames of clips; without, no signer can be recognised")] = True,
) -> None:
    """Render run folders as one page; needs no videos and no GPU."""
    from islr.reporting import build_report

    print(build_report(runs, out, frames=frames))


@app.command()
def perf(
    what: Annotated[Literal["decode", "hog", "step", "probe", "all"], typer.Argument()] = "all",
    videos: Annotated[Path | None, typer.Option(help="decode: folder of clips; default: clips drawn now")] = None,
    short_side: Annotated[int, typer.Option(min=16, help="decode: pixels of the output and of the pack")] = 256,
    clips: Annotated[int, typer.Option(min=1, help="decode: clips taken from the folder, evenly spaced")] = 40,
    frames: Annotated[int, typer.Option(min=1, help="step: frames per clip")] = 16,
    size: Annotated[int, typer.Option(min=1, help="step: height and width in pixels")] = 224,
    batch: Annotated[int, typer.Option(min=1, help="step: clips per step")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="step: where; a GPU runs in bfloat16")] = "cpu",
) -> None:
    """Measure our code beside well-known or straightforward code, in one run; on one thread where it is a CPU."""
    from islr.perf.decode import decode_speed, run_contests

    if what in ("decode", "all"):
        print(decode_speed(videos, short_side, clips))
    if what in ("hog", "all"):
        from pretrain.perf import speed_contest

        run_contests([speed_contest()])
    if what in ("step", "all"):
        from islr.perf.step import step_speed

        print(step_speed(frames, size, batch, device))
    if what in ("probe", "all"):
        from probe.solver.benchmark import PUBLISHED, compare

        found = compare(*PUBLISHED)
        print(found.table(), found, sep="\n")


@config_app.command("schema")
def config_schema(
    task: Annotated[Literal["pretrain", "finetune", "probe", "bench"], typer.Argument()],
) -> None:
    """Print the JSON Schema of a task's configuration, for editors."""
    print(json.dumps(_schema(task).model_json_schema(), indent=1))


@config_app.command("show")
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print a configuration as it resolves: base chain, overrides and defaults filled in."""
    from islr.config import dump_yaml, validate
    from islr.config_files import read_tree

    tree = read_tree(config, overrides or [])
    task = tree.get("task")
    if task not in ("pretrain", "finetune", "probe", "bench"):
        raise UserError(f"{config}: key 'task' must be pretrain, finetune, probe or bench, not {task!r}")
    print(dump_yaml(validate(_schema(task), tree, config)), end="")


def _schema(task: str) -> Any:
    if task == "pretrain":
        from pretrain.run import PretrainConfig

        return PretrainConfig
    if task == "finetune":
        from islr.evaluation.finetune import FinetuneConfig

        return FinetuneConfig
    if task == "bench":
        from islr.study.config import GridConfig

        return GridConfig
    from probe.config import ProbeConfig

    return ProbeConfig


def _say(what: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(what)


def _print_results(results: list[Any]) -> None:
    """The overall accuracies of a scored run, one a line, and what makes their intervals doubtful."""
    for result in results:
        if result.group or not result.metric.startswith("top"):
            continue
        record = result.provenance
        part = "" if record.complete else f" of {record.clips_expected} expected"
        bounds = "" if result.ci_low is None else f" [{100 * result.ci_low:.2f}, {100 * result.ci_high:.2f}]"
        views = f", views {record.views}" if record.encoder else ""
        _say(
            f"{result.name}: {result.metric} {100 * result.value:.2f} %{bounds} on {result.n}{part} clips of "
            f"{record.manifest} {record.split}{views}"
        )
    overall = [result for result in results if not result.group]
    doubts = {f"intervals are over {few}" for r in overall if (few := r.ci_method.partition("; ")[2])}
    if any(r.metric == "top1" and r.provenance.cluster and r.ci_low is None for r in overall):
        doubts = {"all clips are of one signer, so there is no interval over signers"}
    for doubt in sorted(doubts):
        print(f"islr: {doubt}", file=sys.stderr)
